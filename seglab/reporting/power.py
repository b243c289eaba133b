"""How many further seeds would decide what a study leaves open."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from seglab.reporting.errors import Errors, Student
from seglab.reporting.stats import Comparison, errors

POWER = 0.8
OUTCOMES = 8  # of measuring a variance, equally probable, over which the power is averaged
MORE_SEEDS = (*range(1, 11), 12, 15, 20, 25, 30, 40, 50)  # the numbers of further seeds that are tried out


def more_seeds(pair: Comparison, delta: float, level: float) -> tuple[int | None, int | None]:
    """The fewest and the most further seeds that would decide a pair, None for more than the last of MORE_SEEDS.

    The difference seen is itself uncertain: they are counted for the quartiles of what the true one may be. Decided
    means found with a power of 0.8 at `level`, or a difference whose interval of that level lies inside +-delta.
    """
    decided = _decided(pair, delta, level, [pair.replicates + more for more in MORE_SEEDS])
    first = [int(np.argmax(row)) if row.any() else len(MORE_SEEDS) for row in decided]
    numbers = [*MORE_SEEDS, None]
    return numbers[min(first)], numbers[max(first)]


def images_forbid(pair: Comparison, delta: float, level: float) -> bool:
    """Whether the error through the images alone would leave a pair open, however many seeds there were."""
    return not _decided(pair, delta, level, [10**6]).any()


def _decided(pair: Comparison, delta: float, level: float, seeds: Sequence[int]) -> NDArray:
    """Whether each number of seeds would decide: (3, seeds), for the quartiles of what the true difference may be."""
    middle, half = abs(pair.difference), float(errors([pair]).reach(0.5)[0])
    reach, deviation = _reach(pair, seeds, level)
    gaps = np.array([abs(middle - half), middle, middle + half])[:, None]
    power = special.ndtr((gaps[..., None] - reach) / deviation).mean(axis=2)  # the mean over the measured variances
    return (power >= POWER) | (gaps + np.median(reach, axis=1) < delta)


def _reach(pair: Comparison, seeds: Sequence[int], level: float) -> tuple[NDArray, NDArray]:
    """How large a difference must be seen to count with each number of seeds, and its standard deviation.

    The first (seeds, OUTCOMES) is that at equally probable outcomes of measuring the variance over the seeds. Other
    pairs lend as many degrees of freedom to each of the pair's own as they do now.
    """
    count = np.array(seeds, float)[:, None]
    free = (count - 1) * (1 + pair.prior / (pair.replicates - 1)) + np.zeros(OUTCOMES)
    seen = special.chdtri(free, (np.arange(OUTCOMES) + 0.5) / OUTCOMES) / free * pair.spread / count
    images = Student(np.full(free.size, pair.image_variance**0.5), np.full(free.size, pair.groups - 1.0))
    reach = Errors(Student(np.sqrt(seen).ravel(), free.ravel()), images).reach(level).reshape(free.shape)
    return reach, np.sqrt(pair.spread / count + pair.image_variance).clip(1e-12)  # 0 if all runs agree
