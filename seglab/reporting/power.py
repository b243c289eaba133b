"""The number of additional seeds that would decide an open comparison."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from seglab.reporting.errors import Errors, Student
from seglab.reporting.stats import Comparison, errors

POWER = 0.8
OUTCOMES = 8  # the number of equally probable outcomes of measuring a variance over which the power is averaged
MORE_SEEDS = (*range(1, 11), 12, 15, 20, 25, 30, 40, 50)  # the numbers of additional seeds to try


def more_seeds(pair: Comparison, delta: float, level: float) -> tuple[int | None, int | None]:
    """Return the fewest and the most additional seeds that would decide a pair; None for more than max(MORE_SEEDS).

    The observed difference is itself uncertain, so seeds are counted for the quartiles of the true difference. A pair
    is decided if its difference is found with power 0.8 at `level`, or if its interval at `level` lies within +-delta.
    """
    decided = _decided(pair, delta, level, [pair.replicates + more for more in MORE_SEEDS])
    first = [int(np.argmax(row)) if row.any() else len(MORE_SEEDS) for row in decided]
    numbers = [*MORE_SEEDS, None]
    return numbers[min(first)], numbers[max(first)]


def images_forbid(pair: Comparison, delta: float, level: float) -> bool:
    """Whether the error due to the images alone would leave a pair undecided with any number of seeds."""
    return not _decided(pair, delta, level, [10**6]).any()


def _decided(pair: Comparison, delta: float, level: float, seeds: Sequence[int]) -> NDArray:
    """Return whether each number of seeds would decide, (3, seeds), for the quartiles of the true difference."""
    middle, half = abs(pair.difference), float(errors([pair]).reach(0.5)[0])
    reach, deviation = _reach(pair, seeds, level)
    gaps = np.array([abs(middle - half), middle, middle + half])[:, None]
    power = special.ndtr((gaps[..., None] - reach) / deviation).mean(axis=2)  # the mean over measured variances
    return (power >= POWER) | (gaps + np.median(reach, axis=1) < delta)


def _reach(pair: Comparison, seeds: Sequence[int], level: float) -> tuple[NDArray, NDArray]:
    """Return the smallest significant difference for each number of seeds, and the standard deviation of a difference.

    The former, (seeds, OUTCOMES), is computed for equally probable outcomes of measuring the variance over the seeds.
    Each degree of freedom of the pair gets as many prior degrees of freedom from other pairs as it has now.
    """
    count = np.array(seeds, float)[:, None]
    free = (count - 1) * (1 + pair.prior / (pair.replicates - 1)) + np.zeros(OUTCOMES)
    measured = special.chdtri(free, (np.arange(OUTCOMES) + 0.5) / OUTCOMES) / free * pair.spread / count
    images = Student(np.full(free.size, pair.image_variance**0.5), np.full(free.size, pair.groups - 1.0))
    reach = Errors(Student(np.sqrt(measured).ravel(), free.ravel()), images).reach(level).reshape(free.shape)
    return reach, np.sqrt(pair.spread / count + pair.image_variance).clip(1e-12)  # it is 0 if all runs agree
