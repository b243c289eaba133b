"""The table of external data has the results of the evaluations, by loss and seed, and no outdated results."""

import json
from csv import DictReader

import pandas as pd
import pytest

from seglab.reporting import external_data
from seglab.reporting.load_runs import collect
from seglab.reporting.study import Question, Study
from seglab.reporting.write_report import csv, markdown, page
from tests.reporting.fabricate import change

IOU = {"bce_s1": 0.50, "bce_s2": 0.54, "dice_s1": 0.61, "dice_s2": 0.63}


@pytest.fixture
def evaluated(own):
    """Runs that each have an evaluation.json, as written by seglab.evaluate, on another dataset."""
    for run, iou in IOU.items():
        out = own / run / "evaluations" / "mias-0a1b2c"
        out.mkdir(parents=True)
        finished = json.loads((own / run / "run.json").read_text())["finished"]
        facts = {"run_finished": finished, "split": "all", "scale": "native", "window": 512, "tta": "none"}
        facts |= {"dataset": {"_target_": "seglab.data.datasets.mias.Mias"}, "data": {"images": 9}}
        metrics = {"iou": iou, "tuned/iou": iou + 0.1, "hd95": 12.5, "objects_predicted": 1.5, "objects_found": 0.25}
        metrics |= {"objects_found": None} if run == "dice_s2" else {}  # undefined
        facts |= {"metrics": metrics, "seen_in_training": 0}
        (out / "evaluation.json").write_text(json.dumps(facts))
    return own


def test_means_and_deviations_are_over_the_seeds_of_each_loss(evaluated):
    rows = external_data.evaluated(collect([evaluated]).runs)
    spread = external_data.over_seeds(rows).droplevel(["data", "trained"])
    assert spread.loc["bce", ("iou", "mean")] == pytest.approx(0.52)
    assert spread.loc["bce", ("iou", "sd")] == pytest.approx(0.02 * 2**0.5)
    assert spread.loc["dice", ("tuned/iou", "mean")] == pytest.approx(0.72)
    assert spread.loc["dice", ("seeds", "")] == 2
    assert spread.loc["dice", ("found/false_objects", "mean")] == pytest.approx(1.25)  # per image
    assert ("precision", "mean") not in spread.columns


def test_the_page_and_the_tables_hold_evaluations_without_changing_the_comparison(evaluated):
    sweep = collect([evaluated])
    studies = [Study(title, runs, Question()) for title, runs in sweep.benchmarks()]
    html = page("x", studies, [{}], sweep.runs, "")
    assert "<h3>mias-0a1b2c</h3><p>9 images (all), whole images in their own size, window 512</p>" in html
    assert "IoU in-domain" in html
    rows = {(row["loss"], row["data"].split(",")[0]): row for row in DictReader(csv(studies, sweep.runs).splitlines())}
    assert float(rows["dice", "mias-0a1b2c"]["iou"]) == pytest.approx(0.62)
    assert len(rows) == 4
    assert "| dice | 0." in markdown(studies, sweep.runs).split("## On mias-0a1b2c")[1]


@pytest.mark.parametrize(("name", "iou", "hd95"), [(None, 0.5, 6.0), ("disc", 0.6, 5.0), ("cup", 0.4, 9.0)])
def test_evaluations_are_of_the_class_that_the_report_covers(evaluated, name, iou, hd95):
    """Over several classes, an image with a missed cup has no distance; else missing it would improve the mean."""
    run = evaluated / "bce_s1"
    rows = pd.read_csv(run / "per_image.csv")
    pd.concat([rows.assign(**{"class": one}) for one in ("disc", "cup")]).to_csv(run / "per_image.csv", index=False)
    change(run, data={"task": {"kind": "multilabel", "classes": ["disc", "cup"]}})
    out = run / "evaluations" / "mias-0a1b2c"
    facts = json.loads((out / "evaluation.json").read_text())
    facts["metrics"] = {"iou": 0.5, "iou/disc": 0.6, "iou/cup": 0.4, "hd95": 7.0, "hd95/disc": 5.0, "hd95/cup": 9.0}
    (out / "evaluation.json").write_text(json.dumps(facts))
    images = {"id": [1, 1, 2, 2], "group": "p", "class": ["disc", "cup"] * 2, "foreground": 4, "tp": [4, 4, 4, 0]}
    pd.DataFrame(images | {"fp": 0, "hd95": [3, 9, 7, None]}).to_csv(out / "per_image.csv", index=False)
    rows = external_data.evaluated(collect([evaluated], name).runs)
    row = rows[(rows["label"] == "bce") & (rows["seed"] == 1)].iloc[0]
    assert (row["iou"], row["hd95"]) == (iou, hd95)


def test_values_found_for_auto_are_not_reported_as_changes(evaluated):
    run, dataset = evaluated / "bce_s1", {"_target_": "a", "mean": "auto", "range": "auto", "target": "disc"}
    facts = json.loads((run / "run.json").read_text())
    found = {"mean": [0.4], "range": "full"}
    change(run, config=facts["config"] | {"dataset": dataset}, data=facts["data"] | found)
    file = run / "evaluations" / "mias-0a1b2c" / "evaluation.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"dataset": dataset | found | {"target": "cup"}}))
    row = external_data.evaluated(collect([evaluated]).runs).iloc[0]
    assert row["what"] == "9 images (all), whole images in their own size, window 512, target=cup"


def test_evaluations_from_before_a_run_was_trained_again_are_left_out(evaluated):
    change(evaluated / "bce_s1", finished="2026-12-01T00:00:00+00:00")
    (evaluated / "dice_s1" / "evaluations" / "mias-0a1b2c" / "evaluation.json").write_text("{ truncated")
    (evaluated / "dice_s2" / "evaluations" / "mias-0a1b2c" / "evaluation.json").write_text("[]")
    rows = external_data.evaluated(collect([evaluated]).runs)
    assert sorted(zip(rows["label"], rows["seed"], strict=True)) == [("bce", 2)]
    file = evaluated / "bce_s2" / "evaluations" / "mias-0a1b2c" / "evaluation.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"dataset": "mias"}))
    assert external_data.evaluated(collect([evaluated]).runs).empty


def test_the_description_lists_options_that_differ_from_the_run():
    config = {"dataset": {"_target_": "a", "target": "disc", "size": 64, "root": "here"}}
    facts = {"split": "test", "scale": "run", "data": {"images": 5}, "seen_in_training": 3}
    facts["dataset"] = {"_target_": "a", "target": "cup", "size": 64}
    expected = "5 images (test), scaled like the runs' own test images, target=cup, 3 of them used in training"
    assert external_data.words(facts, config) == expected
    assert external_data.words(facts | {"own": True}, config) == f"The runs' own {expected}"
