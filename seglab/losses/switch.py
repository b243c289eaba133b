"""Two losses one after the other: the second takes over at an epoch, or when the first no longer helps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from torch import Tensor

from seglab.contract import Logits, PerImage, Target, require
from seglab.losses.base import Card, Loss


@dataclass(frozen=True, kw_only=True)
class Switch(Loss):
    """One loss first, another once the monitored value stops improving; called by itself it is its first loss.

    The second takes over after `patience` epochs in a row that brought no better value, or, where `at` is given, after
    the first `at` epochs whatever the values were. It never goes back.
    """

    first: Loss
    second: Loss
    at: int | None = None
    patience: int = 10

    card: ClassVar[Card] = Card(
        title="Switch",
        family="compound",
        formula=r"L_1\text{ before the switch},\quad L_2\text{ after it}",
        paper="A practice: cross-entropy until validation stops improving, then the IoU loss",
        empty="As the loss of the moment has it.",
        differs="Not in smp, MONAI or kornia, where a second training takes up the weights of the first.",
        signed=True,
    )

    def __post_init__(self) -> None:
        self.limit(self.at is None or self.at >= 1, "at", "of at least 1")
        self.limit(self.patience >= 1, "patience", "of at least 1")
        same = self.first == self.second
        require(not same, self.name, "two losses that differ", f"{self.first.name} twice")

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(dict.fromkeys((*self.first.needs, *self.second.needs)))

    @property
    def soft(self) -> bool:
        return self.first.soft and self.second.soft

    def fitted(self, foreground: float) -> Self:
        return replace(self, first=self.first.fitted(foreground), second=self.second.fitted(foreground))

    def check(self, logits: Logits, target: Target) -> None:
        self.first.check(logits, target)
        self.second.check(logits, target)

    def per_image(self, logits: Logits, target: Target, **maps: Tensor) -> PerImage:
        return self.first.per_image(logits, target, **maps)

    def course(self, values: Sequence[float]) -> tuple[Loss, list[int]]:
        turn = self._turn(values)
        if turn is None:
            return self.first, []
        loss, later = self.second.course(values[turn:])
        return loss, [turn, *(turn + epoch for epoch in later)]

    def _turn(self, values: Sequence[float]) -> int | None:
        """The first epoch of the second loss, None if it is still to come."""
        if self.at is not None:
            return self.at if len(values) >= self.at else None
        best, since = float("-inf"), 0
        for epoch, value in enumerate(values, 1):
            best, since = (value, 0) if value > best else (best, since + 1)
            if since == self.patience:
                return epoch
        return None
