"""Losses that weight pixels by their position relative to the boundary of the mask or of the prediction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from seglab.contract import require
from seglab.losses.base import MEAN_OVER_CLASSES, ClassMean, order_card, pixel_card, region_card, within
from seglab.losses.cldice import eroded
from seglab.losses.cross_entropy import BCE
from seglab.losses.numerics import ratio
from seglab.losses.overlap import RegionLoss
from seglab.losses.pixels import Pixels

ONE_CLASS = "A mask of one class has no boundary: every pixel then counts as one pixel away from it."
LEFT_OUT = " Maps are computed from the whole mask: invalid pixels cost nothing, but a boundary may pass through them."


@dataclass(frozen=True, kw_only=True)
class Boundary(ClassMean):
    """Mean of probability times signed distance to the mask's boundary, to be added to a region loss (loss=sum).

    Distant false positives cost most. Used alone, it leaves the outermost pixels of an object undecided, because their
    distance is 0, and it is negative for a good prediction. Needs the map `distance` (in pixels, negative inside).
    """

    needs: ClassVar[tuple[str, ...]] = ("distance",)
    card = order_card(
        title="Boundary loss",
        formula=r"\frac1N\sum p\,\phi(t)",
        paper="Kervadec et al. 2019, Boundary loss for highly unbalanced segmentation",
        empty=ONE_CLASS,
        differs="MONAI computes maps in every step; there and in the authors' code masks of one class have gradient 0.",
        many=MEAN_OVER_CLASSES + LEFT_OUT,
        zero=False,
        signed=True,
    )

    def each_class(self, x: Pixels) -> Tensor:
        absent, full = x.size == 0, x.size == x.n  # there the map is 0, and so would be the gradient
        phi = torch.where((absent | full).unsqueeze(-1), torch.where(absent, 1, -1).unsqueeze(-1), x.maps["distance"])
        return x.total(x.masked(x.p * phi)) / x.n.clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class Hausdorff(ClassMean):
    """Squared errors weighted by their distance to the boundaries of mask and prediction: distant errors dominate.

    Needs the map `distance`. Distances to the prediction's boundary are computed on the CPU in every step;
    `prediction=false` leaves them out, which is the one-sided form in the paper and much faster.
    """

    exponent: float = within("(0, inf)", 2.0)
    prediction: bool = True

    needs: ClassVar[tuple[str, ...]] = ("distance",)
    card = order_card(
        title="Hausdorff distance loss (by distance transforms)",
        formula=r"\frac1N\sum(p-t)^2\big(d_p^\alpha+d_t^\alpha\big)",
        paper="Karimi and Salcudean 2019, Reducing the Hausdorff distance in medical image segmentation",
        empty=ONE_CLASS,
        differs="MONAI: gradient 0 if mask and prediction are both one class. kornia's ER uses erosion. smp has none.",
        many=MEAN_OVER_CLASSES + LEFT_OUT,
    )

    def each_class(self, x: Pixels) -> Tensor:
        signed = x.maps["distance"]
        weight = torch.where(signed > 0, signed, 1 - signed) ** self.exponent  # the map is 1 - d inside
        if self.prediction:
            got = f"{len(x.space)} spatial dimensions"
            require(len(x.space) == 2, self.name, "logits (b, k, h, w)", got, "set prediction=false")
            to_predicted = boundary_distance(x.spatial(x.decided)).to(x.z.device, x.z.dtype)
            weight = weight + to_predicted.flatten(2) ** self.exponent
        return x.total(x.squared_error * weight) / x.n.clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class DistancePenalizedCE(BCE):
    """Cross-entropy with weights that fall from 2 at the boundaries to 1 at the pixel of a class farthest from them.

    Needs the map `distance`.
    """

    needs: ClassVar[tuple[str, ...]] = ("distance",)
    card = pixel_card(
        title="Distance-penalized cross-entropy",
        formula=r"\frac1N\sum(1+\phi)\big(-t\log p-(1-t)\log q\big),\;\phi=\frac{\max d-d}{\max d-1}",
        paper="Caliva et al. 2019, Distance Map Loss Penalty Term for Semantic Segmentation",
        empty=ONE_CLASS + " phi is 0.",
        differs="smp, MONAI and kornia have none. SegLossOdyssey computes the weights and returns plain cross-entropy.",
        soft=False,
    )

    def costs(self, x: Pixels) -> Tensor:
        signed = x.maps["distance"]
        phi = nearness(x.t, 1 - signed)
        # for a softmax the background is a class with its own map
        phi = phi.sum(1, keepdim=True) if x.task == "multiclass" else phi + nearness(x.u, signed)
        return super().costs(x) * (1 + phi)


def nearness(share: Tensor, d: Tensor) -> Tensor:
    """Invert the distance d (b, k, n) within a class with this share: 1 at d = 1, 0 at the largest d and outside."""
    largest = (share * d).amax(-1, keepdim=True)
    return share * ratio(largest - d, largest - 1)


@dataclass(frozen=True, kw_only=True)
class BoundaryDoU(RegionLoss):
    """Difference over union in which the intersection counts less the smaller the boundary's fraction of the mask."""

    smooth: float = field(default=0.0, init=False, repr=False)

    card = region_card(
        title="Boundary difference over union",
        formula=r"\frac{\sum(p-t)^2}{\sum(p-t)^2+(1-\alpha)\,tp},\;1-\alpha=\max\big(0.2,2|\partial T|/|T|\big)",
        paper="Sun, Luo, Li 2023, Boundary Difference Over Union Loss for Medical Image Segmentation",
        differs="smp, MONAI and kornia have none. The authors pool the batch and smooth by 1e-5.",
        proper=True,
    )

    def each_class(self, x: Pixels) -> Tensor:
        require(len(x.space) == 2, self.name, "logits (b, k, h, w)", f"{len(x.space)} spatial dimensions")
        absent = (x.size == 0).unsqueeze(-1)
        t = torch.where(absent, x.u, x.t) if self.empty == "complement" else x.t
        inner = eroded(F.pad(x.spatial(t), (1, 1, 1, 1)))[..., 1:-1, 1:-1].flatten(2)  # no class outside the image
        edge = x.total(t - inner) / x.total(t).clamp(min=1)
        squared = x.total(x.squared_error)
        return ratio(squared, squared + (2 * edge).clamp(min=0.2) * self.confusion(x).tp)  # alpha is at most 0.8


def unsigned_distance(mask: Tensor) -> Tensor:
    """Compute the distance (b, k, h, w) in pixels to the nearest pixel of the other class; 1 if there is no other."""
    import numpy as np

    from seglab.distance_transform import distance_to_zero

    def plane_distance(plane: np.ndarray) -> np.ndarray:
        if plane.min() == plane.max():
            return np.ones(plane.shape, np.float32)
        return (distance_to_zero(plane) + distance_to_zero(1 - plane)).astype(np.float32)  # one of the two is 0

    planes = mask.flatten(0, 1).to(torch.uint8).cpu().numpy()
    return torch.from_numpy(np.stack([plane_distance(plane) for plane in planes])).view(mask.shape)


boundary_distance = torch.library.custom_op("seglab::boundary_distance", unsigned_distance, mutates_args=())
"""`unsigned_distance` as one operator, which compilers do not trace into."""


@boundary_distance.register_fake
def _(mask: Tensor) -> Tensor:
    return torch.empty(mask.shape, dtype=torch.float32)
