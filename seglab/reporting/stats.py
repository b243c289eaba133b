"""Which differences between losses are real: paired comparisons whose error rate holds with few seeds.

The unit that training replicates is the SEED. What a seed does to one loss and not to another is shared by every image
of that run, so images are no substitute for seeds: a signed-rank test over the images of two runs finds "differences"
in about half of all comparisons of a loss with itself. Here a pair of losses is compared on paired runs (same seed,
same images), and the error of its mean difference has two parts, each a Student's t of its own scale:

    replicates  the spread of the per-seed differences; three seeds estimate it badly, so it is moderated by the spread
                of the other pairs, as far as they are alike (empirical Bayes: Smyth 2004, made for three replicates);
    images      the spread over whole groups (patient, scene); the noise of single predictions, which the seeds include
                already, is taken out of it (Owen 2007, two-way crossed effects) as far as the groups are many: of a
                few it may by chance leave nothing, and "better" was wrong in 10 % instead of 3.5 % of studies.

Folds and data sets have test images of their own: they replicate both at once, and have no second part. The training
sets of k folds overlap, which adds to the 1 / n of a mean of n (Nadeau and Bengio 2003); see `shared_training`.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from seglab.reporting.cube import Cube, finite_mean
from seglab.reporting.errors import Errors, Student
from seglab.reporting.run_labels import setting


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The paired difference first - second of one metric, and the two parts of its error.

    `replicates` of the `kind` seeds, folds or data sets, `images` and `groups` are what both losses have. `spread` is
    the variance of one replicate's difference, `overlap` what their mean owes to shared training data,
    `image_variance` that of the mean through its images; NaN without a second replicate or group. `prior` are the
    degrees of freedom that other pairs lend. `p` is two-sided, for no difference at all.
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
        """The variance of the mean difference through the replicates."""
        return self.spread * (1 / self.replicates + self.overlap)


def compare(data: Cube, *, lower_is_better: bool = False) -> list[Comparison]:
    """Compare every pair of losses that share a seed; the one that looks better comes first.

    Returns the pairs in the order of the losses' means. With one replicate in common there is no p-value.
    """
    order = _order([data], lower_is_better)
    if len(data.folds) > 1:
        return _tested(_replicated(data.folds, "folds", order, shared_training(data)))
    return _tested(_crossed(data, order))


def _crossed(data: Cube, labels: Sequence[str], *, unbiased: bool = False) -> list[Comparison]:
    """Every pair of losses on the seeds and images that both have, in the order of `labels`.

    unbiased: for a sum of parts, rather than for an interval, which must not be too short.
    """
    codes = np.unique(data.groups, return_inverse=True)[1]
    rows = []
    for pair in combinations(labels, 2):
        if (both := _paired(data, pair)) is not None:
            first, second, images = both
            groups = np.unique(codes[images], return_inverse=True)[1]  # without gaps: all are counted
            row = _row(pair, [both], replicates=len(first), groups=int(groups.max()) + 1)
            if min(row.replicates, row.groups) > 1:
                found = variances(first - second, groups)
                # with 10 seeds and 3 groups 7.3 % of "better" are false if all of it is taken off, 3.1 % if none is
                taken = found.single * (1 if unbiased else max(1 - 3 / row.groups, 0))
                row = replace(row, spread=found.seeds * row.replicates, image_variance=max(found.images - taken, 0))
            rows.append(row)
    return rows


def replicated(parts: Sequence[Cube], kind: str, *, lower_is_better: bool = False) -> list[Comparison]:
    """Compare losses over several data sets (`kind`), each of which is one replicate with its own images."""
    return _tested(_replicated(parts, kind, _order(parts, lower_is_better)))


def _replicated(parts: Sequence[Cube], kind: str, labels: Sequence[str], overlap: float = 0.0) -> list[Comparison]:
    """Every pair of losses over the parts that have both, in the order of `labels`."""
    rows = []
    for pair in combinations(labels, 2):
        both = [found for part in parts if (found := _paired(part, pair)) is not None]
        if both:
            row = _row(pair, both, kind=kind, replicates=len(both))
            if len(both) > 1:
                gaps = [float((first - second).mean()) for first, second, _ in both]
                row = replace(row, spread=float(np.var(gaps, ddof=1)), overlap=overlap, image_variance=0.0)
            rows.append(row)
    return rows


def shared_training(data: Cube) -> float:
    """What overlapping training sets add to the variance of a mean over folds, in units of that between the folds.

    Two of k folds share (k - 2) / (k - 1) of their training data. What these do to a loss is hidden from the spread
    between the folds as far as it is shared, and adds k - 2 times its part of that spread: what the seeds and images of
    a fold do not explain. Few folds tell it badly (Bengio and Grandvalet 2004), and one seed not at all: at least
    1 / (k - 1) is taken. Nadeau and Bengio's 1 / (k - 1) in all covers a part of 1 / 12 with five folds: too little in
    simulations, docs/findings/verdict.md.
    """
    by_pair: dict[tuple[str, str], list[Comparison]] = defaultdict(list)
    for fold in data.folds:
        for row in _crossed(fold, data.labels, unbiased=True):
            if np.isfinite(row.spread):  # NaN with one seed, which tells nothing of the others
                by_pair[row.first, row.second].append(row)
    between = sum(float(np.var([row.difference for row in rows], ddof=1)) for rows in by_pair.values() if len(rows) > 1)
    explained = sum(float(np.mean([row.variance + row.image_variance for row in rows])) for rows in by_pair.values())
    part = 1 - explained / between if between else 0.0
    return max(data.of_folds - 2, 1) * max(part, 1 / (data.of_folds - 1))


def _order(parts: Sequence[Cube], lower_is_better: bool) -> list[str]:
    """The losses from the best mean over the parts to the worst."""
    means: dict[str, list[float]] = defaultdict(list)
    for part in parts:
        for label, mean in part.means.items():
            means[label].append(mean)
    sign = 1 if lower_is_better else -1
    over = {label: sign * finite_mean(np.array(values)) for label, values in means.items()}
    return sorted(over, key=lambda label: (np.isnan(over[label]), over[label]))  # NaN compares with nothing


Paired = tuple[np.ndarray, np.ndarray, np.ndarray]  # values (seeds, images) of two losses, and which images these are


def _paired(data: Cube, pair: tuple[str, str]) -> Paired | None:
    """What two losses have in common; None where that is nothing."""
    if not set(pair) <= set(data.labels):
        return None
    both, images = data.balanced(pair)
    return (*both, images) if images.any() else None


def _row(pair: tuple[str, str], both: Sequence[Paired], **facts: Any) -> Comparison:
    """The mean difference over some parts of the data, with further facts; without `groups` each image is one."""
    ahead = float(np.mean([first.mean() for first, _, _ in both]))
    behind = float(np.mean([second.mean() for _, second, _ in both]))
    images = sum(first.shape[1] for first, _, _ in both)
    about = {"first": pair[0], "second": pair[1], "difference": ahead - behind, "images": images, "groups": images}
    return Comparison(**(about | facts))


def turned(pair: Comparison) -> Comparison:
    """The same pair the other way round."""
    return replace(pair, first=pair.second, second=pair.first, difference=-pair.difference)


def errors(pairs: Sequence[Comparison]) -> Errors:
    """The errors of the differences of some pairs."""
    seeds = [(pair.variance**0.5, pair.replicates - 1 + pair.prior) for pair in pairs]
    images = [(pair.image_variance**0.5, pair.groups - 1) for pair in pairs]
    return Errors(*(Student(*np.array(part, float).T) for part in (seeds, images)))


def _tested(pairs: list[Comparison]) -> list[Comparison]:
    """The pairs with moderated spreads and p-values; those of losses of other settings do not moderate each other."""
    by_setting: dict[str, list[int]] = defaultdict(list)
    for place, pair in enumerate(pairs):
        if np.isfinite(pair.spread) and setting(pair.first) == setting(pair.second):
            by_setting[setting(pair.first)].append(place)
    found = list(pairs)
    for places in by_setting.values():
        same = [pairs[place] for place in places]
        losses = {label for pair in same for label in (pair.first, pair.second)}
        spread, free = np.array([(pair.spread, pair.replicates - 1) for pair in same]).T
        spread, prior = moderate(spread, free, len(losses))
        for place, value in zip(places, spread, strict=True):
            found[place] = replace(pairs[place], spread=float(value), prior=prior)
    p = 2 * errors(found).above(np.abs([pair.difference for pair in found])) if found else ()
    return [replace(pair, p=float(value)) for pair, value in zip(found, p, strict=True)]


def moderate(variance: np.ndarray, free: np.ndarray, losses: int) -> tuple[np.ndarray, float]:
    """Shrink the pairs' variances of one replicate towards their common level, as far as they are alike (Smyth 2004).

    `variance` and its degrees of freedom `free` have one entry a pair. Returns variances that are never below the
    pair's own, and the prior degrees of freedom: none where the variances differ widely, so that one loss with much
    seed noise neither hides nor invents a difference, and at most half of what `losses` - 2 further losses bring (in
    full, simulated sweeps with one loss of five times the seed noise were wrong too often).
    """
    known = variance > 0  # of the others there is no logarithm
    if losses < 3 or known.sum() < 2:
        return variance, 0.0
    half = free[known] / 2
    logs = np.log(variance[known]) - special.digamma(half) + np.log(half)  # unbiased for the log of the true variance
    unlike = np.var(logs, ddof=1) - special.polygamma(1, half).mean()  # beyond what estimating them explains
    prior = most = (losses - 2) * float(free.min()) / 2
    if unlike > special.polygamma(1, most / 2):
        prior = 2 * inverse_trigamma(float(unlike))
    level = np.exp(logs.mean() + special.digamma(prior / 2) - np.log(prior / 2))
    return np.maximum(variance, (prior * level + free * variance) / (prior + free)), prior


def inverse_trigamma(value: float) -> float:
    """Find x with trigamma(x) = `value` by Newton's method on 1 / trigamma, which converges from below (Smyth 2004)."""
    x, step = 0.5 + 1 / value, 1.0
    while abs(step) > 1e-14 * x:
        trigamma = special.polygamma(1, x)
        step = trigamma * (1 - trigamma / value) / special.polygamma(2, x)
        x += step
    return float(x)


class Variances(NamedTuple):
    """Variance of the mean difference that the seeds show and the images; `single` predictions are part of both."""

    seeds: float
    images: float
    single: float


def variances(effect: np.ndarray, groups: np.ndarray) -> Variances:
    """Split the variance of the grand mean of `effect` (seeds, images) as in a two-way crossed random-effects model.

    `groups` (images,) holds a code from 0 for each image; images of one group count as one draw. The part of single
    predictions (seed x image) is in both margins.
    """
    seeds, images = effect.shape
    sizes = np.bincount(groups)
    means = np.array([np.bincount(groups, row) for row in effect]) / sizes  # (seeds, groups)
    of_group = means.mean(axis=0)
    rest = means - means.mean(axis=1, keepdims=True) - of_group + of_group.mean()
    # groups share the mean by their sizes; squared sums about that mean are too small where one group is most of it
    weight = np.sum((sizes / images) ** 2)
    single = weight * np.sum(rest**2) / ((seeds - 1) * (len(sizes) - 1) * seeds)
    by_seed = effect.mean(axis=1)
    return Variances(float(np.var(by_seed, ddof=1) / seeds), float(weight * np.var(of_group, ddof=1)), float(single))


def components(values: np.ndarray) -> dict[str, float]:
    """Split the variance of single values (losses, seeds, images) by where it comes from, without bias.

    By the method of moments (Searle et al. 1992), which is REML on a balanced table if no part comes out negative. The
    runs of a loss differ by "seeds", an image from what its mean and the loss's let expect by "losses on images", and
    single predictions by the "rest".
    """
    losses, seeds, images = values.shape
    loss, image = values.mean(axis=(1, 2), keepdims=True), values.mean(axis=(0, 1), keepdims=True)
    run, both, grand = values.mean(axis=2, keepdims=True), values.mean(axis=1, keepdims=True), values.mean()
    # the mean squares, each of which holds several parts
    of_rest = ((values - run - both + loss) ** 2).sum() / (losses * (seeds - 1) * (images - 1))
    of_runs = images * ((run - loss) ** 2).sum() / (losses * (seeds - 1))
    of_both = seeds * ((both - loss - image + grand) ** 2).sum() / ((losses - 1) * (images - 1))
    of_images = losses * seeds * ((image - grand) ** 2).sum() / (images - 1)
    of_losses = seeds * images * ((loss - grand) ** 2).sum() / (losses - 1)
    return {
        "images": (of_images - of_both) / (losses * seeds),
        "losses": (of_losses - of_runs - of_both + of_rest) / (seeds * images),
        "losses on images": (of_both - of_rest) / seeds,
        "seeds": (of_runs - of_rest) / images,
        "rest": of_rest,
    }


def step_down(p: Sequence[float], remaining: Sequence[int] | None = None) -> list[float]:
    """Adjust p-values step by step from the smallest (Holm 1979), in the given order; NaN is not counted.

    `remaining` holds how many of them may be true once 0, 1, 2, ... others are rejected: all that are left if absent.
    """
    values = np.asarray(p, float)
    order = np.argsort(values)[: np.isfinite(values).sum()]  # NaN is sorted last
    factors = np.arange(len(order), 0, -1) if remaining is None else np.asarray(remaining)
    adjusted = values.copy()
    adjusted[order] = np.maximum.accumulate(values[order] * factors).clip(max=1)
    return adjusted.tolist()


def possibly_equal(losses: int) -> list[int]:
    """How many pairs of losses may be equal when 0, 1, 2, ... pairs are known to differ (Shaffer 1986).

    If one of three losses differs from another, it cannot equal the third and the third the other: of 3, 1 is left.
    """
    counts = [{0}, {0}]  # how many pairs are equal, for each way to divide so many losses into groups of equal ones
    for many in range(2, losses + 1):
        of_group = {group: group * (group - 1) // 2 for group in range(1, many + 1)}
        counts.append({rest + pairs for group, pairs in of_group.items() for rest in counts[many - group]})
    pairs = losses * (losses - 1) // 2
    return [max(count for count in counts[losses] if count <= pairs - known) for known in range(pairs)]
