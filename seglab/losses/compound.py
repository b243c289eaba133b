"""Sums of a cross-entropy and an overlap loss that were published under their own names, with their own parameters."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from seglab.contract import PerImage
from seglab.losses.base import BY_POLICY, MEAN_OVER_CLASSES, Card, ClassWeighted, Empty, Loss, one_of, within
from seglab.losses.composite import WeightedSum
from seglab.losses.cross_entropy import BCE, AsymmetricFocal, Focal, ForegroundWeighted, PixelLoss
from seglab.losses.labels import Label
from seglab.losses.numerics import Confusion, power, ratio
from seglab.losses.overlap import AsymmetricFocalTversky, Dice, RegionLoss
from seglab.losses.pixels import Pixels

BOTH = "Cross-entropy: the sum over all classes. Overlap: " + MEAN_OVER_CLASSES[0].lower() + MEAN_OVER_CLASSES[1:]
card_of_both = partial(Card, family="compound", empty=BY_POLICY, many=BOTH)


@dataclass(frozen=True, kw_only=True)
class Compound(WeightedSum, ClassWeighted):
    """A weighted sum of a pixel loss and an overlap loss, with the parameters of both."""

    classes: Literal["scored", "all"] = one_of("scored", "all")
    empty: Empty = one_of("complement", "formula", "skip")
    smooth: float = within("[0, inf)", 0.0)

    def overlap(self, kind: type[RegionLoss], **parameters: Any) -> RegionLoss:
        """Create an overlap loss with the parameters that all overlap losses share."""
        names = ("task", "class_weights", "classes", "empty", "smooth")
        return kind(**{name: getattr(self, name) for name in names}, **parameters)

    def pixel(self, kind: type[PixelLoss], **parameters: Any) -> PixelLoss:
        """Create a pixel loss with the parameters that all pixel losses share."""
        return kind(task=self.task, class_weights=self.class_weights, **parameters)


@dataclass(frozen=True, kw_only=True)
class BCEDice(Compound):
    """Cross-entropy plus Dice: each provides a gradient where the other has none.

    `bce_weight=1e-3` with `offset=-1` is 1e-3 BCE minus the Dice score, as used for ships in satellite images.
    """

    bce_weight: float = within("[0, inf)", 1.0)
    dice_weight: float = within("[0, inf)", 1.0)
    offset: float = within("(-inf, inf)", 0.0)

    card = card_of_both(
        title="BCE + Dice",
        formula=r"w_b\,\mathrm{BCE}+w_d\,\mathrm{Dice}+o",
        paper="Isensee et al. 2021, nnU-Net; Kaggle Airbus Ship Detection Challenge 2018 (1e-3 BCE - Dice)",
        differs="MONAI's DiceCE adds the same two; nnU-Net subtracts the Dice score, so that its minimum is -1.",
        signed=True,
    )

    def parts(self) -> tuple[tuple[float, Loss], ...]:
        return (self.bce_weight, self.pixel(BCE)), (self.dice_weight, self.overlap(Dice))

    def value(self, x: Pixels) -> PerImage:
        return super().value(x) + self.offset


@dataclass(frozen=True, kw_only=True)
class Combo(Compound):
    """Cross-entropy with separate weights for false negatives and false positives, plus Dice.

    `alpha` is the weight of the cross-entropy, in which foreground has the weight `beta` and background 1 - beta.
    """

    alpha: float = within("[0, 1]", 0.5)
    beta: float = within("(0, 1)", 0.5)

    card = card_of_both(
        title="Combo loss",
        formula=r"\alpha\,\frac1N\sum\big(-\beta t\log p-(1-\beta)(1-t)\log q\big)+(1-\alpha)\,\mathrm{Dice}",
        paper="Taghanaki et al. 2019, Combo loss: Handling input and output imbalance in multi-organ segmentation",
        differs="The paper subtracts the Dice score; this loss adds the Dice loss, so that the minimum is 0.",
    )

    def parts(self) -> tuple[tuple[float, Loss], ...]:
        ce = self.pixel(Focal, gamma=0.0, alpha=self.beta)  # cross-entropy with a weight for both classes
        return (self.alpha, ce), (1 - self.alpha, self.overlap(Dice))


@dataclass(frozen=True, kw_only=True)
class UnifiedFocal(Compound):
    """Asymmetric focal loss plus asymmetric focal Tversky loss, with three shared parameters.

    `weight` is the weight of the focal loss and `delta` that of the foreground. `gamma` down-weights easy background in
    the focal loss and increases small foreground losses in the focal Tversky loss.
    """

    weight: float = within("[0, 1]", 0.5)
    delta: float = within("(0, 1)", 0.6)
    gamma: float = within("[0, 1)", 0.5)

    card = card_of_both(
        title="Unified focal loss (asymmetric)",
        formula=r"\lambda\,\mathrm{AsymFocal}_{\delta,\gamma}+(1-\lambda)\,\mathrm{AsymFocalTversky}_{\delta,\gamma}",
        paper="Yeung et al. 2022, Unified Focal loss: Generalising Dice and cross entropy-based losses",
        differs="MONAI: delta .7, no sigmoid, no gradient from |z| = 16 on; the authors' code swaps the two weights.",
    )

    def parts(self) -> tuple[tuple[float, Loss], ...]:
        focal = self.pixel(AsymmetricFocal, alpha=self.delta, gamma=self.gamma)
        fp, fn = 1 - self.delta, self.delta
        tversky = self.overlap(AsymmetricFocalTversky, gamma=self.gamma, fp_weight=fp, fn_weight=fn)
        return (self.weight, focal), (1 - self.weight, tversky)


@dataclass(frozen=True, kw_only=True)
class PowerCE(ForegroundWeighted, PixelLoss):
    """Cross-entropy of each pixel, raised to a power."""

    exponent: float

    def cost(self, y: Label) -> Tensor:
        return power(y.nll, self.exponent)


@dataclass(frozen=True, kw_only=True)
class LogDice(RegionLoss):
    """Negative logarithm of the Dice coefficient, raised to a power."""

    exponent: float

    def overlap(self, m: Confusion) -> Tensor:
        return power(torch.log1p(ratio(m.fp + m.fn, 2 * m.tp + self.smooth)), self.exponent)  # 1 / Dice = 1 + ratio


@dataclass(frozen=True, kw_only=True)
class ExpLog(ForegroundWeighted, Compound):
    """Negative logs of Dice and of each pixel's probability, to a power; powers below 1 favor nearly correct pixels.

    `pos_weight="auto"` is the square root of background over foreground in the training masks, as in the paper.
    """

    smooth: float = within("(0, inf)", 1.0)  # the logarithm of a Dice of 0 is infinite
    dice_weight: float = within("[0, inf)", 0.8)
    ce_weight: float = within("[0, inf)", 0.2)
    exponent: float = within("(0, inf)", 0.3)

    rarity: ClassVar[float] = 0.5
    card = card_of_both(
        title="Exponential-logarithmic loss",
        formula=r"w_d(-\ln\mathrm{Dice})^\gamma+w_c\frac1N\sum\big(w\,t(-\ln p)^\gamma+(1-t)(-\ln q)^\gamma\big)",
        paper="Wong et al. 2018, 3D segmentation with exponential logarithmic loss for highly unbalanced object sizes",
        differs="SegLossOdyssey omits the power of the cross-entropy; PyMIC squashes p first.",
    )

    def parts(self) -> tuple[tuple[float, Loss], ...]:
        _, pos_weight = self.class_balance()  # raises ContractError while it is `auto`
        ce = self.pixel(PowerCE, exponent=self.exponent, pos_weight=pos_weight)
        return (self.ce_weight, ce), (self.dice_weight, self.overlap(LogDice, exponent=self.exponent))
