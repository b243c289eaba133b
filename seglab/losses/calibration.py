"""Cross-entropy with a penalty on overconfident probabilities or on wrong sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from seglab.contract import PerImage
from seglab.losses.base import ANY_MASK, MEAN_OVER_CLASSES, ClassMean, Loss, one_of, pixel_card, within
from seglab.losses.cross_entropy import BCE
from seglab.losses.numerics import TINY, exact, ratio
from seglab.losses.pixels import Pixels

LEAST = 0.01  # pixels: a bin with fewer is empty, as in the authors' code


@dataclass(frozen=True, kw_only=True)
class MarginCE(BCE):
    """Cross-entropy plus `weight` times the mean excess over `margin` of the largest logit minus each logit."""

    weight: float = within("[0, inf)", 0.1)
    margin: float = within("[0, inf)", 10.0)

    card = pixel_card(
        title="Margin-based label smoothing (MbLS)",
        formula=r"\mathrm{CE}+\lambda\frac1{NK}\sum\sum_k\big(\max_jz_j-z_k-m\big)_+",
        paper="Liu et al. 2022, The Devil is in the Margin: Margin-based Label Smoothing for Network Calibration",
        differs="smp, MONAI and kornia have none. A single logit z counts as the two logits 0 and z.",
        zero=False,
    )

    def costs(self, x: Pixels) -> Tensor:
        z = x.all_logits
        beyond = (z.amax(1, keepdim=True) - z - self.margin).clamp(min=0)
        return super().costs(x) + self.weight * beyond.mean(1)


@dataclass(frozen=True, kw_only=True)
class NeighborCE(BCE):
    """Cross-entropy plus `weight` times the distance of the logits from the mean label of each pixel's neighborhood."""

    weight: float = within("[0, inf)", 0.1)

    card = pixel_card(
        title="Neighbor-aware calibration (NACL)",
        formula=r"\mathrm{CE}+\lambda\frac1{NK}\sum\sum_k|\tau_k-z_k|,\quad\tau\text{ the mean label of }3\times3",
        paper="Murugesan et al. 2023, Trust your neighbours: Penalty-based constraints for model calibration",
        differs="MONAI needs two channels or more and pads with zeros. Here one z becomes (1 - z) / 2 and (1 + z) / 2.",
        zero=False,
    )

    def costs(self, x: Pixels) -> Tensor:
        pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(x.space) - 1]
        # the ratio of both excludes the zero padding and invalid pixels
        shares, weights = (pool(x.spatial(v), 3, 1, 1).flatten(2) for v in (x.t, x.weight))
        multiclass = x.task == "multiclass"
        distance = x.masked((ratio(shares, weights) - (x.z if multiclass else (1 + x.z) / 2)).abs())
        return super().costs(x) + self.weight * (distance.mean(1, keepdim=True) if multiclass else distance)


@dataclass(frozen=True, kw_only=True)
class L1ACE(ClassMean):
    """Cross-entropy plus `weight` times the calibration error of each image, with hard or soft bins.

    The error is the mean of |mean probability - share of the class| over the bins of probability that are not empty.
    """

    weight: float = within("[0, inf)", 1.0)
    bins: int = within("[2, inf)", 20, whole=True)
    binning: Literal["hard", "soft"] = one_of("hard", "soft")

    card = pixel_card(
        title="Cross-entropy and marginal L1 calibration error (mL1-ACE)",
        formula=r"\mathrm{CE}+\lambda\frac1M\sum_{m=1}^M\big|\overline{p}_m-\overline{t}_m\big|,\;m\text{ a bin of }p",
        paper="Barfoot et al. 2024, Average Calibration Error: A Differentiable Loss for Improved Reliability",
        differs="The authors also add it to Dice (loss=sum); their mean includes the background (classes=all).",
        many="Calibration error: " + MEAN_OVER_CLASSES[0].lower() + MEAN_OVER_CLASSES[1:],
    )

    def value(self, x: Pixels) -> PerImage:
        return BCE(task=self.task, class_weights=self.class_weights).value(x) + self.weight * super().value(x)

    by_class = Loss.by_class  # a sum with cross-entropy is not a mean over classes

    def each_class(self, x: Pixels) -> Tensor:
        soft = self.binning == "soft"  # a pixel is then split between the two bins with the nearest centers
        position = (self.bins * x.p - 0.5 * soft).clamp(0, self.bins - 1)
        left = position.detach().floor().nan_to_num_().long()  # NaN is not an index; it stays in the error
        right_share = position - left
        error = count = exact(x.p.new_zeros(*x.p.shape[:2], self.bins + 1))  # one more, right of the last bin
        split = ((left, 1 - right_share), (left + 1, right_share)) if soft else ((left, torch.ones_like(position)),)
        for bin_, share in split:
            share = exact(x.masked(share))
            count, error = count.scatter_add(2, bin_, share), error.scatter_add(2, bin_, share * x.error)
        filled = count >= LEAST
        return ratio((ratio(error, count).abs() * filled).sum(-1), filled.sum(-1))


@dataclass(frozen=True, kw_only=True)
class RegionSize(BCE):
    """Cross-entropy plus `weight` times the error of the class sizes, a prior that is implicit in Dice.

    The size of a class is the sum of its probabilities as a fraction of the image.
    """

    weight: float = within("[0, inf)", 0.1)
    distance: Literal["l1", "kl"] = one_of("l1", "kl")

    card = pixel_card(
        title="Cross-entropy and region-size prior",
        formula=r"\mathrm{CE}+\lambda R,\;R=\tfrac1K\sum_k|\bar p_k-\bar t_k|\text{ or }KL(\bar t\|\bar p)",
        paper="Liu et al. 2024, Do we really need dice? The hidden region-size biases of segmentation losses",
        empty=ANY_MASK + " The size is then 0.",
        differs="smp, MONAI and kornia have none. KL of one class: the authors omit the term of the background.",
        proper=True,
    )

    def each_decision(self, x: Pixels) -> Tensor:
        m, n = x.all_classes, x.n.unsqueeze(-1).clamp(min=1)
        predicted, true = (m.tp + m.fp) / n, (m.tp + m.fn) / n  # (b, decisions, classes)
        if self.distance == "l1":
            error = (predicted - true).abs().mean(2)
        else:
            error = (true * (true.clamp(min=TINY).log() - predicted.clamp(min=TINY).log())).sum(2)
        return super().each_decision(x) + self.weight * error
