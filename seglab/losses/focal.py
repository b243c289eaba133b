"""Cross-entropies that listen to some pixels more than to others: the badly classified, the worst, those in gaps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from seglab.contract import Logits, PerImage, Target
from seglab.losses.base import Card, Loss
from seglab.losses.pixel import ANY_MASK, BCE, PixelLoss, Weight, fit, is_positive, number
from seglab.losses.sums import Pixels


def power(p: Tensor, cost: Tensor, exponent: float) -> Tensor:
    """p ** exponent where cost = -log p, finite in value and slope for any p and any exponent of at least 0."""
    simple = exponent in (1, 2, 3) or (exponent == 0.5 and not torch.is_grad_enabled())
    return p**exponent if simple else torch.exp(-exponent * cost)


def times(weight: float, x: Tensor) -> Tensor:
    return x if weight == 1 else weight * x


class Focused(NamedTuple):
    """One class's loss w ** exponent * cost, with cost = -log(1 - w), and the factor alone (none for exponent 0)."""

    loss: Tensor
    factor: Tensor | None

    def slope(self, right: Tensor, wrong: Tensor, exponent: float) -> Tensor:
        """The derivative of the loss by the logit of the wrong class."""
        if self.factor is None:
            return wrong
        return torch.addcmul(self.factor * wrong, right, self.loss, value=exponent)


def focused(cost: Tensor, wrong: Tensor, other: Tensor, exponent: float) -> Focused:
    """The focal loss of one class; `other` is -log(wrong)."""
    if exponent == 0:
        return Focused(cost, None)
    factor = power(wrong, other, exponent)
    return Focused(factor * cost, factor)


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
        paper="Lin, Goyal, Girshick, He, Dollár 2017, Focal Loss for Dense Object Detection",
        empty=ANY_MASK,
        differs=(
            "smp, MONAI and kornia agree on hard labels; all four read soft labels differently, ours is the "
            "mixture. alpha .25 in kornia, none in smp and MONAI."
        ),
    )

    def __post_init__(self) -> None:
        self.limit(self.gamma >= 0, "gamma", "of at least 0")
        self.limit(self.alpha is None or 0 <= self.alpha <= 1, "alpha", "in [0, 1] or null")

    @property
    def weights(self) -> tuple[float, float]:
        """Of the foreground and of the background."""
        return (1.0, 1.0) if self.alpha is None else (self.alpha, 1 - self.alpha)

    @property
    def exponents(self) -> tuple[float, float]:
        """Of the foreground and of the background."""
        return self.gamma, self.gamma

    def both(self, x: Pixels) -> tuple[Focused, Focused]:
        """What a pixel costs as foreground and as background, before the weights."""
        if self not in x.made:
            g1, g0 = self.exponents
            x.made[self] = focused(x.l1, x.q, x.l0, g1), focused(x.l0, x.p, x.l1, g0)
        return x.made[self]

    def pixel(self, x: Pixels) -> Tensor:
        (w1, w0), (missed, alarmed) = self.weights, self.both(x)
        return x.mix(times(w1, missed.loss), times(w0, alarmed.loss))

    def keep(self, x: Pixels, out: Tensor | None = None) -> Tensor:
        (w1, w0), (g1, g0), (missed, alarmed) = self.weights, self.exponents, self.both(x)
        return x.mix(-w1 * missed.slope(x.p, x.q, g1), times(w0, alarmed.slope(x.q, x.p, g0)), out=out)


@dataclass(frozen=True, kw_only=True)
class AsymmetricFocal(Focal):
    """Focal loss on the background alone: easy background fades, while foreground keeps its full cross-entropy."""

    alpha: float | None = 0.7

    card: ClassVar[Card] = Card(
        title="Asymmetric focal loss",
        family="pixel",
        formula=r"\frac1N\sum\;-\alpha\,t\log p-(1-\alpha)(1-t)\,p^\gamma\log q",
        paper="Yeung et al. 2022, Unified Focal loss (modified asymmetric focal loss)",
        empty=ANY_MASK,
        differs=(
            "alpha is the paper's delta. MONAI halves it, applies no sigmoid, and its clip at 1e-7 ends the "
            "gradient at |z| = 16."
        ),
    )

    @property
    def exponents(self) -> tuple[float, float]:
        return 0.0, self.gamma


@dataclass(frozen=True, kw_only=True)
class Poly1(PixelLoss):
    """Cross-entropy plus `epsilon` times the error: the first term of its polynomial series, weighted anew."""

    epsilon: float = 1.0

    card: ClassVar[Card] = Card(
        title="Poly-1 cross-entropy",
        family="pixel",
        formula=r"\frac1N\sum\;t(-\log p+\varepsilon q)+(1-t)(-\log q+\varepsilon p)",
        paper="Leng et al. 2022, PolyLoss: A Polynomial Expansion Perspective of Classification Loss Functions",
        empty=ANY_MASK,
        differs="smp, MONAI and kornia have none.",
    )

    def __post_init__(self) -> None:
        self.limit(self.epsilon >= -1, "epsilon", "of at least -1")

    def pixel(self, x: Pixels) -> Tensor:
        return x.mix(x.l1 + self.epsilon * x.q, x.l0 + self.epsilon * x.p)


@dataclass(frozen=True, kw_only=True)
class MapWeighted(BCE):
    """Cross-entropy with one weight per pixel, from the map called `weight`."""

    def pixel(self, x: Pixels) -> Tensor:
        return x.maps["weight"] * super().pixel(x)

    def keep(self, x: Pixels, out: Tensor | None = None) -> Tensor:
        return torch.mul(super().keep(x), x.maps["weight"], out=out)


@dataclass(frozen=True, kw_only=True)
class TopK(Loss):
    """Cross-entropy of the worst pixels only: the mean over the `fraction` of each image that costs most."""

    fraction: float = 0.1

    card: ClassVar[Card] = Card(
        title="Top-k cross-entropy (online hard example mining)",
        family="pixel",
        formula=r"\frac1k\sum_{\text{k worst}}-t\log p-(1-t)\log q,\quad k=\lceil fN\rceil",
        paper=(
            "Wu, Shen, van den Hengel 2016, Bridging Category-level and Instance-level Semantic Image "
            "Segmentation; Shrivastava et al. 2016"
        ),
        empty=ANY_MASK,
        differs=(
            "smp, MONAI and kornia have none. nnU-Net pools the batch and rounds k down, to 0 on small images; "
            "ours shares the last place among equals."
        ),
    )

    def __post_init__(self) -> None:
        self.limit(0 < self.fraction <= 1, "fraction", "in (0, 1]")

    def per_image(self, logits: Logits, target: Target, **maps: Tensor) -> PerImage:
        with torch.no_grad():
            cost = BCE().pixel(Pixels(logits.flatten(2), target.flatten(2), {}))
            weight = share_of_top(cost, ceil(self.fraction * cost.shape[-1]))
        return MapWeighted().per_image(logits, target, weight=weight)


def share_of_top(cost: Tensor, k: int) -> Tensor:
    """n/k for what is above the k-th largest of the last axis, equal shares of the places left for its equals."""
    n = cost.shape[-1]
    last = cost.kthvalue(n - k + 1, dim=-1, keepdim=True).values
    above, equal = cost > last, cost == last
    left = k - above.sum(-1, keepdim=True)
    return torch.where(above, 1, torch.where(equal, left / equal.sum(-1, keepdim=True), 0)).to(cost.dtype) * (n / k)


@dataclass(frozen=True, kw_only=True)
class WeightMap(PixelLoss):
    """Cross-entropy that insists on the narrow gaps between neighbouring objects, so that they are not grown together.

    Needs the map `gap` (d1 + d2, pixels): the distances to the nearest and the second nearest object added up.
    """

    border_weight: float = 10.0
    sigma: float = 5.0
    pos_weight: Weight = 1.0

    needs: ClassVar[tuple[str, ...]] = ("gap",)
    card: ClassVar[Card] = Card(
        title="U-Net weight map",
        family="pixel",
        formula=r"\frac1N\sum\big(w_c+w_0e^{-(d_1+d_2)^2/2\sigma^2}\big)\big(-t\log p-(1-t)\log q\big)",
        paper="Ronneberger, Fischer, Brox 2015, U-Net: Convolutional Networks for Biomedical Image Segmentation",
        empty=ANY_MASK,
        differs="smp, MONAI and kornia have none. w_c is pos_weight on the foreground and 1 elsewhere.",
    )

    def __post_init__(self) -> None:
        self.limit(self.border_weight >= 0, "border_weight", "of at least 0")
        self.limit(self.sigma > 0, "sigma", "above 0")
        self.limit(self.pos_weight == "auto" or is_positive(self.pos_weight), "pos_weight", "above 0 or auto")

    def fitted(self, foreground: float) -> Self:
        return replace(self, pos_weight=fit(self.pos_weight, foreground, self.name))

    def border(self, x: Pixels) -> Tensor:
        """What the map adds to the weight of each pixel."""
        return self.border_weight * torch.exp(-0.5 * (x.maps["gap"].to(x.z.dtype) / self.sigma) ** 2)

    def pixel(self, x: Pixels) -> Tensor:
        border = self.border(x)
        return x.mix((number(self.pos_weight, self.name) + border) * x.l1, (1 + border) * x.l0)

    def keep(self, x: Pixels, out: Tensor | None = None) -> Tensor:
        border = self.border(x)
        return x.mix(-(number(self.pos_weight, self.name) + border) * x.q, (1 + border) * x.p, out=out)
