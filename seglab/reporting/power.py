"""How much a study can find: its power, and how many further seeds would decide what is open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from seglab.reporting.errors import Errors
from seglab.reporting.stats import Comparison, errors

POWER = 0.8
MORE_SEEDS = (*range(1, 11), 12, 15, 20, 25, 30, 40, 50)
"""The numbers of further seeds that are tried out."""


class Noise(NamedTuple):
    """The variance of a difference: of one replicate's mean difference, and that through the test images.

    `groups` is the number of independent images, `lent` how many degrees of freedom other pairs lend to each of a
    pair's own.
    """

    spread: float
    images: float
    groups: int
    lent: float = 0.0

    @classmethod
    def of(cls, pair: Comparison) -> Noise:
        """The noise that was measured for a pair of `compare`."""
        return cls(pair.spread, pair.image_variance, pair.groups, pair.prior / (pair.replicates - 1))

    def reach(self, seeds: Sequence[int], alpha: float, nodes: int = 16) -> tuple[NDArray, NDArray]:
        """How large a difference must be seen to count at level `alpha` with each number of seeds, and its deviation.

        The first (seeds, nodes) is that at `nodes` equally probable outcomes of measuring the variance over the seeds.
        """
        count = np.array(seeds, float)[:, None]
        free = (count - 1) * (1 + self.lent) + np.zeros(nodes)
        seen = special.chdtri(free, (np.arange(nodes) + 0.5) / nodes) / free * self.spread / count
        constant = np.full(free.size, self.images**0.5), np.full(free.size, self.groups - 1.0)
        reach = Errors(np.sqrt(seen).ravel(), free.ravel(), *constant).reach(alpha).reshape(free.shape)
        return reach, np.sqrt(self.spread / count + self.images).clip(1e-12)


def power(difference: float, noise: Noise, *, seeds: int, alpha: float) -> float:
    """The probability that a true mean difference is found at level `alpha` (two-sided) with so many seeds."""
    reach, deviation = noise.reach([seeds], alpha)
    return float(special.ndtr((abs(difference) - reach) / deviation).mean())


def smallest_difference(noise: Noise, *, seeds: int, alpha: float) -> float:
    """The smallest true difference that would be found four times out of five with so many seeds."""
    reach, deviation = noise.reach([seeds], alpha)
    low, high = 0.0, float((reach + 4 * deviation).max())
    for _ in range(20):
        middle = (low + high) / 2
        found = special.ndtr((middle - reach) / deviation).mean() >= POWER
        low, high = (low, middle) if found else (middle, high)
    return high


def more_seeds(pair: Comparison, delta: float, level: float) -> tuple[int | None, int | None]:
    """The fewest and the most further seeds that would decide a pair, None for more than the last of MORE_SEEDS.

    The difference seen is itself uncertain: they are counted for the quartiles of what the true one may be. Decided
    means found with a power of 0.8 at `level`, or a difference whose interval of that level lies inside +-delta.
    """
    middle, half = abs(pair.difference), float(errors([pair]).reach(0.5)[0])
    reach, deviation = Noise.of(pair).reach([pair.replicates + more for more in MORE_SEEDS], level, nodes=8)
    counts = []
    for gap in (abs(middle - half), middle, middle + half):
        better = special.ndtr((gap - reach) / deviation).mean(axis=1) >= POWER
        decided = np.flatnonzero(better | (gap + np.median(reach, axis=1) < delta))
        counts.append(int(decided[0]) if len(decided) else len(MORE_SEEDS))
    fewest, most = (MORE_SEEDS[k] if k < len(MORE_SEEDS) else None for k in (min(counts), max(counts)))
    return fewest, most


def usual_noise(pairs: Sequence[Comparison]) -> Noise | None:
    """The median noise over the pairs of a sweep, or None where no pair has two seeds."""
    noises = [Noise.of(pair) for pair in pairs if np.isfinite(pair.p)]
    if not noises or pairs[0].kind != "seeds":
        return None
    spread, images, groups, lent = np.median(noises, axis=0).tolist()
    return Noise(spread, images, int(groups), lent)
