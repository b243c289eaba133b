import numpy as np
import pandas as pd
import pytest

from seglab.reporting.load_runs import collect
from seglab.reporting.metrics_table import BLOCKS, read_histograms, size_strata, title, under, worse_if_higher
from seglab.reporting.study import Question, Study

SCORES = ["iou", "dice", "precision", "recall"]


def by_hand(folder, threshold):
    """IoU, Dice, precision and recall per image, counted one by one from the histograms."""
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


def test_the_tuned_threshold_gives_what_counting_by_hand_gives(study):
    rows = under("tuned", study.sweep.images, read_histograms(study.sweep))
    for run, folder in study.sweep.used["folder"].items():
        expected = pytest.approx(by_hand(folder, 0.375))
        assert study.metrics.loc[run, [f"tuned/{key}" for key in SCORES]].to_numpy(float) == expected
        assert rows.loc[rows["run"] == run, SCORES].mean().to_numpy() == expected
    kept = ["id", "run", "hd95"]
    pd.testing.assert_frame_equal(rows[kept], study.sweep.images[kept])


def test_at_one_half_the_histograms_agree_with_the_rows_of_the_images(sweep):
    for folder in sweep.used["folder"]:
        rows = pd.read_csv(folder / "per_image.csv")
        assert by_hand(folder, 0.5) == pytest.approx(rows[SCORES].mean().to_numpy())


def test_mean_and_spread_are_over_seeds(study, folder):
    seeds = [pd.read_csv(folder / f"dice_s{seed}" / "per_image.csv")["iou"].mean() for seed in (1, 2, 3)]
    assert study.spread.loc["dice", ("iou", "mean")] == pytest.approx(np.mean(seeds))
    assert study.spread.loc["dice", ("iou", "sd")] == pytest.approx(np.std(seeds, ddof=1))


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


def test_strata_of_images_that_are_all_empty_do_not_fail():
    images = pd.DataFrame({"id": ["a", "b"], "foreground": [0, 0], "pixels": [9, 9]})
    assert size_strata(images).tolist() == ["empty", "empty"]


def test_a_run_without_histograms_loses_only_what_needs_them(own):
    (own / "bce_s1" / "histograms.npz").write_bytes(b"truncated")
    for run in ("bce_s2", "dice_s1", "dice_s2"):
        (own / run / "histograms.npz").unlink()
    study = Study("data", collect([own]), Question())
    assert ("iou", "mean") in study.spread
    assert ("tuned/iou", "mean") not in study.spread
    assert study.tuned is None


def test_less_is_better_only_for_distances_errors_and_losses():
    better_if_lower = {key for block in BLOCKS.values() for key in block if worse_if_higher(key)}
    rough = {"epochs/train roughness", "epochs/val roughness", "epochs/seconds"}
    calibration = {f"{rule}{key}" for rule in ("", "scaled/", "calibrated/") for key in ("nll", "brier", "ece")}
    assert better_if_lower == {"hd95", "asd"} | calibration | rough
    assert title("iou_pooled") == title("tuned/iou") == "IoU"
    assert title("foreground_confidence") == "foreground confidence"
