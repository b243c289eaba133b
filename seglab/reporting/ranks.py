"""What losses have as ranks: over the test images, under resampling, and the signed-rank test of a difference."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import special

from seglab.reporting.cube import Cube


def mean_ranks(data: Cube, lower_is_better: bool = False) -> pd.Series:
    """The mean rank of each loss over the test images (1 is best), each image by its mean over the common seeds."""
    common = np.isfinite(data.values).any(axis=2).all(axis=0)
    if not common.any():
        return pd.Series(dtype=float)
    by_image = data.values[:, common].mean(axis=1)
    by_image = by_image[:, np.isfinite(by_image).all(axis=0)]
    ranks = pd.DataFrame(by_image if lower_is_better else -by_image, data.labels).rank()
    return ranks.mean(axis=1).sort_values()


def cliques(order: list[str], different: set[frozenset[str]]) -> list[tuple[int, int]]:
    """The longest stretches of a ranking within which no two losses were found different, as (first, last) indices."""
    stretches: list[tuple[int, int]] = []
    for first in range(len(order)):
        last = first
        while last + 1 < len(order) and not any(
            frozenset((order[k], order[last + 1])) in different for k in range(first, last + 1)
        ):
            last += 1
        if last > first and (not stretches or last > stretches[-1][1]):
            stretches.append((first, last))
    return stretches


def rank_shares(data: Cube, *, resamples: int = 2_000, seed: int = 0, lower_is_better: bool = False) -> pd.DataFrame:
    """How often each loss takes each rank when seeds and groups of images are resampled together (bootstrap).

    Rows are losses in the order of their mean rank, columns the ranks from 1, cells fractions in [0, 1]. Only seeds and
    images that every loss has are used; with none in common the table is empty.
    """
    seeds = np.isfinite(data.values).any(axis=2).all(axis=0)
    images = np.isfinite(data.values[:, seeds]).all(axis=(0, 1))
    if not seeds.any() or not images.any():
        return pd.DataFrame()
    values = data.values[:, seeds][:, :, images]
    rng = np.random.default_rng(seed)
    codes = np.unique(data.groups[images], return_inverse=True)[1]
    count = codes.max() + 1
    resamples = max(100, min(resamples, 20_000_000 // count))  # a bound on the memory
    weight = rng.multinomial(count, np.full(count, 1 / count), resamples)[:, codes].astype(np.float32)
    chosen = rng.multinomial(seeds.sum(), np.full(seeds.sum(), 1 / seeds.sum()), size=resamples)
    means = np.einsum("lsi,bi,bs->bl", values, weight, chosen, optimize=True)
    ranks = 1 + np.argsort(np.argsort(means if lower_is_better else -means, axis=1, kind="stable"), axis=1)
    columns = range(1, len(data.labels) + 1)
    shares = pd.DataFrame({rank: (ranks == rank).mean(axis=0) for rank in columns}, index=data.labels)
    return shares.iloc[np.argsort(ranks.mean(axis=0), kind="stable")]


def signed_rank(differences: np.ndarray) -> float:
    """The two-sided p-value of Wilcoxon's signed-rank test, zeros left out: exact for few values, normal for many.

    It is that of `scipy.stats.wilcoxon`, whose import takes longer than all else that a small report computes.
    """
    moved = differences[differences != 0]
    if not moved.size:
        return 1.0
    rank = pd.Series(np.abs(moved)).rank().to_numpy()
    positive = rank[moved > 0].sum()
    if len(differences) > (50 if len(np.unique(rank)) == len(differences) else 13):
        z = (positive - rank.sum() / 2) / np.sqrt(np.sum(rank**2) / 4)
        return float(2 * special.ndtr(-abs(z)))
    ways = np.zeros(1 + int(2 * rank.sum()))  # in how many of the 2^n choices of signs the positive ranks add up to k/2
    ways[0] = 1
    for double in (2 * rank).astype(int):
        ways[double:] += ways[:-double]
    at = int(2 * positive)
    return float(min(1.0, 2 * min(ways[: at + 1].sum(), ways[at:].sum()) / ways.sum()))
