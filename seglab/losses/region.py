"""Losses of overlap: functions of how much probability falls on the foreground and how much beside it, per image."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from seglab.contract import PerImage
from seglab.losses.base import Card
from seglab.losses.sums import Pixels, SumLoss, Sums

Empty: TypeAlias = Literal["complement", "formula", "skip"]
"""On a mask without foreground: score the background, take the smoothing literally, or leave the image out."""

BY_POLICY = (
    "By policy: the background is scored (complement), the smoothing taken literally (formula), or the image left"
    " out (skip)."
)
TINY = 1e-30


class Confusion(NamedTuple):
    """The soft confusion of each image and channel (b, c): probability on and beside the foreground, in pixels."""

    tp: Tensor
    fp: Tensor
    fn: Tensor
    tn: Tensor

    @classmethod
    def of(cls, sums: Sums) -> Confusion:
        return cls(sums["tp"], sums["fp"], sums["fn"], sums["tn"])

    @property
    def empty(self) -> Tensor:
        """Where the mask has no foreground."""
        return self.tp + self.fn == 0

    def complemented(self) -> Confusion:
        """The same with the roles of foreground and background exchanged where the mask has no foreground."""
        swapped = zip(self, reversed(self), strict=True)
        return Confusion(*(torch.where(self.empty, theirs, ours) for ours, theirs in swapped))


def confusion(x: Pixels) -> dict[Hashable, Tensor]:
    """The terms that add up to a `Confusion`."""
    return {"tp": x.p * x.t, "fp": x.p * x.u, "fn": x.q * x.t, "tn": x.q * x.u}


def ratio(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole with 0/0 = 0, finite in value and gradient however small the whole is."""
    return part / whole.clamp(min=TINY)


def tversky(m: Confusion, fp_weight: float, fn_weight: float, smooth: float = 0.0) -> Tensor:
    """1 - Tversky index as error over total: exact for one pixel in 4096x4096, where 1 - index is rounding noise."""
    error = fp_weight * m.fp + fn_weight * m.fn
    return ratio(error, m.tp + error + smooth)


@dataclass(frozen=True, kw_only=True)
class RegionLoss(SumLoss):
    """A function of the soft confusion of each image.

    `empty` names what happens on a mask without foreground: "complement" scores the background instead, "formula" takes
    the smoothing literally, "skip" takes the image out of the batch mean (it reads 0, and the rest weighs more).
    `smooth` (pixels) is added to numerator and denominator of the score.
    """

    empty: Empty = "complement"
    smooth: float = 0.0

    def __post_init__(self) -> None:
        self.limit(self.empty in ("complement", "formula", "skip"), "empty", "one of complement, formula, skip")
        self.limit(self.smooth >= 0, "smooth", "of at least 0")

    def terms(self, x: Pixels) -> dict[Hashable, Tensor]:
        return confusion(x)

    def value(self, sums: Sums, n: int) -> PerImage:
        m = Confusion.of(sums)
        loss = self.overlap(m.complemented() if self.empty == "complement" else m)
        if self.empty == "skip":
            kept = ~m.empty
            loss = torch.where(kept, loss, 0) * (kept.numel() / kept.sum().clamp(min=1))
        return loss.mean(1)

    @abstractmethod
    def overlap(self, m: Confusion) -> Tensor:
        """The loss (b, c) of each image and channel from its confusion."""


@dataclass(frozen=True, kw_only=True)
class Dice(RegionLoss):
    """One minus the Dice coefficient (F1) of each image, with probabilities in place of decisions."""

    card: ClassVar[Card] = Card(
        title="Dice loss",
        family="region",
        formula=r"\frac{fp+fn}{2\,tp+fp+fn+s}",
        paper="Milletari, Navab, Ahmadi 2016, V-Net; in this linear form Drozdzal et al. 2016 and Sudre et al. 2017",
        empty=BY_POLICY,
        differs=(
            "smp pools the batch, counts s twice and gives an empty batch loss 0; MONAI and kornia score an empty"
            " mask 1 with a vanishing gradient."
        ),
    )

    def overlap(self, m: Confusion) -> Tensor:
        return tversky(m, 0.5, 0.5, self.smooth / 2)


@dataclass(frozen=True, kw_only=True)
class IoU(RegionLoss):
    """One minus the intersection over union (Jaccard index) of each image, with probabilities in place of decisions."""

    card: ClassVar[Card] = Card(
        title="IoU (Jaccard) loss",
        family="region",
        formula=r"\frac{fp+fn}{tp+fp+fn+s}",
        paper="Rahman and Wang 2016, Optimizing Intersection-over-Union in Deep Neural Networks for Image Segmentation",
        empty=BY_POLICY,
        differs=(
            "smp pools the batch; MONAI's jaccard halves the smoothing; the Keras original decides about the "
            "complement for the whole batch."
        ),
    )

    def overlap(self, m: Confusion) -> Tensor:
        return tversky(m, 1.0, 1.0, self.smooth)


@dataclass(frozen=True, kw_only=True)
class Tversky(RegionLoss):
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
            "alpha weights fp in smp, MONAI and kornia (default .5, .5, none), fn in Abraham and Khan; smp pools "
            "the batch."
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.limit(self.fp_weight > 0, "fp_weight", "above 0")
        self.limit(self.fn_weight > 0, "fn_weight", "above 0")

    def overlap(self, m: Confusion) -> Tensor:
        return tversky(m, self.fp_weight, self.fn_weight, self.smooth)
