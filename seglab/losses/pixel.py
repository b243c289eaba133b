"""Losses that add up over the pixels: mixtures t f1(z) + (1 - t) f0(z), right for hard and for soft labels."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self, TypeAlias

import torch
from torch import Tensor

from seglab.contract import PerImage, require
from seglab.losses.base import Card
from seglab.losses.native import Moments
from seglab.losses.sums import Part, SumLoss, Sums
from seglab.losses.tile import Pixels, Side

ANY_MASK = "Nothing special: every pixel counts as it does anywhere else."

Weight: TypeAlias = float | Literal["auto"]
"""A number, or `auto`: background over foreground of the training masks, so that both weigh the same in total."""


@dataclass(frozen=True, kw_only=True)
class PixelLoss(SumLoss, Part):
    """The mean over the pixels of t f1(z) + (1 - t) f0(z)."""

    keeps: ClassVar[bool] = True

    @abstractmethod
    def pixel(self, x: Pixels) -> Tensor:
        """The loss of each pixel."""

    def keep(self, x: Pixels, out: Tensor) -> Tensor:
        """Minus the derivative of `pixel` by z: automatic here."""
        with torch.enable_grad():
            z = x.z.detach().requires_grad_()
            slope = torch.autograd.grad(self.pixel(Pixels(z, x.t, x.maps)).sum(), z)[0]
        return torch.neg(slope, out=out)

    def slope(self, x: Pixels, kept: Tensor | None, weights: tuple[Tensor, ...]) -> Tensor:
        kept = self.keep(x, torch.empty_like(x.z)) if kept is None else kept
        return kept.mul_(-weights[0])

    def terms(self, x: Pixels) -> tuple[Tensor, ...]:
        return (self.pixel(x),)

    def parts(self) -> tuple[Part, ...]:
        return (self,)

    def value(self, sums: Sums, n: int) -> PerImage:
        return sums[self][0].mean(1) / n


@dataclass(frozen=True, kw_only=True)
class MarginLoss(PixelLoss):
    """A pixel loss that is one function f of the margin, with a weight for each class: w1 t f(z) + w0 (1 - t) f(-z)."""

    def weights(self, x: Pixels) -> tuple[float | Tensor, float | Tensor]:
        """Of the foreground and of the background: numbers, or one value per pixel."""
        return 1.0, 1.0

    @abstractmethod
    def of(self, side: Side) -> Tensor:
        """The loss of each pixel by its margin."""

    @abstractmethod
    def pull(self, side: Side, weight: Tensor, out: Tensor) -> Tensor:
        """`weight` times how fast the loss falls as the margin grows, written to `out`."""

    def pixel(self, x: Pixels) -> Tensor:
        w1, w0 = self.weights(x)
        if not x.hard:
            foreground, background = x.split(self.of)
            return times(w1, foreground) + times(w0, background)
        return times(w1 if w1 is w0 else x.choose(w1, w0), self.of(x.sides[0]))

    def total(self, x: Pixels) -> Tensor:
        """The loss of all pixels (b, c); where there are but two weights, hard ones are weighed after adding up."""
        w1, w0 = self.weights(x)
        if not x.hard or isinstance(w1, Tensor) or isinstance(w0, Tensor):
            return self.pixel(x).sum(-1)
        each = self.of(x.sides[0])
        if w1 == w0:
            return w1 * each.sum(-1)
        heavy = torch.mul(each, x.t if w1 > w0 else x.u, out=x.spare)
        return min(w1, w0) * each.sum(-1) + abs(w1 - w0) * heavy.sum(-1)

    def sums(self, x: Pixels) -> tuple[Tensor, ...]:
        return (self.total(x),)

    def keep(self, x: Pixels, out: Tensor) -> Tensor:
        w1, w0 = self.weights(x)
        if x.hard:
            weight = times(w1, x.sign) if w1 is w0 else x.choose(w1, -w0)
            return self.pull(x.sides[0], weight, out)
        foreground, background = x.sides
        down = self.pull(background, times(w0, x.u), torch.empty_like(out))
        return self.pull(foreground, times(w1, x.t), out).sub_(down)


def times(weight: float | Tensor, x: Tensor) -> Tensor:
    return x if isinstance(weight, float) and weight == 1 else weight * x


@dataclass(frozen=True, kw_only=True)
class BCE(MarginLoss):
    """Binary cross-entropy (log loss): the negative log-likelihood of each pixel's label."""

    card: ClassVar[Card] = Card(
        title="Binary cross-entropy",
        family="pixel",
        formula=r"\frac1N\sum\;-t\log p-(1-t)\log q",
        paper="Good 1952, Rational decisions (the logarithmic score)",
        empty=ANY_MASK,
        differs="Same as torch and smp. torch's BCELoss of a sigmoid has no gradient left at |z| = 100.",
        proper=True,
    )

    def pixel(self, x: Pixels) -> Tensor:
        if x.hard or not x.closed:
            return super().pixel(x)
        w1, w0 = self.weights(x)
        foreground, background = times(w1, x.t), times(w0, x.u)
        beyond = background * x.z.clamp(min=0) - foreground * x.z.clamp(max=0)
        return torch.addcmul(beyond, foreground + background, x.rest)

    def of(self, side: Side) -> Tensor:
        return side.cost

    def pull(self, side: Side, weight: Tensor, out: Tensor) -> Tensor:
        return side.pull(weight, out)

    def class_weights(self, x: Pixels) -> tuple[float, float] | None:
        """The weights, where the loss of each pixel need not be made to add up: two numbers, and hard labels seen."""
        w1, w0 = self.weights(x)
        if isinstance(w1, Tensor) or isinstance(w0, Tensor) or not (x.eager and x.hard):
            return None
        return w1, w0

    def total(self, x: Pixels) -> Tensor:
        weights = self.class_weights(x)
        return x.cost_sum(*weights) if weights else super().total(x)

    def keep(self, x: Pixels, out: Tensor) -> Tensor:
        weights = self.class_weights(x)
        return x.pull(*x.margins(*weights), out) if weights else super().keep(x, out)

    def from_moments(self, m: Moments) -> tuple[Tensor, ...]:
        return (m.missed + m.alarmed,)


@dataclass(frozen=True, kw_only=True)
class WeightedBCE(BCE):
    """Cross-entropy with the foreground weighted: a missed foreground pixel costs `pos_weight` times a false alarm.

    `pos_weight="auto"` takes background over foreground of the training masks, so that both weigh the same in total.
    """

    pos_weight: Weight = "auto"

    card: ClassVar[Card] = Card(
        title="Weighted cross-entropy",
        family="pixel",
        formula=r"\frac1N\sum\;-w\,t\log p-(1-t)\log q",
        paper="Sudre et al. 2017, Generalised Dice overlap as a deep learning loss function",
        empty=ANY_MASK,
        differs=(
            "pos_weight of torch, smp and kornia. MONAI's DiceCE(weight) is this for one channel, but divides by "
            "the sum of weights for two."
        ),
    )

    def __post_init__(self) -> None:
        self.limit(self.pos_weight == "auto" or is_positive(self.pos_weight), "pos_weight", "above 0 or auto")

    def fitted(self, foreground: float) -> Self:
        return replace(self, pos_weight=fit(self.pos_weight, foreground, self.name))

    def weights(self, x: Pixels) -> tuple[float, float]:
        return number(self.pos_weight, self.name), 1.0

    def from_moments(self, m: Moments) -> tuple[Tensor, ...]:
        return (number(self.pos_weight, self.name) * m.missed + m.alarmed,)


@dataclass(frozen=True, kw_only=True)
class ClassWeightedCE(BCE):
    """Cross-entropy as a weighted mean: each class has a weight, and each image is divided by its sum of weights."""

    foreground_weight: float = 2.0
    background_weight: float = 1.0

    count: ClassVar[int] = 2
    card: ClassVar[Card] = Card(
        title="Class-weighted cross-entropy",
        family="pixel",
        formula=r"\frac{\sum-w_1t\log p-w_0(1-t)\log q}{\sum w_1t+w_0(1-t)}",
        paper="Ronneberger, Fischer, Brox 2015, U-Net; weights 1:1, 1:2 and 1:3 as in studies of the optic fundus",
        empty=ANY_MASK,
        differs=(
            "torch's cross_entropy(weight) divides by the sum over the batch, ours over the image; smp and kornia"
            " have none."
        ),
        proper=False,
    )

    def __post_init__(self) -> None:
        self.limit(self.foreground_weight > 0, "foreground_weight", "above 0")
        self.limit(self.background_weight > 0, "background_weight", "above 0")

    def weights(self, x: Pixels) -> tuple[float, float]:
        return self.foreground_weight, self.background_weight

    def terms(self, x: Pixels) -> tuple[Tensor, ...]:
        return self.pixel(x), x.t

    def sums(self, x: Pixels) -> tuple[Tensor, ...]:
        return self.total(x), x.t.sum(-1)

    def from_moments(self, m: Moments) -> tuple[Tensor, ...]:
        return self.foreground_weight * m.missed + self.background_weight * m.alarmed, m.foreground

    def value(self, sums: Sums, n: int) -> PerImage:
        loss, foreground = sums[self]
        weight = self.foreground_weight * foreground + self.background_weight * (n - foreground)
        return (loss / weight).mean(1)


@dataclass(frozen=True, kw_only=True)
class BalancedCE(SumLoss, Part):
    """Cross-entropy in which foreground and background weigh the same in every image, whatever their sizes."""

    count: ClassVar[int] = 3
    card: ClassVar[Card] = Card(
        title="Balanced cross-entropy",
        family="pixel",
        formula=r"\tfrac12\Big(\frac{\sum-t\log p}{\sum t}+\frac{\sum-(1-t)\log q}{\sum 1-t}\Big)",
        paper="Xie and Tu 2015, Holistically-Nested Edge Detection",
        empty="The class that is there is scored alone.",
        differs=(
            "Divided by N, as published, it is 2f(1-f) times ours (f the foreground share): it fades with "
            "imbalance and is 0 on one class."
        ),
    )

    def terms(self, x: Pixels) -> tuple[Tensor, ...]:
        return *x.split(lambda side: side.cost), x.t

    def sums(self, x: Pixels) -> tuple[Tensor, ...]:
        return (x.cost_sum(1, 0), x.cost_sum(0, 1), x.t.sum(-1)) if x.eager and x.hard else super().sums(x)

    def from_moments(self, m: Moments) -> tuple[Tensor, ...]:
        return m.missed, m.alarmed, m.foreground

    def slope(self, x: Pixels, kept: Tensor | None, weights: tuple[Tensor, ...]) -> Tensor:
        missed, alarmed = x.split(lambda side: side.wrong)
        return alarmed.mul_(weights[1]).sub_(missed.mul_(weights[0]))

    def parts(self) -> tuple[Part, ...]:
        return (self,)

    def value(self, sums: Sums, n: int) -> PerImage:
        missed, alarmed, foreground = sums[self]
        background = n - foreground
        share = torch.where((foreground > 0) & (background > 0), 0.5, 1.0)
        each = missed / foreground.clamp(min=1) + alarmed / background.clamp(min=1)
        return (share * each).mean(1)


@dataclass(frozen=True, kw_only=True)
class LabelSmoothing(MarginLoss):
    """Cross-entropy against labels moved from 0 and 1 to `smoothing` and 1 - `smoothing`, against overconfidence."""

    smoothing: float = 0.1

    card: ClassVar[Card] = Card(
        title="Label smoothing",
        family="pixel",
        formula=r"\frac1N\sum\;-t'\log p-(1-t')\log q,\quad t'=t(1-s)+(1-t)s",
        paper="Szegedy et al. 2016, Rethinking the Inception Architecture for Computer Vision",
        empty=ANY_MASK,
        differs=(
            "smp's SoftBCE(smooth_factor) means the same; torch's cross_entropy(label_smoothing) moves labels "
            "half as far."
        ),
        zero=False,
    )

    def __post_init__(self) -> None:
        self.limit(0 <= self.smoothing < 0.5, "smoothing", "in [0, 0.5)")

    def of(self, side: Side) -> Tensor:
        return torch.add(side.cost, side.v, alpha=self.smoothing)

    def pull(self, side: Side, weight: Tensor, out: Tensor) -> Tensor:
        return torch.mul(side.wrong - self.smoothing, weight, out=out)


def is_positive(weight: Weight) -> bool:
    return not isinstance(weight, str) and weight > 0


def fit(weight: Weight, foreground: float, who: str) -> float:
    """The weight itself, or for `auto` background over foreground."""
    if not isinstance(weight, str):
        return weight
    require(
        0 < foreground < 1,
        who,
        "training masks with both classes",
        f"a foreground share of {foreground:g}",
    )
    return (1 - foreground) / foreground


def number(weight: Weight, who: str) -> float:
    """The weight once it is known."""
    require(weight != "auto", who, "a weight that is a number", "auto", "call fitted(foreground) first")
    return float(weight)
