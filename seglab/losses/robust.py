"""Losses that wrong labels pull less than they pull cross-entropy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from seglab.losses.base import ANY_MASK, ClassMean, pixel_card, region_card, within
from seglab.losses.cross_entropy import PixelLoss
from seglab.losses.labels import Label
from seglab.losses.numerics import exact
from seglab.losses.pixels import Pixels


@dataclass(frozen=True, kw_only=True)
class GeneralizedCE(PixelLoss):
    """From cross-entropy (`exponent` towards 0) to the absolute error (1), whose pull on a wrong label is bounded."""

    exponent: float = within("(0, 1]", 0.7)

    card = pixel_card(
        title="Generalized cross-entropy",
        formula=r"\frac1N\sum\;t\,\frac{1-p^\gamma}\gamma+(1-t)\frac{1-q^\gamma}\gamma",
        paper="Zhang and Sabuncu 2018, Generalized Cross Entropy Loss for Training Neural Networks with Noisy Labels",
    )

    def cost(self, y: Label) -> Tensor:
        a = self.exponent * y.nll
        # 1 - exp(-a) without rounding where a is small, with a slope without rounding where it is large
        return torch.where(a < 1, -torch.expm1(-a), 1 - torch.exp(-a)) / self.exponent


@dataclass(frozen=True, kw_only=True)
class SymmetricCE(PixelLoss):
    """Cross-entropy and its reverse, in which label and prediction change places and log 0 is `log_zero`."""

    ce_weight: float = within("[0, inf)", 0.1)
    reverse_weight: float = within("[0, inf)", 1.0)
    log_zero: float = within("(-inf, 0)", -4.0)

    card = pixel_card(
        title="Symmetric cross-entropy",
        formula=r"\frac1N\sum\;t(-\alpha\log p-\beta A\,q)+(1-t)(-\alpha\log q-\beta A\,p)",
        paper="Wang et al. 2019, Symmetric Cross Entropy for Robust Learning with Noisy Labels",
        differs="smp, MONAI and kornia have none. The authors' code has A = log 1e-4. It is a scaled Poly-1.",
    )

    def cost(self, y: Label) -> Tensor:
        return self.ce_weight * y.nll - self.reverse_weight * self.log_zero * y.q


@dataclass(frozen=True, kw_only=True)
class TLoss(ClassMean):
    """Student-t negative log-likelihood of an image's errors together: an image far off counts by its logarithm alone.

    `nu`, the degrees of freedom, is fixed: the smaller, the less the worst images pull.
    """

    nu: float = within("(0, inf)", 1.0)

    card = region_card(
        title="T-loss",
        formula=r"\frac{\nu+N}{2N}\log\Big(1+\frac1\nu\sum(p-t)^2\Big)",
        paper="Gonzalez-Jimenez et al. 2023, Robust T-Loss for Medical Image Segmentation",
        empty=ANY_MASK,
        differs="The authors learn nu and a precision and add their terms; ours is over N, and its best is 0.",
        proper=True,
    )

    def each_class(self, x: Pixels) -> Tensor:
        n = x.n.clamp(min=1)
        return (self.nu + n) / (2 * n) * torch.log1p(exact(x.squared_error.sum(-1)) / self.nu)
