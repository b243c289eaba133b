"""Losses made of losses: weighted sums that share one pass over the pixels."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from seglab.contract import PerImage
from seglab.losses.base import Card
from seglab.losses.pixel import BCE
from seglab.losses.region import BY_POLICY, Dice, Empty
from seglab.losses.sums import Pixels, SumLoss, Sums


@dataclass(frozen=True, kw_only=True)
class BCEDice(SumLoss):
    """Cross-entropy plus Dice: the gradient of the one where the other has none.

    `bce_weight=1e-3` with `dice_offset=-1` is 1e-3 BCE - Dice, as it was used on ships in satellite images; its best
    value is then -1.
    """

    bce_weight: float = 1.0
    dice_weight: float = 1.0
    dice_offset: float = 0.0
    empty: Empty = "complement"
    smooth: float = 0.0

    card: ClassVar[Card] = Card(
        title="BCE + Dice",
        family="compound",
        formula=r"w_b\,\mathrm{BCE}+w_d\,(\mathrm{Dice}+o)",
        paper="Isensee et al. 2021, nnU-Net; Kaggle Airbus Ship Detection Challenge 2018 (1e-3 BCE - Dice)",
        empty=BY_POLICY,
        differs=(
            "MONAI's DiceCE adds the same two; nnU-Net subtracts the Dice score, so that its best is -1; smp has none."
        ),
    )

    def __post_init__(self) -> None:
        self.limit(self.bce_weight >= 0, "bce_weight", "of at least 0")
        self.limit(self.dice_weight >= 0, "dice_weight", "of at least 0")
        self._dice()

    def _dice(self) -> Dice:
        return Dice(empty=self.empty, smooth=self.smooth)

    def terms(self, x: Pixels) -> dict[Hashable, Tensor]:
        return BCE().terms(x) | self._dice().terms(x)

    def value(self, sums: Sums, n: int) -> PerImage:
        dice = self._dice().value(sums, n) + self.dice_offset
        return self.bce_weight * BCE().value(sums, n) + self.dice_weight * dice
