"""The error of a mean difference: the sum of two independent Student's t, one from the seeds and one from the images.

Its tail is an integral over the smaller part, by the double exponential rule of Takahasi and Mori (1974): as exact as
needed in tails of 1e-10, where draws would need billions.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

_STEPS = 0.1 * np.arange(-32, 33)
NODES = special.expit(np.pi * np.sinh(_STEPS))
WEIGHTS = 0.1 * np.pi * np.cosh(_STEPS) * NODES * (1 - NODES)


class Errors(NamedTuple):
    """The errors of m differences: standard errors and degrees of freedom (m,) through the seeds and the images."""

    seeds: NDArray
    free: NDArray
    images: NDArray
    images_free: NDArray

    def above(self, value: ArrayLike) -> NDArray:
        """The probability that an error is larger than `value` (m,); NaN where an error is unknown."""
        value = np.broadcast_to(np.asarray(value, float), np.shape(self.seeds))
        scale = self.seeds + self.images
        found = np.where(np.isnan(scale), np.nan, (1 - np.sign(value)) / 2)  # of an error that is always 0
        found[scale > 0] = self._where(scale > 0)._tail(value[scale > 0])[0]
        return found

    def reach(self, level: float) -> NDArray:
        """The value (m,) that an error exceeds in either direction with probability `level`; infinite where unknown."""
        scale = self.seeds + self.images
        found, some = np.where(np.isnan(scale), np.inf, 0.0), self._where(scale > 0)
        through = (
            some.seeds * special.stdtrit(some.free, level / 2),
            some.images * special.stdtrit(some.images_free, level / 2),
        )
        guess = np.log(np.hypot(*through))
        for _ in range(6):  # Newton's method on log tail against log value, which is nearly straight
            tail, density = some._tail(np.exp(guess))
            step = np.log(2 * tail / level) * tail / (np.exp(guess) * density)
            guess = guess + step
            if np.all(np.abs(step) < 1e-6):  # the error that is left is its square
                break
        found[scale > 0] = np.exp(guess)
        return found

    def _where(self, kept: NDArray) -> "Errors":
        return Errors(*(column[kept] for column in self))

    def _tail(self, value: NDArray) -> tuple[NDArray, NDArray]:
        """The probability of a larger error and the density, both (m,), where one part at least is not 0."""
        with np.errstate(divide="ignore", invalid="ignore"):  # by a part that is 0
            alone = [special.stdtr(free, -np.abs(value) / scale) for scale, free in (self[:2], self[2:])]
        swap = (alone[1] > alone[0]) | (self.seeds == 0)  # the part that reaches farther is integrated exactly
        large, free = np.where(swap, self.images, self.seeds), np.where(swap, self.images_free, self.free)
        small, other = np.where(swap, self.seeds, self.images), np.where(swap, self.free, self.images_free)
        distinct, place = np.unique(other, return_inverse=True)
        lower = special.stdtrit(distinct[:, None], NODES[: len(NODES) // 2])  # the upper nodes round to 1
        quantiles = np.hstack([lower, np.zeros_like(lower[:, :1]), -lower[:, ::-1]])
        z = (value[:, None] - small[:, None] * quantiles[place]) / large[:, None]
        free = free[:, None]
        scale = np.exp(special.gammaln((free + 1) / 2) - special.gammaln(free / 2)) / np.sqrt(np.pi * free)
        density = scale * np.exp(-(free + 1) / 2 * np.log1p(z**2 / free)) / large[:, None]
        return special.stdtr(free, -z) @ WEIGHTS, density @ WEIGHTS
