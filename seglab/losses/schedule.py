"""A switch between two losses: at a given epoch, or when the monitored value stops improving."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from seglab.contract import PerImage, require
from seglab.losses.base import Loss, within
from seglab.losses.composite import Nested, nested_card
from seglab.losses.pixels import Pixels


@dataclass(frozen=True, kw_only=True)
class Switch(Nested):
    """One loss until the monitored value stops improving, then another; called directly, it is the first loss.

    The second loss takes over after `patience` consecutive validations without a better value or, if `at` is given,
    after `at` epochs whatever the values are. It never switches back.
    """

    first: Loss
    second: Loss
    at: int | None = within("[1, inf)", None, null=True, whole=True)
    patience: int = within("[1, inf)", 10, whole=True)

    card = nested_card(
        title="Switch",
        formula=r"L_1\text{ before the switch},\quad L_2\text{ after it}",
        paper="A practice: cross-entropy until validation stops improving, then the IoU loss",
        differs="Not in smp, MONAI or kornia, where a second training starts from the weights of the first.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.first != self.second, self.name, "two different losses", f"{self.first.name} twice")

    def inner(self) -> tuple[Loss, ...]:
        return self.first, self.second

    def mapped(self, change: Callable[[Loss], Loss]) -> Self:
        return replace(self, first=change(self.first), second=change(self.second))

    def value(self, x: Pixels) -> PerImage:
        return self.first.value(x)

    def by_class(self, x: Pixels) -> Tensor:
        return self.first.by_class(x)

    def at_epoch(self, history: Sequence[float | None]) -> tuple[Loss, list[int]]:
        switch = self._switch(history)
        # the switches inside the first loss count only up to its last epoch
        first, switches = self.first.at_epoch(history if switch is None else history[: switch - 1])
        if switch is None:
            return first, switches
        second, more = self.second.at_epoch(history[switch:])
        return second, [*switches, switch, *(switch + epoch for epoch in more)]

    def _switch(self, history: Sequence[float | None]) -> int | None:
        """Return the first epoch of the second loss, or None if it is still to come."""
        if self.at is not None:
            return self.at if len(history) >= self.at else None
        best, waited = float("-inf"), 0
        for epoch, value in enumerate(history, 1):
            if value is None:
                continue
            best, waited = (value, 0) if value > best else (best, waited + 1)  # NaN is not better
            if waited == self.patience:
                return epoch
        return None
