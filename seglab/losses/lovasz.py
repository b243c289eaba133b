"""Lovász losses: the Jaccard index of the thresholded prediction, made convex by ranking the errors of each image."""

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
    """The Lovász extension of the Jaccard loss at the errors of the pixels."""

    @abstractmethod
    def errors(self, x: Pixels) -> Tensor:
        """How wrong each pixel is for each class (b, k, n), of at least 0."""

    def each_class(self, x: Pixels) -> Tensor:
        errors, mask, size = self.errors(x), x.t > 0.5, x.size
        if self.empty == "complement":
            absent = (size == 0).unsqueeze(-1)  # the complement has the same errors, and all valid pixels
            mask, size = torch.where(absent, x.weight > 0, mask), torch.where(absent[..., 0], x.n, size)
        return x.total(errors * jaccard_growth(errors.detach(), mask, size.detach()))


def ranked_growth(errors: Tensor, mask: Tensor, size: Tensor) -> Tensor:
    """How much the Jaccard loss grows with each pixel, taken from the largest error down (b, k, n).

    Only errors above 0 are ranked on a CPU; a GPU, where to find them would wait, ranks all.
    """
    growth = torch.zeros_like(errors, memory_format=torch.contiguous_format)  # so that its rows are views of it
    if errors.device.type != "cpu":
        order = errors.argsort(-1, descending=True)
        return growth.scatter_(-1, order, increments(errors.gather(-1, order), mask.gather(-1, order), size))
    whole = torch.int64 if errors.dtype == torch.float64 else torch.int32
    rows = zip(growth.flatten(0, 1), errors.flatten(0, 1), mask.flatten(0, 1), size.flatten(), strict=True)
    for out, error, m, total in rows:
        costly = (error > 0).nonzero().squeeze(-1)
        bits = error[costly].view(whole)  # which rank like the positive floats they stand for, and sort 8 times as fast
        costly = costly[bits.argsort(stable=True).flip(0)]  # to sort them descending takes 7 times as long
        out[costly] = increments(error[costly], m[costly], total)
    return growth


jaccard_growth = torch.library.custom_op("seglab::jaccard_growth", ranked_growth, mutates_args=())
"""The same as one operation, which compilers leave alone: how many errors there are to rank is not known before."""


@jaccard_growth.register_fake
def _(errors: Tensor, mask: Tensor, size: Tensor) -> Tensor:
    return torch.empty_like(errors, memory_format=torch.contiguous_format)


def increments(error: Tensor, mask: Tensor, size: Tensor) -> Tensor:
    """How much the Jaccard loss grows with each pixel, in descending order of error (..., n).

    A pixel of the class raises it by 1/U, another one by I/(U(U-1)), I and U being intersection and union after it: as
    differences of the index these would be rounding noise in large images. Among equal errors the mean of the class
    first and the class last is taken, and equal pixels share alike, so that the gradient does not depend on how a sort
    breaks ties.
    """
    here = torch.arange(error.shape[-1], device=error.device).expand(error.shape)
    new = torch.ones_like(mask)
    new[..., 1:] = error[..., 1:] != error[..., :-1]
    first = torch.where(new, here, 0).cummax(-1).values
    last = torch.where(new.roll(-1, -1), here, error.shape[-1]).flip(-1).cummin(-1).values.flip(-1)
    found, t = mask.cumsum(-1), size.unsqueeze(-1)
    # pixels of the class, and union, before the first of the equals and after the last
    i0, i1 = (found - mask.to(found.dtype)).gather(-1, first), found.gather(-1, last)
    u0, u1 = t + first - i0, t + last + 1 - i1
    own = 0.5 / u0.clamp(min=1) + 0.5 / u1.clamp(min=1)
    other = (t - 0.5 * (i0 + i1)) / (u0.clamp(min=1) * u1.clamp(min=1))  # I (1/u0 - 1/u1) in u1 - u0 shares
    empty = (u0 == 0) / u1.clamp(min=1)  # without the class the loss is the largest error, shared by its equals
    return torch.where(mask, own, torch.where(t > 0, other, empty)).to(error.dtype)


@dataclass(frozen=True, kw_only=True)
class LovaszHinge(Lovasz):
    """Lovász extension of the Jaccard loss at the hinge 1 - margin: pixels beyond the margin of 1 cost nothing."""

    card = order_card(
        title="Lovász hinge",
        formula=r"\overline{\Delta_J}\big((1-(2t-1)z)_+\big)",
        paper="Yu and Blaschko 2015; Berman, Triki, Blaschko 2018, The Lovász-Softmax loss",
        empty=BY_POLICY + " formula: the largest error.",
        differs="smp pools the batch by default and fails in float64; its gradient at 1024x1024 is rounding noise.",
        many="The mean over the channels. A softmax has no margin of a class: take lovasz_softmax.",
        tasks=("binary", "multilabel"),
    )

    def errors(self, x: Pixels) -> Tensor:
        assert isinstance(x, SigmoidPixels)
        return (x.weight + x.wrong_logit).clamp(min=0)


@dataclass(frozen=True, kw_only=True)
class LovaszSigmoid(Lovasz):
    """Lovász extension of the Jaccard loss at |t - p|: bounded errors, so that outliers do not rule."""

    card = order_card(
        title="Lovász-sigmoid",
        formula=r"\overline{\Delta_J}\big(|t-p|\big)",
        paper="Berman, Triki, Blaschko 2018, The Lovász-Softmax loss",
        empty=BY_POLICY + " formula: the largest error.",
        differs="kornia ranks images, smp the batch; both subtract Jaccard indices, which leaves noise at 1024x1024.",
        many="The mean over the channels. For a softmax take lovasz_softmax.",
        tasks=("binary", "multilabel"),
    )

    def errors(self, x: Pixels) -> Tensor:
        return x.false_positive + x.false_negative


@dataclass(frozen=True, kw_only=True)
class LovaszSoftmax(LovaszSigmoid):
    """Lovász extension of the Jaccard loss at |t - p| of each class, with the mean over the classes that an image has.

    As in the paper absent classes do not count (`empty="skip"`), the background does (`classes="all"`).
    """

    task: Kind = one_of("multiclass")
    empty: Empty = one_of("skip", "complement", "formula")
    classes: Literal["scored", "all"] = one_of("all", "scored")

    card = order_card(
        title="Lovász-softmax",
        formula=r"\frac1{|C|}\sum_{c\in C}\overline{\Delta_J}\big(|t_c-p_c|\big),\quad C\text{ the classes present}",
        paper="Berman, Triki, Blaschko 2018, The Lovász-Softmax loss",
        empty="By policy: skip (the paper's) leaves absent classes out of the mean; complement, formula as elsewhere.",
        differs="smp pools the batch unless per_image=True; kornia takes the mean over all classes, absent ones too.",
        many="The mean over the classes of the image, the background among them unless classes=scored.",
        tasks=("multiclass",),
    )
