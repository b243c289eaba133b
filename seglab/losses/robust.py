"""Losses that are less sensitive to wrong labels than cross-entropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seglab.losses.base import ANY_MASK, ClassMean, pixel_card, region_card, within
from seglab.losses.cross_entropy import BCE, PixelLoss
from seglab.losses.labels import Label
from seglab.losses.numerics import one_minus_exp
from seglab.losses.pixels import Pixels


@dataclass(frozen=True, kw_only=True)
class GeneralizedCE(PixelLoss):
    """An interpolation of cross-entropy (`exponent` near 0) and the absolute error (1), whose gradient is bounded."""

    exponent: float = within("(0, 1]", 0.7)

    card = pixel_card(
        title="Generalized cross-entropy",
        formula=r"\frac1N\sum\;t\,\frac{1-p^\gamma}\gamma+(1-t)\frac{1-q^\gamma}\gamma",
        paper="Zhang and Sabuncu 2018, Generalized Cross Entropy Loss for Training Neural Networks with Noisy Labels",
    )

    def cost(self, y: Label) -> Tensor:
        return one_minus_exp(self.exponent * y.nll) / self.exponent


@dataclass(frozen=True, kw_only=True)
class SymmetricCE(PixelLoss):
    """Cross-entropy plus reverse cross-entropy, in which label and prediction are swapped and log 0 is `log_zero`."""

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
    """Student-t negative log-likelihood of all errors of an image jointly, which grows only with their logarithm.

    `nu`, the degrees of freedom, is fixed; the smaller it is, the less influence the worst images have.
    """

    nu: float = within("(0, inf)", 1.0)

    card = region_card(
        title="T-loss",
        formula=r"\frac{\nu+N}{2N}\log\Big(1+\frac1\nu\sum(p-t)^2\Big)",
        paper="Gonzalez-Jimenez et al. 2023, Robust T-Loss for Medical Image Segmentation",
        empty=ANY_MASK,
        differs="The authors learn nu and a precision and add their terms; here it is over N, and its minimum is 0.",
        proper=True,
    )

    def each_class(self, x: Pixels) -> Tensor:
        n = x.n.clamp(min=1)
        return (self.nu + n) / (2 * n) * torch.log1p(x.total(x.squared_error) / self.nu)


@dataclass(frozen=True, kw_only=True)
class BiTempered(BCE):
    """Cross-entropy with a bounded logarithm (`t1` below 1) and probabilities with heavy tails (`t2` above 1).

    `t1` limits the cost of wrong labels far from the decision boundary, `t2` of those near it; as both approach
    1, it becomes cross-entropy. The loss has its own probabilities p: where p = t, the sigmoid of the logits is not t.
    """

    t1: float = within("[0, 1)", 0.8)
    t2: float = within("(1, inf)", 1.2)

    card = pixel_card(
        title="Bi-tempered logistic loss",
        formula=r"\frac1N\sum_y\frac{1-p_y^{1-t_1}}{1-t_1}-\frac{1-\sum_kp_k^{2-t_1}}{2-t_1},"
        r"\;p_k=\big(1+(t_2-1)(\lambda-z_k)\big)^{\frac1{1-t_2}},\;\sum_kp_k=1",
        paper="Amid et al. 2019, Robust Bi-Tempered Logistic Loss Based on Bregman Divergences",
        differs="smp, MONAI and kornia have none. The authors find lambda in 5 steps that may leave an error of 1e-2.",
        many="All classes; a single class has the logits 0 and z. Soft labels mix the costs of the classes.",
    )

    def costs(self, x: Pixels) -> Tensor:
        nll, one, two = TemperedNLL.apply(x.all_logits, self.t2), 1 - self.t1, 2 - self.t1
        weights = self.balance(x)
        own = x.all_shares if weights is None else x.all_shares * weights.movedim(-1, 1).unsqueeze(-1)
        others = own.sum(1, keepdim=True) - own  # avoids subtracting a sum of powers close to 1 from 1
        tails = (others * torch.exp(-two * nll)).sum(1) / two
        if x.hard:  # each pixel has only one class
            nll, own = (x.all_shares * nll).sum(1, keepdim=True), own.sum(1, keepdim=True)
        return (own * (one_minus_exp(one * nll) / one - one_minus_exp(two * nll) / two)).sum(1) + tails


class TemperedNLL(torch.autograd.Function):
    """-log of the tempered softmax of logits (b, k, ...), exact where one class has nearly all the probability."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, t: float) -> Tensor:
        z = z - z.amax(1, keepdim=True)  # so that the largest is 0; `shift` becomes lambda
        two_classes = z.shape[1] == 2  # with argmax the loss takes more than twice as long
        others = z.amin(1, keepdim=True) if two_classes else z.scatter(1, z.argmax(1, keepdim=True), -torch.inf)
        shift = torch.zeros_like(z[:, :1])
        for _ in range(3 if t <= 1.2 else 6):  # Newton on sum ** (1 - t), nearly linear: error 2e-8 for 150 classes
            x, largest = 1 + (t - 1) * (shift - others), 1 + (t - 1) * shift
            p, over = x ** (1 / (1 - t)), torch.expm1(torch.log1p((t - 1) * shift) / (1 - t))  # the largest p minus 1
            excess = p.sum(1, keepdim=True) + over  # of the sum of all p over 1
            slope = (p / x).sum(1, keepdim=True) + (1 + over) / largest
            shift = shift + (1 + excess) * torch.expm1((t - 1) * torch.log1p(excess)) / ((t - 1) * slope)
        return torch.log1p((t - 1) * (shift - z)) / (t - 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        ctx.save_for_backward(output)
        ctx.t = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (nll,) = ctx.saved_tensors
        pull, escort = grad * torch.exp((1 - ctx.t) * nll), torch.exp(-ctx.t * nll)
        escort = escort / escort.sum(1, keepdim=True)  # the gradient of lambda
        return escort * sum_of_others(pull, nll) - pull * sum_of_others(escort, nll), None


def sum_of_others(x: Tensor, cost: Tensor) -> Tensor:
    """Sum x (b, k, ...) over all other classes; for the class of least cost without a difference, which would round."""
    if x.shape[1] == 2:
        return x.flip(1)
    top = cost.argmin(1, keepdim=True)
    return (x.sum(1, keepdim=True) - x).scatter(1, top, x.scatter(1, top, 0).sum(1, keepdim=True))
