"""Losses of overlap: functions of how much probability falls on the foreground and how much beside it, per image."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from seglab.contract import PerImage
from seglab.losses.base import Card
from seglab.losses.native import Moments
from seglab.losses.sums import Part, SumLoss, Sums
from seglab.losses.tile import Pixels

Empty: TypeAlias = Literal["complement", "formula", "skip"]
"""On a mask without foreground: score the background, take the smoothing literally, or leave the image out."""

BY_POLICY = (
    "By policy: the background is scored (complement), the smoothing taken literally (formula), or the image skipped."
)
TINY = 1e-30


class Confusion(NamedTuple):
    """The soft confusion of each image and channel (b, c): probability on and beside the foreground, in pixels."""

    tp: Tensor
    fp: Tensor
    fn: Tensor
    tn: Tensor

    @property
    def empty(self) -> Tensor:
        """Where the mask has no foreground."""
        return self.tp + self.fn == 0

    def swapped(self) -> Confusion:
        """The same with the background as the class of interest."""
        return Confusion(self.tn, self.fn, self.fp, self.tp)

    def complemented(self, empty: Tensor) -> Confusion:
        """The same, swapped where the mask has no foreground."""
        cells = torch.stack(self)
        return Confusion(*torch.where(empty, cells.flip(0), cells).unbind())


@dataclass(frozen=True)
class Overlap(Part):
    """The sums of a `Confusion`; true negatives on their own only for losses that need them to the last pixel."""

    with_tn: bool = False
    exact: bool = False

    keeps: ClassVar[bool] = True

    @property
    def count(self) -> int:  # type: ignore[override]
        return 4 if self.with_tn else 3

    def terms(self, x: Pixels) -> tuple[Tensor, ...]:
        tp, fn = x.p * x.t, x.q * x.t
        return (tp, x.p - tp, fn, x.q - fn) if self.with_tn else (tp, x.p - tp, fn)

    def sums(self, x: Pixels) -> tuple[Tensor, ...]:
        if not x.closed:
            return super().sums(x)
        if self.exact or "e" not in x.made or not x.hard:
            return self.one_by_one(x)
        wrong = x.sides[0].wrong
        fn = torch.mul(wrong, x.t, out=x.spare).sum(-1)
        fp = wrong.sum(-1) - fn
        foreground = x.t.sum(-1)
        confusion = foreground - fn, fp, fn, x.t.shape[-1] - foreground - fp
        return confusion if self.with_tn else confusion[:3]

    def one_by_one(self, x: Pixels) -> tuple[Tensor, ...]:
        """The sums of `terms`, each in the room of the one before, so that all stays in the cache."""
        room = torch.mul(x.p, x.t, out=x.spare)
        tp = room.sum(-1)
        fp = torch.sub(x.p, room, out=room).sum(-1)
        room = torch.mul(x.q, x.t, out=room)
        fn = room.sum(-1)
        return (tp, fp, fn, torch.sub(x.q, room, out=room).sum(-1)) if self.with_tn else (tp, fp, fn)

    def keep(self, x: Pixels, out: Tensor) -> Tensor:
        return torch.mul(x.p, x.q, out=out)

    def slope(self, x: Pixels, kept: Tensor | None, weights: tuple[Tensor, ...]) -> Tensor:
        tp, fp, fn, *tn = weights
        weight = x.weigh(tp - fn, fp - tn[0] if tn else fp)
        return x.through_p(weight) if kept is None else kept.mul_(weight)

    def from_moments(self, m: Moments) -> tuple[Tensor, ...]:
        return (m.tp, m.fp, m.fn, m.tn) if self.with_tn else (m.tp, m.fp, m.fn)

    def confusion(self, sums: Sums, n: int) -> Confusion:
        tp, fp, fn, *tn = sums[self]
        return Confusion(tp, fp, fn, tn[0] if tn else n - tp - fp - fn)


def ratio(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole with 0/0 = 0, finite in value and gradient however small the whole is."""
    return part / whole.clamp(min=TINY)


def power(x: Tensor, exponent: float) -> Tensor:
    """x ** exponent for x of at least 0, with a finite slope at 0 for exponents under 1."""
    return x if exponent == 1 else torch.where(x <= TINY, 0, x.clamp(min=TINY) ** exponent)


def tversky(m: Confusion, fp_weight: float, fn_weight: float, smooth: float = 0.0) -> Tensor:
    """1 - Tversky index as error over total: exact for one pixel in 4096x4096, where 1 - index is rounding noise."""
    error = fp_weight * m.fp + fn_weight * m.fn
    total = m.tp + error
    return ratio(error, total + smooth if smooth else total)


@dataclass(frozen=True, kw_only=True)
class RegionLoss(SumLoss):
    """A function of a few sums of each image, with a policy for masks without foreground.

    `empty` names it: "complement" scores the background instead, "formula" takes the smoothing literally, "skip" takes
    the image out of the batch mean (it reads 0, and the rest weighs more). `smooth` (pixels) is added to numerator and
    denominator of the score.
    """

    empty: Empty = "complement"
    smooth: float = 0.0

    def __post_init__(self) -> None:
        self.limit(self.empty in ("complement", "formula", "skip"), "empty", "one of complement, formula, skip")
        self.limit(self.smooth >= 0, "smooth", "of at least 0")

    def mean(self, loss: Tensor, empty: Tensor) -> PerImage:
        """The mean over the channels; under "skip" what is empty counts 0 and the rest of the batch more."""
        if self.empty == "skip":
            loss = torch.where(empty, 0, loss) * (empty.numel() / (~empty).sum().clamp(min=1))
        return loss.mean(1)


@dataclass(frozen=True, kw_only=True)
class OverlapLoss(RegionLoss):
    """A region loss that is a function of the soft confusion."""

    part: ClassVar[Overlap] = Overlap()

    def parts(self) -> tuple[Part, ...]:
        return (self.part,)

    def value(self, sums: Sums, n: int) -> PerImage:
        m = self.part.confusion(sums, n)
        empty = m.empty
        return self.mean(self.overlap(m.complemented(empty) if self.empty == "complement" else m), empty)

    @abstractmethod
    def overlap(self, m: Confusion) -> Tensor:
        """The loss (b, c) of each image and channel from its confusion."""


@dataclass(frozen=True, kw_only=True)
class Dice(OverlapLoss):
    """One minus the Dice coefficient (F1) of each image, with probabilities in place of decisions."""

    card: ClassVar[Card] = Card(
        title="Dice loss",
        family="region",
        formula=r"\frac{fp+fn}{2\,tp+fp+fn+s}",
        paper="Milletari, Navab, Ahmadi 2016, V-Net; in this linear form Drozdzal et al. 2016 and Sudre et al. 2017",
        empty=BY_POLICY,
        differs=(
            "smp pools the batch, counts s twice and scores an empty batch 0; in MONAI the gradient of an empty "
            "mask vanishes (1e-9)."
        ),
    )

    def overlap(self, m: Confusion) -> Tensor:
        return tversky(m, 0.5, 0.5, self.smooth / 2)


@dataclass(frozen=True, kw_only=True)
class IoU(OverlapLoss):
    """One minus the intersection over union (Jaccard index) of each image, with probabilities in place of decisions."""

    card: ClassVar[Card] = Card(
        title="IoU (Jaccard) loss",
        family="region",
        formula=r"\frac{fp+fn}{tp+fp+fn+s}",
        paper="Rahman and Wang 2016, Optimizing Intersection-over-Union in Deep Neural Networks for Image Segmentation",
        empty=BY_POLICY,
        differs=(
            "smp pools the batch, MONAI halves the smoothing, kornia has none; the Keras original takes the "
            "complement for whole batches."
        ),
    )

    def overlap(self, m: Confusion) -> Tensor:
        return tversky(m, 1.0, 1.0, self.smooth)


@dataclass(frozen=True, kw_only=True)
class Tversky(OverlapLoss):
    """Overlap in which false alarms and misses weigh differently (Dice at .5 and .5, IoU at 1 and 1)."""

    fp_weight: float = 0.3
    fn_weight: float = 0.7

    card: ClassVar[Card] = Card(
        title="Tversky loss",
        family="region",
        formula=r"\frac{a\,fp+b\,fn}{tp+a\,fp+b\,fn+s}",
        paper=(
            "Salehi, Erdogmus, Gholipour 2017, Tversky loss function for image segmentation using 3D fully "
            "convolutional deep networks"
        ),
        empty=BY_POLICY,
        differs=(
            "alpha weights fp in smp, MONAI (both .5, .5) and kornia (no default), fn in Abraham and Khan; smp "
            "pools the batch."
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.limit(self.fp_weight > 0, "fp_weight", "above 0")
        self.limit(self.fn_weight > 0, "fn_weight", "above 0")

    def overlap(self, m: Confusion) -> Tensor:
        return tversky(m, self.fp_weight, self.fn_weight, self.smooth)


@dataclass(frozen=True, kw_only=True)
class FocalTversky(Tversky):
    """Tversky loss to a power: under 1, images that are nearly right still pull; above 1, the bad ones dominate."""

    exponent: float = 0.75

    card: ClassVar[Card] = Card(
        title="Focal Tversky loss",
        family="region",
        formula=r"\Big(\frac{a\,fp+b\,fn}{tp+a\,fp+b\,fn+s}\Big)^{\gamma}",
        paper=(
            "Abraham and Khan 2019, A novel focal Tversky loss function with improved attention U-Net for lesion "
            "segmentation"
        ),
        empty=BY_POLICY,
        differs=(
            "The paper writes 1/gamma with 4/3. smp pools the batch, takes the power after the mean and gives NaN"
            " gradients on an empty batch."
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.limit(self.exponent > 0, "exponent", "above 0")

    def overlap(self, m: Confusion) -> Tensor:
        return power(super().overlap(m), self.exponent)


@dataclass(frozen=True, kw_only=True)
class LogCoshDice(OverlapLoss):
    """Log-cosh of the Dice loss: quadratic when it is small, nearly linear when it is large."""

    card: ClassVar[Card] = Card(
        title="Log-cosh Dice loss",
        family="region",
        formula=r"\log\cosh\Big(\frac{fp+fn}{2\,tp+fp+fn+s}\Big)",
        paper="Jadon 2020, A survey of loss functions for semantic segmentation",
        empty=BY_POLICY,
        differs="smp, MONAI and kornia have none; the paper smooths by 1, ours by 0 unless told.",
    )

    def overlap(self, m: Confusion) -> Tensor:
        half = torch.sinh(tversky(m, 0.5, 0.5, self.smooth / 2) / 2)
        return torch.log1p(2 * half * half)
