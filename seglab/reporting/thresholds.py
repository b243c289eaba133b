"""Scores from histograms of truth and probability: at every threshold, average precision, calibration.

A table is (..., 2, bins), as histograms.npz holds it: row 0 counts background pixels, row 1 foreground pixels, by
probability. Every function works on one image, on all of them, or on all pixels as one: `table.sum(0)`.
"""

import numpy as np
from numpy.typing import NDArray

from seglab.contract import require


def thresholds(bins: int = 256) -> NDArray:
    """List the thresholds that a table of that many bins can distinguish: (bins,) from 0, where all is foreground."""
    return np.arange(bins) / bins


def middles(bins: int = 256) -> NDArray:
    """The middle of each bin: (bins,)."""
    return thresholds(bins) + 0.5 / bins


def scores_at(table: NDArray, empty: str = "correct") -> dict[str, NDArray]:
    """Score every image at every threshold: iou, dice, precision and recall, each (..., bins).

    The rules are those of the metrics: precision without a prediction and recall without truth are NaN; IoU and Dice
    without true foreground are 1 for an empty prediction and 0 for any other ("correct"), or NaN ("skip").
    """
    require(empty in ("correct", "skip"), "thresholds: empty", "correct or skip", empty)
    tp, fp = _from_above(table[..., 1, :]), _from_above(table[..., 0, :])
    true, found = tp[..., :1], tp + fp
    blank = np.where(found == 0, 1.0, 0.0) if empty == "correct" else np.full(found.shape, np.nan)
    return {
        "iou": np.where(true == 0, blank, ratio(tp, true + fp)),
        "dice": np.where(true == 0, blank, ratio(2 * tp, true + found)),
        "precision": ratio(tp, found),
        "recall": ratio(tp, true + 0 * tp),  # of the shape of tp
    }


def best_threshold(table: NDArray, score: str = "iou", empty: str = "correct") -> float:
    """Find the threshold with the highest mean score over the images (n, 2, bins); of equals the nearest to 0.5.

    Tune it on validation images: on the test set the score would be too good.
    """
    means = mean(scores_at(table, empty)[score])[1:]  # at 0 everything is foreground
    candidates = thresholds(table.shape[-1])[1:]
    best = np.flatnonzero(means >= np.nanmax(means, initial=-1.0) - 1e-12)  # equal but for rounding
    return float(min(candidates[best], key=lambda t: abs(t - 0.5), default=0.5))


def average_precision(table: NDArray) -> NDArray:
    """Add up precision over the steps of recall, from the strictest threshold down: (...), NaN without foreground."""
    at = scores_at(table)
    steps = at["recall"] - np.concatenate([at["recall"][..., 1:], np.zeros_like(at["recall"][..., :1])], axis=-1)
    return np.where(table[..., 1, :].sum(-1) == 0, np.nan, np.nansum(steps * at["precision"], axis=-1))


def calibration(table: NDArray, bins: int = 16) -> tuple[NDArray, NDArray, NDArray]:
    """Compute the reliability diagram: mean probability, fraction of foreground, and pixels; each (..., bins).

    The probabilities are taken at the middles of the table's own bins, half a bin (1/512) from the truth at most; where
    a bin has no pixel, mean and fraction are NaN.
    """
    require(table.shape[-1] % bins == 0, "calibration: bins", f"a divisor of {table.shape[-1]}", bins)
    pixels = table.sum(-2)
    coarse = (*table.shape[:-2], bins, -1)
    number, true = pixels.reshape(coarse).sum(-1), table[..., 1, :].reshape(coarse).sum(-1)
    sums = (pixels * middles(table.shape[-1])).reshape(coarse).sum(-1)
    return ratio(sums, number), ratio(true, number), number


def mean(values: NDArray) -> NDArray:
    """Average over the images (n, ...) where the value is defined; NaN where it is for none."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0).sum(0), defined.sum(0))


def _from_above(counts: NDArray) -> NDArray:
    """Count what lies at or above each bin's lower edge."""
    return counts[..., ::-1].cumsum(-1)[..., ::-1]


def ratio(above: NDArray, below: NDArray) -> NDArray:
    """The quotient, of the shape of `below`; NaN where that is 0."""
    return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below != 0)
