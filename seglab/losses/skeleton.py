"""A loss of connectedness: do the skeletons of mask and prediction lie within each other?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from seglab.contract import Logits, PerImage, Target, require
from seglab.losses.base import Card, Loss, probability, real
from seglab.losses.region import BY_POLICY, Dice, Empty


@dataclass(frozen=True, kw_only=True)
class CLDice(Loss):
    """Dice of skeletons (centrelines) beside Dice, for vessels, roads and cracks: a gap costs more than a thin edge.

    `iterations` is the largest half-width in pixels that is thinned to a line; `dice_weight` the share of plain Dice.
    """

    iterations: int = 3
    smooth: float = 1.0
    dice_weight: float = 0.5
    empty: Empty = "complement"

    card: ClassVar[Card] = Card(
        title="clDice loss",
        family="boundary and order",
        formula=(
            r"w\,\mathrm{Dice}+(1-w)\Big(1-2\frac{T_pT_s}{T_p+T_s}\Big),\;T_p=\frac{\sum S(p)t+s}{\sum "
            r"S(p)+s},\;T_s=\frac{\sum S(t)p+s}{\sum S(t)+s}"
        ),
        paper="Shit et al. 2021, clDice: a novel topology-preserving loss function for tubular structure segmentation",
        empty="Skeletons: by the smoothing. Dice: " + BY_POLICY[0].lower() + BY_POLICY[1:],
        differs=(
            "MONAI's SoftDiceclDice adds the same two; the authors' code thins 10 times whatever it is told and "
            "pools the batch. smp and kornia have none."
        ),
        soft=False,
    )

    def __post_init__(self) -> None:
        self.limit(self.iterations >= 0, "iterations", "of at least 0")
        self.limit(self.smooth > 0, "smooth", "above 0")
        self.limit(0 <= self.dice_weight <= 1, "dice_weight", "in [0, 1]")
        Dice(empty=self.empty)

    def per_image(self, logits: Logits, target: Target, **maps: Tensor) -> PerImage:
        require(logits.ndim == 4, self.name, "logits (b, c, h, w)", tuple(logits.shape))
        z = real(logits)
        p, q, t = probability(z), probability(-z), target.to(z.dtype)
        stray = self.outside(soft_skeleton(p, self.iterations), 1 - t)
        missed = self.outside(soft_skeleton(t, self.iterations), q)
        lines = (stray + missed - 2 * stray * missed) / (2 - stray - missed)
        return self.dice_weight * Dice(empty=self.empty).per_image(logits, target) + (
            1 - self.dice_weight
        ) * lines.mean(1)

    def outside(self, skeleton: Tensor, other: Tensor) -> Tensor:
        """The share (b, c) of a skeleton that lies in `other`: 1 - T, without the rounding of that difference."""
        return (skeleton * other).sum((2, 3)) / (skeleton.sum((2, 3)) + self.smooth)


def soft_skeleton(x: Tensor, iterations: int) -> Tensor:
    """What successive erosions would lose in an opening: the centre lines of what is up to 2 * iterations + 1 wide."""
    skeleton = F.relu(x - opened(x))
    for _ in range(iterations):
        x = eroded(x)
        lost = F.relu(x - opened(x))
        skeleton = skeleton + F.relu(lost - skeleton * lost)
    return skeleton


def eroded(x: Tensor) -> Tensor:
    """The least of each pixel and its four neighbours."""
    return -torch.maximum(F.max_pool2d(-x, (3, 1), 1, (1, 0)), F.max_pool2d(-x, (1, 3), 1, (0, 1)))


def opened(x: Tensor) -> Tensor:
    """Eroded, then grown back by a 3x3 neighbourhood."""
    return F.max_pool2d(eroded(x), 3, 1, 1)
