"""How masks are made of probabilities, and how good these are as probabilities: all of it from histograms.

What a loss is worth at 0.5 is its ranking of the pixels, its calibration and the decision in one. Here the decision is
another: each image's mask is the one whose expected score is best if its probabilities are right (Dai and Li 2023,
RankSEG): as they are, after temperature scaling (Guo et al. 2017), or after isotonic calibration (Zadrozny and Elkan
2002), both fitted on the validation images.

A table is (n, 2, 256) as histograms.npz holds it of one class. The outermost bins hold nearly all pixels, at
probabilities far closer to 0 and 1 than the middle of a bin: a thousand pixels of 1e-6 are no object of two pixels. So
the means of these two bins are found from the confidences of per_image.csv, which are sums over every pixel.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from seglab.reporting.thresholds import MIDDLES, ratio


def outer_means(table: NDArray, foreground_confidence: NDArray, background_confidence: NDArray) -> NDArray:
    """The mean probability of the pixels in the first and in the last bin of each image: (n, 2).

    The confidences (n,) are the mean probabilities of the true class over the image's true foreground and background,
    NaN where it has none; a bin without a pixel, or of which nothing is known, has the mean of its edges.
    """
    background, foreground = table[:, 0], table[:, 1]
    width = 1 / 256
    low = (1 - background_confidence) * background.sum(1) - background[:, 1:] @ MIDDLES[1:]
    high = (1 - foreground_confidence) * foreground.sum(1) - foreground[:, :-1] @ (1 - MIDDLES[:-1])
    known = ratio(np.stack([low, high], 1), np.stack([background[:, 0], foreground[:, -1]], 1))
    off = np.where(np.isfinite(known), known.clip(1e-7, width), width / 2)  # 0 and 1 have no logit
    return np.stack([off[:, 0], 1 - off[:, 1]], 1)


def scaled(probability: NDArray, temperature: float) -> NDArray:
    """The probabilities whose logits are divided by the temperature."""
    return expit(logit(probability) / temperature)


def rebinned(table: NDArray, probability: NDArray) -> NDArray:
    """The pixels (2, bins) in the bins of their new probability (bins,)."""
    place = np.minimum(probability * len(probability), len(probability) - 1).astype(int)  # 1 lies in the last bin
    return np.array([np.bincount(place, row, len(probability)) for row in table])


def fitted_temperature(table: NDArray, probability: NDArray) -> float:
    """The temperature with the highest likelihood of the pixels (2, bins) of the validation images, from 1/20 to 20.

    The likelihood of logits z that are multiplied by b = 1 / temperature is concave in b: its slope, the sum over the
    pixels of z (truth - expit(b z)), is halved in on.
    """
    foreground, pixels, z = table[1], table.sum(0), logit(probability)
    low, high = -3.0, 3.0
    for _ in range(40 if table.any() else 0):  # without a pixel it stays 1
        middle = (low + high) / 2
        rises = z @ (foreground - pixels * expit(np.exp(-middle) * z)) > 0  # a larger b, a lower temperature
        low, high = (low, middle) if rises else (middle, high)
    return float(np.exp((low + high) / 2))


def calibration_scores(table: NDArray, probability: NDArray) -> dict[str, float]:
    """Mean negative log-likelihood, Brier score and expected calibration error over pixels (2, bins) of probabilities.

    The calibration error is taken over 16 equal bins of the probability.
    """
    (background, foreground), count = table, table.sum()
    p = probability.clip(1e-12, 1 - 1e-12)  # isotonic ones may be 0 or 1
    gaps = np.bincount((p * 16).astype(int), (background + foreground) * p - foreground, 16)
    return {
        "nll": float(-(foreground @ np.log(p) + background @ np.log1p(-p)) / count),
        "brier": float((foreground @ (1 - p) ** 2 + background @ p**2) / count),
        "ece": float(np.abs(gaps).sum() / count),
    }


EDGES = np.unique(np.round(256 * expit(np.linspace(-5.6, 5.6, 80)))).astype(int)
"""The bins at which a mask may begin, from 1 to 255: close to one another where thresholds are very low or high."""

ABOVE = (np.arange(256)[:, None] >= EDGES).astype(np.float32)
"""Which bins (256, edges) are foreground in the mask that begins at each edge."""


def best_expected(
    pixels: NDArray, probability: NDArray, score: str = "iou", empty: str = "correct", outer: NDArray | None = None
) -> NDArray:
    """The bin (n,) from which on pixels are foreground where the expected score is best; 256 for no foreground.

    `pixels` (n, 256) is float32, `probability` (256,) that of each bin, `outer` (n, 2) that of the first and the last
    bin of each image where images differ in them; `score` is iou or dice. The pixels are independent, given the
    probabilities; the mean of 1 / (c + number of foreground pixels) is taken to second order, which is exact to 0.01
    from a handful of pixels on. An empty mask is right where the image is: it scores 1 then, or is not counted.
    """
    ends = (probability[[0, -1]] if outer is None else outer).astype(np.float32)
    p, at_ends = np.r_[0, probability[1:-1], 0], pixels[:, [0, -1]]  # the outer bins are added apart
    log_off = np.log1p(-p.clip(max=0.999))  # a bin of probability 1 without a pixel would be 0 times -inf
    columns = np.column_stack([p, p**2, log_off, ABOVE * p[:, None], ABOVE * p[:, None] ** 2])  # one product for all
    sums = pixels @ columns.astype(np.float32)
    inner, inner_squares, log_none, hits, squares = np.split(sums, [1, 2, 3, 3 + len(EDGES)], axis=1)
    hits += at_ends[:, 1:] * ends[..., 1:]  # the last bin is in each of these masks, the first in none
    squares += at_ends[:, 1:] * ends[..., 1:] ** 2
    size = pixels @ ABOVE
    total = inner + (at_ends * ends).sum(1, keepdims=True)
    variance = total - inner_squares - (at_ends * ends**2).sum(1, keepdims=True)
    if score == "iou":  # hits and misses are independent: E[hits] E[1 / (size + misses)]
        middle, variance = size + total - hits, variance - (hits - squares)
    else:  # 2 p E[1 / (size + 1 + the others)] for each pixel of the mask
        hits, middle = 2 * hits, size + 1 + total - np.nan_to_num(ratio(squares, hits))
    middle = np.maximum(middle, 1)
    expected = hits / middle * (1 + variance / middle**2)
    empty_too = log_none[:, 0] + (at_ends * np.log1p(-ends.clip(max=0.999))).sum(1)
    nothing = np.exp(empty_too) if empty == "correct" else -1.0  # below every score
    return np.where(nothing > expected.max(1), 256, EDGES[expected.argmax(1)])


def isotonic(table: NDArray) -> NDArray:
    """The fraction of foreground in each bin (2, bins) of the validation images, made to rise with the probability.

    Neighbors that fall are pooled (Barlow et al. 1972); a bin without a pixel counts as 1e-6 pixels of background.
    """
    pools: list[tuple[float, float, int]] = []  # foreground, pixels, bins
    for true, pixels in zip(table[1].tolist(), table.sum(0).clip(min=1e-6).tolist(), strict=True):
        bins = 1
        while pools and pools[-1][0] * pixels >= true * pools[-1][1]:
            before = pools.pop()
            true, pixels, bins = true + before[0], pixels + before[1], bins + before[2]
        pools.append((true, pixels, bins))
    return np.repeat([true / pixels for true, pixels, _ in pools], [bins for *_, bins in pools])
