"""Cross-entropies that listen to some pixels more than to others: the badly classified, the worst, those in gaps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import ClassVar, Self

import torch
from torch import Tensor

from seglab.contract import Logits, PerImage, Target
from seglab.losses.base import Card, Loss
from seglab.losses.native import Focus, Moments
from seglab.losses.pixel import ANY_MASK, BCE, MarginLoss, Weight, fit, is_positive, number
from seglab.losses.tile import Pixels, Side


@dataclass(frozen=True, kw_only=True)
class Focal(MarginLoss):
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
    def balance(self) -> tuple[float, float]:
        """The weights of foreground and background."""
        return (1.0, 1.0) if self.alpha is None else (self.alpha, 1 - self.alpha)

    def weights(self, x: Pixels) -> tuple[float, float]:
        return self.balance

    def focus(self) -> Focus | None:
        foreground, background = self.balance
        return Focus(foreground, self.gamma, background, self.gamma) if self.gamma else None

    def from_moments(self, m: Moments) -> tuple[Tensor, ...]:
        foreground, background = self.balance
        return (m.focal if self.gamma else foreground * m.missed + background * m.alarmed,)

    def factor(self, side: Side) -> Tensor:
        """(1 - p) ** gamma with p the probability of the right class, finite in value and slope for any gamma."""
        if self not in side.made:
            side.made[self] = self.faded(side, side.pixels.new())
        return side.made[self]

    def faded(self, side: Side, out: Tensor | None) -> Tensor:
        if self.gamma in (1, 2, 3) or (self.gamma == 0.5 and side.pixels.closed):
            return torch.pow(side.wrong, self.gamma, out=out)
        return torch.add(side.cost, side.v, out=out).mul_(-self.gamma).exp_()

    def fading(self, x: Tensor, side: Side) -> Tensor:
        """x where the factor applies, else 0."""
        return x

    def of(self, side: Side) -> Tensor:
        if self.gamma == 0:
            return side.cost
        return torch.mul(side.cost, self.factor(side), out=side.pixels.new())

    def pull(self, side: Side, weight: Tensor, out: Tensor) -> Tensor:
        if self.gamma == 0:
            return side.pull(weight, out)
        steep = self.fading(torch.addcmul(side.cost, side.cost, side.wrong, value=-1, out=side.pixels.spare), side)
        steep = torch.add(side.wrong, steep, alpha=self.gamma, out=side.pixels.spare)
        return torch.mul(steep.mul_(self.factor(side)), weight, out=out)


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

    def focus(self) -> Focus | None:
        focus = super().focus()
        return focus and focus._replace(foreground_gamma=0.0)

    def from_moments(self, m: Moments) -> tuple[Tensor, ...]:
        return super().from_moments(m)  # said by each class for itself, see `of_moments`

    def of(self, side: Side) -> Tensor:
        return side.cost if side.whole else super().of(side)

    def pull(self, side: Side, weight: Tensor, out: Tensor) -> Tensor:
        return side.pull(weight, out) if side.whole else super().pull(side, weight, out)

    def faded(self, side: Side, out: Tensor | None) -> Tensor:
        return torch.clamp(super().faded(side, side.pixels.spare), min=side.foreground, out=out)

    def fading(self, x: Tensor, side: Side) -> Tensor:
        if not isinstance(side.foreground, Tensor):
            return x
        return torch.addcmul(x, x, side.foreground, value=-1, out=side.pixels.spare)


@dataclass(frozen=True, kw_only=True)
class Poly1(MarginLoss):
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

    def of(self, side: Side) -> Tensor:
        return torch.add(side.cost, side.wrong, alpha=self.epsilon)

    def pull(self, side: Side, weight: Tensor, out: Tensor) -> Tensor:
        return torch.mul((1 + self.epsilon - self.epsilon * side.wrong).mul_(side.wrong), weight, out=out)

    def from_moments(self, m: Moments) -> tuple[Tensor, ...]:
        return (m.missed + m.alarmed + self.epsilon * (m.fn + m.fp),)


@dataclass(frozen=True, kw_only=True)
class MapWeighted(BCE):
    """Cross-entropy with one weight per pixel, from the map called `weight`."""

    def weights(self, x: Pixels) -> tuple[Tensor, Tensor]:
        return x.maps["weight"], x.maps["weight"]


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
class WeightMap(BCE):
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

    def weights(self, x: Pixels) -> tuple[Tensor, Tensor]:
        if self not in x.made:
            border = self.border_weight * torch.exp(-0.5 * (x.maps["gap"].to(x.z.dtype) / self.sigma) ** 2)
            x.made[self] = number(self.pos_weight, self.name) + border, 1 + border
        return x.made[self]
