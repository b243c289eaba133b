"""Scores from histograms of truth and probability: at every threshold, average precision, calibration.

A table is (..., 2, 256), as histograms.npz holds it: row 0 counts background pixels, row 1 foreground pixels, by
probability: bin k begins at k / 256. `table.sum(0)` is that of all pixels as one.
"""

import numpy as np
from numpy.typing import NDArray

MIDDLES = (np.arange(256) + 0.5) / 256
"""The middle of each bin: (256,)."""


def scores_at(table: NDArray, empty: str = "correct") -> dict[str, NDArray]:
    """Score every image at every threshold: iou, dice, precision and recall, each (..., bins).

    The rules are those of the metrics: precision without a prediction and recall without truth are NaN; IoU and Dice
    without true foreground are 1 for an empty prediction and 0 for any other ("correct"), or NaN ("skip").
    """
    tp, fp = from_above(table[..., 1, :]), from_above(table[..., 0, :])
    true, found = tp[..., :1], tp + fp
    blank = np.where(found == 0, 1.0, 0.0) if empty == "correct" else np.full(found.shape, np.nan)
    return {
        "iou": np.where(true == 0, blank, ratio(tp, true + fp)),
        "dice": np.where(true == 0, blank, ratio(2 * tp, true + found)),
        "precision": ratio(tp, found),
        "recall": ratio(tp, true + 0 * tp),  # of the shape of tp
    }


def best_threshold(table: NDArray, empty: str = "correct") -> float:
    """Find the threshold with the highest mean IoU over the images (n, 2, 256); of equals the nearest to 0.5.

    Tune it on validation images: on the test set the score would be too good.
    """
    means = mean(scores_at(table, empty)["iou"])[1:]  # at 0 everything is foreground
    best = 1 + np.flatnonzero(means >= np.nanmax(means, initial=-1.0) - 1e-12)  # equal but for rounding
    return float(min(best / 256, key=lambda threshold: abs(threshold - 0.5), default=0.5))


def average_precision(table: NDArray) -> float:
    """Precision summed over the steps of recall, of pixels (2, 256) at all thresholds; NaN without true foreground."""
    at = scores_at(table)
    steps = -np.diff(at["recall"], append=0)
    return float(np.nansum(steps * at["precision"])) if table[1].any() else np.nan


def calibration(table: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Compute the reliability diagram of pixels (2, 256): mean probability, fraction of foreground, pixels; each (16,).

    The probabilities are taken at the middles of the table's own bins, half a bin (1/512) from the truth at most; where
    one of the 16 bins has no pixel, mean and fraction are NaN.
    """
    pixels = table.sum(0)
    number, true, sums = (values.reshape(16, -1).sum(1) for values in (pixels, table[1], pixels * MIDDLES))
    return ratio(sums, number), ratio(true, number), number


def mean(values: NDArray) -> NDArray:
    """Average over the images (n, ...) where the value is defined; NaN where it is for none."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0).sum(0), defined.sum(0))


def from_above(counts: NDArray) -> NDArray:
    """Count what lies at or above each bin's lower edge: the positives of a mask that begins there."""
    return counts[..., ::-1].cumsum(-1)[..., ::-1]


def ratio(above: NDArray, below: NDArray) -> NDArray:
    """The quotient, of the shape of `below`; NaN where that is 0."""
    return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below != 0)
