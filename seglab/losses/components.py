"""Losses that weight all objects of an image equally, however small they are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from seglab.contract import PerImage
from seglab.losses.base import SUM_OVER_CLASSES, one_of, pixel_card, within
from seglab.losses.composite import Wrapper, nested_card
from seglab.losses.cross_entropy import BCE
from seglab.losses.numerics import Parts
from seglab.losses.pixels import Pixels


@dataclass(frozen=True, kw_only=True)
class PerComponent(Wrapper):
    """Mean of a loss over parts of the image, one per object, plus `whole_weight` times the loss of the whole image.

    With `partition="cells"` the part of an object is the pixels closest to it; with "components" it is the object and
    the background, without the other objects. An image without objects is a single part. A `by_totals` loss is
    computed for all objects at once, any other loss once per object. Needs the map `cells` or `components`, which
    gives each pixel the number of its object, from 1.
    """

    partition: Literal["cells", "components"] = one_of("cells", "components")
    whole_weight: float = within("[0, inf)", 0.0)

    card = nested_card(
        title="Per component",
        formula=r"w\,L(\Omega)+\frac1C\sum_{c=1}^CL(\Omega_c),\quad\Omega_c\text{ the part of object }c",
        paper="Kofler et al. 2023, blob loss (components); Jaus et al. 2024, CC-Metrics, and CC-DiceCE of 2025 (cells)",
        empty="As in the inner loss, for the whole image.",
        differs="The code of blob loss multiplies logits by 0 where this one omits pixels: each then costs log 2.",
        many="Objects are those of all classes but the background; for a multilabel task, channel by channel.",
    )

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return (*super().needs, self.partition)

    def value(self, x: Pixels) -> PerImage:
        channels = x.z.shape[1] if x.task == "multilabel" else 1
        if channels > 1:  # each channel has its own objects, so it is treated as an image
            valid = None if x.valid is None else x.valid.expand(x.z.shape)
            x = x.rebuilt(lambda v: v.flatten(0, 1).unsqueeze(1), valid)
        objects = x.maps[self.partition][:, x.background :]
        most = int(objects.max())  # synchronizes with a GPU, once
        of_class = self.at_once if self.loss.by_totals else self.one_by_one
        totals, counts, wholes = zip(*(of_class(x, each, most) for each in objects.split(1, 1)), strict=True)
        total, count, whole = torch.stack(totals).sum(0), torch.stack(counts).sum(0), wholes[0]  # all are the same
        mean = torch.where(count > 0, total / count.clamp(min=1), whole)
        return (mean + self.whole_weight * whole).view(-1, channels).mean(1)

    def at_once(self, x: Pixels, objects: Tensor, most: int) -> tuple[PerImage, Tensor, PerImage]:
        """Return the sum over each image's parts, their number, and the whole image's loss, for a `by_totals` loss."""
        parts = Parts(objects, most, self.partition == "components", x.weight)
        present = parts.sizes[:, 0, 1:] > 0
        value = self.loss.value(x.in_parts(parts)).view(-1, most + 1)  # the last is the whole image
        return torch.where(present, value[:, :-1], 0).sum(1), present.sum(1), value[:, -1]

    def one_by_one(self, x: Pixels, objects: Tensor, most: int) -> tuple[PerImage, Tensor, PerImage]:
        """Return the same as `at_once` for any loss."""
        whole = self.loss.value(x)
        total, count = torch.zeros_like(whole), torch.zeros_like(whole)
        for number in range(1, most + 1):
            rows = (objects == number).any(-1).squeeze(1).nonzero().squeeze(1)  # images with an object of this number
            part = objects == number
            part = part | (objects == 0) if self.partition == "components" else part
            part = part if x.valid is None else part & x.valid
            value = self.loss.value(x.rebuilt(partial(torch.index_select, dim=0, index=rows), part))
            total, count = total.index_add(0, rows, value), count.index_add(0, rows, torch.ones_like(value))
        return total, count, whole


@dataclass(frozen=True, kw_only=True)
class InverseSizeCE(BCE):
    """Cross-entropy with pixel weights inverse to object size: objects below the mean size have equal total weights.

    Needs the map `inverse_size`: the mean size of objects and background divided by the size of the pixel's object, at
    least 1, and 1 on the background.
    """

    needs: ClassVar[tuple[str, ...]] = ("inverse_size",)
    card = pixel_card(
        title="Inverse component size",
        formula=r"\frac1N\sum w\big(-t\log p-(1-t)\log q\big),w=\max\big(1,\tfrac N{(C+1)|c|}\big)\text{ in object }c",
        paper="Shirokikh et al. 2020, Universal Loss Reweighting to Balance Lesion Size Inequality in 3D Segmentation",
        differs="In the authors' code, a background smaller than the mean object also has a weight above 1.",
        many=SUM_OVER_CLASSES + " Objects are those of all classes but the background.",
    )

    def costs(self, x: Pixels) -> Tensor:
        w = x.maps["inverse_size"]
        return super().costs(x) * (w[:, 1:].amax(1, keepdim=True) if x.task == "multiclass" else w)
