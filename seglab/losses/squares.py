"""Losses of overlap made of other sums than the plain confusion: of squares, powers and minima."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from seglab.contract import PerImage
from seglab.losses.base import Card
from seglab.losses.native import Moments
from seglab.losses.region import BY_POLICY, Confusion, Overlap, OverlapLoss, RegionLoss, ratio, tversky
from seglab.losses.sums import Part, SumLoss, Sums
from seglab.losses.tile import Pixels


@dataclass(frozen=True)
class Errors(Part):
    """The sums of (p - t)^2, pt, p and t, and of |p - t|^exponent unless that is the first."""

    exponent: float

    @property
    def count(self) -> int:  # type: ignore[override]
        return 4 if self.exponent == 2 else 5

    def terms(self, x: Pixels) -> tuple[Tensor, ...]:
        sums = x.d * x.d, x.p * x.t, x.p, x.t
        return sums if self.exponent == 2 else (*sums, x.d.abs() ** self.exponent)

    def of_moments(self) -> bool:
        return self.exponent == 2

    def from_moments(self, m: Moments) -> tuple[Tensor, ...]:
        return m.missed_square + m.alarmed_square, m.tp, m.tp + m.fp, m.foreground

    def slope(self, x: Pixels, kept: Tensor | None, weights: tuple[Tensor, ...]) -> Tensor:
        squared, tp, p, _, *powered = weights
        steep = 2 * squared * x.d + tp * x.t + p
        for weight in powered:
            steep += self.exponent * weight * x.d.sign() * x.d.abs() ** (self.exponent - 1)
        return x.through_p(steep)


@dataclass(frozen=True, kw_only=True)
class NoiseRobustDice(RegionLoss):
    """Dice loss with |p - t|^exponent as the error: from 2 (Dice of squares) down to 1 (robust to wrong labels)."""

    exponent: float = 1.5

    card: ClassVar[Card] = Card(
        title="Noise-robust Dice loss",
        family="region",
        formula=r"\frac{\sum|p-t|^\gamma}{\sum p^2+\sum t^2+s}",
        paper=(
            "Wang et al. 2020, A noise-robust framework for automatic segmentation of COVID-19 pneumonia lesions "
            "(COPLE-Net)"
        ),
        empty=BY_POLICY,
        differs="smp, MONAI and kornia have none. PyMIC divides by the sums of p and t instead of their squares.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.limit(1 <= self.exponent <= 2, "exponent", "in [1, 2]")

    def parts(self) -> tuple[Part, ...]:
        return (Errors(self.exponent),)

    def value(self, sums: Sums, n: int) -> PerImage:
        squared, tp, p, t, *powered = sums[Errors(self.exponent)]
        both = torch.where(t == 0, n - p, tp) if self.empty == "complement" else tp
        error = powered[0] if powered else squared
        return self.mean(ratio(error, squared + 2 * both + self.smooth), t == 0)


@dataclass(frozen=True, kw_only=True)
class SquaredDice(NoiseRobustDice):
    """Dice loss with squared probabilities, the original V-Net form; its minimum is at p = t for soft labels too."""

    exponent: float = field(default=2.0, init=False)

    card: ClassVar[Card] = Card(
        title="Squared Dice loss",
        family="region",
        formula=r"\frac{\sum(p-t)^2}{\sum p^2+\sum t^2+s}",
        paper=(
            "Milletari, Navab, Ahmadi 2016, V-Net: Fully Convolutional Neural Networks for Volumetric Medical "
            "Image Segmentation"
        ),
        empty=BY_POLICY,
        differs=(
            "MONAI's squared_pred. nnU-Net's square squares tp, fp and fn pixel by pixel, a different loss. smp "
            "and kornia have none."
        ),
        proper=True,
    )


@dataclass(frozen=True)
class Brier(Part):
    """The sums of t (p - t)^2, (1 - t)(p - t)^2 and t."""

    count: ClassVar[int] = 3

    def terms(self, x: Pixels) -> tuple[Tensor, ...]:
        squared = x.d * x.d
        return x.t * squared, x.u * squared, x.t

    def slope(self, x: Pixels, kept: Tensor | None, weights: tuple[Tensor, ...]) -> Tensor:
        return x.through_p(x.weigh(2 * weights[0], 2 * weights[1]).mul_(x.d))

    def from_moments(self, m: Moments) -> tuple[Tensor, ...]:
        return m.missed_square, m.alarmed_square, m.foreground


@dataclass(frozen=True, kw_only=True)
class SensitivitySpecificity(SumLoss):
    """The mean squared error on the foreground and on the background, weighed against each other."""

    sensitivity_weight: float = 0.05

    card: ClassVar[Card] = Card(
        title="Sensitivity-specificity loss",
        family="region",
        formula=r"\lambda\frac{\sum t(t-p)^2}{\sum t}+(1-\lambda)\frac{\sum(1-t)(t-p)^2}{\sum 1-t}",
        paper=(
            "Brosch et al. 2015, Deep convolutional encoder networks for multiple sclerosis lesion segmentation; "
            ".05 in Sudre et al. 2017"
        ),
        empty="The term of the absent class is 0, the other one is as ever.",
        differs=(
            "smp, MONAI and kornia have none. NiftyNet calls the foreground's term specificity, with the same "
            "arithmetic."
        ),
    )

    def __post_init__(self) -> None:
        self.limit(0 <= self.sensitivity_weight <= 1, "sensitivity_weight", "in [0, 1]")

    def parts(self) -> tuple[Part, ...]:
        return (Brier(),)

    def value(self, sums: Sums, n: int) -> PerImage:
        missed, alarmed, t = sums[Brier()]
        w = self.sensitivity_weight
        return (w * ratio(missed, t) + (1 - w) * ratio(alarmed, n - t)).mean(1)


@dataclass(frozen=True)
class Powered(Overlap):
    """A confusion in which each error is taken to a power, so that only confident ones count."""

    exponent: float = 2.0
    with_tn: bool = True

    keeps: ClassVar[bool] = False
    sums = Part.sums

    def terms(self, x: Pixels) -> tuple[Tensor, ...]:
        return x.p * x.t, (x.p * x.u) ** self.exponent, (x.q * x.t) ** self.exponent, x.q * x.u

    def slope(self, x: Pixels, kept: Tensor | None, weights: tuple[Tensor, ...]) -> Tensor:
        tp, fp, fn, tn = weights
        alarmed = fp * x.u * (x.p * x.u) ** (self.exponent - 1) - fn * x.t * (x.q * x.t) ** (self.exponent - 1)
        return x.through_p(self.exponent * alarmed + x.weigh(tp, -tn))


@dataclass(frozen=True)
class Semimetric(Overlap):
    """A confusion made of minima and excesses, right for soft labels: nothing is wrong where p = t."""

    with_tn: bool = True

    keeps: ClassVar[bool] = False
    sums = Part.sums

    def terms(self, x: Pixels) -> tuple[Tensor, ...]:
        return torch.minimum(x.p, x.t), x.d.clamp(min=0), (-x.d).clamp(min=0), torch.minimum(x.q, x.u)

    def slope(self, x: Pixels, kept: Tensor | None, weights: tuple[Tensor, ...]) -> Tensor:
        tp, fp, fn, tn = weights
        return x.through_p(torch.where(x.d > 0, fp - tn, torch.where(x.d < 0, tp - fn, 0)))


@dataclass(frozen=True, kw_only=True)
class DicePlusPlus(OverlapLoss):
    """Dice loss in which each error is taken to a power, so that unsure pixels cost little and are left unsure."""

    exponent: float = 2.0

    card: ClassVar[Card] = Card(
        title="Dice++ loss",
        family="region",
        formula=r"\frac{\sum((1-t)p)^\gamma+\sum(tq)^\gamma}{2\,tp+\sum((1-t)p)^\gamma+\sum(tq)^\gamma+s}",
        paper=(
            "Yeung et al. 2023, Calibrating the Dice loss to handle neural network overconfidence for biomedical "
            "image segmentation"
        ),
        empty=BY_POLICY,
        differs="smp, MONAI and kornia have none.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.limit(self.exponent >= 1, "exponent", "of at least 1")

    @property
    def part(self) -> Overlap:  # type: ignore[override]
        return Powered(exponent=self.exponent)

    def overlap(self, m: Confusion) -> Tensor:
        return tversky(m, 0.5, 0.5, self.smooth / 2)


@dataclass(frozen=True, kw_only=True)
class JML(OverlapLoss):
    """IoU loss made of minima instead of products, so that it is smallest at p = t for soft labels too."""

    fp_weight: float = 1.0
    fn_weight: float = 1.0

    part: ClassVar[Overlap] = Semimetric()
    card: ClassVar[Card] = Card(
        title="Jaccard metric loss",
        family="region",
        formula=r"\frac{a\sum(p-t)_++b\sum(t-p)_+}{\sum\min(p,t)+a\sum(p-t)_++b\sum(t-p)_++s}",
        paper=(
            "Wang et al. 2023, Jaccard Metric Losses: Optimizing the Jaccard Index with Soft Labels (a = b = 1/2:"
            " Dice semimetric loss)"
        ),
        empty=BY_POLICY,
        differs=(
            "MONAI's soft_label=True and smp always; both take the sums from norms, which cancel for small "
            "objects in large images. kornia has none."
        ),
        proper=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.limit(self.fp_weight > 0, "fp_weight", "above 0")
        self.limit(self.fn_weight > 0, "fn_weight", "above 0")

    def overlap(self, m: Confusion) -> Tensor:
        return tversky(m, self.fp_weight, self.fn_weight, self.smooth)
