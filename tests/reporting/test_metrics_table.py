import re

import numpy as np
import pandas as pd
import pytest

from seglab.contract import Task
from seglab.reporting.class_rows import rows_per_image
from seglab.reporting.load_runs import collect
from seglab.reporting.metrics_table import (
    BLOCKS,
    FRACTIONS,
    _object_metrics,
    at_threshold,
    over_seeds,
    read_decisions,
    roughness,
    size_strata,
    title,
    under,
    worse_if_higher,
)
from seglab.reporting.report_sections import metric_blocks
from seglab.reporting.study import Question, Study
from seglab.reporting.thresholds import calibration
from seglab.reporting.write_report import _flat_columns, _markdown_table

SCORES = ["iou", "dice", "precision", "recall"]


def test_the_tables_have_every_score_that_a_verdict_may_be_about():
    assert {*FRACTIONS, "hd95", "asd"} <= {key for keys in BLOCKS.values() for key in keys}


def by_hand(folder, threshold):
    """Compute IoU, Dice, precision and recall per image from the histograms, one by one."""
    edge, rows = int(threshold * 256), []
    for background, foreground in np.load(folder / "histograms.npz")["test"]:
        tp, fn = foreground[edge:].sum(), foreground[:edge].sum()
        fp = background[edge:].sum()
        if tp + fn == 0:
            overlap = (1.0, 1.0) if fp == 0 else (0.0, 0.0)
        else:
            overlap = (tp / (tp + fp + fn), 2 * tp / (2 * tp + fp + fn))
        rows.append((*overlap, tp / (tp + fp) if tp + fp else np.nan, tp / (tp + fn) if tp + fn else np.nan))
    return np.nanmean(rows, axis=0)


def test_several_classes_have_scores_at_tuned_thresholds_for_each_and_a_mean(folder):
    run, both, tuned = folder / "bce_s1", Task("multilabel", ("disc", "cup")), {"disc": 0.25, "cup": 0.5}
    table = np.load(run / "histograms.npz")["test"]
    found = at_threshold(np.stack([table, table], 1), both, tuned, "correct")
    each = [by_hand(run, threshold)[0] for threshold in tuned.values()]
    assert [found[f"tuned/iou/{name}"] for name in tuned] == pytest.approx(each)
    assert found["tuned/iou"] == pytest.approx(np.mean(each))
    assert "tuned/iou/foreground" not in at_threshold(table[:, None], Task(), 0.25, "correct")


def test_the_tuned_threshold_gives_what_counting_by_hand_gives(study):
    rows = under("tuned", study.sweep.images, read_decisions(study.sweep))
    for run, folder in study.sweep.used["folder"].items():
        expected = pytest.approx(by_hand(folder, 0.375))
        assert study.metrics.loc[run, [f"tuned/{key}" for key in SCORES]].to_numpy(float) == expected
        assert rows.loc[rows["run"] == run, SCORES].mean().to_numpy() == expected
    kept = ["id", "run", "hd95"]
    pd.testing.assert_frame_equal(rows[kept], study.sweep.images[kept])


def test_the_calibration_error_is_that_of_the_histograms_before_and_after_scaling(study):
    for run, folder in study.sweep.used["folder"].items():
        pooled = np.load(folder / "histograms.npz")["test"].sum(0)
        predicted, observed, number = calibration(pooled)
        error = np.nansum(np.abs(predicted - observed) * number) / number.sum()
        assert study.metrics.loc[run, "ece"] == pytest.approx(error, abs=1 / 512)  # run.json: 0.05


def test_empty_images_are_a_stratum_of_their_own(study):
    rows = pd.read_csv(study.sweep.used["folder"].iloc[0] / "per_image.csv")
    empty = rows["foreground"] == 0
    assert study.metrics["empty/left empty"].iloc[0] == pytest.approx((rows[empty]["fp"] == 0).mean())
    assert study.metrics["iou/with foreground"].iloc[0] == pytest.approx(rows[~empty]["iou"].mean())


def test_quarters_hold_a_quarter_of_the_images_each_and_are_the_same_for_every_run(sweep):
    images = sweep.images.assign(stratum=size_strata(sweep.images))
    counts = images[images["run"] == 0]["stratum"].value_counts()
    assert len(counts) == 5
    assert set(counts) == {6}
    assert images.groupby("id")["stratum"].nunique().max() == 1
    largest = images[images["stratum"] == "largest quarter"]["foreground"].min()
    assert largest > images[images["stratum"] == "third quarter"]["foreground"].max()


def test_a_run_without_histograms_loses_only_what_needs_them(own):
    (own / "bce_s1" / "histograms.npz").write_bytes(b"truncated")
    for run in ("bce_s2", "dice_s1", "dice_s2"):
        (own / run / "histograms.npz").unlink()
    study = Study("data", collect([own]), Question())
    assert ("iou", "mean") in study.spread
    assert ("tuned/iou", "mean") not in study.spread
    assert study.tuned is None


def test_the_loss_with_the_best_mean_has_it_in_the_table_too(own):
    for number, (run, level) in enumerate({"bce_s1": 9.0, "bce_s2": 9.0, "dice_s1": 10.0, "dice_s2": 1.0}.items()):
        rows = pd.read_csv(own / run / "per_image.csv").assign(hd95=level)
        rows.loc[1 if number == 3 else 30 :, "hd95"] = np.nan  # one run of dice has a distance in a single image
        rows.to_csv(own / run / "per_image.csv", index=False)
    study = Study("data", collect([own]), Question(metric="hd95"))
    assert study.spread["hd95", "mean"].idxmin() == study.labels[0] == study.pairs[0].first == "dice"
    assert study.means == pytest.approx(study.spread["hd95", "mean"].to_dict())


def test_lower_is_better_only_for_distances_errors_and_losses():
    better_if_lower = {key for block in BLOCKS.values() for key in block if worse_if_higher(key)}
    rough = {"epochs/train roughness", "epochs/val roughness", "epochs/seconds"}
    calibration = {f"{rule}{key}" for rule in ("", "scaled/", "calibrated/") for key in ("nll", "brier", "ece")}
    assert better_if_lower == {"hd95", "asd", "found/nothing", "found/false_objects"} | calibration | rough
    assert all(map(worse_if_higher, ("loss", "fp", "fn")))
    assert title("iou_pooled") == title("tuned/iou") == "IoU"
    assert title("foreground_confidence") == "foreground confidence"


def test_objects_found_agree_with_a_count_by_hand():
    rows = {
        "run": [0] * 12,
        "id": [str(k) for k in range(12)],
        "iou": [0.1, 0.3, *[0.9] * 10],
        "tp": [0, 4, *[5] * 10],
        "fp": [0, 2, *[5] * 10],
        "foreground": [3, 8, *[5] * 9, 0],
        "objects": [1.0] * 11 + [0.0],
        "objects_predicted": [0.0] + [2.0] * 11,
        "objects_found": [0.0] * 2 + [1.0] * 9 + [0.0],
    }
    table = rows_per_image(pd.DataFrame(rows | {"class": "foreground"}), Task())
    found, means = _object_metrics(table).loc[0], table.mean(numeric_only=True)
    assert found["iou/worst tenth"] == pytest.approx(0.2)  # the worst two of twelve
    assert means["found/nothing"] == pytest.approx(1 / 11)
    assert means["found/area_error"] == pytest.approx((-1 + (6 / 8 - 1) + 9 * 1) / 11)
    assert found["found/object_f1"] == pytest.approx(2 * 9 / (11 + 22))
    assert found["found/false_objects"] == pytest.approx(13 / 12)


def test_no_distance_is_bold_where_a_loss_found_nothing_in_some_image():
    def bold(nothing):
        runs = {"label": ["timid", "bold"], "hd95": [3.0, 9.0], "found/nothing": nothing}
        spread = over_seeds(pd.DataFrame(runs), ["hd95", "found/nothing"], ["label"])
        return next(shown for name, shown in metric_blocks(spread, "") if name.startswith("Distance")).count("best")

    assert bold([0.0, 0.0]) == 1
    assert bold([0.5, 0.0]) == 0


def test_a_mean_without_some_runs_says_so_and_is_not_bold():
    runs = {"label": ["timid"] * 3 + ["bold"] * 3 + ["third"] * 3, "iou": [0.1, 0.2, 0.0, *[0.5] * 6]}
    runs["precision"] = [0.9, 0.9, np.nan, *[0.75] * 3, *[0.5] * 3]  # the last run of timid has no predictions
    spread = over_seeds(pd.DataFrame(runs), ["iou", "precision"], ["label"])
    [(_, shown)] = metric_blocks(spread, "")
    assert '0.900 <span class="sd">±0.000, 2 of 3 runs</span>' in shown
    assert re.findall('class="best" data-key="([0-9.]+)', shown) == ["0.5", "0.75", "0.5"]  # iou, precision; iou
    assert "| 0.100 ±0.100 | 0.900 ±0.000, 2 of 3 runs |" in "\n".join(_markdown_table(spread, ["iou", "precision"]))
    assert list(_flat_columns(spread)) == ["iou", "iou sd", "precision", "precision sd"]


def test_roughness_by_hand():
    assert roughness(np.array([0.1, 0.3, 0.2, 0.6])) == pytest.approx((0.3 + 0.5) / 2)
    assert roughness(np.linspace(0.2, 0.9, 30)) == pytest.approx(0, abs=1e-12)
    assert np.isnan(roughness(np.array([0.1, 0.3])))


def test_the_report_has_the_roughness_and_the_seconds_of_each_loss(own):
    for k, folder in enumerate(sorted(own.iterdir())):
        epochs = {"epoch": range(4), "val/iou": [0, 0.1 * k, 0, 0.1 * k], "seconds": [9.0, 2, 3, 2 + k]}
        pd.DataFrame(epochs).to_csv(folder / "metrics.csv", index=False)
    (folder / "metrics.csv").unlink()  # a run may lack it
    spread = Study("data", collect([own]), Question()).spread
    assert spread.loc["bce", ("epochs/val roughness", "mean")] == pytest.approx((0 + 0.2) / 2)
    assert spread.loc["dice", ("epochs/val roughness", "mean")] == pytest.approx(0.4)
    assert spread.loc["bce", ("epochs/seconds", "mean")] == pytest.approx((2.5 + 3) / 2)
    assert ("epochs/train roughness", "mean") not in spread
