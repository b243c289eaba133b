"""The masks and calibration scores that follow from a run's histograms, computed when the run is tested.

A run keeps them in decisions.npz, so that a report on hundreds of runs reads only a few counts per run. For a run
without that file they are computed on demand.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from seglab.contract import Task
from seglab.files import read_arrays
from seglab.reporting import decisions
from seglab.reporting.class_rows import threshold_of
from seglab.reporting.cube import finite_mean
from seglab.reporting.thresholds import MIDDLES, average_precision, from_above, mean, ratio, scores_at

CONFIDENCES = ["foreground_confidence", "background_confidence"]
RULES = {
    "fixed": "at the fixed threshold",
    "tuned": "at the tuned threshold",
    "optimal": "best expected score",
    "scaled": "best expected score, temperature-scaled",
    "calibrated": "best expected score, isotonic",
}
"""The rules that make a mask from probabilities, see decisions.py; the first is the rule of per_image.csv."""

EXPECTED = ("iou", "dice")  # the scores for which masks of best expected score are computed


class Decisions(NamedTuple):
    """The histogram over all test pixels (2, 256) of one run, its scores, and the scores of each image under each rule.

    With several classes, histograms are summed and scores averaged. Multiclass masks are of the most probable class,
    the only rule.

    Args:
        images: one row per id, with columns (rule, score) for iou, dice, precision and recall.
        confusion: (k, k) with the true classes in rows.
    """

    table: NDArray
    scores: dict[str, float]
    images: pd.DataFrame
    confusion: NDArray | None = None


def decide(
    arrays: Mapping[str, NDArray], images: pd.DataFrame, task: Task, tuned: Any, empty: str
) -> dict[str, NDArray]:
    """Return the arrays of decisions.npz, from the arrays of histograms.npz and the rows of per_image.csv.

    `pooled` (k, 2, 256) holds the histograms over all test pixels, `pixels` (k, n, 2) the background and foreground of
    each image, `iou` and `dice` (k, 4, n, 2) the false and true positives of its masks under all RULES but the first,
    and `scores` a JSON text.
    """
    # the oldest runs have no class axis
    tables, val = (arrays[key] if arrays[key].ndim == 4 else arrays[key][:, None] for key in ("test", "val"))
    n, k = tables.shape[:2]
    recorded = images.reindex(columns=CONFIDENCES).to_numpy(float)
    confidences = recorded.reshape(n, k, 2) if len(recorded) == n * k else np.full((n, k, 2), np.nan)
    thresholds = [threshold_of(tuned, name) for name in task.classes]
    parts = [_decide_class(tables[:, c], val[:, c].sum(0), confidences[:, c], thresholds[c], empty) for c in range(k)]
    counts = {score: np.stack([masks[score] for _, masks in parts]) for score in EXPECTED}
    scores = json.dumps({"classes": [scores for scores, _ in parts]})
    pooled = {"pooled": tables.sum(0), "pixels": tables.sum(3).swapaxes(0, 1).astype(np.int32)}
    extra = {"confusion": arrays["test_confusion"]} if "test_confusion" in arrays else {}
    return {"ids": arrays["test_ids"], "scores": np.array(scores), **pooled, **counts, **extra}


def _decide_class(
    table: NDArray, val: NDArray, confidences: NDArray, threshold: float, empty: str
) -> tuple[dict[str, float], dict[str, NDArray]]:
    """Return the calibration scores of one class, and the counts (rules, n, 2) of the masks best for each score."""
    pooled, outer = table.sum(0), decisions.outer_means(table, *confidences.T)
    weights = table.sum(2)[:, ::-1]  # foreground first, as in the confidences, which are NaN for an absent class
    over_all = ratio(np.nansum(confidences * weights, axis=0), (np.isfinite(confidences) * weights).sum(0))
    low, high = decisions.outer_means(pooled[None], *over_all[:, None])[0]
    means = np.r_[low, MIDDLES[1:-1], high]
    temperature, observed = decisions.fitted_temperature(val, means), decisions.isotonic(val)
    probabilities = {
        "optimal": (means, outer),
        "scaled": (decisions.scaled(means, temperature), decisions.scaled(outer, temperature)),
        "calibrated": (observed, None),
    }
    scores = {"average_precision": average_precision(pooled), "scaled/temperature": temperature}
    for rule, (probability, _) in probabilities.items():
        prefix = "" if rule == "optimal" else f"{rule}/"
        scores |= {f"{prefix}{key}": value for key, value in decisions.calibration_scores(pooled, probability).items()}
    positives = np.pad(from_above(table), ((0, 0), (0, 0), (0, 1)))  # by the first foreground bin; none at 256
    at_tuned = 256 if np.isnan(threshold) else round(threshold * 256)  # if unknown, an empty mask, never shown
    pixels, masks = table.sum(1, dtype=np.float32), {}
    for score in EXPECTED:
        edges = [decisions.best_expected(pixels, p, score, empty, ends) for p, ends in probabilities.values()]
        begin = np.stack([np.full(len(table), at_tuned), *edges])[..., None, None]  # (rules, n, 1, 1)
        masks[score] = np.take_along_axis(positives[None], begin, axis=-1)[..., 0].astype(np.int32)
    return scores, masks


def decisions_of(
    folder: Path, task: Task, tuned: Any, empty: str, classes: Sequence[int], score: str
) -> Decisions | None:
    """Return the decisions of a run for some classes (indices), with masks best for `score`; None without histograms.

    `tuned` holds the thresholds of run.json, `empty` the run's policy for images without foreground.
    """
    arrays = read_arrays(folder / "decisions.npz", {"scores", "pooled", "ids", "pixels", "confusion", score})
    if not arrays:
        try:
            rows = pd.read_csv(folder / "per_image.csv", usecols=lambda name: name in CONFIDENCES)
            arrays = decide(read_arrays(folder / "histograms.npz"), rows, task, tuned, empty)
        except (OSError, KeyError, ValueError):
            return None
    of_classes, scores = json.loads(str(arrays["scores"]))["classes"], []
    images: list[dict[tuple[str, str], NDArray]] = []
    for c in classes:
        threshold, pixels = threshold_of(tuned, task.classes[c]), arrays["pixels"][c]
        scores.append(of_classes[c] | ({} if np.isnan(threshold) else {"tuned/threshold": threshold}))
        images.append({})
        for rule, inside in zip(list(RULES)[1:], arrays[score][c], strict=True):
            if task.kind != "multiclass" and not (rule == "tuned" and np.isnan(threshold)):
                halves = np.stack([pixels - inside, inside], axis=-1)  # two bins: outside and inside the mask
                images[-1] |= {(rule, key): of[:, 1] for key, of in scores_at(halves, empty).items()}
    means = {key: mean(np.array([scores_of_rules[key] for scores_of_rules in images])) for key in images[0]}
    all_scores = mean_scores(scores) | {f"{rule}/{key}": finite_mean(each) for (rule, key), each in means.items()}
    table = arrays["pooled"][list(classes)].sum(0)
    return Decisions(table, all_scores, pd.DataFrame(means, arrays["ids"]), arrays.get("confusion"))


def mean_scores(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each score over the classes for which it is defined."""
    return {str(key): float(value) for key, value in pd.DataFrame(parts).mean().items()}
