"""Pixels through training: maps equal those of runs and losses, on one scale; bad input raises one sentence."""

import numpy as np
import pandas as pd
import pytest
import torch

from seglab.contract import ContractError
from seglab.engine.trained_run import TrainedRun
from seglab.files import write_json
from seglab.losses import BCE
from seglab.views.landscape import evenly_spread
from seglab.views.pixels import color_scale, inspect, view
from seglab.views.run_inputs import logits_at, pick_images, same_data, thinned, titles


def test_the_best_weights_give_what_the_run_has_measured(run):
    rows = pd.read_csv(run.folder / "per_image.csv").set_index("id")
    batches = evenly_spread(run, {"dice": run.loss()}, "test", None)  # the batches of its test
    for batch, logits in zip(batches, logits_at(run, run.best, batches), strict=True):
        for k, name in enumerate(batch["id"]):
            one, row = {key: values[k : k + 1] for key, values in batch.items()}, rows.loc[name]
            numbers = inspect(logits[k : k + 1], one, run.loss(), 0.5).numbers
            assert numbers["loss"] == pytest.approx(row["loss"], rel=1e-5)
            for score in ("iou", "foreground_confidence", "background_confidence"):
                assert numbers[score] == pytest.approx(row[score], abs=1e-5), score


def test_the_gradient_of_cross_entropy_is_the_error_of_each_pixel():
    z = torch.tensor([[[[2.0, -1.0], [0.5, -3.0]]]])
    batch = {"image": torch.zeros(1, 3, 2, 2), "target": torch.tensor([[[[1, 1], [0, 0]]]], dtype=torch.uint8)}
    cell, error = inspect(z, batch, BCE(), 0.5), (z.sigmoid() - batch["target"]).abs()[0, 0].numpy()
    np.testing.assert_allclose(cell.gradient, error, rtol=1e-6)
    assert cell.numbers["on_foreground"] == pytest.approx(error[0].sum() / error.sum())
    assert cell.numbers["highest_pixel"] == pytest.approx(error.max())
    assert cell.numbers["iou"] == pytest.approx(1 / 3)
    blue, orange = cell.errors[0, 1].astype(int), cell.errors[1, 0].astype(int)
    assert blue[2] > blue[0], "a false negative"
    assert orange[0] > orange[2], "a false positive"
    valid = torch.tensor([[[[True, True], [False, True]]]])
    counted = inspect(z, batch | {"valid": valid}, BCE(), 0.5)
    np.testing.assert_allclose(counted.gradient, error * valid[0, 0].numpy(), rtol=1e-6)
    assert counted.gradient[1, 0] == 0, "what does not count has no gradient"
    assert counted.numbers["iou"] == pytest.approx(1 / 2)
    assert len(set(counted.errors[1, 0])) == 1, "and no color of an error"


def test_an_empty_image_is_scored_by_the_policy_of_the_run(run):
    [batch] = pick_images(run, [run.loss()], 1)
    batch, far = batch | {"target": torch.zeros_like(batch["target"])}, torch.full(batch["target"].shape, -9.0)
    found = {empty: inspect(far, batch, run.loss(), 0.5, empty).numbers["iou"] for empty in ("correct", "skip")}
    assert found["correct"] == 1
    assert np.isnan(found["skip"])


@pytest.mark.slow
def test_the_page_holds_every_run_at_every_snapshot_on_one_color_scale(runs, tmp_path):
    page = view(runs, 2)
    numbers = page.tables["pixels"]
    assert list(numbers["run"].unique()) == ["bce", "dice"]
    assert sorted(numbers["epoch"].unique()) == sorted(runs[0].snapshots)
    assert len(numbers) == 2 * 2 * len(runs[0].snapshots)
    drawn = [image for axis in page.sections[0].figure.axes for image in axis.get_images()]
    maps = [image for image in drawn if image.get_array().ndim == 2]
    assert len(maps) == len(numbers)
    assert len({(image.norm.vmin, image.norm.vmax) for image in maps}) == 1
    assert len(drawn) - len(maps) == len(numbers) + 2 * 2, "errors, and the image for each run"
    assert "<svg" in page.write(tmp_path).read_text()
    assert {file.name for file in tmp_path.iterdir()} == {"surface.html", "pixels.png", "pixels.svg", "pixels.csv"}


def test_the_scale_holds_all_but_the_highest_pixels_of_all_maps():
    scale = color_scale([np.repeat([0.1, 2.0], 100), np.append(np.ones(300), 2.0)])
    assert (scale.vmin, scale.vmax) == pytest.approx((2e-4, 2.0))
    assert color_scale([np.append(np.ones(9999), 50.0)]).vmax == 1.0


def test_many_snapshots_are_thinned_to_the_first_the_last_and_those_that_double_between():
    assert thinned([5, 10, 20]) == [5, 10, 20]
    assert thinned(range(1, 129)) == [1, 2, 4, 8, 16, 32, 64, 128]
    assert thinned(range(9))[:: len(thinned(range(9))) - 1] == [0, 8]


def test_labels_tell_runs_apart(runs, tmp_path):
    assert titles(runs) == ["bce", "dice"]
    again = TrainedRun(tmp_path / runs[0].name, runs[0].facts)  # in another study
    assert len(set(titles([runs[0], again]))) == 2


def test_runs_of_two_folds_are_not_shown_on_the_images_of_one(tmp_path):
    first, second = (TrainedRun(tmp_path / name, {"data": {"fingerprint": "a"}}) for name in ("first", "second"))
    write_json(first.folder / "split.json", {"train": ["a"], "val": ["b"], "test": ["c"]})
    write_json(second.folder / "split.json", {"train": ["c"], "val": ["b"], "test": ["a"]})
    same_data([first, first])
    with pytest.raises(ContractError, match=r"expected the data of .*first, got other data or splits"):
        same_data([first, second])


@pytest.mark.parametrize(
    ("shown", "images", "message"),
    [
        ("other", 1, r"snapshots/epoch-.*callbacks=snapshots"),
        ("bce other", 1, "expected the data of"),
        ("bce", ["nobody"], "ids of test images, such as .*nobody"),
        ("bce", 0, "at least one, or a list of ids"),
    ],
)
def test_a_view_that_cannot_be_drawn_is_one_sentence(pick, shown, images, message):
    with pytest.raises(ContractError, match=message) as fault:
        view(pick(shown), images)
    assert "\n" not in str(fault.value)
