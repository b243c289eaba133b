"""Which differences between losses are real: paired comparisons whose error rate holds with few seeds.

The unit that training replicates is the SEED. What a seed does to one loss and not to another is shared by every image
of that run, so images are no substitute for seeds: a signed-rank test over the images of two runs finds "differences"
in about half of all comparisons of a loss with itself. Here a pair of losses is compared on paired runs (same seed,
same images), and the interval of its mean difference covers both sources of variance:

    seeds    too few to be resampled (three seeds give ten distinct draws), so their part is Student's t, scaled by
             the spread of the per-seed differences; that spread is moderated by the spread of the other pairs, as far
             as the sweep shows that the pairs are alike (empirical Bayes: Smyth 2004, made for three replicates);
    images   resampled as whole groups (patient, scene) with replacement: n - 1 draws of n, whose spread is unbiased
             (Rao and Wu 1988); the noise of single predictions that the seeds already include is taken out of it
             (Owen 2007, two-way crossed effects).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from seglab.reporting.cube import Cube, finite_mean
from seglab.reporting.ranks import signed_rank


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The paired difference first - second of one metric, with its intervals and p-values.

    `low, high` hold for this pair alone, `low_all, high_all` for all pairs of the sweep at once. `p` is two-sided, and
    `p_holm` the same after Holm's correction over all pairs. `p_images` is the seed-averaged signed-rank test (also
    corrected): it speaks about these trained networks on new images, not about training again.
    `seed_variance` and `image_variance` are the two parts of the difference's variance; `prior` is the prior degrees of
    freedom, which come from the other pairs and add to the seeds - 1 of this one.
    """

    first: str
    second: str
    mean_first: float
    mean_second: float
    difference: float
    seeds: int
    images: int
    groups: int
    low: float = np.nan
    high: float = np.nan
    low_all: float = np.nan
    high_all: float = np.nan
    p: float = np.nan
    p_holm: float = np.nan
    p_images: float = np.nan
    seed_variance: float = np.nan
    image_variance: float = np.nan
    prior: float = 0.0


def compare(
    data: Cube, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0, lower_is_better: bool = False
) -> list[Comparison]:
    """Compare every pair of losses that share at least two seeds; the one that looks better comes first.

    Returns the pairs in the order of the losses' means. With one seed in common no interval exists, and the pair's
    `low`, `high` and `p` are NaN.
    """
    means = np.array([finite_mean(run) for run in data.values])
    order = np.argsort(means if lower_is_better else -means, kind="stable")
    drawn = _draw(data.groups, resamples, np.random.default_rng(seed))
    effects = [effect for pair in combinations(order, 2) if (effect := _effect(data, pair, drawn)).paired.size]
    enough = [min(effect.row.seeds, effect.row.groups) > 1 for effect in effects]
    tested = iter(_test([effect for effect, fit in zip(effects, enough, strict=True) if fit], drawn, 1 - confidence))
    return [next(tested) if fit else effect.row for effect, fit in zip(effects, enough, strict=True)]


def _common(values: np.ndarray, pair: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Seeds that both losses ran with, and the images on which every one of those runs has a value."""
    there = np.isfinite(values[list(pair)])
    seeds = there.any(axis=2).all(axis=0)
    return seeds, there[:, seeds].all(axis=(0, 1)) if seeds.any() else np.zeros(values.shape[2], bool)


MANY = 2000
"""With more groups than this their mean is practically normal, and the resamples would fill the memory."""


class _Draws(NamedTuple):
    weights: np.ndarray | None  # (resamples, groups): how often each group was drawn; None for many groups
    normal: np.ndarray  # (resamples,): used instead of the weights then
    tails: np.ndarray  # (resamples,): widens the resamples as Student's t widens the normal, where groups are few
    uniform: np.ndarray  # (resamples,): evenly spaced in (0, 1), in random order, for the seeds' t
    codes: np.ndarray  # (images,): the group of each image


def _draw(groups: np.ndarray, resamples: int, rng: np.random.Generator) -> _Draws:
    codes = np.unique(groups, return_inverse=True)[1]
    count = codes.max() + 1
    if count == 1:  # a single patient or scene: only its images are replicates
        codes, count = np.arange(len(groups)), len(groups)
    free = max(count - 1, 1)
    uniform, tails = (rng.permutation(resamples) + 0.5) / resamples, np.sqrt(free / rng.chisquare(free, resamples))
    normal = rng.standard_normal(resamples)
    weights = None if count > MANY else rng.multinomial(free, np.full(count, 1 / count), resamples).astype(np.float32)
    return _Draws(weights, normal, tails, uniform, codes)


class _Effect(NamedTuple):
    row: Comparison
    paired: np.ndarray  # (seeds, images): first - second
    images: np.ndarray  # (all images,): which of them take part
    codes: np.ndarray  # (images,): their groups, counted from 0


def _effect(data: Cube, pair: tuple[int, int], drawn: _Draws) -> _Effect:
    seeds, images = _common(data.values, pair)
    first, second = (data.values[loss][np.ix_(seeds, images)] for loss in pair)
    codes = np.unique(drawn.codes[images], return_inverse=True)[1]
    row = Comparison(
        first=data.labels[pair[0]],
        second=data.labels[pair[1]],
        mean_first=finite_mean(first),
        mean_second=finite_mean(second),
        difference=finite_mean(first - second),
        seeds=int(seeds.sum()),
        images=int(images.sum()),
        groups=len(np.unique(codes)),
    )
    return _Effect(row, first - second, images, codes)


def _test(effects: list[_Effect], drawn: _Draws, alpha: float) -> list[Comparison]:
    """Fill in the intervals and p-values of pairs that have at least two seeds and two groups."""
    if not effects:
        return []
    parts = [variances(effect.paired, effect.codes) for effect in effects]
    counts = np.array([effect.row.seeds for effect in effects])
    losses = len({name for effect in effects for name in (effect.row.first, effect.row.second)})
    moderated, prior = moderate(np.array([part.seeds for part in parts]) * counts, counts - 1, losses)
    student = {count: special.stdtrit(count - 1 + prior, drawn.uniform) for count in set(counts.tolist())}
    shifts = _image_shifts(effects, drawn, np.array([part.images for part in parts]))
    levels = [alpha / 2, 1 - alpha / 2, alpha / 2 / len(effects), 1 - alpha / 2 / len(effects)]
    rows = []
    for effect, part, variance, shift in zip(effects, parts, moderated / counts, shifts, strict=True):
        by_image, seeds = effect.paired.mean(axis=0), effect.row.seeds
        by_group = np.bincount(effect.codes, by_image) / np.bincount(effect.codes)
        t = (float(np.sqrt(variance)), student[seeds], seeds - 1 + prior)
        found = _interval(effect.row.difference, shift, *t, levels)
        found |= {"seed_variance": float(variance), "image_variance": part.images, "prior": prior}
        rows.append(replace(effect.row, p_images=signed_rank(by_group), **found))
    corrected = zip(rows, holm([row.p for row in rows]), holm([row.p_images for row in rows]), strict=True)
    return [replace(row, p_holm=p, p_images=p_images) for row, p, p_images in corrected]


def moderate(variance: np.ndarray, free: np.ndarray, losses: int) -> tuple[np.ndarray, float]:
    """Shrink the pairs' variances of one seed towards their common level, as far as they are alike (Smyth 2004).

    `variance` and its degrees of freedom `free` have one entry a pair. Returns variances that are never below the
    pair's own, and the prior degrees of freedom: none where the variances differ widely, so that one loss with much
    seed noise neither hides nor invents a difference, and at most half of what `losses` - 2 further losses bring (in
    full, simulated sweeps with one loss of five times the seed noise were wrong too often).
    """
    known = variance > 0
    if losses < 3 or known.sum() < 2:
        return variance, 0.0
    half = free[known] / 2
    logs = np.log(variance[known]) - special.digamma(half) + np.log(half)
    unlike = np.var(logs, ddof=1) - special.polygamma(1, half).mean()
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
    """Variance of the mean difference that comes from the seeds, and from the images beyond what the seeds include."""

    seeds: float
    images: float


def variances(effect: np.ndarray, groups: np.ndarray) -> Variances:
    """Split the variance of the grand mean of `effect` (seeds, images) as in a two-way crossed random-effects model.

    `groups` (images,) holds a code from 0 for each image; images of one group count as one draw. The part of single
    predictions (seed x image) is in both margins and is taken out of the images' part.
    """
    seeds, images = effect.shape
    count = groups.max() + 1
    grand, by_seed, by_image = effect.mean(), effect.mean(axis=1), effect.mean(axis=0)
    sums = np.zeros((seeds, count))
    np.add.at(sums.T, groups, (effect - by_seed[:, None] - by_image + grand).T / images)
    margin = np.bincount(groups, by_image - grand, count) / images
    spread = count / (count - 1) * np.sum(margin**2)
    single = np.sum(sums**2) * count / (count - 1) / (seeds * (seeds - 1))
    return Variances(float(np.var(by_seed, ddof=1) / seeds), float(max(spread - single, 0)))


def _image_shifts(effects: list[_Effect], drawn: _Draws, variance: np.ndarray) -> np.ndarray:
    """How far each mean moves when groups are resampled: (effects, resamples), scaled to the images' own variance."""
    if drawn.weights is None:
        return np.outer(np.sqrt(variance), drawn.normal)
    count = drawn.weights.shape[1]
    sums, sizes = np.zeros((2, len(effects), count), np.float32)
    for row, effect in enumerate(effects):
        by_image, codes = effect.paired.mean(axis=0), drawn.codes[effect.images]
        sums[row] = np.bincount(codes, by_image - by_image.mean(), count)
        sizes[row] = np.bincount(codes, minlength=count)
    shift = sums @ drawn.weights.T / np.maximum(sizes @ drawn.weights.T, 1)
    spread = shift.std(axis=1)
    scale = np.divide(np.sqrt(variance), spread, out=np.zeros(len(effects)), where=spread > 0)
    return shift * scale[:, None] * drawn.tails


def _interval(
    mean: float, images: np.ndarray, seeds: float, student: np.ndarray, free: float, levels: list[float]
) -> dict[str, Any]:
    """Both intervals and the p-value of a mean whose error is `images` plus `seeds` times Student's t (resamples)."""
    if seeds == 0 and not images.any():
        return {"low": mean, "high": mean, "low_all": mean, "high_all": mean, "p": float(mean == 0)}
    draws = mean - (images + seeds * student)
    ends = dict(zip(("low", "high", "low_all", "high_all"), np.quantile(draws, levels).tolist(), strict=True))
    # the seeds' part exactly, not by its resamples: p may be far below 1 / resamples
    beyond = special.stdtr(free, (images - mean) / seeds).mean() if seeds else np.mean(draws <= 0)
    return ends | {"p": float(min(1.0, 2 * min(beyond, 1 - beyond)))}


def holm(p: list[float]) -> list[float]:
    """Holm's step-down correction (Holm 1979): adjusted p-values in the given order; NaN is not counted."""
    values = np.asarray(p, float)
    order = np.argsort(values)[: np.isfinite(values).sum()]
    adjusted = values.copy()
    adjusted[order] = np.maximum.accumulate(values[order] * np.arange(len(order), 0, -1)).clip(max=1)
    return adjusted.tolist()
