"""Scores from histograms of truth and probability: scores at every threshold, average precision, calibration.

A table is (..., 2, 256), as in histograms.npz. Row 0 counts background pixels and row 1 foreground pixels by predicted
probability, where bin k begins at k / 256. Summing over images, `table.sum(0)`, pools all pixels.
"""

import numpy as np
from numpy.typing import NDArray

MIDDLES = (np.arange(256) + 0.5) / 256
"""The center of each bin, (256,)."""


def scores_at(table: NDArray, empty: str = "correct") -> dict[str, NDArray]:
    """Return the iou, dice, precision and recall of every image at every threshold, each (..., bins).

    The conventions are those of the metrics: precision without predictions and recall without true foreground are NaN.
    IoU and Dice without true foreground are 1 for an empty prediction and 0 otherwise ("correct"), or NaN ("skip").
    """
    tp, fp = from_above(table[..., 1, :]), from_above(table[..., 0, :])
    true, predicted = tp[..., :1], tp + fp
    empty_score = np.where(predicted == 0, 1.0, 0.0) if empty == "correct" else np.full(predicted.shape, np.nan)
    return {
        "iou": np.where(true == 0, empty_score, ratio(tp, true + fp)),
        "dice": np.where(true == 0, empty_score, ratio(2 * tp, true + predicted)),
        "precision": ratio(tp, predicted),
        "recall": ratio(tp, true + 0 * tp),  # broadcast to the shape of tp
    }


def best_threshold(table: NDArray, empty: str = "correct") -> float:
    """Return the threshold with the highest mean IoU over images (n, 2, 256); among ties, the one nearest to 0.5.

    Tune it on validation images: tuned on the test set, the score would be optimistic.
    """
    means = mean(scores_at(table, empty)["iou"])[1:]  # at threshold 0 everything is foreground
    best = 1 + np.flatnonzero(means >= np.nanmax(means, initial=-1.0) - 1e-12)  # equal up to rounding
    return float(min(best / 256, key=lambda threshold: abs(threshold - 0.5), default=0.5))


def average_precision(table: NDArray) -> float:
    """Return the average precision of pixels (2, 256), summed over recall steps; NaN without true foreground."""
    at = scores_at(table)
    steps = -np.diff(at["recall"], append=0)
    return float(np.nansum(steps * at["precision"])) if table[1].any() else np.nan


def calibration(table: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Compute the reliability diagram of pixels (2, 256): mean probability, fraction of foreground, pixels; each (16,).

    Pixels are assigned the center of their histogram bin, which is off by at most half a bin (1/512). For a bin of the
    16 that has no pixels, the mean and the fraction are NaN.
    """
    pixels = table.sum(0)
    number, true, sums = (values.reshape(16, -1).sum(1) for values in (pixels, table[1], pixels * MIDDLES))
    return ratio(sums, number), ratio(true, number), number


def mean(values: NDArray) -> NDArray:
    """Return the mean over images (n, ...) of the defined values; NaN if there are none."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0).sum(0), defined.sum(0))


def from_above(counts: NDArray) -> NDArray:
    """Return the number of pixels at or above each bin's lower edge: the positives at that threshold."""
    return counts[..., ::-1].cumsum(-1)[..., ::-1]


def ratio(above: NDArray, below: NDArray) -> NDArray:
    """Return above / below, in the shape of `below`; NaN where `below` is 0."""
    return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below != 0)
