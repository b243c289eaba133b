"""Losses that add up over the pixels: mixtures t f1(z) + (1 - t) f0(z), right for hard and for soft labels."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from seglab.contract import ContractError, PerImage, require
from seglab.losses.base import Card
from seglab.losses.sums import Pixels, SumLoss, Sums

ANY_MASK = "Nothing special: every pixel counts as it does anywhere else."


@dataclass(frozen=True, kw_only=True)
class PixelLoss(SumLoss):
    """The mean over the pixels of t f1(z) + (1 - t) f0(z)."""

    @abstractmethod
    def pixel(self, x: Pixels) -> Tensor:
        """The loss of each pixel."""

    def terms(self, x: Pixels) -> dict[Hashable, Tensor]:
        return {self: self.pixel(x)}

    def value(self, sums: Sums, n: int) -> PerImage:
        return sums[self].mean(1) / n


@dataclass(frozen=True, kw_only=True)
class BCE(PixelLoss):
    """Binary cross-entropy (log loss): the negative log-likelihood of each pixel's label."""

    card: ClassVar[Card] = Card(
        title="Binary cross-entropy",
        family="pixel",
        formula=r"\frac1N\sum\;-t\log p-(1-t)\log q",
        paper="Good 1952, Rational decisions (the logarithmic score)",
        empty=ANY_MASK,
        differs="Same as torch and smp; torch's BCELoss of a sigmoid loses the gradient from |z| = 17 on.",
        proper=True,
    )

    def pixel(self, x: Pixels) -> Tensor:
        return x.t * x.l1 + x.u * x.l0


@dataclass(frozen=True, kw_only=True)
class WeightedBCE(PixelLoss):
    """Cross-entropy with the foreground weighted: a missed foreground pixel costs `pos_weight` times a false alarm.

    `pos_weight="auto"` takes background over foreground of the training masks, so that both weigh the same in total.
    """

    pos_weight: float | Literal["auto"] = "auto"

    card: ClassVar[Card] = Card(
        title="Weighted cross-entropy",
        family="pixel",
        formula=r"\frac1N\sum\;-w\,t\log p-(1-t)\log q",
        paper="Sudre et al. 2017, Generalised Dice overlap as a deep learning loss function (eq. WCE)",
        empty=ANY_MASK,
        differs=(
            "torch and kornia call it pos_weight; torch's cross_entropy(weight) and MONAI's DiceCE with two "
            "channels divide by the sum of weights."
        ),
    )

    def __post_init__(self) -> None:
        ok = self.pos_weight == "auto" or (not isinstance(self.pos_weight, str) and self.pos_weight > 0)
        self.limit(ok, "pos_weight", "above 0 or 'auto'")

    def fitted(self, foreground: float) -> Self:
        if self.pos_weight != "auto":
            return self
        require(
            0 < foreground < 1, self.name, "training masks with foreground and background", f"a share of {foreground:g}"
        )
        return replace(self, pos_weight=(1 - foreground) / foreground)

    def pixel(self, x: Pixels) -> Tensor:
        if isinstance(self.pos_weight, str):
            raise ContractError(f"{self.name}: pos_weight is still {self.pos_weight!r}; set a number or call fitted()")
        return self.pos_weight * (x.t * x.l1) + x.u * x.l0


@dataclass(frozen=True, kw_only=True)
class Focal(PixelLoss):
    """Cross-entropy in which a pixel counts the less the better it is classified already.

    `gamma` is the exponent of that factor; `alpha` weights the foreground and 1 - alpha the background (null: neither).
    """

    gamma: float = 2.0
    alpha: float | None = None

    card: ClassVar[Card] = Card(
        title="Focal loss",
        family="pixel",
        formula=r"\frac1N\sum\;-\alpha\,t\,q^\gamma\log p-(1-\alpha)(1-t)\,p^\gamma\log q",
        paper="Lin et al. 2017, Focal Loss for Dense Object Detection",
        empty=ANY_MASK,
        differs=(
            "smp, MONAI and kornia agree on hard labels; each reads soft labels its own way, ours is the mixture "
            "of the two classes."
        ),
    )

    def __post_init__(self) -> None:
        self.limit(self.gamma >= 0, "gamma", "of at least 0")
        self.limit(self.alpha is None or 0 <= self.alpha <= 1, "alpha", "in [0, 1] or null")

    def pixel(self, x: Pixels) -> Tensor:
        foreground, background = (1.0, 1.0) if self.alpha is None else (self.alpha, 1 - self.alpha)
        missed = torch.exp(-self.gamma * x.l0) * x.l1
        alarmed = torch.exp(-self.gamma * x.l1) * x.l0
        return foreground * (x.t * missed) + background * (x.u * alarmed)
