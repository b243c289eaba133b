"""A wrapper for loss functions of other libraries or your own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import MISSING, dataclass
from types import FunctionType
from typing import Literal

import torch
from torch import Tensor, nn

from seglab.contract import PerImage, require
from seglab.losses.base import Card, Loss, limited, one_of
from seglab.losses.pixels import Pixels


@dataclass(frozen=True, kw_only=True)
class External(Loss):
    """Any callable of prediction and target (smp, MONAI, kornia, your own), in float32; you can fill in its card.

    It is called once per image, or once per batch with `image_by_image=false`; it may then return values per image (b,
    ...), which are averaged per image, or one value, which counts for every image. Of an image with invalid pixels it
    gets the valid ones: as a smaller image if they fill a rectangle (padding), else as one row (..., n, 1).

    Args:
        takes: whether it expects "logits" or "probabilities".
        labels: which target it expects in a multiclass task: "shares" (b, k, *spatial), as MONAI and torch's
            cross_entropy do, or "ids" (b, *spatial), as smp, kornia and torch do.
        title, paper, formula: text for the card (the formula in LaTeX); a null `title` names the callable and its
            package.
    """

    function: Callable[[Tensor, Tensor], Tensor] = limited(MISSING, "to be callable", callable)
    takes: Literal["logits", "probabilities"] = one_of("logits", "probabilities")
    labels: Literal["shares", "ids"] = one_of("shares", "ids")
    image_by_image: bool = True
    title: str | None = None
    paper: str | None = None
    formula: str | None = None

    @property
    def card(self) -> Card:  # type: ignore[override]
        function = getattr(self.function, "func", self.function)
        source = function if isinstance(function, type | FunctionType) else type(function)
        return Card(
            title=self.title or f"{source.__name__} ({source.__module__.partition('.')[0]})",
            family="external",
            formula=self.formula or (r"f(z,t)" if self.takes == "logits" else r"f(p,t)"),
            paper=self.paper or "The author's",
            empty="The author's choice.",
            differs=f"Identical: this is their code, called with float32 {self.takes} and a target of {self.labels}.",
            many="The author's choice.",
            zero=False,
            signed=True,
        )

    @property
    def soft(self) -> bool:
        return self.labels == "shares" or self.task != "multiclass"  # an id is one class

    def modules(self) -> list[nn.Module]:
        return [self.function] if isinstance(self.function, nn.Module) else []

    def value(self, x: Pixels) -> PerImage:
        prediction = x.p if self.takes == "probabilities" else x.z
        target = x.t.argmax(1) if self.labels == "ids" and x.task == "multiclass" else x.t
        prediction, target = (v.clone().unflatten(-1, x.space) for v in (prediction, target))  # it may modify them
        size = 1 if self.image_by_image else len(target)
        parts = zip(prediction.split(size), target.split(size), strict=True)
        if x.valid is None:
            return torch.cat([self._one_per_image(*part) for part in parts])
        require(self.image_by_image, self.name, "image_by_image=true if pixels are excluded by `valid`", "false")
        valid = x.spatial(x.valid)[:, 0]
        images = [[counted(v, where) for v in part] for part, where in zip(parts, valid, strict=True)]
        # 0, with a gradient, if there are no valid pixels: many functions return NaN for empty tensors
        return torch.cat([self._one_per_image(z, t) if t.numel() else 0 * z.sum().view(1) for z, t in images])

    def _one_per_image(self, prediction: Tensor, target: Tensor) -> PerImage:
        """Call the function and return (b,), from values per image or a single value."""
        loss = self.function(prediction, target)
        require(isinstance(loss, Tensor), self.name, "its function to return a tensor", type(loss).__name__)
        if loss.ndim and len(loss) == len(target):
            return loss.flatten(1).mean(1) if loss.ndim > 1 else loss
        expected = f"its function to return one number, or one per image ({len(target)},)"
        require(loss.numel() == 1, self.name, expected, tuple(loss.shape))
        return loss.reshape(1).expand(len(target))


def counted(x: Tensor, valid: Tensor) -> Tensor:
    """Return the valid pixels of x (..., *spatial): a smaller image if they fill a box, else a row (..., n, 1)."""
    sides = [valid.movedim(axis, 0).reshape(size, -1).any(1) for axis, size in enumerate(valid.shape)]
    if valid.sum() < math.prod(side.sum() for side in sides):  # their bounding box has invalid pixels
        return x[..., valid].unsqueeze(-1)
    for axis, side in enumerate(sides, -valid.ndim):
        x = x.index_select(axis, side.nonzero().squeeze(1))
    return x
