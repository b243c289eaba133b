"""The table of other data holds what the evaluations say, by loss and seed, and nothing that no longer holds."""

import json
from csv import DictReader

import pytest

from seglab.reporting import external_data
from seglab.reporting.load_runs import collect
from seglab.reporting.page import page
from seglab.reporting.study import Question, Study
from seglab.reporting.write_report import csv, markdown
from tests.reporting.fabricate import FakeLoss, write_sweep

IOU = {("bce", 1): 0.50, ("bce", 2): 0.54, ("dice", 1): 0.61, ("dice", 2): 0.63}


def evaluation(folder, iou, finished, **more):
    """An evaluation.json as seglab.evaluate writes it, of a data set whose name is not that of the run's."""
    out = folder / "evaluations" / "mias-0a1b2c"
    out.mkdir(parents=True)
    facts = {"run_finished": finished, "split": "all", "scale": "native", "window": 512, "tta": "none"}
    facts |= {"dataset": {"_target_": "seglab.data.datasets.mias.Mias"}, "data": {"images": 9}, "seen_in_training": 0}
    facts |= {"metrics": {"iou": iou, "tuned/iou": iou + 0.1, "hd95": 12.5}}
    (out / "evaluation.json").write_text(json.dumps(facts | more))
    return out


@pytest.fixture
def sweep(tmp_path):
    write_sweep(tmp_path, [FakeLoss("bce", 0.5), FakeLoss("dice", 1.6)], [1, 2], images=30)
    for (loss, seed), iou in IOU.items():
        folder = tmp_path / f"{loss}_s{seed}"
        finished = json.loads((folder / "run.json").read_text())["finished"]
        evaluation(folder, iou, finished)
    return tmp_path


def test_means_and_deviations_are_over_the_seeds_of_each_loss(sweep):
    spread = external_data.over_seeds(external_data.evaluated(collect([sweep]).runs)).droplevel(["data", "trained"])
    assert spread.loc["bce", ("iou", "mean")] == pytest.approx(0.52)
    assert spread.loc["bce", ("iou", "sd")] == pytest.approx(0.02 * 2**0.5)
    assert spread.loc["dice", ("tuned/iou", "mean")] == pytest.approx(0.72)
    assert spread.loc["dice", ("seeds", "")] == 2
    assert ("precision", "mean") not in spread.columns


def test_the_page_and_the_tables_hold_them_beside_the_comparison_which_stays_as_it_is(sweep):
    runs = collect([sweep])
    studies = [Study(title, board, Question(resamples=200)) for title, board in runs.boards()]
    html = page("x", studies, [{} for _ in studies], runs.runs, "again")
    assert "<h3>mias-0a1b2c</h3><p>9 images (all), whole images in their own size, window 512</p>" in html
    assert "IoU at home" in html
    lines = csv(studies, runs.runs).splitlines()
    rows = {(row["loss"], row["data"].split(",")[0]): row for row in DictReader(lines)}
    assert float(rows["dice", "mias-0a1b2c"]["iou"]) == pytest.approx(0.62)
    assert len(rows) == 4
    assert "| dice | 0." in markdown(studies, runs.runs).split("## On mias-0a1b2c")[1]


def test_what_was_measured_before_the_run_was_trained_again_is_left_out(sweep):
    facts = json.loads((sweep / "bce_s1" / "run.json").read_text())
    (sweep / "bce_s1" / "run.json").write_text(json.dumps(facts | {"finished": "2026-12-01T00:00:00+00:00"}))
    (sweep / "dice_s1" / "evaluations" / "mias-0a1b2c" / "evaluation.json").write_text("{ torn")
    rows = external_data.evaluated(collect([sweep]).runs)
    assert sorted(zip(rows["label"], rows["seed"], strict=True)) == [("bce", 2), ("dice", 2)]


def test_the_words_tell_what_is_not_as_in_the_run():
    config = {"dataset": {"_target_": "a", "target": "disc", "size": 64, "root": "here"}}
    facts = {"split": "test", "scale": "run", "data": {"images": 5}, "seen_in_training": 3}
    facts["dataset"] = {"_target_": "a", "target": "cup", "size": 64}
    expected = "5 images (test), as the runs' own test sees them, target=cup, 3 of them trained on"
    assert external_data.words(facts, config) == expected


def test_without_evaluations_there_is_no_such_part(tmp_path):
    write_sweep(tmp_path, [FakeLoss("bce"), FakeLoss("dice")], [1], images=20)
    runs = collect([tmp_path])
    studies = [Study(title, board, Question(resamples=200)) for title, board in runs.boards()]
    assert "On other data" not in page("x", studies, [{} for _ in studies], runs.runs, "again")
