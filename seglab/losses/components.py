"""Losses that give every object of an image the same say, however small it is."""

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
    """The mean over the objects of an image of a loss of each object's part, plus `whole_weight` times that of all.

    `partition="cells"`: the part of an object is the pixels that no other is nearer to; "components": its own pixels
    and the background, those of other objects being left out. An image without objects is one part. A loss that is
    `by_totals` is computed for all objects at once, any other once for each. Needs the map `cells` or `components`: the
    number of the object, from 1, of each pixel.
    """

    partition: Literal["cells", "components"] = one_of("cells", "components")
    whole_weight: float = within("[0, inf)", 0.0)

    card = nested_card(
        title="Per component",
        formula=r"w\,L(\Omega)+\frac1C\sum_{c=1}^CL(\Omega_c),\quad\Omega_c\text{ the part of object }c",
        paper="Kofler et al. 2023, blob loss (components); Jaus et al. 2024, CC-Metrics, and CC-DiceCE of 2025 (cells)",
        empty="As its loss has it, for the whole image.",
        differs="The code of blob loss multiplies logits by 0 where ours leaves pixels out: each then costs log 2.",
        many="Objects are those of each class but the background; each channel of a multilabel task by itself.",
    )

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return (*super().needs, self.partition)

    def value(self, x: Pixels) -> PerImage:
        channels = x.z.shape[1] if x.task == "multilabel" else 1
        if channels > 1:  # each channel has its own objects, so it becomes an image
            valid = None if x.valid is None else x.valid.expand(x.z.shape)
            x = x.rebuilt(lambda v: v.flatten(0, 1).unsqueeze(1), valid)
        objects = x.maps[self.partition][:, x.background :]
        most = int(objects.max())  # a GPU waits here, once
        of_class = self.at_once if self.loss.by_totals else self.one_by_one
        totals, counts, wholes = zip(*(of_class(x, each, most) for each in objects.split(1, 1)), strict=True)
        total, count, whole = torch.stack(totals).sum(0), torch.stack(counts).sum(0), wholes[0]  # all the same
        mean = torch.where(count > 0, total / count.clamp(min=1), whole)
        return (mean + self.whole_weight * whole).view(-1, channels).mean(1)

    def at_once(self, x: Pixels, objects: Tensor, most: int) -> tuple[PerImage, Tensor, PerImage]:
        """The sum over the parts of each image, their number, and the whole, of a loss that looks at totals alone."""
        parts = Parts(objects, most, self.partition == "components", x.weight)
        there = parts.sizes[:, 0, 1:] > 0
        value = self.loss.value(x.in_parts(parts)).view(-1, most + 1)  # the last is the whole image
        return torch.where(there, value[:, :-1], 0).sum(1), there.sum(1), value[:, -1]

    def one_by_one(self, x: Pixels, objects: Tensor, most: int) -> tuple[PerImage, Tensor, PerImage]:
        """The same of any loss."""
        whole = self.loss.value(x)
        total, count = torch.zeros_like(whole), torch.zeros_like(whole)
        for number in range(1, most + 1):
            rows = (objects == number).any(-1).squeeze(1).nonzero().squeeze(1)  # images that have such an object
            part = objects == number
            part = part | (objects == 0) if self.partition == "components" else part
            part = part if x.valid is None else part & x.valid
            value = self.loss.value(x.rebuilt(partial(torch.index_select, dim=0, index=rows), part))
            total, count = total.index_add(0, rows, value), count.index_add(0, rows, torch.ones_like(value))
        return total, count, whole


@dataclass(frozen=True, kw_only=True)
class InverseSizeCE(BCE):
    """Cross-entropy in which a pixel weighs the more the smaller its object is, so that objects weigh the same.

    Needs the map `inverse_size`: the mean size of the objects and the background over that of the pixel's object, at
    least 1, and 1 on the background.
    """

    needs: ClassVar[tuple[str, ...]] = ("inverse_size",)
    card = pixel_card(
        title="Inverse component size",
        formula=r"\frac1N\sum w\big(-t\log p-(1-t)\log q\big),w=\max\big(1,\tfrac N{(C+1)|c|}\big)\text{ in object }c",
        paper="Shirokikh et al. 2020, Universal Loss Reweighting to Balance Lesion Size Inequality in 3D Segmentation",
        differs="The authors' background, too, weighs more than 1 where it is smaller than the mean object.",
        many=SUM_OVER_CLASSES + " Objects are those of each class but the background.",
    )

    def costs(self, x: Pixels) -> Tensor:
        w = x.maps["inverse_size"]
        return super().costs(x) * (w[:, 1:].amax(1, keepdim=True) if x.task == "multiclass" else w)
