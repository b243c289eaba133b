"""Overlap losses: functions of the probability inside and outside each class, summed per image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

import torch
from torch import Tensor

from seglab.contract import Task, require
from seglab.losses.base import BY_POLICY, ClassMean, ClassWeights, PolicyMean, limited, region_card, square, within
from seglab.losses.numerics import TINY, Confusion, constants, power, ratio
from seglab.losses.pixels import Pixels


def tversky(m: Confusion, fp_weight: float, fn_weight: float, smooth: float = 0.0) -> Tensor:
    """Compute 1 - Tversky index as error / total: exact for 1 pixel in 4096x4096, where 1 - index is rounding noise."""
    error = fp_weight * m.fp + fn_weight * m.fn
    return ratio(error, m.tp + error + smooth)


@dataclass(frozen=True, kw_only=True)
class RegionLoss(PolicyMean):
    """A function of a few sums per image; `smooth` (in pixels) is added to numerator and denominator of the score."""

    smooth: float = within("[0, inf)", 0.0)

    @property
    def by_totals(self) -> bool:
        return type(self).each_class is RegionLoss.each_class and self.empty != "skip"  # skip depends on the batch

    def cells(self, x: Pixels) -> Confusion:
        """Return the true and false positives and negatives as this loss counts them."""
        return x.confusion

    def confusion(self, x: Pixels) -> Confusion:
        """Return the cells to score; with empty="complement" those of the complement where a class is absent."""
        m = self.cells(x)
        return m.complemented(m.absent) if self.empty == "complement" else m

    def overlap(self, m: Confusion) -> Tensor:  # not abstract: some subclasses override `each_class` instead
        """Compute the loss of each image and class (b, k) from its confusion, in float64."""
        raise NotImplementedError

    def each_class(self, x: Pixels) -> Tensor:
        return self.overlap(self.confusion(x))


@dataclass(frozen=True, kw_only=True)
class Dice(RegionLoss):
    """One minus the Dice coefficient (F1) of each image, with probabilities in place of decisions."""

    card = region_card(
        title="Dice loss",
        formula=r"\frac{fp+fn}{2\,tp+fp+fn+s}",
        paper="Milletari, Navab, Ahmadi 2016, V-Net; in this linear form Drozdzal et al. 2016 and Sudre et al. 2017",
        differs="smp pools, counts s twice, scores empty masks 0; MONAI's gradient of an empty mask vanishes (1e-9).",
    )

    def overlap(self, m: Confusion) -> Tensor:
        return tversky(m, 0.5, 0.5, self.smooth / 2)  # the card's ratio, both terms halved


@dataclass(frozen=True, kw_only=True)
class IoU(RegionLoss):
    """One minus the intersection over union (Jaccard index) of each image, with probabilities in place of decisions."""

    card = region_card(
        title="IoU (Jaccard) loss",
        formula=r"\frac{fp+fn}{tp+fp+fn+s}",
        paper="Rahman and Wang 2016, Optimizing Intersection-over-Union in Deep Neural Networks for Image Segmentation",
        differs="smp pools the batch, MONAI halves s, kornia has none; the Keras original complements whole batches.",
    )

    def overlap(self, m: Confusion) -> Tensor:
        return tversky(m, 1.0, 1.0, self.smooth)


@dataclass(frozen=True, kw_only=True)
class Tversky(RegionLoss):
    """Overlap with separate weights for false positives and false negatives (Dice at .5 and .5, IoU at 1 and 1)."""

    fp_weight: float = within("(0, inf)", 0.3)
    fn_weight: float = within("(0, inf)", 0.7)

    card = region_card(
        title="Tversky loss",
        formula=r"\frac{a\,fp+b\,fn}{tp+a\,fp+b\,fn+s}",
        paper="Salehi, Erdogmus, Gholipour 2017, Tversky loss function for image segmentation using 3D deep networks",
        differs="alpha weights fp in smp, MONAI (both .5, .5) and kornia, fn in Abraham and Khan; smp pools the batch.",
    )

    def overlap(self, m: Confusion) -> Tensor:
        return tversky(m, self.fp_weight, self.fn_weight, self.smooth)


@dataclass(frozen=True, kw_only=True)
class FocalTversky(Tversky):
    """Tversky loss to a power: below 1, nearly correct images keep a gradient; above 1, poor images dominate."""

    exponent: float = within("(0, inf)", 0.75)

    card = region_card(
        title="Focal Tversky loss",
        formula=r"\Big(\frac{a\,fp+b\,fn}{tp+a\,fp+b\,fn+s}\Big)^{\gamma}",
        paper="Abraham and Khan 2019, A novel focal Tversky loss function with improved attention U-Net",
        differs="The paper writes 1/gamma, 4/3. smp pools and takes the power after the mean: NaN on an empty batch.",
    )

    def overlap(self, m: Confusion) -> Tensor:
        return power(super().overlap(m), self.exponent)


@dataclass(frozen=True, kw_only=True)
class AsymmetricFocalTversky(Tversky):
    """The mean of the Tversky loss of the background and the focal Tversky loss of the foreground, the rare class.

    The exponent of the foreground's loss is 1 - `gamma`; `fn_weight` is the weight of the missed pixels of each class.
    """

    fp_weight: float = within("(0, inf)", 0.4)
    fn_weight: float = within("(0, inf)", 0.6)
    gamma: float = within("[0, 1)", 0.5)

    card = region_card(
        title="Asymmetric focal Tversky loss",
        formula=r"\tfrac12\big(1-TI_{bg}\big)+\tfrac12\big(1-TI_{fg}\big)^{1-\gamma}",
        paper="Yeung et al. 2022, Unified Focal loss: Generalising Dice and cross entropy-based losses",
        empty=BY_POLICY + " An absent class is scored like the other one.",
        differs="fn_weight is the paper's delta, .7 in MONAI, which expects probabilities although it says logits.",
    )

    def overlap(self, m: Confusion) -> Tensor:
        background = m.swapped()
        background = background.complemented(background.absent) if self.empty == "complement" else background
        return (super().overlap(background) + power(super().overlap(m), 1 - self.gamma)) / 2


@dataclass(frozen=True, kw_only=True)
class LogCoshDice(Dice):
    """Log-cosh of the Dice loss: quadratic when it is small, nearly linear when it is large."""

    card = region_card(
        title="Log-cosh Dice loss",
        formula=r"\log\cosh\Big(\frac{fp+fn}{2\,tp+fp+fn+s}\Big)",
        paper="Jadon 2020, A survey of loss functions for semantic segmentation",
        differs="smp, MONAI and kornia have none; the paper smooths by 1, this loss by 0 unless set.",
    )

    def overlap(self, m: Confusion) -> Tensor:
        return torch.log1p(2 * torch.sinh(super().overlap(m) / 2) ** 2)  # cosh x is 1 + 2 sinh^2(x / 2)


@dataclass(frozen=True, kw_only=True)
class DicePlusPlus(Dice):
    """Dice loss with each error raised to a power, so that uncertain pixels cost little and remain uncertain."""

    exponent: float = within("[1, inf)", 2.0)

    card = region_card(
        title="Dice++ loss",
        formula=r"\frac{\sum((1-t)p)^\gamma+\sum(tq)^\gamma}{2\,tp+\sum((1-t)p)^\gamma+\sum(tq)^\gamma+s}",
        paper="Yeung et al. 2023, Calibrating the Dice loss to handle neural network overconfidence",
    )

    def cells(self, x: Pixels) -> Confusion:
        fp, fn = (x.total(power(e, self.exponent)) for e in (x.false_positive, x.false_negative))
        return x.confusion._replace(fp=fp, fn=fn)  # tp and tn stay linear


@dataclass(frozen=True, kw_only=True)
class JML(Tversky):
    """IoU loss with min(p, t) in place of the product p t, so that its minimum is at p = t for soft labels too."""

    fp_weight: float = within("(0, inf)", 1.0)
    fn_weight: float = within("(0, inf)", 1.0)

    card = region_card(
        title="Jaccard metric loss",
        formula=r"\frac{a\sum(p-t)_++b\sum(t-p)_+}{\sum\min(p,t)+a\sum(p-t)_++b\sum(t-p)_++s}",
        paper="Wang et al. 2023, Jaccard Metric Losses: Optimizing the Jaccard Index with Soft Labels",
        differs="smp, MONAI's soft_label=True: computed from norms, which cancel for small objects in large images.",
        proper=True,
    )

    def cells(self, x: Pixels) -> Confusion:
        if x.hard:
            return x.confusion  # min(p, t) is p t, and the sums do not need the error of each pixel
        fp, fn = (x.total(e.clamp(min=0)) for e in (x.error, -x.error))
        return Confusion(x.size - fn, fp, fn, x.n - x.size - fp)


@dataclass(frozen=True, kw_only=True)
class NoiseRobustDice(RegionLoss):
    """Dice loss with |p - t|^exponent as the error: 2 is squared Dice, and 1 is the most robust to wrong labels.
    Starting from logits of 0, at 1.5 it loses an object that fills less than a tenth of the image: descent leads to
    foreground everywhere, which costs less than 1. Add cross-entropy (loss=sum) or start with it (loss=switch).
    """

    exponent: float = within("[1, 2]", 1.5)

    card = region_card(
        title="Noise-robust Dice loss",
        formula=r"\frac{\sum|p-t|^\gamma}{\sum p^2+\sum t^2+s}",
        paper="Wang et al. 2020, A noise-robust framework for automatic segmentation of COVID-19 pneumonia lesions",
        differs="smp, MONAI and kornia have none. PyMIC divides by the sums of p and t instead of their squares.",
        proper=True,
    )

    def each_class(self, x: Pixels) -> Tensor:
        squared = x.total(x.squared_error)
        error = squared if self.exponent == 2 else x.total(power(x.squared_error, self.exponent / 2))
        return ratio(error, squared + 2 * self.confusion(x).tp + self.smooth)  # squared + 2 tp is sum p^2 + sum t^2


@dataclass(frozen=True, kw_only=True)
class SquaredDice(NoiseRobustDice):
    """Dice loss with squared probabilities, the original V-Net form; its minimum is at p = t for soft labels too."""

    exponent: float = field(default=2.0, init=False, repr=False)

    card = region_card(
        title="Squared Dice loss",
        formula=r"\frac{\sum(p-t)^2}{\sum p^2+\sum t^2+s}",
        paper="Milletari, Navab, Ahmadi 2016, V-Net: Fully Convolutional Neural Networks for Volumetric Segmentation",
        differs="MONAI's squared_pred. nnU-Net's square squares tp, fp and fn pixel by pixel, a different loss.",
        proper=True,
    )


@dataclass(frozen=True, kw_only=True)
class SensitivitySpecificity(ClassMean):
    """A weighted mean of the mean squared errors on the foreground and on the background."""

    sensitivity_weight: float = within("[0, 1]", 0.05)

    card = region_card(
        title="Sensitivity-specificity loss",
        formula=r"\lambda\frac{\sum t(t-p)^2}{\sum t}+(1-\lambda)\frac{\sum(1-t)(t-p)^2}{\sum 1-t}",
        paper="Brosch et al. 2015, Deep convolutional encoder networks for multiple sclerosis lesions; .05: Sudre 2017",
        empty="The term of the absent class is 0, the other is as usual.",
        differs="NiftyNet calls the foreground's term specificity, with the same arithmetic.",
        proper=True,
    )

    def each_class(self, x: Pixels) -> Tensor:
        squared, w = x.squared_error, self.sensitivity_weight
        foreground, background = x.total(x.t * squared), x.total(x.u * squared)
        return w * ratio(foreground, x.size) + (1 - w) * ratio(background, x.n - x.size)


@dataclass(frozen=True, kw_only=True)
class GeneralizedDice(RegionLoss):
    """Dice over all classes together, including the background, each weighted by the inverse of its squared size."""

    classes: Literal["scored", "all"] = field(default="scored", init=False, repr=False)
    class_weights: ClassWeights = field(default=None, init=False, repr=False)

    card = region_card(
        title="Generalized Dice loss",
        formula=r"\frac{\sum_c w_c(fp_c+fn_c)}{\sum_c w_c(2\,tp_c+fp_c+fn_c)+s},\quad w_c\propto1/T_c^2",
        paper="Sudre et al. 2017, Generalised Dice overlap as a deep learning loss function",
        empty="An absent class has no weight, so the others are scored; or the image is skipped.",
        differs="MONAI with one channel is plain Dice; its smoothing dominates the weights of large images.",
        many="One ratio over all classes and the background; for a multilabel task, the mean over the channels.",
    )

    def each_class(self, x: Pixels) -> Tensor:
        m = x.all_classes  # (b, decisions, classes)
        size = (m.tp + m.fn).detach()
        smallest = torch.where(size > 0, size, torch.inf).amin(-1, keepdim=True)
        w = torch.where(size > 0, (smallest / size.clamp(min=TINY)) ** 2, 0)  # at most 1: no overflow or underflow
        error = w * (m.fp + m.fn)
        # one value for all classes, repeated for the mean over classes
        return ratio(error.sum(-1), (2 * w * m.tp + error).sum(-1) + self.smooth).expand_as(x.size)


@dataclass(frozen=True, kw_only=True)
class GeneralizedWassersteinDice(GeneralizedDice):
    """Dice over all classes together, with errors weighted by the distance of the predicted class from the true one.

    `distances` is a matrix of distances between classes, the background first, which is divided by its largest entry.
    It must be symmetric, like every distance: its rows are the true classes in MONAI, the predicted ones in NiftyNet.
    With null, all classes are equally far apart, so that for a single class this is the Dice loss.
    """

    distances: Sequence[Sequence[float]] | None = limited(None, "to be symmetric with a zero diagonal, or null", square)

    card = region_card(
        title="Generalized Wasserstein Dice loss",
        formula=r"\frac{\sum_i\delta_i}{2\sum_{i:t_i\neq0}(1-\delta_i)+\sum_i\delta_i+s},\;\delta_i=\sum_kM_{t_ik}\,p_{ik}",
        paper="Fidon et al. 2017, Generalised Wasserstein Dice Score for Imbalanced Multi-class Segmentation",
        empty="By policy: without any foreground the background is scored, the formula is 1, or the image skipped.",
        differs="As MONAI's without its smoothing; MONAI's weighting_mode=GDL also weights classes by their size.",
        many="One ratio over all classes; for a multilabel task, the mean over the channels.",
        soft=False,
    )

    def with_task(self, task: Task) -> Self:
        bound = super().with_task(task)
        self.matrix(len(task.classes) if task.kind == "multiclass" else 2)  # raises for a wrong size, before training
        return bound

    def matrix(self, k: int) -> list[float]:
        """Return the distances between k classes row by row, scaled to a maximum of 1."""
        rows = self.distances or [[float(i != j) for j in range(k)] for i in range(k)]
        require(len(rows) == k, self.name, f"distances to have {k} rows, one for each class", len(rows))
        return [d / max(map(max, rows)) for row in rows for d in row]

    def each_class(self, x: Pixels) -> Tensor:
        t, p, k = x.all_shares, x.all_probabilities, x.sizes.shape[-1]
        distances = constants(p, self.matrix(k)).view(k, k, 1)
        # (b, true class, predicted class, d); gathering the rows of the matrix takes three times as long
        pairs = torch.stack([x.total((t[:, c : c + 1] * p).flatten(1, 2)).unflatten(1, (k, -1)) for c in range(k)], 1)
        error, tp = (distances * pairs).sum((1, 2)), ((1 - distances) * pairs).sum(2)  # in total; per true class
        tp = tp[:, 1:].sum(1) + tp[:, 0] * ((x.sizes[..., 1:].sum(-1) == 0) & (self.empty == "complement"))
        return ratio(error, 2 * tp + error + self.smooth).expand_as(x.size)


@dataclass(frozen=True, kw_only=True)
class MCC(RegionLoss):
    """One minus the Matthews correlation coefficient of prediction and mask, which treats all four cells alike."""

    smooth: float = field(default=0.0, init=False, repr=False)

    card = region_card(
        title="Matthews correlation (MCC) loss",
        formula=r"1-\frac{tp\cdot tn-fp\cdot fn}{\sqrt{(tp+fp)(tp+fn)(tn+fp)(tn+fn)}}",
        paper="Abhishek and Hamarneh 2021, Matthews correlation coefficient loss for deep convolutional networks",
        empty="Undefined for one class: factors of the other remain (Fowlkes-Mallows); formula gives 1; or skipped.",
        differs="smp pools the batch, needs probabilities; masks of one class have gradient 0 in MONAI, 1e-6 in smp.",
    )

    def cells(self, x: Pixels) -> Confusion:
        # each cell is summed directly: tp is a factor here, and if it is small, T - fn would be rounding noise
        return Confusion(*(x.total(p * t) for p, t in ((x.p, x.t), (x.p, x.u), (x.q, x.t), (x.q, x.u))))

    def overlap(self, m: Confusion) -> Tensor:
        wrong = torch.stack([m.fp, m.fn])
        whole = torch.stack([m.tp, m.tn]).unsqueeze(1) + wrong  # root's factors: tp + fp, tp + fn; tn + fp, tn + fn
        a, b = ratio(wrong, whole).unbind(1)
        foreground, background = a + b - a * b  # 1 - (1 - a)(1 - b), exact where both are small
        if self.empty == "complement":
            background = torch.where(m.tn + m.fp == 0, 0, background)
        missing = foreground + background - foreground * background
        crossed = ratio(wrong, power(whole[0] * whole[1], 0.5))
        # 1 - root(1 - missing), without the rounding error of this difference
        return missing / (1 + power(1 - missing, 0.5)) + crossed[0] * crossed[1]
