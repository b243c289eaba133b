"""The error of a mean difference: the sum of two independent Student's t, one from the seeds and one from the images.

Both parts may have heavy tails, and either may be far the larger. So its tail is divided at half of the value: one part
is below that and the other makes up for it, which is an integral over the one, smooth on the scale of its hyperbolic
sine; or the other is; or both lie above. Draws would need billions for what the verdicts of many pairs ask.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

NODES, WEIGHTS = (column[:, None] for column in np.polynomial.legendre.leggauss(28))  # (28, 1), beside (m,)
LEFT_OUT = 1e-7  # the part of a probability that an integral may leave out
NEGLIGIBLE = 1e-9  # the scale of a part, in units of the other's, up to which it is as good as 0


class Student(NamedTuple):
    """Student's t times a scale, both (m,)."""

    scale: NDArray
    free: NDArray

    def where(self, kept: NDArray) -> "Student":
        return Student(self.scale[kept], self.free[kept])

    def above(self, value: NDArray) -> NDArray:
        """The probability (..., m) of more than a value (..., m)."""
        return special.stdtr(self.free, -value / self.scale)

    def density(self, value: NDArray) -> NDArray:
        """The density (..., m) at a value (..., m)."""
        free = self.free
        height = np.exp(special.gammaln((free + 1) / 2) - special.gammaln(free / 2)) / np.sqrt(np.pi * free)
        return height * np.exp(-(free + 1) / 2 * np.log1p((value / self.scale) ** 2 / free)) / self.scale


class Errors(NamedTuple):
    """The errors of m differences, through the seeds and through the images."""

    seeds: Student
    images: Student

    def above(self, value: ArrayLike) -> NDArray:
        """The probability that an error is larger than `value` (m,); NaN where an error is unknown."""
        scale = self.seeds.scale + self.images.scale
        value = np.broadcast_to(np.asarray(value, float), scale.shape)
        found = np.where(np.isnan(scale), np.nan, (1 - np.sign(value)) / 2)  # of an error that is always 0
        some = scale > 0  # a NaN is not
        tail, _ = self.where(some)._tail(np.abs(value[some]))
        found[some] = np.where(value[some] < 0, 1 - tail, tail)
        return found

    def reach(self, level: float) -> NDArray:
        """The value (m,) that an error exceeds in either direction with probability `level`; infinite where unknown."""
        scale = self.seeds.scale + self.images.scale
        found, some = np.where(np.isnan(scale), np.inf, 0.0), self.where(scale > 0)
        # exact if one part is 0, or both are normal
        guess = np.hypot(*(part.scale * special.stdtrit(part.free, level / 2) for part in some))
        left = np.arange(len(guess))
        for _ in range(50):  # Newton's method on log tail against log value, bent where one part takes over
            tail, density = some.where(left)._tail(guess[left])
            step = np.log(2 * tail / level) * tail / (guess[left] * density)
            guess[left] *= np.exp(step)
            left = left[np.abs(step) > 1e-6]  # the error that is left is the square of the step
            if not left.size:
                break
        found[scale > 0] = guess
        return found

    def where(self, kept: NDArray) -> "Errors":
        return Errors(*(part.where(kept) for part in self))

    def _tail(self, value: NDArray) -> tuple[NDArray, NDArray]:
        """The probability of a larger error and the density, both (m,), of values of at least 0."""
        seeds, images = self
        first = seeds.scale > images.scale
        large = Student(np.where(first, seeds.scale, images.scale), np.where(first, seeds.free, images.free))
        tail, density = large.above(value), large.density(value)
        two = np.minimum(seeds.scale, images.scale) > NEGLIGIBLE * large.scale
        if two.any():
            one, other, value = seeds.where(two), images.where(two), value[two]
            parts = [_below_half(one, other, value), _below_half(other, one, value)]
            tail[two], density[two] = np.sum(parts, axis=0)
            tail[two] += one.above(value / 2) * other.above(value / 2)
        return tail, density


def _below_half(part: Student, other: Student, value: NDArray) -> tuple[NDArray, NDArray]:
    """The probability and density (m,) of a sum above and at a value of which `part` is less than half."""
    with np.errstate(invalid="ignore"):  # 0 / 0 far out, where `value` ends the integral
        rare = np.fmax(LEFT_OUT * other.above(value) / other.above(value / 2), 1e-200)  # scipy's quantile of 0 is +inf
    low = np.arcsinh(special.stdtrit(part.free, LEFT_OUT))
    high = np.fmin(-np.arcsinh(special.stdtrit(part.free, rare)), np.arcsinh(value / 2 / part.scale))
    y = low + (high - low) * (1 + NODES) / 2
    x = part.scale * np.sinh(y)
    weight = (high - low) / 2 * WEIGHTS * part.density(x) * part.scale * np.cosh(y)
    return (weight * other.above(value - x)).sum(0), (weight * other.density(value - x)).sum(0)
