"""Pixels through training: the maps are those of runs and losses, on one scale; bad input is one sentence."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from seglab.analysis.pictures import COLOURS, Look, Scene, raised, scale, thin
from seglab.analysis.pictures import table as numbers
from seglab.contract import ContractError
from seglab.engine.config import chosen
from seglab.engine.saved import Saved
from seglab.views.pixels import look, looks, view
from seglab.views.predictions import logits_at, scenes, titles

LISTED = chosen("loss", ["bce", "lovasz_hinge"])
JUMPS = chosen("loss", ["hausdorff"])


def test_a_look_at_the_best_weights_says_what_the_run_has_measured(runs: list[Saved]) -> None:
    run = runs[1]
    rows = pd.read_csv(run.folder / "per_image.csv").set_index("id")
    batches = scenes(run, [run.loss()], list(rows.index))
    for batch, logits in zip(batches, logits_at(run, run.best, batches), strict=True):
        seen, row = look(logits, batch, run.loss(), "share", 0.5), rows.loc[batch["id"][0]]
        assert seen.value == pytest.approx(row["loss"], rel=1e-5)
        assert seen.loss.mean() == pytest.approx(row["loss"], rel=1e-4)
        for name, value in seen.scores.items():
            assert value == pytest.approx(row[name], abs=1e-5), name
        truth = batch["target"][0, 0].numpy() >= 0.5
        assert seen.confidence[truth].mean() == pytest.approx(row["white_confidence"], abs=1e-5)


@pytest.mark.slow
def test_the_sheet_holds_every_run_at_every_moment_on_one_colour_scale(runs: list[Saved], tmp_path: Path) -> None:
    sheet = view(runs, {}, loss="own", show="share", images=2, colours="linear")
    table = sheet.tables["pixels"]
    assert list(table["row"].unique()) == ["bce", "dice"]
    assert sorted(table["epoch"].unique()) == [0, 1, 2]
    assert len(table) == 2 * 2 * 3
    spans = {
        (image.norm.vmin, image.norm.vmax)
        for name, figure in sheet.figures.items()
        for axis in figure.axes
        for image in axis.get_images()
        if name.endswith("_loss") and image.cmap.name == COLOURS["loss"] and axis.get_xlabel()
    }
    assert len(spans) == 1
    page = sheet.write(tmp_path).read_text()
    assert not re.search("<script [^>]*src|<link", page)
    assert page.count("<img ") == 2 * 3
    with Image.open(next(tmp_path.glob("*.gif"))) as film:
        assert film.n_frames == 3
    assert len(list(tmp_path.glob("*_loss.png"))) == len(list(tmp_path.glob("*_loss.svg"))) == 2


def test_before_training_twins_see_the_same(runs: list[Saved]) -> None:
    table = numbers(*looks(runs, {}, loss="own", show="share", images=1))
    start = table[table["epoch"] == 0].set_index("row")["white_confidence"]
    assert start["bce"] == start["dice"]


def test_any_loss_can_be_asked_for_its_gradient(runs: list[Saved]) -> None:
    ((_, _, _, _, rows),) = looks(runs[:1], LISTED, loss="listed", show="gradient", images=1)[0]
    assert list(rows) == ["bce", "lovasz_hinge"]
    error = 1 - rows["bce"][0].confidence  # the gradient of cross-entropy
    np.testing.assert_allclose(rows["bce"][0].loss, error, atol=1e-5)


def test_the_scale_holds_all_but_the_highest_pixels_of_all_maps() -> None:
    maps = [np.full((10, 10), 0.1), np.full((10, 10), 2.0), np.full((10, 10), -0.5)]
    looks = [Look(m, m, m, 0.0, 0.5, {}) for m in maps]
    first, second = ({name: row} for name, row in (("one", looks[:2]), ("two", looks[2:])))
    made = [Scene("a", maps[0], maps[0], ["x"], first), Scene("b", maps[0], maps[0], ["x"], second)]
    norm = scale(made, "linear")
    assert (norm.vmin, norm.vmax) == (-0.5, 2.0)
    assert scale(made, "log")(2.0) == 1
    assert scale(made, "log")(2e-2) == pytest.approx(0.5)
    assert raised(maps[2], scale(made, "log")).max() == pytest.approx(np.log10(2e-4))


def test_a_thinned_surface_keeps_the_mean() -> None:
    values = np.random.default_rng(0).random((128, 128))
    assert thin(values).shape == (64, 64)
    assert thin(values).mean() == pytest.approx(values.mean())
    assert thin(values)[0, 0] == pytest.approx(values[:2, :2].mean())


def test_runs_of_one_loss_are_told_apart(runs: list[Saved]) -> None:
    assert titles(runs) == ["bce", "dice"]
    assert titles([runs[0], runs[0]])[0].startswith("bce")


@pytest.mark.parametrize(
    ("looked", "said"),
    [
        (lambda runs, other: looks([other], {}, "own", "share", 1), r"moments/epoch-.*callbacks=moments"),
        (lambda runs, other: looks([runs[0], other], {}, "own", "share", 1), "expected the data of"),
        (lambda runs, other: looks(runs, LISTED, "listed", "share", 1), "one run to be judged"),
        (lambda runs, other: looks(runs[:1], JUMPS, "listed", "share", 1), "Hausdorff: .*its gradient instead"),
        (lambda runs, other: looks(runs, {}, "own", "colour", 1), "show as one of share, gradient"),
        (lambda runs, other: looks(runs, {}, "mine", "share", 1), "loss as one of own, listed"),
        (lambda runs, other: looks(runs, {}, "own", "share", ["nobody"]), "ids of test images, such as .*nobody"),
        (lambda runs, other: looks(runs, {}, "own", "share", 0), "at least one, or a list of ids"),
    ],
)
def test_what_cannot_be_looked_at_is_one_sentence(
    runs: list[Saved], stranger: Saved, looked: Callable[[list[Saved], Saved], object], said: str
) -> None:
    with pytest.raises(ContractError, match=said) as fault:
        looked(runs, stranger)
    assert "\n" not in str(fault.value)
