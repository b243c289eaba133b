"""Losses made of losses: weighted sums that share one pass over the pixels."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from seglab.contract import PerImage
from seglab.losses.base import Card
from seglab.losses.classes import AsymmetricFocalTversky
from seglab.losses.focal import AsymmetricFocal, Focal
from seglab.losses.pixel import BCE, MarginLoss, Weight, fit, is_positive, number
from seglab.losses.region import BY_POLICY, TINY, Confusion, Dice, Empty, OverlapLoss, power, ratio
from seglab.losses.sums import Part, SumLoss, Sums
from seglab.losses.tile import Pixels, Side


@dataclass(frozen=True, kw_only=True)
class Pair(SumLoss):
    """A weighted sum of a pixel loss and an overlap loss, made of the parameters of both."""

    empty: Empty = "complement"
    smooth: float = 0.0

    @property
    @abstractmethod
    def pair(self) -> tuple[float, SumLoss, float, SumLoss]:
        """A weight and a pixel loss, a weight and an overlap loss."""

    def __post_init__(self) -> None:
        _ = self.pair

    def parts(self) -> tuple[Part, ...]:
        _, pixel, _, region = self.pair
        return pixel.parts() + region.parts()

    def value(self, sums: Sums, n: int) -> PerImage:
        a, pixel, b, region = self.pair
        return a * pixel.value(sums, n) + b * region.value(sums, n)


@dataclass(frozen=True, kw_only=True)
class BCEDice(Pair):
    """Cross-entropy plus Dice: the gradient of the one where the other has none.

    `bce_weight=1e-3` with `offset=-1` is 1e-3 BCE - Dice, as it was used on ships in satellite images.
    """

    bce_weight: float = 1.0
    dice_weight: float = 1.0
    offset: float = 0.0

    card: ClassVar[Card] = Card(
        title="BCE + Dice",
        family="compound",
        formula=r"w_b\,\mathrm{BCE}+w_d\,\mathrm{Dice}+o",
        paper="Isensee et al. 2021, nnU-Net; Kaggle Airbus Ship Detection Challenge 2018 (1e-3 BCE - Dice)",
        empty=BY_POLICY,
        differs=(
            "MONAI's DiceCE adds the same two; nnU-Net subtracts the Dice score, so that its best is -1. smp and "
            "kornia have none."
        ),
        signed=True,
    )

    def __post_init__(self) -> None:
        self.limit(self.bce_weight >= 0, "bce_weight", "of at least 0")
        self.limit(self.dice_weight >= 0, "dice_weight", "of at least 0")
        super().__post_init__()

    @property
    def pair(self) -> tuple[float, SumLoss, float, SumLoss]:
        return self.bce_weight, BCE(), self.dice_weight, Dice(empty=self.empty, smooth=self.smooth)

    def value(self, sums: Sums, n: int) -> PerImage:
        return super().value(sums, n) + self.offset


@dataclass(frozen=True, kw_only=True)
class Combo(Pair):
    """Cross-entropy with a dial between misses and false alarms, plus Dice.

    `alpha` is the share of the cross-entropy, `beta` the weight of the foreground in it, 1 - beta of the background.
    """

    alpha: float = 0.5
    beta: float = 0.5

    card: ClassVar[Card] = Card(
        title="Combo loss",
        family="compound",
        formula=r"\alpha\,\frac1N\sum\big(-\beta t\log p-(1-\beta)(1-t)\log q\big)+(1-\alpha)\,\mathrm{Dice}",
        paper="Taghanaki et al. 2019, Combo loss: Handling input and output imbalance in multi-organ segmentation",
        empty=BY_POLICY,
        differs=(
            "The paper subtracts the Dice score; ours adds the Dice loss, so that the best is 0. smp, MONAI and "
            "kornia have none."
        ),
    )

    def __post_init__(self) -> None:
        self.limit(0 <= self.alpha <= 1, "alpha", "in [0, 1]")
        self.limit(0 < self.beta < 1, "beta", "in (0, 1)")
        super().__post_init__()

    @property
    def pair(self) -> tuple[float, SumLoss, float, SumLoss]:
        ce = Focal(gamma=0.0, alpha=self.beta)
        return self.alpha, ce, 1 - self.alpha, Dice(empty=self.empty, smooth=self.smooth)


@dataclass(frozen=True, kw_only=True)
class UnifiedFocal(Pair):
    """Asymmetric focal loss and asymmetric focal Tversky loss under three shared dials.

    `weight` is the share of the focal loss, `delta` weighs the foreground, and `gamma` fades easy background in the one
    and sharpens the foreground in the other.
    """

    weight: float = 0.5
    delta: float = 0.6
    gamma: float = 0.5

    card: ClassVar[Card] = Card(
        title="Unified focal loss (asymmetric)",
        family="compound",
        formula=r"\lambda\,\mathrm{AsymFocal}_{\delta,\gamma}+(1-\lambda)\,\mathrm{AsymFocalTversky}_{\delta,\gamma}",
        paper="Yeung et al. 2022, Unified Focal loss: Generalising Dice and cross entropy-based losses",
        empty=BY_POLICY,
        differs=(
            "MONAI takes delta .7, applies no sigmoid and has no gradient from |z| = 16 on; the authors' code "
            "exchanges lambda and 1 - lambda."
        ),
    )

    def __post_init__(self) -> None:
        self.limit(0 <= self.weight <= 1, "weight", "in [0, 1]")
        self.limit(0 < self.delta < 1, "delta", "in (0, 1)")
        self.limit(0 <= self.gamma < 1, "gamma", "in [0, 1)")
        super().__post_init__()

    @property
    def pair(self) -> tuple[float, SumLoss, float, SumLoss]:
        focal = AsymmetricFocal(alpha=self.delta, gamma=self.gamma)
        tversky = AsymmetricFocalTversky(
            fp_weight=1 - self.delta, fn_weight=self.delta, gamma=self.gamma, empty=self.empty, smooth=self.smooth
        )
        return self.weight, focal, 1 - self.weight, tversky


@dataclass(frozen=True, kw_only=True)
class PowerCE(MarginLoss):
    """Cross-entropy of each pixel to a power."""

    exponent: float
    pos_weight: Weight

    def weights(self, x: Pixels) -> tuple[float, float]:
        return number(self.pos_weight, "ExpLog"), 1.0

    def of(self, side: Side) -> Tensor:
        return power(side.cost, self.exponent)

    def pull(self, side: Side, weight: Tensor, out: Tensor) -> Tensor:
        steep = self.exponent * side.cost.clamp(min=TINY) ** (self.exponent - 1)
        return torch.mul(steep.mul_(side.wrong), weight, out=out)


@dataclass(frozen=True, kw_only=True)
class LogDice(OverlapLoss):
    """Minus the logarithm of Dice, to a power."""

    exponent: float

    def overlap(self, m: Confusion) -> Tensor:
        return power(torch.log1p(ratio(m.fp + m.fn, 2 * m.tp + self.smooth)), self.exponent)


@dataclass(frozen=True, kw_only=True)
class ExpLog(Pair):
    """Logarithms of Dice and of each pixel's probability, both to a power under 1, which favours what is nearly right.

    `pos_weight="auto"` is the root of background over foreground of the training masks, as in the paper.
    """

    smooth: float = 1.0
    dice_weight: float = 0.8
    ce_weight: float = 0.2
    exponent: float = 0.3
    pos_weight: Weight = "auto"

    card: ClassVar[Card] = Card(
        title="Exponential-logarithmic loss",
        family="compound",
        formula=r"w_d(-\ln\mathrm{Dice})^\gamma+w_c\frac1N\sum\big(w\,t(-\ln p)^\gamma+(1-t)(-\ln q)^\gamma\big)",
        paper="Wong et al. 2018, 3D segmentation with exponential logarithmic loss for highly unbalanced object sizes",
        empty=BY_POLICY,
        differs=(
            "smp, MONAI and kornia have none. SegLossOdyssey leaves the power of the cross-entropy out; PyMIC "
            "squashes p first."
        ),
    )

    def __post_init__(self) -> None:
        self.limit(self.smooth > 0, "smooth", "above 0 (the logarithm of a Dice of 0 is infinite)")
        self.limit(self.dice_weight >= 0, "dice_weight", "of at least 0")
        self.limit(self.ce_weight >= 0, "ce_weight", "of at least 0")
        self.limit(self.exponent > 0, "exponent", "above 0")
        self.limit(self.pos_weight == "auto" or is_positive(self.pos_weight), "pos_weight", "above 0 or auto")
        super().__post_init__()

    def fitted(self, foreground: float) -> Self:
        if self.pos_weight != "auto":
            return self
        return replace(self, pos_weight=fit("auto", foreground, self.name) ** 0.5)

    @property
    def pair(self) -> tuple[float, SumLoss, float, SumLoss]:
        ce = PowerCE(exponent=self.exponent, pos_weight=self.pos_weight)
        return (
            self.ce_weight,
            ce,
            self.dice_weight,
            LogDice(exponent=self.exponent, empty=self.empty, smooth=self.smooth),
        )
