"""Lovász losses: convex extensions of the Jaccard loss, computed by ranking the pixel errors of each image."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from seglab.contract import Kind
from seglab.losses.base import BY_POLICY, Empty, PolicyMean, one_of, order_card
from seglab.losses.pixels import Pixels, SigmoidPixels


@dataclass(frozen=True, kw_only=True)
class Lovasz(PolicyMean):
    """The Lovász extension of the Jaccard loss, evaluated at the pixel errors."""

    @abstractmethod
    def errors(self, x: Pixels) -> Tensor:
        """Compute the error of each pixel for each class (b, k, n), at least 0."""

    def each_class(self, x: Pixels) -> Tensor:
        errors, mask, size = self.errors(x), x.t > 0.5, x.size
        if self.empty == "complement":
            absent = (size == 0).unsqueeze(-1)  # the complement has the same errors and contains all valid pixels
            mask, size = torch.where(absent, x.weight > 0, mask), torch.where(absent[..., 0], x.n, size)
        return x.total(errors * jaccard_growth(errors.detach(), mask, size.detach()))


def ranked_growth(errors: Tensor, mask: Tensor, size: Tensor) -> Tensor:
    """Return how much each pixel (b, k, n) adds to the Jaccard loss if added in descending order of error.

    A CPU ranks only errors above 0; a GPU ranks all, because selecting the positive ones would synchronize.
    """
    growth = torch.zeros_like(errors, memory_format=torch.contiguous_format)  # so that its rows are views of it
    if errors.device.type != "cpu":
        order = errors.argsort(-1, descending=True)
        return growth.scatter_(-1, order, increments(errors.gather(-1, order), mask.gather(-1, order), size))
    int_type = torch.int64 if errors.dtype == torch.float64 else torch.int32
    rows = zip(growth.flatten(0, 1), errors.flatten(0, 1), mask.flatten(0, 1), size.flatten(), strict=True)
    for out, error, m, total in rows:
        costly = (error > 0).nonzero().squeeze(-1)
        bits = error[costly].view(int_type)  # the bits of positive floats rank like the floats and sort 8 times as fast
        costly = costly[bits.argsort(stable=True).flip(0)]  # sorting in descending order takes 7 times as long
        out[costly] = increments(error[costly], m[costly], total)
    return growth


jaccard_growth = torch.library.custom_op("seglab::jaccard_growth", ranked_growth, mutates_args=())
"""`ranked_growth` as one operator, which compilers do not trace into: how many errors it ranks depends on the data."""


@jaccard_growth.register_fake
def _(errors: Tensor, mask: Tensor, size: Tensor) -> Tensor:
    return torch.empty_like(errors, memory_format=torch.contiguous_format)


def increments(error: Tensor, mask: Tensor, size: Tensor) -> Tensor:
    """Return how much each pixel adds to the Jaccard loss; pixels (..., n) are in descending order of error.

    A pixel of the class adds 1/U, any other I/(U(U-1)), where I and U are intersection and union after it. These
    formulas are used because differences of the index would be rounding noise in large images.

    For equal errors the result is the mean of two orders, the pixels of the class first or last, divided equally among
    equal pixels, so that the gradient does not depend on how the sort breaks ties.
    """
    index = torch.arange(error.shape[-1], device=error.device).expand(error.shape)
    differs = torch.ones_like(mask)  # from the error before it
    differs[..., 1:] = error[..., 1:] != error[..., :-1]
    first = torch.where(differs, index, 0).cummax(-1).values
    last = torch.where(differs.roll(-1, -1), index, error.shape[-1]).flip(-1).cummin(-1).values.flip(-1)
    intersection, t = mask.cumsum(-1), size.unsqueeze(-1)
    # pixels of the class, and union, before the first and after the last of equal errors
    i0, i1 = (intersection - mask.to(intersection.dtype)).gather(-1, first), intersection.gather(-1, last)
    u0, u1 = t + first - i0, t + last + 1 - i1
    own = 0.5 / u0.clamp(min=1) + 0.5 / u1.clamp(min=1)
    other = (t - 0.5 * (i0 + i1)) / (u0.clamp(min=1) * u1.clamp(min=1))  # I (1/u0 - 1/u1) over u1 - u0 pixels
    empty = (u0 == 0) / u1.clamp(min=1)  # without the class the loss is the largest error, shared by ties
    return torch.where(mask, own, torch.where(t > 0, other, empty)).to(error.dtype)


@dataclass(frozen=True, kw_only=True)
class LovaszHinge(Lovasz):
    """Lovász extension of the Jaccard loss at the hinge 1 - margin: pixels with a margin above 1 cost nothing."""

    card = order_card(
        title="Lovász hinge",
        formula=r"\overline{\Delta_J}\big((1-(2t-1)z)_+\big)",
        paper="Yu and Blaschko 2015; Berman, Triki, Blaschko 2018, The Lovász-Softmax loss",
        empty=BY_POLICY + " formula: the largest error.",
        differs="smp pools the batch by default and fails in float64; its gradient at 1024x1024 is rounding noise.",
        many="The mean over the channels. A softmax has no margin per class: use lovasz_softmax.",
        tasks=("binary", "multilabel"),
    )

    def errors(self, x: Pixels) -> Tensor:
        assert isinstance(x, SigmoidPixels)
        return (x.weight + x.wrong_logit).clamp(min=0)


@dataclass(frozen=True, kw_only=True)
class LovaszSigmoid(Lovasz):
    """Lovász extension of the Jaccard loss at |t - p|: errors are bounded, so that outliers do not dominate."""

    card = order_card(
        title="Lovász-sigmoid",
        formula=r"\overline{\Delta_J}\big(|t-p|\big)",
        paper="Berman, Triki, Blaschko 2018, The Lovász-Softmax loss",
        empty=BY_POLICY + " formula: the largest error.",
        differs="kornia ranks per image, smp per batch; both subtract Jaccard indices, which is noise at 1024x1024.",
        many="The mean over the channels. For a softmax use lovasz_softmax.",
        tasks=("binary", "multilabel"),
    )

    def errors(self, x: Pixels) -> Tensor:
        return x.false_positive + x.false_negative


@dataclass(frozen=True, kw_only=True)
class LovaszSoftmax(LovaszSigmoid):
    """Lovász extension of the Jaccard loss at |t - p| of each class, averaged over the classes present in the image.

    As in the paper, absent classes do not count (`empty="skip"`), but the background does (`classes="all"`).
    """

    task: Kind = one_of("multiclass")
    empty: Empty = one_of("skip", "complement", "formula")
    classes: Literal["scored", "all"] = one_of("all", "scored")

    card = order_card(
        title="Lovász-softmax",
        formula=r"\frac1{|C|}\sum_{c\in C}\overline{\Delta_J}\big(|t_c-p_c|\big),\quad C\text{ the classes present}",
        paper="Berman, Triki, Blaschko 2018, The Lovász-Softmax loss",
        empty="By policy: skip (as in the paper) leaves absent classes out; complement and formula as elsewhere.",
        differs="smp pools the batch unless per_image=True; kornia averages over all classes, including absent ones.",
        many="The mean over the classes present, including the background unless classes=scored.",
        tasks=("multiclass",),
    )
