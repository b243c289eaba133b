"""Pixels through training: the maps are those of runs and losses, on one scale; bad input is one sentence."""

import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from seglab.contract import ContractError
from seglab.engine.config import build_choices
from seglab.views.landscape import evenly_spread
from seglab.views.pixel_figures import LOSS_COLORS, scale, table
from seglab.views.pixels import histories, inspect, view
from seglab.views.run_inputs import logits_at, titles
from seglab.views.view_page import narrow

LISTED = build_choices("loss", ["bce", "lovasz_hinge"])
JUMPS = build_choices("loss", ["hausdorff"])
OPTIONS = {"loss": "own", "show": "attribution", "images": 1}


def test_the_best_weights_give_what_the_run_has_measured(run):
    rows = pd.read_csv(run.folder / "per_image.csv").set_index("id")
    batches = evenly_spread(run, {"dice": run.loss()}, "test", None)  # those of its test
    for batch, logits in zip(batches, logits_at(run, run.best, batches), strict=True):
        for k, name in enumerate(batch["id"]):
            one, row = {key: values[k : k + 1] for key, values in batch.items()}, rows.loc[name]
            seen = inspect(logits[k : k + 1], one, run.loss(), "attribution", 0.5)
            assert seen.loss == pytest.approx(row["loss"], rel=1e-5)
            assert seen.loss_map.mean() == pytest.approx(row["loss"], rel=1e-4)
            for score, value in seen.scores.items():
                assert value == pytest.approx(row[score], abs=1e-5), score
            truth = one["target"][0, 0].numpy() >= 0.5
            assert seen.confidence[truth].mean() == pytest.approx(row["foreground_confidence"], abs=1e-5)


@pytest.mark.slow
def test_the_page_holds_every_run_at_every_snapshot_on_one_color_scale(runs, tmp_path):
    page = view(runs, {}, **OPTIONS | {"images": 2}, colors="linear")
    numbers = page.tables["pixels"]
    assert list(numbers["row"].unique()) == ["bce", "dice"]
    assert sorted(numbers["epoch"].unique()) == [0, 1, 2]
    assert len(numbers) == 2 * 2 * 3
    spans = {
        (image.norm.vmin, image.norm.vmax)
        for name, figure in page.figures.items()
        for axis in figure.axes
        for image in axis.get_images()
        if name.endswith("_loss") and image.cmap.name == LOSS_COLORS and axis.get_xlabel()
    }
    assert len(spans) == 1
    html = page.write(tmp_path).read_text()
    assert not re.search("<script [^>]*src|<link", html)
    assert html.count("<img ") == 2 * 3
    with Image.open(next(tmp_path.glob("*.gif"))) as animation:
        assert animation.n_frames == 3
    assert len(list(tmp_path.glob("*_loss.png"))) == len(list(tmp_path.glob("*_loss.svg"))) == 2


def test_before_training_paired_runs_see_the_same(runs):
    numbers = table(*histories(runs, {}, **OPTIONS))
    start = numbers[numbers["epoch"] == 0].set_index("row")["foreground_confidence"]
    assert start["bce"] == start["dice"]


def test_any_loss_can_be_asked_for_its_gradient(runs):
    (history,), _ = histories(runs[:1], LISTED, **OPTIONS | {"loss": "listed", "show": "gradient"})
    assert list(history.rows) == ["bce", "lovasz_hinge"]
    first = history.rows["bce"][0]
    np.testing.assert_allclose(first.loss_map, 1 - first.confidence, atol=1e-5)  # the gradient of cross-entropy


def test_the_scale_holds_all_but_the_highest_pixels_of_all_maps():
    values = np.repeat([0.1, 2.0, -0.5], 100)
    assert scale(values, log=False) == (-0.5, 2.0)
    assert scale(values, log=True) == pytest.approx((2e-4, 2.0))
    assert scale(np.append(np.ones(9999), 50.0), log=False) == (0.0, 1.0)


def test_labels_tell_runs_apart_and_have_a_line_for_each_of_their_parts(runs):
    assert titles(runs) == ["bce", "dice"]
    assert titles([runs[0], runs[0]])[0].startswith("bce")
    assert narrow("bce_dice · upsample=resize · size=96") == "bce_dice\nupsample=resize\nsize=96"


@pytest.mark.parametrize(
    ("shown", "losses", "changed", "message"),
    [
        ("other", {}, {}, r"snapshots/epoch-.*callbacks=snapshots"),
        ("bce other", {}, {}, "expected the data of"),
        ("bce dice", LISTED, {"loss": "listed"}, "one run to be judged"),
        ("bce", JUMPS, {"loss": "listed"}, "Hausdorff: .*its gradient instead"),
        ("bce", {}, {"images": ["nobody"]}, "ids of test images, such as .*nobody"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(pick, shown, losses, changed, message):
    with pytest.raises(ContractError, match=message) as fault:
        histories(pick(shown), losses, **OPTIONS | changed)
    assert "\n" not in str(fault.value)
