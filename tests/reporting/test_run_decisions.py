import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from seglab.contract import Task
from seglab.files import write_arrays
from seglab.reporting.load_runs import collect
from seglab.reporting.run_decisions import decide, decisions_of
from seglab.reporting.study import Question, Study
from tests.reporting.fabricate import FakeLoss, change, write_run

TWO = Task(kind="multilabel", classes=("disc", "cup"))


def same(one, other):
    assert one.scores == pytest.approx(other.scores, rel=1e-12, nan_ok=True)
    np.testing.assert_array_equal(one.table, other.table)
    pd.testing.assert_frame_equal(one.images, other.images, check_exact=True)


@pytest.fixture
def run(tmp_path):
    """A run with two classes, the second one taken from another run, and the decisions that it keeps."""
    folders = [write_run(tmp_path, FakeLoss(name), 1, images=8, number=k) for k, name in enumerate(("bce", "dice"))]
    disc, cup = (dict(np.load(folder / "histograms.npz")) for folder in folders)
    arrays = disc | {key: np.stack([disc[key], cup[key]], axis=1) for key in ("test", "val")}
    rows = pd.concat([pd.read_csv(folder / "per_image.csv") for folder in folders]).sort_values("id", kind="stable")
    np.savez(folders[0] / "histograms.npz", **arrays)
    rows.to_csv(folders[0] / "per_image.csv", index=False)
    return folders, decide(arrays, rows, TWO, {"disc": 0.375, "cup": 0.25}, "correct")


@pytest.mark.parametrize("score", ["iou", "dice"])
def test_decisions_that_a_run_keeps_are_those_of_its_histograms(run, score):
    (folder, _), kept = run
    asked = TWO, {"disc": 0.375, "cup": 0.25}, "correct", [0, 1], score
    found = decisions_of(folder, *asked)
    write_arrays(folder / "decisions.npz", **kept)
    whole = (folder / "histograms.npz").read_bytes()
    (folder / "histograms.npz").unlink()
    same(decisions_of(folder, *asked), found)
    (folder / "histograms.npz").write_bytes(whole)
    (folder / "decisions.npz").write_bytes(b"truncated")
    same(decisions_of(folder, *asked), found)


def test_a_class_decides_as_it_does_alone(run):
    (folder, other), _ = run
    cup = decisions_of(folder, TWO, {"disc": 0.375, "cup": 0.25}, "correct", [1], "iou")
    same(cup, decisions_of(other, Task(), 0.25, "correct", [0], "iou"))
    assert cup.scores["tuned/threshold"] == 0.25


def test_tables_and_verdict_average_classes_and_images_in_one_order(run):
    (folder, other), _ = run
    rows = pd.read_csv(folder / "per_image.csv").assign(**{"class": ["disc", "cup"] * 8})
    rows.loc[1, "precision"] = np.nan
    rows.to_csv(folder / "per_image.csv", index=False)
    change(folder, data={"task": {"kind": "multilabel", "classes": ["disc", "cup"]}}, threshold={"tuned": 0.375})
    shutil.rmtree(other)
    study = Study("two", collect([folder]), Question(metric="precision"))
    wide = rows["precision"].to_numpy().reshape(8, 2)
    of_images = np.nanmean(np.nanmean(wide, axis=1))
    assert not np.isclose(of_images, np.nanmean(np.nanmean(wide, axis=0)))
    assert study.metrics["precision"].item() == pytest.approx(of_images) == study.means["bce"]
    under = replace(study, question=replace(study.question, rule="tuned"))
    assert study.metrics["tuned/precision"].item() == pytest.approx(under.means["bce"])


def test_the_likeliest_class_has_no_other_rule(run):
    (folder, _), _ = run
    found = decisions_of(folder, Task(kind="multiclass", classes=("a", "b")), None, "correct", [0, 1], "iou")
    assert found.images.columns.empty
    assert "tuned/threshold" not in found.scores
    assert found.scores["nll"] > 0
