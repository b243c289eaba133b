"""Losses for connectivity, which test whether the skeletons of mask and prediction lie within each other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from seglab.contract import require
from seglab.losses.base import BY_POLICY, MEAN_OVER_CLASSES, ClassMean, Loss, PolicyMean, order_card, within
from seglab.losses.compound import BCEDice, card_of_both
from seglab.losses.numerics import ratio
from seglab.losses.overlap import Dice
from seglab.losses.pixels import Pixels


@dataclass(frozen=True, kw_only=True)
class CLDice(PolicyMean):
    """Dice of skeletons (centerlines) plus Dice, for vessels, roads and cracks: gaps cost more than errors at edges.

    `iterations` is the largest half-width in pixels that is thinned to a line, `dice_weight` the weight of plain Dice.
    """

    iterations: int = within("[0, inf)", 3, whole=True)
    smooth: float = within("(0, inf)", 1.0)
    dice_weight: float = within("[0, 1]", 0.5)

    card = order_card(
        title="clDice loss",
        formula=r"w\,\mathrm{Dice}+(1-w)\big(1-\tfrac{2T_pT_s}{T_p+T_s}\big),\;T_p=\tfrac{\sum S(p)t+s}{\sum S(p)+s}",
        paper="Shit et al. 2021, clDice: a novel topology-preserving loss function for tubular structure segmentation",
        empty="Skeletons: the smoothing decides. Dice: " + BY_POLICY[0].lower() + BY_POLICY[1:],
        differs="MONAI's SoftDiceclDice adds the same two; the authors' code thins 10 times, whatever is passed.",
        many=MEAN_OVER_CLASSES + " Invalid pixels count as background in the skeletons and cost nothing."
        " A softmax whose logits are all equal learns slowly: add cross-entropy (loss=sum).",
    )

    def each_class(self, x: Pixels) -> Tensor:
        require(len(x.space) == 2, self.name, "logits (b, k, h, w)", f"{len(x.space)} spatial dimensions")
        stray, missed = self.outside(x, x.masked(x.p), x.u), self.outside(x, x.t, x.q)
        cldice = (stray + missed - 2 * stray * missed) / (2 - stray - missed)  # 1 - 2 T_p T_s / (T_p + T_s)
        dice = Dice(empty=self.empty).each_class(x)
        return self.dice_weight * dice + (1 - self.dice_weight) * cldice

    def outside(self, x: Pixels, share: Tensor, other: Tensor) -> Tensor:
        """Return the fraction (b, k) of a skeleton in `other`: 1 - T, without the rounding error of this difference."""
        skeleton = soft_skeleton(x.spatial(share), self.iterations).flatten(2)
        return x.total(skeleton * other) / (x.total(skeleton) + self.smooth)


@dataclass(frozen=True, kw_only=True)
class SkeletonMissed(ClassMean):
    """The fraction of a mask's skeleton (5 pixels wide) that the prediction misses; 0 if there is no skeleton."""

    needs: ClassVar[tuple[str, ...]] = ("skeleton",)

    def each_class(self, x: Pixels) -> Tensor:
        skeleton = x.maps["skeleton"]
        return ratio(x.total(skeleton * x.q), x.total(skeleton))


@dataclass(frozen=True, kw_only=True)
class SkeletonRecall(BCEDice):
    """Cross-entropy plus Dice plus the missed fraction of the mask's skeleton, which keeps thin vessels connected.

    Needs the map `skeleton`, which is computed from the mask in advance: a step costs hardly more than BCE + Dice.
    """

    recall_weight: float = within("[0, inf)", 1.0)

    needs: ClassVar[tuple[str, ...]] = ("skeleton",)
    card = card_of_both(
        title="Skeleton recall",
        formula=r"w_b\,\mathrm{BCE}+w_d\,\mathrm{Dice}+o+w_r\frac{\sum S(t)\,q}{\sum S(t)}",
        paper="Kirchhoff et al. 2024, Skeleton Recall Loss for Connectivity Conserving Segmentation of Thin Structures",
        empty=BY_POLICY + " Without a skeleton its term is 0.",
        differs="smp, MONAI and kornia have none. The authors subtract the recall, so that their minimum is 1 lower.",
        signed=True,
    )

    def parts(self) -> tuple[tuple[float, Loss], ...]:
        missed = SkeletonMissed(task=self.task, class_weights=self.class_weights, classes=self.classes)
        return *super().parts(), (self.recall_weight, missed)


def soft_skeleton(x: Tensor, iterations: int) -> Tensor:
    """Return what openings after successive erosions remove: center lines of structures <= 2 * iterations + 1 wide."""
    skeleton = torch.zeros_like(x)
    for _ in range(iterations + 1):
        erosion = eroded(x)
        opening = Extreme.apply(Extreme.apply(erosion, (3,), False), (2,), False)  # by 3x3; the erosion is by a cross
        removed = F.relu(x - opening)
        skeleton = skeleton + F.relu(removed - skeleton * removed)  # the union of both as soft sets
        x = erosion  # the next step starts from the erosion of this opening
    return skeleton


def eroded(x: Tensor) -> Tensor:
    """Return the minimum of each pixel and its four neighbors."""
    return Extreme.apply(x, (2, 3), True)


class Extreme(torch.autograd.Function):
    """Minimum or maximum of each pixel and its neighbors along `dims`, several times as fast as `max_pool2d`.

    The first of equal values along a dimension gets the gradient; tied dimensions share it equally, as in torch.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, dims: tuple[int, ...], least: bool) -> Tensor:
        lines = [extreme_of_line(x, dim, least) for dim in dims]
        return reduce(torch.minimum if least else torch.maximum, lines)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, tuple[int, ...], bool], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], output)
        ctx.dims, ctx.least = inputs[1:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        x, out = (saved.detach() for saved in ctx.saved_tensors)  # the positions of the extremes have no gradient
        if len(ctx.dims) == 1:
            return gradient_of_line(grad, x, out, ctx.dims[0]), None, None
        lines = [extreme_of_line(x, dim, ctx.least) for dim in ctx.dims]
        hits = [1 - differs(line, out) for line in lines]  # 1 for each dimension that has the extreme
        total = reduce(torch.add, hits)
        by_dim = zip(hits, lines, ctx.dims, strict=True)
        slopes = [gradient_of_line(grad * (hit / total), x, line, dim) for hit, line, dim in by_dim]
        return reduce(torch.add, slopes), None, None


def extreme_of_line(x: Tensor, dim: int, least: bool) -> Tensor:
    """Return the minimum or maximum of each pixel and its two neighbors along `dim`."""
    better, n = torch.minimum if least else torch.maximum, x.shape[dim] - 1
    out = x.clone()
    for neighbor, pixel in ((0, 1), (1, 0)):
        part = out.narrow(dim, pixel, n)
        part.copy_(better(part, x.narrow(dim, neighbor, n)))  # `out=` is twice as fast, but vmap does not support it
    return out


def gradient_of_line(grad: Tensor, x: Tensor, out: Tensor, dim: int) -> Tensor:
    """Return the gradient of x: that of each pixel of `out` goes to the first of its three pixels with the extreme."""
    n, slope, rest = x.shape[dim] - 1, torch.zeros_like(grad), grad.clone()
    left = rest.narrow(dim, 1, n)  # a view: what one neighbor takes is no longer left for the others
    before = left - left * differs(x.narrow(dim, 0, n), out.narrow(dim, 1, n))
    slope.narrow(dim, 0, n).add_(before)
    left.sub_(before)
    after = rest * differs(x, out)
    slope.add_(rest).sub_(after)
    slope.narrow(dim, 1, n).add_(after.narrow(dim, 0, n))
    return slope


def differs(x: Tensor, y: Tensor) -> Tensor:
    """Return 1 where x differs from y, else 0; on a CPU several times as fast as a bool comparison and `where`."""
    return (x - y).sign_().abs_()
