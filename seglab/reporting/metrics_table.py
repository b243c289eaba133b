"""Every metric of every loss, mean and spread over seeds: at threshold 0.5, at the tuned one, and in strata."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from seglab.contract import Task
from seglab.reporting import learning_curves
from seglab.reporting.class_rows import chosen_classes, threshold_of
from seglab.reporting.load_runs import Sweep
from seglab.reporting.thresholds import at_temperature, average_precision, calibration_error, scores_at, temperature

LOWER_IS_BETTER = {
    "hd95",
    "asd",
    "loss",
    "ece",
    "ece_scaled",
    "epochs/train roughness",
    "epochs/val roughness",
    "epochs/seconds",
}
THRESHOLDED = ("iou", "dice", "precision", "recall")
"""What a histogram gives of an image at any threshold."""

QUARTERS = ("smallest quarter", "second quarter", "third quarter", "largest quarter")
CONFIDENCES = ("foreground_confidence", "background_confidence")
BLOCKS: dict[str, tuple[str, ...]] = {
    "Mean over the test images, threshold 0.5": (*THRESHOLDED, "accuracy", *CONFIDENCES, "specificity"),
    "Mean over the test images, threshold tuned on validation": (
        "tuned/threshold",
        *(f"tuned/{name}" for name in THRESHOLDED),
    ),
    "Pooled over all pixels of the test set": (
        *(f"{name}_pooled" for name in (*THRESHOLDED, "accuracy")),
        "average_precision",
        "ece",
        "ece_scaled",
    ),
    "Distance between the outlines, mean over the test images in which there is something and something was found": (
        "hd95",
        "asd",
    ),
    "IoU in strata of the object's size, and empty images by themselves": (
        *(f"iou/{stratum}" for stratum in ("with foreground", *QUARTERS)),
        "empty/left empty",
        "image_accuracy",
        "image_recall",
    ),
    "Over the epochs: how much the IoU jumps (mean second difference), and seconds an epoch": (
        "epochs/train roughness",
        "epochs/val roughness",
        "epochs/seconds",
    ),
}
TITLES = {
    "iou": "IoU",
    "dice": "Dice",
    "hd95": "HD95 (px)",
    "asd": "ASD (px)",
    "ece": "calibration error",
    "ece_scaled": "calibration error, temperature tuned on validation",
    "empty/left empty": "empty images left empty",
}


def blocks(columns: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The blocks of a table with these columns: BLOCKS, and where there are several classes the IoU of each."""
    known = set().union(*BLOCKS.values())
    classes = tuple(dict.fromkeys(key for key in columns if key.startswith("iou/") and key not in known))
    return BLOCKS | ({"IoU of each class, mean over the test images": classes} if classes else {})


def title(key: str) -> str:
    """A metric's name for readers."""
    name = key.removesuffix("_pooled").removeprefix("tuned/").removeprefix("iou/").removeprefix("epochs/")
    return TITLES.get(name, name.replace("_", " "))


def worse_if_higher(key: str) -> bool:
    """Whether less of the metric is better."""
    return key.removesuffix("_pooled").removeprefix("tuned/") in LOWER_IS_BETTER


class Pooled(NamedTuple):
    """One run's histograms over all test pixels, (2, 256), their scores, and the scores of each image when tuned.

    Of several classes the sum of the histograms and the mean of the scores. `images` has a row for each test image, by
    id, and the columns THRESHOLDED; it is empty without a tuned threshold. `confusion` (k, k) has true classes in rows.
    """

    table: np.ndarray
    scores: dict[str, float]
    images: pd.DataFrame
    confusion: np.ndarray | None = None


def read_histograms(runs: pd.DataFrame) -> dict[int, Pooled]:
    """Read the histograms of the used runs, one at a time; a run without them is left out."""
    found = {}
    for row, (_, run) in zip(runs.index, runs.iterrows(), strict=True):
        try:
            with np.load(run["folder"] / "histograms.npz") as arrays:
                table, ids, val = arrays["test"], arrays["test_ids"], arrays.get("val")
                confusion = arrays.get("test_confusion")
        except (OSError, KeyError, ValueError, zipfile.BadZipFile):
            continue
        pooled = pool(_of_classes(table, run), run["threshold"], run["config"].get("empty", "correct"))
        if val is not None and val.any():
            pairs = zip(_of_classes(table, run), _of_classes(val, run), strict=True)
            errors = [calibration_error(at_temperature(one.sum(0), temperature(v.sum(0)))) for one, v in pairs]
            pooled.scores["ece_scaled"] = float(np.mean(errors))
        found[row] = pooled._replace(images=pooled.images.set_axis(ids[: len(pooled.images)]), confusion=confusion)
    return found


def _of_classes(table: np.ndarray, run: pd.Series) -> list[np.ndarray]:
    """The histograms (n, 2, 256) of each class that a report is about."""
    table = table if table.ndim == 4 else table[:, None]  # written before there were classes
    return [table[:, k] for k in run["classes"]]


def pool(tables: Sequence[np.ndarray], thresholds: Sequence[float], empty: str) -> Pooled:
    """Add up the histograms (n, 2, 256) of one run's classes, and average their scores."""
    images = [_scores_of_images(*pair, empty) for pair in zip(tables, thresholds, strict=True)]
    parts = [_scores(t.sum(0), one, at) for t, one, at in zip(tables, images, thresholds, strict=True)]
    scores = {str(key): float(value) for key, value in pd.DataFrame(parts).mean().items()}
    together = images[0] if len(images) == 1 else pd.concat(images).groupby(level=0).mean()
    return Pooled(np.sum([table.sum(0) for table in tables], axis=0), scores, together)


def at_threshold(table: np.ndarray, task: Task, tuned: Any, empty: str) -> dict[str, float]:
    """What histograms (n, classes, 2, 256) give: average precision, calibration error, scores at tuned thresholds."""
    chosen = chosen_classes(task)
    edges = [threshold_of(tuned, task.classes[k]) for k in chosen]
    return pool([table[:, k] for k in chosen], edges, empty).scores


def _scores_of_images(table: np.ndarray, threshold: float, empty: str) -> pd.DataFrame:
    """The scores of each image (n, 2, 256) at a threshold, a row each; no rows where it is not known."""
    if not np.isfinite(threshold):
        return pd.DataFrame()
    edge = round(threshold * table.shape[-1])
    halves = np.stack([table[..., :edge].sum(-1), table[..., edge:].sum(-1)], axis=-1)
    return pd.DataFrame({name: value[:, 1] for name, value in scores_at(halves, empty).items()})


def _scores(pooled: np.ndarray, images: pd.DataFrame, threshold: float) -> dict[str, float]:
    scores = {"average_precision": float(average_precision(pooled)), "ece": float(calibration_error(pooled))}
    scores |= {f"tuned/{name}": float(value) for name, value in images.mean().items()}
    return scores | ({"tuned/threshold": float(threshold)} if np.isfinite(threshold) else {})


def at_tuned(images: pd.DataFrame, pooled: dict[int, Pooled]) -> pd.DataFrame:
    """The rows of per_image.csv with the scores that each run has at its tuned threshold; NaN where it has none."""
    tuned = pd.concat({run: found.images for run, found in pooled.items()}) if pooled else pd.DataFrame()
    rows = tuned.reindex(index=pd.MultiIndex.from_frame(images[["run", "id"]]), columns=list(THRESHOLDED))
    return images.assign(**{name: rows[name].to_numpy() for name in THRESHOLDED if name in images})


def size_strata(images: pd.DataFrame) -> pd.Series:
    """The stratum of each row: empty, or its quarter of the non-empty images by their fraction of foreground.

    The quarters are those of the images, not of the rows, so that every run has the same ones.
    """
    fraction = (images["foreground"] / images["pixels"]).where(images["foreground"] > 0)
    one_each = fraction.groupby(images["id"]).first().dropna()
    edges = np.quantile(one_each, [0.25, 0.5, 0.75]) if len(one_each) else np.zeros(3)
    quarter = np.searchsorted(edges, fraction.to_numpy(), side="left")
    return pd.Series(np.where(fraction.isna(), "empty", np.array([*QUARTERS, "empty"])[quarter]), images.index)


def per_run(sweep: Sweep, pooled: dict[int, Pooled], histories: dict[int, pd.DataFrame]) -> pd.DataFrame:
    """All metrics of each used run, one row a run: label, seed, then the keys of BLOCKS that can be had."""
    runs = sweep.used
    known = runs.filter(regex="^test/").rename(columns=lambda column: column.removeprefix("test/"))
    images = sweep.images.assign(stratum=size_strata(sweep.images))
    numeric = images.drop(columns=["id", "group", "benchmark", "label", "seed", "stratum"]).groupby("run").mean()
    histograms = pd.DataFrame({row: found.scores for row, found in pooled.items() if row in runs.index}).T
    strata = images.pivot_table(index="run", columns="stratum", values="iou", aggfunc="mean")
    nonempty = images[images["stratum"] != "empty"].groupby("run")["iou"].mean()
    parts = [
        known,
        numeric[[column for column in numeric if column not in known]],
        histograms[[column for column in histograms if column not in known]],
        nonempty.rename("iou/with foreground"),
        strata.drop(columns="empty", errors="ignore").add_prefix("iou/"),
        _left_empty(images),
        learning_curves.summary(histories),
    ]
    return pd.concat([runs[["label", "seed"]], *parts], axis=1)


def _left_empty(images: pd.DataFrame) -> pd.Series:
    """The fraction of the empty images in which nothing was found, by run."""
    empty = images[images["stratum"] == "empty"]
    return (empty["tp"] + empty["fp"] == 0).groupby(empty["run"]).mean().rename("empty/left empty")


def over_seeds(metrics: pd.DataFrame, keys: Iterable[str], by: list[str]) -> pd.DataFrame:
    """Mean and standard deviation over the seeds, a row for each group `by`: columns are (key, mean | sd).

    Left out are keys without a value; one seed has no standard deviation.
    """
    keys = [key for key in keys if key in metrics and metrics[key].notna().any()]
    grouped = metrics.groupby(by, sort=False)[keys]
    both = pd.concat({"mean": grouped.mean(), "sd": grouped.std(ddof=1)}, axis=1).swaplevel(axis=1)
    return both[[(key, part) for key in keys for part in ("mean", "sd")]]


def keys_of(spread: pd.DataFrame) -> list[str]:
    """The metrics of a table with columns (key, mean | sd)."""
    keys, parts = (spread.columns.get_level_values(level) for level in (0, 1))
    return list(keys[parts == "mean"])
