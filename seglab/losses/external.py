"""Someone else's loss as one of ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from seglab.contract import Logits, PerImage, Target, require
from seglab.losses.base import Card, Loss, real


@dataclass(frozen=True, kw_only=True)
class External(Loss):
    """Any callable of logits and target (smp, MONAI, kornia, your own), in float32 and with one number per image.

    It is called image by image; with `image_by_image=false` once for the batch, and every image gets its number.
    """

    function: Callable[[Tensor, Tensor], Tensor]
    image_by_image: bool = True

    card: ClassVar[Card] = Card(
        title="External loss",
        family="external",
        formula=r"f(z,t)",
        paper="The author's",
        empty="The author's choice.",
        differs="Not at all: this is their code, given float32 logits and target of one shape.",
        zero=False,
        signed=True,
    )

    def __post_init__(self) -> None:
        self.limit(callable(self.function), "function", "that can be called with logits and target")

    def per_image(self, logits: Logits, target: Target, **maps: Tensor) -> PerImage:
        z = real(logits)
        t = target.to(z.dtype)
        if not self.image_by_image:
            return self._number(z, t).expand(len(z))
        return torch.stack([self._number(z[i : i + 1], t[i : i + 1]) for i in range(len(z))])

    def _number(self, z: Tensor, t: Tensor) -> Tensor:
        loss = self.function(z, t)
        require(isinstance(loss, Tensor), self.name, "a tensor from its function", type(loss).__name__)
        return loss.mean()
