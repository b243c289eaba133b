"""The error of a mean difference: the sum of two independent Student's t variables, one for seeds and one for images.

Both parts may have heavy tails, and either may dominate. The probability that the sum exceeds a value is split into
three cases: the first part is below half of the value and the second makes up the rest, the reverse, or both exceed
half. The first two cases are integrals, smooth after substituting x = sinh(y). Sampling would need billions of draws
for verdicts on many pairs.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

NODES, WEIGHTS = (column[:, None] for column in np.polynomial.legendre.leggauss(28))  # (28, 1), broadcast against (m,)
LEFT_OUT = 1e-7  # the fraction of a probability that truncating its integral may lose
NEGLIGIBLE = 1e-9  # a part is ignored if its scale, relative to the other, is at most this


class Student(NamedTuple):
    """Student's t distributions with scale and degrees of freedom `free`, both (m,)."""

    scale: NDArray
    free: NDArray

    def where(self, kept: NDArray) -> "Student":
        return Student(self.scale[kept], self.free[kept])

    def above(self, value: NDArray) -> NDArray:
        """Return the probability (..., m) of exceeding `value` (..., m)."""
        return special.stdtr(self.free, -value / self.scale)

    def density(self, value: NDArray) -> NDArray:
        """Return the density (..., m) at `value` (..., m)."""
        free = self.free
        height = np.exp(special.gammaln((free + 1) / 2) - special.gammaln(free / 2)) / np.sqrt(np.pi * free)
        return height * np.exp(-(free + 1) / 2 * np.log1p((value / self.scale) ** 2 / free)) / self.scale


class Errors(NamedTuple):
    """The errors of m differences, each the sum of a part due to the seeds and a part due to the images."""

    seeds: Student
    images: Student

    def above(self, value: ArrayLike) -> NDArray:
        """Return the probability that the error exceeds `value` (m,); NaN if the error is unknown."""
        scale = self.seeds.scale + self.images.scale
        value = np.broadcast_to(np.asarray(value, float), scale.shape)
        probability = np.where(np.isnan(scale), np.nan, (1 - np.sign(value)) / 2)  # the answer if the error is always 0
        positive = scale > 0  # False for NaN
        tail, _ = self.where(positive)._tail(np.abs(value[positive]))
        probability[positive] = np.where(value[positive] < 0, 1 - tail, tail)
        return probability

    def reach(self, level: float) -> NDArray:
        """Return the value (m,) that |error| exceeds with probability `level`; infinite if the error is unknown."""
        scale = self.seeds.scale + self.images.scale
        values, positive = np.where(np.isnan(scale), np.inf, 0.0), self.where(scale > 0)
        # exact if one part is 0 or both are normal
        guess = np.hypot(*(part.scale * special.stdtrit(part.free, level / 2) for part in positive))
        active = np.arange(len(guess))
        for _ in range(50):  # Newton's method on log tail against log value, which bends where one part takes over
            tail, density = positive.where(active)._tail(guess[active])
            step = np.log(2 * tail / level) * tail / (guess[active] * density)
            guess[active] *= np.exp(step)
            active = active[np.abs(step) > 1e-6]  # the remaining error is the square of the step
            if not active.size:
                break
        values[scale > 0] = guess
        return values

    def where(self, kept: NDArray) -> "Errors":
        return Errors(*(part.where(kept) for part in self))

    def _tail(self, value: NDArray) -> tuple[NDArray, NDArray]:
        """Return the probability of a larger error and the density, both (m,), at values >= 0."""
        seeds, images = self
        seeds_lead = seeds.scale > images.scale
        large = Student(np.where(seeds_lead, seeds.scale, images.scale), np.where(seeds_lead, seeds.free, images.free))
        tail, density = large.above(value), large.density(value)
        both = np.minimum(seeds.scale, images.scale) > NEGLIGIBLE * large.scale
        if both.any():
            seed_part, image_part, value = seeds.where(both), images.where(both), value[both]
            parts = [_below_half(seed_part, image_part, value), _below_half(image_part, seed_part, value)]
            tail[both], density[both] = np.sum(parts, axis=0)
            tail[both] += seed_part.above(value / 2) * image_part.above(value / 2)
        return tail, density


def _below_half(part: Student, other: Student, value: NDArray) -> tuple[NDArray, NDArray]:
    """Return the tail probability and density (m,) of the sum at `value`, restricted to `part` < `value` / 2."""
    with np.errstate(invalid="ignore"):  # 0 / 0 far out in the tail, where `value` bounds the integral anyway
        rare = np.fmax(LEFT_OUT * other.above(value) / other.above(value / 2), 1e-200)  # scipy's quantile of 0 is +inf
    low = np.arcsinh(special.stdtrit(part.free, LEFT_OUT))
    high = np.fmin(-np.arcsinh(special.stdtrit(part.free, rare)), np.arcsinh(value / 2 / part.scale))
    y = low + (high - low) * (1 + NODES) / 2
    x = part.scale * np.sinh(y)
    weight = (high - low) / 2 * WEIGHTS * part.density(x) * part.scale * np.cosh(y)
    return (weight * other.above(value - x)).sum(0), (weight * other.density(value - x)).sum(0)
