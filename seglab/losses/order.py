"""Lovász losses: the Jaccard index of the thresholded prediction, made convex by ranking the errors of each image."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from seglab.contract import Logits, PerImage, Target
from seglab.losses.base import Card, Loss, probability, real
from seglab.losses.region import BY_POLICY, Empty


@dataclass(frozen=True, kw_only=True)
class Lovasz(Loss):
    """The Lovász extension of the Jaccard loss at the errors of each pixel, with exact increments.

    `empty` is the policy for masks without foreground; "formula" is the largest error of the image.
    """

    empty: Empty = "complement"

    def __post_init__(self) -> None:
        self.limit(self.empty in ("complement", "formula", "skip"), "empty", "one of complement, formula, skip")

    @abstractmethod
    def error(self, margin: Tensor) -> Tensor:
        """What each pixel costs by its signed margin (2t - 1) z; nothing if that is not above 0."""

    def per_image(self, logits: Logits, target: Target, **maps: Tensor) -> PerImage:
        z, mask = real(logits).flatten(2), target.flatten(2) > 0.5
        error = self.error(z * (2 * mask.to(z.dtype) - 1))
        total = mask.sum(-1)
        empty = total == 0
        if self.empty == "complement":
            mask, total = mask | empty.unsqueeze(-1), torch.where(empty, mask.shape[-1], total)
        eager = z.device.type == "cpu" and not torch.compiler.is_compiling()
        loss = each(error, mask, total) if eager else extension(error.clamp(min=0), mask, total)
        if self.empty == "skip":
            loss = torch.where(empty, 0, loss) * (empty.numel() / (~empty).sum().clamp(min=1))
        return loss.mean(1)


def each(error: Tensor, mask: Tensor, total: Tensor) -> Tensor:
    """The extension (b, c), ranking in each image only what costs something (or is NaN)."""
    losses = []
    for e, m, t in zip(error.flatten(0, 1), mask.flatten(0, 1), total.flatten(), strict=True):
        costly = (~(e <= 0)).nonzero().squeeze(-1)
        losses.append(extension(e[costly], m[costly], t))
    return torch.stack(losses).view_as(total)


def extension(error: Tensor, mask: Tensor, total: Tensor) -> Tensor:
    """The Lovász extension of the Jaccard loss at the errors (..., n) of an image with `total` foreground pixels."""
    with torch.no_grad():
        order = descending(error)
        share = torch.empty_like(error).scatter_(
            -1, order, increments(error.gather(-1, order), mask.gather(-1, order), total)
        )
    return (error * share).sum(-1)


def descending(error: Tensor) -> Tensor:
    """The order of the errors, all above 0, from the largest down.

    On a CPU a sort of whole numbers is several times faster: the bits of a positive float32 rank like the float, and
    beside them in 64 bits lies its index.
    """
    if error.dtype != torch.float32 or error.device.type != "cpu" or torch.compiler.is_compiling() or error.ndim > 1:
        return error.argsort(-1, descending=True)
    keys = (error.view(torch.int32).to(torch.int64) << 32) + torch.arange(len(error))
    return torch.from_numpy(np.sort(keys.numpy())).flip(0) & 0xFFFFFFFF


def increments(error: Tensor, mask: Tensor, total: Tensor) -> Tensor:
    """How much the Jaccard loss grows with each pixel, in descending order of error.

    A foreground pixel raises it by 1/U and a background pixel by I/(U(U-1)), I and U being intersection and union after
    it. Among equal errors the mean of foreground first and background first is taken, and equal pixels share alike, so
    that the gradient does not depend on how a sort breaks ties.
    """
    here = torch.arange(error.shape[-1], device=error.device).expand(error.shape)
    new = torch.ones_like(mask)
    new[..., 1:] = error[..., 1:] != error[..., :-1]
    first = torch.where(new, here, 0).cummax(-1).values
    last = torch.where(new.roll(-1, -1), here, error.shape[-1]).flip(-1).cummin(-1).values.flip(-1)
    found, t = mask.cumsum(-1), total.unsqueeze(-1).to(torch.float64 if error.device.type != "mps" else torch.float32)
    i0, i1 = (found - mask.to(found.dtype)).gather(-1, first), found.gather(-1, last)
    u0, u1 = t + first - i0, t + last + 1 - i1
    rise = 0.5 / u0.clamp(min=1) + 0.5 / u1.clamp(min=1)
    fall = (t - 0.5 * (i0 + i1)) / (u0.clamp(min=1) * u1.clamp(min=1))
    empty = (u0 == 0) / u1.clamp(min=1)
    return torch.where(mask, rise, torch.where(t > 0, fall, empty)).to(error.dtype)


@dataclass(frozen=True, kw_only=True)
class LovaszHinge(Lovasz):
    """Lovász extension of the Jaccard loss at the hinge 1 - margin: pixels beyond the margin of 1 cost nothing."""

    card: ClassVar[Card] = Card(
        title="Lovász hinge",
        family="boundary and order",
        formula=r"\overline{\Delta_J}\big((1-(2t-1)z)_+\big)",
        paper="Yu and Blaschko 2015; Berman, Triki, Blaschko 2018, The Lovász-Softmax loss",
        empty=BY_POLICY + " formula: the largest error.",
        differs=(
            "smp pools the batch by default and fails in float64; in smp and kornia (Lovász-sigmoid only) the "
            "gradient at 1024x1024 is rounding noise."
        ),
        soft=False,
    )

    def error(self, margin: Tensor) -> Tensor:
        return 1 - margin


@dataclass(frozen=True, kw_only=True)
class LovaszSigmoid(Lovasz):
    """Lovász extension of the Jaccard loss at |t - p|: bounded errors, so that outliers do not rule."""

    card: ClassVar[Card] = Card(
        title="Lovász-sigmoid",
        family="boundary and order",
        formula=r"\overline{\Delta_J}\big(|t-p|\big)",
        paper="Berman, Triki, Blaschko 2018, The Lovász-Softmax loss",
        empty=BY_POLICY + " formula: the largest error.",
        differs=(
            "kornia ranks per image, smp per batch; both take increments as differences, of which float32 leaves "
            "noise at 1024x1024."
        ),
        soft=False,
    )

    def error(self, margin: Tensor) -> Tensor:
        return probability(-margin)
