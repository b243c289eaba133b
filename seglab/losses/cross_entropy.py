"""Pixel losses: means over pixels of the sum over classes of t f(log p), valid for hard and soft labels."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from typing import Any, ClassVar, Literal, Self, TypeAlias

import torch
from torch import Tensor

from seglab.contract import PerImage, require
from seglab.losses.base import SUM_OVER_CLASSES, ClassWeighted, limited, pixel_card, weights_hold, within
from seglab.losses.labels import Label
from seglab.losses.numerics import TINY, constants, ratio, spread
from seglab.losses.pixels import Pixels

Weight: TypeAlias = float | tuple[float, ...] | Literal["auto"]
"""Foreground weight relative to a background of 1: one for all foreground classes, or one per class in order. `auto` is
background pixels over those of the class in the training masks, so that both have the same total weight."""


def listed(weight: Any) -> list[float]:
    """Return one number or several as a list."""
    return list(weight) if isinstance(weight, list | tuple) else [weight]


weight_of = partial(limited, expected="to be above 0, or auto", holds=lambda w: w is not None and weights_hold(w, TINY))


@dataclass(frozen=True, kw_only=True)
class PixelLoss(ClassWeighted):
    """The mean over pixels of the sum over classes of t f(log p).

    `class_weights` weight the classes of each pixel in a multiclass task, and the channels in a multilabel mean.
    """

    @abstractmethod
    def cost(self, y: Label) -> Tensor:
        """Compute f for pixels with the label y."""

    @property
    def by_totals(self) -> bool:
        return type(self).costs is PixelLoss.costs and type(self).balance is PixelLoss.balance  # others mix pixels

    def class_balance(self) -> tuple[float, Any]:
        """Return the weights of the background and of the foreground."""
        return 1.0, 1.0

    def balance(self, x: Pixels) -> Tensor | None:
        """Return the weights of all classes, see `Pixels.costs`, or None if all are 1."""
        classes = self.weights(x) if x.task == "multiclass" else None
        if classes is None and self.class_balance() == (1.0, 1.0):
            return None
        background, foreground = self.class_balance()
        weights = x.balance(background, spread(foreground, x.z.shape[1] - x.background, self.name))
        return weights if classes is None else weights * classes

    def costs(self, x: Pixels) -> Tensor:
        """Compute the cost of each pixel (b, decisions, n); the loss is the mean over the valid pixels."""
        return x.costs(self.cost, self.balance(x))

    def each_decision(self, x: Pixels) -> Tensor:
        return x.total(self.costs(x)) / x.n.clamp(min=1)

    def value(self, x: Pixels) -> PerImage:
        loss, weights = self.each_decision(x), None if x.task == "multiclass" else self.weights(x)
        return loss.mean(1) if weights is None else ratio((weights * loss).sum(1), weights.sum())

    def by_class(self, x: Pixels) -> Tensor:
        return super().by_class(x) if x.task == "multiclass" else self.each_decision(x)


@dataclass(frozen=True, kw_only=True)
class ForegroundWeighted(ClassWeighted):
    """A loss with a foreground weight, or one weight per foreground class, see `Weight`."""

    pos_weight: Weight = weight_of("auto")

    rarity: ClassVar[float] = 1.0  # `auto` is (background / class) to this power

    def with_class_frequency(self, frequency: Sequence[float]) -> Self:
        loss = super().with_class_frequency(frequency)
        if self.pos_weight != "auto":
            return loss
        mixed, got = all(0 < f < 1 for f in frequency), f"class frequencies of {tuple(frequency)}"
        require(mixed, self.name, "training masks with pixels inside and outside every class", got, "set pos_weight")
        background = [1 - f for f in frequency] if self.task != "multiclass" else [frequency[0]] * (len(frequency) - 1)
        classes = frequency[-len(background) :]
        weights = tuple(float(b / f) ** self.rarity for b, f in zip(background, classes, strict=True))
        return replace(loss, pos_weight=weights[0] if self.task == "binary" else weights)

    def class_balance(self) -> tuple[float, Any]:
        remedy = "call with_class_frequency(frequency) first"
        require(self.pos_weight != "auto", self.name, "a numeric pos_weight", "auto", remedy)
        return 1.0, self.pos_weight


@dataclass(frozen=True, kw_only=True)
class BCE(PixelLoss):
    """Cross-entropy (log loss): the negative log-likelihood of each pixel's label."""

    card = pixel_card(
        title="Cross-entropy",
        formula=r"\frac1N\sum\;-t\log p-(1-t)\log q",
        paper="Good 1952, Rational decisions (the logarithmic score)",
        differs="Same as torch and smp. torch's BCELoss of a sigmoid has no gradient left at |z| = 100.",
        proper=True,
    )

    def cost(self, y: Label) -> Tensor:
        return y.nll


@dataclass(frozen=True, kw_only=True)
class WeightedBCE(ForegroundWeighted, BCE):
    """Cross-entropy with a foreground weight: a false negative costs `pos_weight` times as much as a false positive.

    `pos_weight="auto"` is background over foreground in the training masks: both then have the same total weight.
    """

    card = pixel_card(
        title="Weighted cross-entropy",
        formula=r"\frac1N\sum\;-w\,t\log p-(1-t)\log q",
        paper="Sudre et al. 2017, Generalised Dice overlap as a deep learning loss function",
        differs="As pos_weight of torch, smp, kornia; MONAI's DiceCE(weight) for two channels divides by the weights.",
        many=SUM_OVER_CLASSES + " `auto` weights each class by background pixels over its own.",
    )


@dataclass(frozen=True, kw_only=True)
class ClassWeightedCE(BCE):
    """Cross-entropy as a weighted mean: divided by the sum of the pixel weights of the image, not by the pixel count.

    In a multiclass task the weight of a foreground class is `foreground_weight` times its class weight.
    """

    foreground_weight: float = within("(0, inf)", 2.0)
    background_weight: float = within("(0, inf)", 1.0)

    card = pixel_card(
        title="Class-weighted cross-entropy",
        formula=r"\frac{\sum-w_1t\log p-w_0(1-t)\log q}{\sum w_1t+w_0(1-t)}",
        paper="Ronneberger, Fischer, Brox 2015, U-Net; weights 1:1, 1:2 and 1:3 as in studies of the optic fundus",
        differs="torch's cross_entropy(weight) divides by the sum over the batch, not over each image.",
    )

    def class_balance(self) -> tuple[float, Any]:
        return self.background_weight, self.foreground_weight

    def balance(self, x: Pixels) -> Tensor:
        w = super().balance(x)
        w = x.balance(1.0, 1.0) if w is None else w
        return (w * ratio(x.n.unsqueeze(-1), (w * x.sizes).sum(-1, keepdim=True))).to(w.dtype)


@dataclass(frozen=True, kw_only=True)
class BalancedCE(BCE):
    """Cross-entropy in which all classes present in an image have the same total weight, whatever their sizes."""

    card = pixel_card(
        title="Balanced cross-entropy",
        formula=r"\tfrac12\Big(\frac{\sum-t\log p}{\sum t}+\frac{\sum-(1-t)\log q}{\sum 1-t}\Big)",
        paper="Xie and Tu 2015, Holistically-Nested Edge Detection",
        empty="Only the class that is present is scored.",
        differs="As published, over N, it is 2f(1-f) times this (f: foreground fraction) and vanishes with imbalance.",
        many="The mean over the classes present, including the background, of the mean cross-entropy of each class.",
    )

    def balance(self, x: Pixels) -> Tensor:
        w = super().balance(x)
        present = (x.sizes > 0) * (torch.ones_like(x.sizes) if w is None else w)
        share = ratio(present, present.sum(-1, keepdim=True))
        return ratio(share * x.n.unsqueeze(-1), x.sizes).to(x.z.dtype)  # times n, as the mean divides by n


@dataclass(frozen=True, kw_only=True)
class LabelSmoothing(PixelLoss):
    """Cross-entropy with labels of 1 - `smoothing` and the rest shared by the other classes, against overconfidence."""

    smoothing: float = within("[0, 0.5)", 0.1)

    card = pixel_card(
        title="Label smoothing",
        formula=r"\frac1N\sum\;-t'\log p-(1-t')\log q,\quad t'=t(1-s)+(1-t)s",
        paper="Szegedy et al. 2016, Rethinking the Inception Architecture for Computer Vision",
        differs="As smp's SoftBCE; smp's SoftCrossEntropy and torch move labels by s (k - 1) / k only, for k classes.",
        zero=False,
    )

    def cost(self, y: Label) -> Tensor:
        return (1 - self.smoothing) * y.nll + self.smoothing * y.nll_others


@dataclass(frozen=True, kw_only=True)
class Focal(PixelLoss):
    """Cross-entropy in which a pixel counts less the better it is already classified.

    `gamma` is the exponent of that factor. `alpha` weights the foreground and 1 - alpha the background (null: neither).
    """

    gamma: float = within("[0, inf)", 2.0)
    alpha: float | None = within("[0, 1]", None, null=True)

    card = pixel_card(
        title="Focal loss",
        formula=r"\frac1N\sum\;-\alpha\,t\,q^\gamma\log p-(1-\alpha)(1-t)\,p^\gamma\log q",
        paper="Lin, Goyal, Girshick, He, Dollár 2017, Focal Loss for Dense Object Detection",
        differs="MONAI, kornia and binary smp agree on hard labels, not on soft ones; multiclass smp uses sigmoids.",
        many=SUM_OVER_CLASSES + " alpha weights all classes but the background, as in MONAI and kornia.",
    )

    def class_balance(self) -> tuple[float, Any]:
        return (1.0, 1.0) if self.alpha is None else (1 - self.alpha, self.alpha)

    def cost(self, y: Label) -> Tensor:
        return y.nll if self.gamma == 0 else y.q_to(self.gamma) * y.nll


@dataclass(frozen=True, kw_only=True)
class AsymmetricFocal(Focal):
    """Focal loss on the background only: easy background counts less, but foreground keeps its full cross-entropy."""

    alpha: float | None = within("[0, 1]", 0.7, null=True)

    card = pixel_card(
        title="Asymmetric focal loss",
        formula=r"\frac1N\sum\;-\alpha\,t\log p-(1-\alpha)(1-t)\,p^\gamma\log q",
        paper="Yeung et al. 2022, Unified Focal loss (modified asymmetric focal loss)",
        differs="alpha is the paper's delta. MONAI halves it, applies no sigmoid, and clips the gradient at |z| = 16.",
        many=SUM_OVER_CLASSES + " All classes but the background keep their full cross-entropy.",
    )

    def cost(self, y: Label) -> Tensor:
        factor = y.q_to(self.gamma)
        return torch.lerp(factor, torch.ones_like(factor[:1, :1, :1]), y.foreground()) * y.nll


@dataclass(frozen=True, kw_only=True)
class Poly1(PixelLoss):
    """Cross-entropy plus `epsilon` times the error 1 - p, which is the first term of its polynomial expansion."""

    epsilon: float = within("[-1, inf)", 1.0)

    card = pixel_card(
        title="Poly-1 cross-entropy",
        formula=r"\frac1N\sum\;t(-\log p+\varepsilon q)+(1-t)(-\log q+\varepsilon p)",
        paper="Leng et al. 2022, PolyLoss: A Polynomial Expansion Perspective of Classification Loss Functions",
    )

    def cost(self, y: Label) -> Tensor:
        return y.nll + self.epsilon * y.q


@dataclass(frozen=True, kw_only=True)
class TopK(BCE):
    """Cross-entropy of the worst pixels only: the mean over the `fraction` of each image with the highest cost."""

    fraction: float = within("(0, 1]", 0.1)

    card = pixel_card(
        title="Top-k cross-entropy (online hard example mining)",
        formula=r"\frac1k\sum_{\text{k worst}}-t\log p-(1-t)\log q,\quad k=\lceil fN\rceil",
        paper="Wu, Shen, van den Hengel 2016, Bridging Category-level and Instance-level Semantic Image Segmentation",
        differs="nnU-Net pools the batch and rounds k down, to 0 on small images; here ties share the last places.",
    )

    def costs(self, x: Pixels) -> Tensor:
        costs = super().costs(x)
        return costs * self.share_of_top(costs.detach(), x)  # the selection has no gradient

    def share_of_top(self, cost: Tensor, x: Pixels) -> Tensor:
        """Return n/k for costs above the k-th largest; costs equal to it share the remaining places equally."""
        k = (self.fraction * x.n - 1e-6).ceil().clamp(min=1).unsqueeze(-1)  # in floats .07 * 100 is above 7
        worst = cost.topk(ceil(self.fraction * cost.shape[-1])).values  # k is smaller if pixels are invalid
        smallest = worst.gather(-1, (k.long() - 1).expand(-1, cost.shape[1], -1))
        above, equal = cost > smallest, cost == smallest
        tie_share = (k - above.sum(-1, keepdim=True)) / equal.sum(-1, keepdim=True)
        return (torch.where(above, 1, torch.where(equal, tie_share, 0)) * x.n.unsqueeze(-1) / k).to(cost.dtype)


@dataclass(frozen=True, kw_only=True)
class WeightMap(ForegroundWeighted, BCE):
    """Cross-entropy with higher weights in narrow gaps between neighboring objects, so that objects are not merged.

    Needs the map `gap`: the sum d1 + d2 of the distances to the nearest and the second nearest object, in pixels.
    """

    border_weight: float = within("[0, inf)", 10.0)
    sigma: float = within("(0, inf)", 5.0)
    pos_weight: Weight = weight_of(1.0)

    needs: ClassVar[tuple[str, ...]] = ("gap",)
    card = pixel_card(
        title="U-Net weight map",
        formula=r"\frac1N\sum\big(w_c+w_0e^{-(d_1+d_2)^2/2\sigma^2}\big)\big(-t\log p-(1-t)\log q\big)",
        paper="Ronneberger, Fischer, Brox 2015, U-Net: Convolutional Networks for Biomedical Image Segmentation",
        differs="smp, MONAI and kornia have none. w_c is pos_weight on the foreground and 1 elsewhere.",
        many=SUM_OVER_CLASSES + " A pixel's gap is the narrowest between two objects of one foreground class.",
    )

    def costs(self, x: Pixels) -> Tensor:
        gap = x.maps["gap"][:, 1:].amin(1, keepdim=True) if x.task == "multiclass" else x.maps["gap"]
        border = self.border_weight * torch.exp(-0.5 * (gap / self.sigma) ** 2)
        return super().costs(x) + border * x.costs(self.cost)  # as in the paper, w_c does not weight the border


@dataclass(frozen=True, kw_only=True)
class LogitAdjusted(BCE):
    """Cross-entropy of logits to which `strength` times the logarithm of the class frequency has been added.

    `prior` is the frequency of the foreground, or of each foreground class; `auto` takes it from the training masks.
    The network's own logits then leave out the frequency, so it finds more of rare classes at the same threshold.
    """

    strength: float = within("[0, inf)", 1.0)
    prior: Weight = weight_of("auto")

    card = pixel_card(
        title="Logit-adjusted cross-entropy",
        formula=r"\mathrm{CE}(z+\tau\log\pi)",
        paper="Menon et al. 2021, Long-tail learning via logit adjustment",
        differs="smp, MONAI and kornia have none. With one class the shift is constant: BCE at another threshold.",
        many=SUM_OVER_CLASSES + " The background has the remaining frequency.",
    )

    def with_class_frequency(self, frequency: Sequence[float]) -> Self:
        loss = super().with_class_frequency(frequency)
        classes = tuple(frequency[1:] if self.task == "multiclass" else frequency)
        return replace(loss, prior=classes) if self.prior == "auto" else loss

    def costs(self, x: Pixels) -> Tensor:
        remedy = "call with_class_frequency(frequency) first"
        require(self.prior != "auto", self.name, "a numeric prior", "auto", remedy)
        shares = spread(self.prior, x.z.shape[1] - x.background, self.name)  # type: ignore[arg-type]
        rest = 1 - (sum(shares) if x.task == "multiclass" else max(shares))
        require(rest > 0, self.name, "a prior that leaves a frequency above 0 for the background", self.prior)
        prior, z = constants(x.z, shares), x.z
        shift = prior.log() - (-prior).log1p()  # one class against the rest
        if x.task == "multiclass":
            shift = torch.cat([1 - prior.sum(0, keepdim=True), prior]).log()
            z = z - z.detach().amax(1, keepdim=True)  # next to a logit of 1e4 the shift would be rounded away
        z = z + self.strength * shift[:, None]
        return super().costs(type(x)(x.task, z, x.target, x.valid, {}))  # flat pixels, without maps
