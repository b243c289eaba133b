import numpy as np
import pandas as pd
import pytest

from seglab.reporting.load_runs import collect
from seglab.reporting.metrics_table import (
    BLOCKS,
    at_tuned,
    over_seeds,
    per_run,
    reread,
    size_strata,
    title,
    worse_if_higher,
)
from tests.reporting.fabricate import FakeLoss, write_sweep


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    root = write_sweep(tmp_path_factory.mktemp("sweep"), [FakeLoss("bce"), FakeLoss("dice", 1.5)], [1, 2], images=40)
    return collect([root])


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


def test_the_tuned_threshold_gives_what_counting_by_hand_gives(board):
    metrics = per_run(board, reread(board.used), {})
    for row, run in board.used.iterrows():
        keys = ["tuned/iou", "tuned/dice", "tuned/precision", "tuned/recall"]
        assert metrics.loc[row, keys].to_numpy(float) == pytest.approx(by_hand(run["folder"], 0.375))


def test_the_rows_at_the_tuned_threshold_are_those_of_counting_by_hand_and_keep_the_rest(board):
    rows = at_tuned(board.images, reread(board.used))
    for run, folder in board.used["folder"].items():
        mine = rows[rows["run"] == run]
        expected = by_hand(folder, 0.375)
        assert mine[["iou", "dice", "precision", "recall"]].mean().to_numpy() == pytest.approx(expected)
    pd.testing.assert_frame_equal(rows[["id", "run", "hd95"]], board.images[["id", "run", "hd95"]])


def test_at_one_half_the_histograms_agree_with_the_rows_of_the_images(board):
    for _, run in board.used.iterrows():
        rows = pd.read_csv(run["folder"] / "per_image.csv")
        expected = rows[["iou", "dice", "precision", "recall"]].mean().to_numpy()
        assert by_hand(run["folder"], 0.5) == pytest.approx(expected)


def test_mean_and_spread_are_over_seeds(board):
    table = over_seeds(per_run(board, reread(board.used), {}))
    seeds = [pd.read_csv(board.used["folder"].iloc[k] / "per_image.csv")["iou"].mean() for k in (2, 3)]
    assert table.loc["dice", ("iou", "mean")] == pytest.approx(np.mean(seeds))
    assert table.loc["dice", ("iou", "sd")] == pytest.approx(abs(seeds[0] - seeds[1]) / 2**0.5)


def test_empty_images_are_a_stratum_of_their_own(board):
    metrics = per_run(board, reread(board.used), {})
    rows = pd.read_csv(board.used["folder"].iloc[0] / "per_image.csv")
    empty = rows["foreground"] == 0
    assert metrics["empty/left empty"].iloc[0] == pytest.approx((rows[empty]["fp"] == 0).mean())
    assert metrics["iou/with foreground"].iloc[0] == pytest.approx(rows[~empty]["iou"].mean())


def test_quarters_hold_a_quarter_of_the_images_each_and_are_the_same_for_every_run(board):
    images = board.images.assign(stratum=size_strata(board.images))
    counts = images[images["run"] == 0]["stratum"].value_counts()
    assert counts.to_dict() == {
        "smallest quarter": 8,
        "second quarter": 8,
        "third quarter": 8,
        "largest quarter": 8,
        "empty": 8,
    }
    assert images.groupby("id")["stratum"].nunique().max() == 1
    largest = images[images["stratum"] == "largest quarter"]["foreground"].min()
    assert largest > images[images["stratum"] == "third quarter"]["foreground"].max()


def test_strata_of_images_that_are_all_empty_do_not_fail():
    images = pd.DataFrame({"id": ["a", "b"], "foreground": [0, 0], "pixels": [9, 9]})
    assert size_strata(images).tolist() == ["empty", "empty"]


def test_a_run_without_histograms_loses_only_what_needs_them(tmp_path):
    root = write_sweep(tmp_path, [FakeLoss("bce")], [1, 2])
    (root / "bce_s1" / "histograms.npz").write_bytes(b"torn")
    (root / "bce_s2" / "histograms.npz").unlink()
    sweep = collect([root])
    assert reread(sweep.used) == {}
    table = over_seeds(per_run(sweep, {}, {}))
    assert ("iou", "mean") in table
    assert ("tuned/iou", "mean") not in table


def test_less_is_better_only_for_distances_errors_and_losses():
    better_if_lower = {key for block in BLOCKS.values() for key in block if worse_if_higher(key)}
    rough = {"epochs/train roughness", "epochs/val roughness", "epochs/seconds"}
    assert better_if_lower == {"hd95", "asd", "ece"} | rough
    assert title("iou_pooled") == title("tuned/iou") == "IoU"
