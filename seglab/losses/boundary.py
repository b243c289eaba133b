"""Losses that weigh each pixel by its distance to the boundary of the mask or of the prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np
import torch
from torch import Tensor

from seglab.contract import Logits, PerImage, Target, require
from seglab.losses.base import Card, Loss
from seglab.losses.pixel import MarginLoss
from seglab.losses.sums import Part, SumLoss, Sums
from seglab.losses.tile import Pixels, Side


@dataclass(frozen=True)
class Moment(Part):
    """The sums of p times the signed distance, of p and of t."""

    count: ClassVar[int] = 3

    def terms(self, x: Pixels) -> tuple[Tensor, ...]:
        return x.p * x.maps["distance"], x.p, x.t

    def slope(self, x: Pixels, kept: Tensor | None, weights: tuple[Tensor, ...]) -> Tensor:
        return x.through_p(weights[0] * x.maps["distance"] + weights[1])


@dataclass(frozen=True, kw_only=True)
class Boundary(SumLoss):
    """The mean of probability times signed distance to the mask's boundary: far false alarms cost most.

    Below 0 for a good prediction, and meant to be added to a region loss. Needs the map `distance` (pixels, negative
    inside).
    """

    needs: ClassVar[tuple[str, ...]] = ("distance",)
    card: ClassVar[Card] = Card(
        title="Boundary loss",
        family="boundary and order",
        formula=r"\frac1N\sum p\,\phi(t)",
        paper="Kervadec et al. 2019, Boundary loss for highly unbalanced segmentation",
        empty="A mask of one class has no boundary: every pixel then counts as one pixel away from it.",
        differs=(
            "MONAI has it with maps made in every step; there and in the authors' code a mask of one class has "
            "gradient 0. smp and kornia have none."
        ),
        soft=False,
        zero=False,
        signed=True,
    )

    def parts(self) -> tuple[Part, ...]:
        return (Moment(),)

    def value(self, sums: Sums, n: int) -> PerImage:
        moment, p, t = sums[Moment()]
        one_class = torch.where(t == 0, p, -p)
        return (torch.where((t == 0) | (t == n), one_class, moment) / n).mean(1)


@dataclass(frozen=True, kw_only=True)
class WeightedSquare(MarginLoss):
    """The mean squared error weighted by the map `weight`."""

    def weights(self, x: Pixels) -> tuple[Tensor, Tensor]:
        return x.maps["weight"], x.maps["weight"]

    def of(self, side: Side) -> Tensor:
        return side.wrong**2

    def pull(self, side: Side, weight: Tensor, out: Tensor) -> Tensor:
        return torch.mul((2 * side.right).mul_(side.wrong).mul_(side.wrong), weight, out=out)


@dataclass(frozen=True, kw_only=True)
class Hausdorff(Loss):
    """Squared errors weighted by their distance from the boundaries of mask and prediction: aims at the farthest one.

    Needs the map `distance`. The prediction's own distances are made in every step on the CPU; `prediction=false`
    leaves them out, which is the one-sided form of the paper and much faster.
    """

    exponent: float = 2.0
    prediction: bool = True

    needs: ClassVar[tuple[str, ...]] = ("distance",)
    card: ClassVar[Card] = Card(
        title="Hausdorff distance loss (by distance transforms)",
        family="boundary and order",
        formula=r"\frac1N\sum(p-t)^2\big(d_p^\alpha+d_t^\alpha\big)",
        paper=(
            "Karimi and Salcudean 2019, Reducing the Hausdorff distance in medical image segmentation with "
            "convolutional neural networks"
        ),
        empty="A mask of one class has no boundary: every pixel then counts as one pixel away from it.",
        differs=(
            "MONAI makes both maps in every step and has gradient 0 on masks of one class; kornia's HausdorffER "
            "works by erosions. smp has none."
        ),
        soft=False,
    )

    def __post_init__(self) -> None:
        self.limit(self.exponent > 0, "exponent", "above 0")

    def per_image(self, logits: Logits, target: Target, **maps: Tensor) -> PerImage:
        signed = maps["distance"]
        weight = torch.where(signed > 0, signed, 1 - signed) ** self.exponent
        if self.prediction:
            require(logits.ndim == 4, self.name, "logits (b, c, h, w)", tuple(logits.shape), "set prediction=false")
            away = opaque_distance if torch.compiler.is_compiling() else unsigned_distance
            weight = weight + away(logits.detach() > 0).to(signed.device) ** self.exponent
        return WeightedSquare().per_image(logits, target, weight=weight)


def unsigned_distance(mask: Tensor) -> Tensor:
    """Distance (b, c, h, w) in pixels to the nearest pixel of the other class; 1 everywhere where there is no other."""
    planes = mask.flatten(0, 1).to(torch.uint8).cpu().numpy()
    return torch.from_numpy(np.stack([plane_distance(plane) for plane in planes])).view(mask.shape)


opaque_distance = torch.library.custom_op("seglab::unsigned_distance", unsigned_distance, mutates_args=())
"""The same as one operation that compilers leave alone."""


@opaque_distance.register_fake
def _(mask: Tensor) -> Tensor:
    return torch.empty(mask.shape, dtype=torch.float32)


def plane_distance(plane: np.ndarray) -> np.ndarray:
    if plane.min() == plane.max():
        return np.ones(plane.shape, np.float32)
    away = sum(cv2.distanceTransform(side, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for side in (plane, 1 - plane))
    # a pixel is at 0 from one side, and the square is whole: OpenCV's last digits change with the memory's alignment
    return np.sqrt(np.rint(np.square(away, dtype=np.float64))).astype(np.float32)
