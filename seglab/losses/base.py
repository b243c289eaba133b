"""What a loss is: a frozen dataclass whose fields are its parameters and whose call gives one number per image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from seglab.contract import Logits, PerImage, Target, require


def real(x: Tensor) -> Tensor:
    """The tensor in the dtype losses compute in: float64 stays, everything else becomes float32."""
    return x if x.dtype == torch.float64 else x.float()


def probability(z: Tensor) -> Tensor:
    """The sigmoid, with a slope that is exact where the probability is close to 1 (torch's is p (1 - p))."""
    return F.logsigmoid(z).exp()


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a reader of the report should know about a loss.

    `formula` is LaTeX in p = sigmoid(z), q = sigmoid(-z), t the target and N the number of pixels. `empty` says what
    the loss does on a mask without foreground, `differs` how smp, MONAI and kornia differ under the same name.
    `soft` says whether targets strictly between 0 and 1 are defined, `proper` whether the minimum is then at p = t,
    `zero` whether a perfect prediction costs 0, `signed` whether the loss may fall below 0.
    """

    title: str
    family: str
    formula: str
    paper: str
    empty: str
    differs: str
    soft: bool = True
    proper: bool = False
    zero: bool = True
    signed: bool = False


@dataclass(frozen=True, kw_only=True)
class Loss(ABC):
    """One number per image, to be made small.

    Calling it takes logits (b, c, *spatial) and a target of the same shape in [0, 1] (bool, integer or float), computes
    in float32 (float64 for float64 logits) whatever autocast says, and returns (b,). Shapes are checked at every call;
    values only by `check`, since reading them would wait for a GPU.
    """

    card: ClassVar[Card]
    needs: ClassVar[tuple[str, ...]] = ()

    def __call__(self, logits: Logits, target: Target, **maps: Tensor) -> PerImage:
        self._check_shapes(logits, target, maps)
        device = logits.device.type
        if torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                loss = self.per_image(logits, target, **maps)
        else:
            loss = self.per_image(logits, target, **maps)
        self._suspect(loss, logits, target)
        return loss

    @abstractmethod
    def per_image(self, logits: Logits, target: Target, **maps: Tensor) -> PerImage:
        """The loss of each image (b,); logits and target come in their own dtypes, of one shape, outside autocast."""

    def fitted(self, foreground: float) -> Self:
        """This loss with each `auto` parameter worked out from the foreground share of the training masks."""
        return self

    def course(self, values: Sequence[float]) -> tuple[Loss, list[int]]:
        """The loss of the epoch that follows `values`, and the epochs at which one loss took over from another.

        `values` is the monitored value of each epoch so far, the larger the better. A function of these alone, so that
        a run that goes on takes the turns that it would have taken.
        """
        return self, []

    def check(self, logits: Logits, target: Target) -> None:
        """Raise one sentence for NaN logits, a target outside [0, 1], and soft labels where they are undefined.

        Reads every pixel, so it is for rehearsals and for finding out why a loss was not finite.
        """
        low, high = (x.item() for x in target.aminmax())
        require(
            low >= 0 and high <= 1,
            self.name,
            "a target in [0, 1]",
            f"{low:g} to {high:g}",
            "divide masks of 255 by 255",
        )
        wrong = int(logits.isnan().count_nonzero())
        require(not wrong, self.name, "logits that are numbers", f"{wrong} NaN of {logits.numel()}")
        if not self.soft:
            soft = int(((target > 0) & (target < 1)).count_nonzero())
            require(
                not soft,
                self.name,
                "a target of 0 and 1",
                f"{soft} soft labels",
                "threshold the target or take a loss whose card allows them",
            )

    def _check_shapes(self, logits: Tensor, target: Tensor, maps: dict[str, Tensor]) -> None:
        require(
            logits.shape == target.shape and logits.ndim >= 3 and logits.numel() > 0,
            self.name,
            "logits and target of one shape (b, c, *spatial)",
            f"{tuple(logits.shape)} and {tuple(target.shape)}",
        )
        require(logits.is_floating_point(), self.name, "floating-point logits", logits.dtype)
        for need in self.needs:
            got = tuple(maps[need].shape) if need in maps else "none"
            require(got == tuple(target.shape), self.name, f"a map {need!r} shaped like the target", got)

    def _suspect(self, loss: Tensor, logits: Tensor, target: Tensor) -> None:
        """Look into the values if the result is impossible; on a GPU that would wait, so there it is the caller's."""
        if loss.device.type != "cpu" or torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return
        low, high = (x.item() for x in loss.detach().aminmax())
        possible = low > -torch.inf if self.card.signed else low >= 0
        if not (possible and high < torch.inf) or (target.is_floating_point() and not self.soft):
            self.check(logits, target)

    @property
    def soft(self) -> bool:
        """Whether targets strictly between 0 and 1 are defined."""
        return self.card.soft

    @property
    def name(self) -> str:
        """How error messages call this loss."""
        return type(self).__name__

    def limit(self, ok: bool, parameter: str, expected: str) -> None:
        """Hold one parameter to its limit, in the sentence that `__post_init__` of every loss speaks."""
        require(ok, self.name, f"{parameter} {expected}", getattr(self, parameter))
