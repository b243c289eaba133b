"""Decide which differences between losses are real, by paired comparisons whose error rate holds with few seeds.

The unit of replication in training is the SEED. What a seed does to one loss but not to another is shared by all images
of that run, so images cannot replace seeds: in simulations with three seeds, a signed-rank test over images finds a
"difference" in 38 % of comparisons of a loss with itself. Here two losses are compared on paired runs (same seed, same
images). The error of their mean difference has two parts, each a Student's t with its own scale:

    replicates  the spread of the per-seed differences. Three seeds estimate it badly, so it is moderated by the spread
                of the other pairs, as far as they are alike (empirical Bayes: Smyth 2004, made for three replicates);
    images      the spread over whole groups (patient, scene). The noise of single predictions, which the first part
                already includes, is subtracted (Owen 2007, two-way crossed effects), but only in part for few groups:
                full subtraction may by chance leave nothing, and "better" was wrong in 10 % of studies, not 3.5 %.

Folds and datasets have their own test images: they replicate seeds and images at once and have no second part. The
training sets of k folds overlap, which adds to the 1 / n of a mean of n (Nadeau and Bengio 2003): `shared_training`.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import combinations
from operator import or_
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from seglab.reporting.cube import Cube, finite_mean
from seglab.reporting.errors import Errors, Student
from seglab.reporting.run_labels import setting


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The paired difference first - second of one metric, and the two parts of its error.

    `replicates` (of `kind` seeds, folds or datasets), `images` and `groups` count what both losses have. `spread` is
    the variance of the difference between replicates, `overlap` the addition to 1 / replicates for shared training
    data, and `image_variance` the variance of the mean due to images; both variances are NaN with one replicate or one
    group. `prior` is the degrees of freedom lent by other pairs. `p` is two-sided, for the hypothesis of no difference.
    """

    first: str
    second: str
    difference: float
    replicates: int
    images: int
    groups: int
    kind: str = "seeds"
    spread: float = np.nan
    overlap: float = 0.0
    image_variance: float = np.nan
    prior: float = 0.0
    p: float = np.nan

    @property
    def variance(self) -> float:
        """The variance of the mean difference due to the replicates."""
        return self.spread * (1 / self.replicates + self.overlap)


def compare(data: Cube, *, lower_is_better: bool = False) -> list[Comparison]:
    """Compare every pair of losses that share a seed; within a pair, the loss with the better mean comes first.

    Returns the pairs in the order of the losses' means. The p-value is NaN if a pair shares one replicate or group.
    """
    order = _best_first([data], lower_is_better)
    if len(data.folds) > 1:
        return _with_p_values(_replicated(data.folds, "folds", order, shared_training(data)))
    return _with_p_values(_crossed(data, order))


def _crossed(data: Cube, labels: Sequence[str], *, unbiased: bool = False) -> list[Comparison]:
    """Compare every pair of losses on the seeds and images that both have, in the order of `labels`.

    unbiased: for use in a sum of variances, rather than in an interval, which must not be too short.
    """
    codes = np.unique(data.groups, return_inverse=True)[1]
    rows = []
    for pair in combinations(labels, 2):
        if (shared := _paired(data, pair)) is not None:
            first, second, images = shared
            groups = np.unique(codes[images], return_inverse=True)[1]  # renumber without gaps, as all codes are counted
            row = _comparison(pair, [shared], replicates=len(first), groups=int(groups.max()) + 1)
            if min(row.replicates, row.groups) > 1:
                split = variances(first - second, groups)
                # with 10 seeds and 3 groups, 7.3 % of "better" are false with full subtraction, 3.1 % with none
                subtracted = split.single * (1 if unbiased else max(1 - 3 / row.groups, 0))
                image_variance = max(split.images - subtracted, 0)
                row = replace(row, spread=split.seeds * row.replicates, image_variance=image_variance)
            rows.append(row)
    return rows


def replicated(parts: Sequence[Cube], kind: str, *, lower_is_better: bool = False) -> list[Comparison]:
    """Compare losses over several datasets (`kind`), where each is one replicate with its own images."""
    return _with_p_values(_replicated(parts, kind, _best_first(parts, lower_is_better)))


def _replicated(parts: Sequence[Cube], kind: str, labels: Sequence[str], overlap: float = 0.0) -> list[Comparison]:
    """Compare every pair of losses over the parts that have both, in the order of `labels`."""
    rows = []
    for pair in combinations(labels, 2):
        shared = [values for part in parts if (values := _paired(part, pair)) is not None]
        if shared:
            row = _comparison(pair, shared, kind=kind, replicates=len(shared))
            if len(shared) > 1:
                gaps = [float((first - second).mean()) for first, second, _ in shared]
                row = replace(row, spread=float(np.var(gaps, ddof=1)), overlap=overlap, image_variance=0.0)
            rows.append(row)
    return rows


def shared_training(data: Cube) -> float:
    """Return the variance that overlapping training sets add to a mean over folds, relative to that between the folds.

    Two of k folds share (k - 2) / (k - 1) of their training data. As far as the data are shared, their effect on a loss
    is the same in both folds, so that the spread between folds does not show it. The hidden variance is k - 2 times the
    part of that spread which training data cause, and this part is what seeds and images within a fold do not explain.
    With few folds the part is uncertain (Bengio and Grandvalet 2004), and with one seed unknown, so it is taken to be
    at least 1 / (k - 1). Nadeau and Bengio's total of 1 / (k - 1) would mean a part of 1 / 12 with five folds, which
    was too little in simulations, docs/findings/verdict.md.
    """
    by_pair: dict[tuple[str, str], list[Comparison]] = defaultdict(list)
    for fold in data.folds:
        for row in _crossed(fold, data.labels, unbiased=True):
            if np.isfinite(row.spread):  # NaN with one seed, which does not show the spread over seeds
                by_pair[row.first, row.second].append(row)
    between = sum(float(np.var([row.difference for row in rows], ddof=1)) for rows in by_pair.values() if len(rows) > 1)
    explained = sum(float(np.mean([row.variance + row.image_variance for row in rows])) for rows in by_pair.values())
    part = 1 - explained / between if between else 0.0
    return max(data.of_folds - 2, 1) * max(part, 1 / (data.of_folds - 1))


def _best_first(parts: Sequence[Cube], lower_is_better: bool) -> list[str]:
    """Return the losses from the best mean over the parts to the worst."""
    means: dict[str, list[float]] = defaultdict(list)
    for part in parts:
        for label, mean in part.means.items():
            means[label].append(mean)
    sign = 1 if lower_is_better else -1
    overall = {label: sign * finite_mean(np.array(values)) for label, values in means.items()}
    return sorted(overall, key=lambda label: (np.isnan(overall[label]), overall[label]))  # NaN last


Paired = tuple[np.ndarray, np.ndarray, np.ndarray]  # values (seeds, images) of two losses, and the mask of these images


def _paired(data: Cube, pair: tuple[str, str]) -> Paired | None:
    """Return the values that two losses have in common; None if there are none."""
    if not set(pair) <= set(data.labels):
        return None
    values, images = data.balanced(pair)
    return (*values, images) if images.any() else None


def _comparison(pair: tuple[str, str], shared: Sequence[Paired], **facts: Any) -> Comparison:
    """Return the mean difference over parts of the data, with further fields; each image is a group unless given."""
    difference = float(np.mean([first.mean() for first, _, _ in shared]))
    difference -= float(np.mean([second.mean() for _, second, _ in shared]))
    images = sum(first.shape[1] for first, _, _ in shared)
    fields = {"first": pair[0], "second": pair[1], "difference": difference, "images": images, "groups": images}
    return Comparison(**(fields | facts))


def turned(pair: Comparison) -> Comparison:
    """Return the same pair in reverse order."""
    return replace(pair, first=pair.second, second=pair.first, difference=-pair.difference)


def errors(pairs: Sequence[Comparison]) -> Errors:
    """Return the errors of the differences of some pairs."""
    seeds = [(pair.variance**0.5, pair.replicates - 1 + pair.prior) for pair in pairs]
    images = [(pair.image_variance**0.5, pair.groups - 1) for pair in pairs]
    return Errors(*(Student(*np.array(part, float).T) for part in (seeds, images)))


def _with_p_values(pairs: list[Comparison]) -> list[Comparison]:
    """Return the pairs with moderated spreads and p-values; only pairs with equal settings moderate each other."""
    by_setting: dict[str, list[int]] = defaultdict(list)
    for index, pair in enumerate(pairs):
        if np.isfinite(pair.spread) and setting(pair.first) == setting(pair.second):
            by_setting[setting(pair.first)].append(index)
    moderated = list(pairs)
    for indices in by_setting.values():
        group = [pairs[index] for index in indices]
        losses = {label for pair in group for label in (pair.first, pair.second)}
        spread, free = np.array([(pair.spread, pair.replicates - 1) for pair in group]).T
        spread, prior = moderate(spread, free, len(losses))
        for index, value in zip(indices, spread, strict=True):
            moderated[index] = replace(pairs[index], spread=float(value), prior=prior)
    p = 2 * errors(moderated).above(np.abs([pair.difference for pair in moderated])) if moderated else ()
    return [replace(pair, p=float(value)) for pair, value in zip(moderated, p, strict=True)]


def moderate(variance: np.ndarray, free: np.ndarray, losses: int) -> tuple[np.ndarray, float]:
    """Shrink the pairs' variances of one replicate towards their common level, as far as they are alike (Smyth 2004).

    `variance` and its degrees of freedom `free` have one entry per pair. Returns variances that are never below the
    pair's own, and the prior degrees of freedom. The prior is weak if the variances differ widely, so that one loss
    with much seed noise neither hides nor creates a difference. It is at most half of what `losses` - 2 further losses
    provide: with all of it, simulated sweeps with one loss of five times the seed noise were wrong too often.
    """
    positive = variance > 0  # zero has no logarithm
    if losses < 3 or positive.sum() < 2:
        return variance, 0.0
    half = free[positive] / 2
    logs = np.log(variance[positive]) - special.digamma(half) + np.log(half)  # unbiased for the true log variance
    excess = np.var(logs, ddof=1) - special.polygamma(1, half).mean()  # beyond what their estimation error explains
    prior = largest = (losses - 2) * float(free.min()) / 2
    if excess > special.polygamma(1, largest / 2):
        prior = 2 * inverse_trigamma(float(excess))
    level = np.exp(logs.mean() + special.digamma(prior / 2) - np.log(prior / 2))
    return np.maximum(variance, (prior * level + free * variance) / (prior + free)), prior


def inverse_trigamma(value: float) -> float:
    """Return x with trigamma(x) = `value`: Newton's method on 1 / trigamma, which converges from below (Smyth 2004)."""
    x, step = 0.5 + 1 / value, 1.0
    while abs(step) > 1e-14 * x:
        trigamma = special.polygamma(1, x)
        step = trigamma * (1 - trigamma / value) / special.polygamma(2, x)
        x += step
    return float(x)


class Variances(NamedTuple):
    """Variances of the mean difference, over seeds and over images; both include that of `single` predictions."""

    seeds: float
    images: float
    single: float


def variances(effect: np.ndarray, groups: np.ndarray) -> Variances:
    """Split the variance of the grand mean of `effect` (seeds, images) as in a two-way crossed random-effects model.

    `groups` (images,) holds a code from 0 for each image; the images of one group count as one draw. Both margins
    contain the variance of single predictions (seed x image).
    """
    seeds, images = effect.shape
    sizes = np.bincount(groups)
    means = np.array([np.bincount(groups, row) for row in effect]) / sizes  # (seeds, groups)
    by_group = means.mean(axis=0)
    residuals = means - means.mean(axis=1, keepdims=True) - by_group + by_group.mean()
    # groups weigh by size; squared sums about the weighted mean are too small if one group dominates it
    weight = np.sum((sizes / images) ** 2)
    single = weight * np.sum(residuals**2) / ((seeds - 1) * (len(sizes) - 1) * seeds)
    by_seed = effect.mean(axis=1)
    return Variances(float(np.var(by_seed, ddof=1) / seeds), float(weight * np.var(by_group, ddof=1)), float(single))


def components(values: np.ndarray) -> dict[str, float]:
    """Split the variance of single values (losses, seeds, images) into its components, without bias.

    Uses the method of moments (Searle et al. 1992), which on a balanced table equals REML if no component is negative.
    "seeds" is the variation between runs of a loss, "losses on images" the interaction of loss and image, and "rest"
    that of single predictions.
    """
    losses, seeds, images = values.shape
    loss, image = values.mean(axis=(1, 2), keepdims=True), values.mean(axis=(0, 1), keepdims=True)
    run, cell, grand = values.mean(axis=2, keepdims=True), values.mean(axis=1, keepdims=True), values.mean()
    # the mean squares, each of which combines several components
    ms_rest = ((values - run - cell + loss) ** 2).sum() / (losses * (seeds - 1) * (images - 1))
    ms_runs = images * ((run - loss) ** 2).sum() / (losses * (seeds - 1))
    ms_cells = seeds * ((cell - loss - image + grand) ** 2).sum() / ((losses - 1) * (images - 1))
    ms_images = losses * seeds * ((image - grand) ** 2).sum() / (images - 1)
    ms_losses = seeds * images * ((loss - grand) ** 2).sum() / (losses - 1)
    return {
        "images": (ms_images - ms_cells) / (losses * seeds),
        "losses": (ms_losses - ms_runs - ms_cells + ms_rest) / (seeds * images),
        "losses on images": (ms_cells - ms_rest) / seeds,
        "seeds": (ms_runs - ms_rest) / images,
        "rest": ms_rest,
    }


def step_down(p: Sequence[float], remaining: Sequence[int] | None = None) -> list[float]:
    """Adjust p-values step by step from the smallest (Holm 1979), in the given order; NaN values are ignored.

    `remaining` holds how many may be true once 0, 1, 2, ... others are rejected; by default, all that remain.
    """
    values = np.asarray(p, float)
    order = np.argsort(values)[: np.isfinite(values).sum()]  # NaN is sorted last
    factors = np.arange(len(order), 0, -1) if remaining is None else np.asarray(remaining)
    adjusted = values.copy()
    adjusted[order] = np.maximum.accumulate(values[order] * factors).clip(max=1)
    return adjusted.tolist()


def possibly_equal(losses: int) -> list[int]:
    """Return how many pairs of losses may be equal when 0, 1, 2, ... pairs are known to differ (Shaffer 1986).

    If two of three losses differ, the third cannot equal both of them, so at most 1 of the 3 pairs is equal.
    """
    counts = [1]  # bit k is set if so many losses can be divided into groups of equal ones with k equal pairs
    for size in range(1, losses + 1):
        shifted = (counts[size - group] << group * (group - 1) // 2 for group in range(1, size + 1))
        counts.append(reduce(or_, shifted))
    pairs = losses * (losses - 1) // 2
    return [(counts[losses] & ((2 << left) - 1)).bit_length() - 1 for left in range(pairs, 0, -1)]
