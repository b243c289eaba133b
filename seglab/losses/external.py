"""Someone else's loss as one of ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from seglab.contract import Logits, PerImage, Target, require
from seglab.losses.base import Card, Loss, real


@dataclass(frozen=True, kw_only=True)
class External(Loss):
    """Any callable of prediction and target (smp, MONAI, kornia, your own), in float32, with a card of your words.

    `takes` says whether it wants "logits" or "probabilities". It is called image by image; with `image_by_image=false`
    once for the batch: one number per image (b, ...) is used as it is, a single one counts for every image. `title`,
    `paper` and `formula` (LaTeX) go into the card; null names the callable and its package.
    """

    function: Callable[[Tensor, Tensor], Tensor]
    takes: Literal["logits", "probabilities"] = "logits"
    image_by_image: bool = True
    title: str | None = None
    paper: str | None = None
    formula: str | None = None

    @property
    def card(self) -> Card:  # type: ignore[override]
        function = getattr(self.function, "func", self.function)
        named = function if hasattr(function, "__name__") else type(function)
        return Card(
            title=self.title or f"{named.__name__} ({named.__module__.partition('.')[0]})",
            family="external",
            formula=self.formula or (r"f(z,t)" if self.takes == "logits" else r"f(p,t)"),
            paper=self.paper or "The author's",
            empty="The author's choice.",
            differs=f"Not at all: this is their code, given float32 {self.takes} and target of one shape.",
            zero=False,
            signed=True,
        )

    def __post_init__(self) -> None:
        self.limit(callable(self.function), "function", "that can be called with prediction and target")
        self.limit(self.takes in ("logits", "probabilities"), "takes", "either logits or probabilities")

    def per_image(self, logits: Logits, target: Target, **maps: Tensor) -> PerImage:
        z = real(logits)
        prediction, t = torch.sigmoid(z) if self.takes == "probabilities" else z, target.to(z.dtype)
        if self.image_by_image:
            return torch.cat([self._numbers(prediction[i : i + 1], t[i : i + 1]) for i in range(len(z))])
        return self._numbers(prediction, t)

    def _numbers(self, prediction: Tensor, t: Tensor) -> PerImage:
        """(b,), from one number per image or a single one."""
        loss = self.function(prediction, t)
        require(isinstance(loss, Tensor), self.name, "a tensor from its function", type(loss).__name__)
        if loss.ndim and len(loss) == len(t):
            return loss.flatten(1).mean(1) if loss.ndim > 1 else loss
        expected = f"one number, or one per image ({len(t)},)"
        require(loss.numel() == 1, self.name, f"{expected} from its function", tuple(loss.shape))
        return loss.reshape(1).expand(len(t))
