"""Lovász losses: the Jaccard index of the thresholded prediction, made convex by ranking the errors of each image."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

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
    def errors(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """What each pixel costs as foreground and as background; nothing if that is not above 0."""

    def per_image(self, logits: Logits, target: Target, **maps: Tensor) -> PerImage:
        z, mask = real(logits).flatten(2), target.flatten(2) > 0.5
        total = mask.sum(-1)
        empty = total == 0
        if self.empty == "complement":
            mask, total = mask | empty.unsqueeze(-1), torch.where(empty, mask.shape[-1], total)
            sign = torch.where(empty, -1, 1).to(z.dtype).unsqueeze(-1)
            foreground, background = self.errors(z * sign)
        else:
            foreground, background = self.errors(z)
        select = z.device.type == "cpu" and not torch.compiler.is_compiling()
        loss = (each if select else together)(foreground, background, mask, total)
        if self.empty == "skip":
            loss = torch.where(empty, 0, loss) * (empty.numel() / (~empty).sum().clamp(min=1))
        return loss.mean(1)


def each(foreground: Tensor, background: Tensor, mask: Tensor, total: Tensor) -> Tensor:
    """The extension (b, c), ranking in each image only what costs something (or is NaN)."""
    rows = zip(*(x.flatten(0, 1) for x in (foreground, background, mask, total)), strict=True)
    losses = [extension(f[m & ~(f <= 0)], g[~m & ~(g <= 0)], t) for f, g, m, t in rows]
    return torch.stack(losses).view_as(total)


def together(foreground: Tensor, background: Tensor, mask: Tensor, total: Tensor) -> Tensor:
    """The same for all images at once: what costs nothing takes part with an error of 0."""
    missed = torch.where(mask, foreground.clamp(min=0), 0)
    alarmed = torch.where(mask, 0, background.clamp(min=0))
    return extension(missed, alarmed, total)


def extension(missed: Tensor, alarmed: Tensor, total: Tensor) -> Tensor:
    """The Lovász extension of the Jaccard loss at the errors (..., n) of the two classes, of `total` foreground pixels.

    In descending order of error a foreground pixel raises the loss by 1/U and a background pixel by I/(U(U-1)), I and
    U being intersection and union after it. Among equal errors the mean of foreground first and background first is
    taken, and equal pixels share alike, so that the gradient does not depend on how a sort breaks ties.
    """
    with torch.no_grad():
        f, g = missed.sort(-1).values, alarmed.sort(-1).values
        size, t = g.shape[-1], total.unsqueeze(-1).to(missed.dtype)
        above = size - torch.searchsorted(g, missed, right=True)
        least = size - torch.searchsorted(g, missed)
        rise = 0.5 / (t + above).clamp(min=1) + 0.5 / (t + least).clamp(min=1)
        before = size - torch.searchsorted(g, alarmed, right=True)
        after = size - torch.searchsorted(g, alarmed)
        passed = f.shape[-1] - 0.5 * (torch.searchsorted(f, alarmed, right=True) + torch.searchsorted(f, alarmed))
        fall = (t - passed) / ((t + before).clamp(min=1) * (t + after))
        fall = torch.where(t > 0, fall, (before == 0) / after.clamp(min=1).to(missed.dtype))
    return (missed * rise).sum(-1) + (alarmed * fall).sum(-1)


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

    def errors(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - z, 1 + z


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

    def errors(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return probability(-z), probability(z)
