"""A loss of connectedness: do the skeletons of mask and prediction lie within each other?"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from seglab.contract import require
from seglab.losses.base import BY_POLICY, MEAN_OVER_CLASSES, PolicyMean, order_card, within
from seglab.losses.numerics import exact
from seglab.losses.overlap import Dice
from seglab.losses.pixels import Pixels


@dataclass(frozen=True, kw_only=True)
class CLDice(PolicyMean):
    """Dice of skeletons (centerlines) beside Dice, for vessels, roads and cracks: a gap costs more than a thin edge.

    `iterations` is the largest half-width in pixels that is thinned to a line, `dice_weight` the part of plain Dice.
    """

    iterations: int = within("[0, inf)", 3)
    smooth: float = within("(0, inf)", 1.0)
    dice_weight: float = within("[0, 1]", 0.5)

    card = order_card(
        title="clDice loss",
        formula=r"w\,\mathrm{Dice}+(1-w)\big(1-\tfrac{2T_pT_s}{T_p+T_s}\big),\;T_p=\tfrac{\sum S(p)t+s}{\sum S(p)+s}",
        paper="Shit et al. 2021, clDice: a novel topology-preserving loss function for tubular structure segmentation",
        empty="Skeletons: by the smoothing. Dice: " + BY_POLICY[0].lower() + BY_POLICY[1:],
        differs="MONAI's SoftDiceclDice adds the same two; the authors' code thins 10 times whatever it is told.",
        many=MEAN_OVER_CLASSES + " Pixels that are not valid are background to the skeletons and cost nothing.",
    )

    def each_class(self, x: Pixels) -> Tensor:
        require(len(x.space) == 2, self.name, "logits (b, k, h, w)", f"{len(x.space)} dimensions in space")
        stray, missed = self.outside(x, x.masked(x.p), x.u), self.outside(x, x.t, x.q)
        lines = (stray + missed - 2 * stray * missed) / (2 - stray - missed)
        dice = Dice(empty=self.empty).each_class(x)
        return self.dice_weight * dice + (1 - self.dice_weight) * lines

    def outside(self, x: Pixels, share: Tensor, other: Tensor) -> Tensor:
        """The fraction (b, k) of a skeleton that lies in `other`: 1 - T, without the rounding of that difference."""
        skeleton = soft_skeleton(x.spatial(share), self.iterations).flatten(2)
        return exact((skeleton * other).sum(-1)) / (exact(skeleton.sum(-1)) + self.smooth)


def soft_skeleton(x: Tensor, iterations: int) -> Tensor:
    """What successive erosions would lose in an opening: the center lines of what is up to 2 * iterations + 1 wide."""
    skeleton = F.relu(x - opened(x))
    for _ in range(iterations):
        x = eroded(x)
        lost = F.relu(x - opened(x))
        skeleton = skeleton + F.relu(lost - skeleton * lost)
    return skeleton


def eroded(x: Tensor) -> Tensor:
    """The least of each pixel and its four neighbors."""
    return -F.max_pool2d(-x, (3, 1), 1, (1, 0)).maximum(F.max_pool2d(-x, (1, 3), 1, (0, 1)))


def opened(x: Tensor) -> Tensor:
    """Eroded, then grown back by a 3x3 neighborhood."""
    return F.max_pool2d(eroded(x), 3, 1, 1)
