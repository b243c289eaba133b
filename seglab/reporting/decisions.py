"""Decision rules that turn probabilities into masks, and calibration scores, all computed from histograms.

The score of a loss at threshold 0.5 mixes how it ranks pixels, its calibration and the decision rule. The rule here
takes, for each image, the mask with the best expected score, assuming that the probabilities are right (Dai and Li
2023, RankSEG). The probabilities are used as predicted, after temperature scaling (Guo et al. 2017), or after isotonic
calibration (Zadrozny and Elkan 2002); both calibrations are fitted on the validation images.

A table is (n, 2, 256), one class of histograms.npz. The outermost bins hold nearly all pixels, at probabilities much
closer to 0 and 1 than the bin centers: a thousand pixels at 1e-6 must not count as an object of two pixels. The mean
probabilities of these two bins are therefore derived from the confidences in per_image.csv, which sum over all pixels.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from seglab.reporting.thresholds import MIDDLES, ratio


def outer_means(table: NDArray, foreground_confidence: NDArray, background_confidence: NDArray) -> NDArray:
    """Return the mean probability of the pixels in the first and the last bin of each image, (n, 2).

    The confidences (n,) are the mean probabilities of the true class over the true foreground and background of each
    image, NaN if the image has none. A bin that is empty, or whose mean is unknown, gets its center.
    """
    background, foreground = table[:, 0], table[:, 1]
    width = 1 / 256
    low = (1 - background_confidence) * background.sum(1) - background[:, 1:] @ MIDDLES[1:]
    high = (1 - foreground_confidence) * foreground.sum(1) - foreground[:, :-1] @ (1 - MIDDLES[:-1])
    means = ratio(np.stack([low, high], 1), np.stack([background[:, 0], foreground[:, -1]], 1))
    distance = np.where(np.isfinite(means), means.clip(1e-7, width), width / 2)  # 0 and 1 have no finite logit
    return np.stack([distance[:, 0], 1 - distance[:, 1]], 1)


def scaled(probability: NDArray, temperature: float) -> NDArray:
    """Return the probabilities after dividing their logits by the temperature."""
    return expit(logit(probability) / temperature)


def rebinned(table: NDArray, probability: NDArray) -> NDArray:
    """Return the histogram (2, bins) with the pixels of each bin moved to that of its new `probability` (bins,)."""
    place = np.minimum(probability * len(probability), len(probability) - 1).astype(int)  # 1 belongs to the last bin
    return np.array([np.bincount(place, row, len(probability)) for row in table])


def fitted_temperature(table: NDArray, probability: NDArray) -> float:
    """Return the temperature in [1/20, 20] that maximizes the likelihood of the validation pixels (2, bins).

    The log-likelihood of the logits z multiplied by b = 1 / temperature is concave in b. The root of its derivative,
    the sum over the pixels of z (truth - expit(b z)), is found by bisection.
    """
    foreground, pixels, z = table[1], table.sum(0), logit(probability)
    low, high = -3.0, 3.0
    for _ in range(40 if table.any() else 0):  # stays 1 without pixels
        middle = (low + high) / 2
        rises = z @ (foreground - pixels * expit(np.exp(-middle) * z)) > 0  # towards larger b, lower temperature
        low, high = (low, middle) if rises else (middle, high)
    return float(np.exp((low + high) / 2))


def calibration_scores(table: NDArray, probability: NDArray) -> dict[str, float]:
    """Return the mean negative log-likelihood, Brier score and expected calibration error of pixels (2, bins).

    `probability` (bins,) is the probability of each bin. The calibration error uses 16 equal-width bins.
    """
    (background, foreground), count = table, table.sum()
    p = probability.clip(1e-12, 1 - 1e-12)  # isotonic probabilities may be 0 or 1
    gaps = np.bincount((p * 16).astype(int), (background + foreground) * p - foreground, 16)
    return {
        "nll": float(-(foreground @ np.log(p) + background @ np.log1p(-p)) / count),
        "brier": float((foreground @ (1 - p) ** 2 + background @ p**2) / count),
        "ece": float(np.abs(gaps).sum() / count),
    }


EDGES = np.unique(np.round(256 * expit(np.linspace(-5.6, 5.6, 80)))).astype(int)
"""The bins at which a mask may begin, from 1 to 255, spaced more closely for very low and very high thresholds."""

ABOVE = (np.arange(256)[:, None] >= EDGES).astype(np.float32)
"""Which bins (256, edges) are foreground in the mask that begins at each edge."""


def best_expected(
    pixels: NDArray, probability: NDArray, score: str = "iou", empty: str = "correct", outer: NDArray | None = None
) -> NDArray:
    """Return the first foreground bin (n,) of the mask with the best expected score; 256 means no foreground.

    `pixels` (n, 256) is float32, `probability` (256,) holds the probability of each bin, and `outer` (n, 2) those of
    the first and last bin if they differ between images. `score` is iou or dice. Pixels are treated as independent
    given their probabilities. The mean of 1 / (c + number of foreground pixels) is approximated to second order, to
    within 0.01 for more than a handful of pixels. An empty mask of an empty image scores 1, or is ignored.
    """
    ends = (probability[[0, -1]] if outer is None else outer).astype(np.float32)
    p, at_ends = np.r_[0, probability[1:-1], 0], pixels[:, [0, -1]]  # the outermost bins are added separately
    log_off = np.log1p(-p.clip(max=0.999))  # a bin with probability 1 and no pixels would give 0 times -inf
    columns = np.column_stack([p, p**2, log_off, ABOVE * p[:, None], ABOVE * p[:, None] ** 2])  # one matrix product
    sums = pixels @ columns.astype(np.float32)
    inner, inner_squares, log_none, hits, squares = np.split(sums, [1, 2, 3, 3 + len(EDGES)], axis=1)
    hits += at_ends[:, 1:] * ends[..., 1:]  # every mask contains the last bin, none the first
    squares += at_ends[:, 1:] * ends[..., 1:] ** 2
    size = pixels @ ABOVE
    total = inner + (at_ends * ends).sum(1, keepdims=True)
    variance = total - inner_squares - (at_ends * ends**2).sum(1, keepdims=True)
    if score == "iou":  # hits and misses are independent: E[hits] E[1 / (size + misses)]
        middle, variance = size + total - hits, variance - (hits - squares)
    else:  # for each pixel of the mask, 2 p E[1 / (size + 1 + the other foreground)]
        hits, middle = 2 * hits, size + 1 + total - np.nan_to_num(ratio(squares, hits))
    middle = np.maximum(middle, 1)
    expected = hits / middle * (1 + variance / middle**2)
    log_empty = log_none[:, 0] + (at_ends * np.log1p(-ends.clip(max=0.999))).sum(1)
    empty_score = np.exp(log_empty) if empty == "correct" else -1.0  # lower than any score
    return np.where(empty_score > expected.max(1), 256, EDGES[expected.argmax(1)])


def isotonic(table: NDArray) -> NDArray:
    """Return the fraction of foreground in each bin (2, bins) of the validation images, made nondecreasing.

    Uses pool adjacent violators (Barlow et al. 1972); an empty bin counts as 1e-6 background pixels.
    """
    pools: list[tuple[float, float, int]] = []  # foreground pixels, pixels, number of bins
    for true, pixels in zip(table[1].tolist(), table.sum(0).clip(min=1e-6).tolist(), strict=True):
        bins = 1
        while pools and pools[-1][0] * pixels >= true * pools[-1][1]:
            before = pools.pop()
            true, pixels, bins = true + before[0], pixels + before[1], bins + before[2]
        pools.append((true, pixels, bins))
    return np.repeat([true / pixels for true, pixels, _ in pools], [bins for *_, bins in pools])
