"""What is known about a data set before the first epoch: counts, foreground, and what looks wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from seglab.data.store import Store


@dataclass(frozen=True)
class Foreground:
    """The mean share of foreground in each image of one part."""

    shares: np.ndarray

    @property
    def count(self) -> int:
        return len(self.shares)

    @property
    def mean(self) -> float:
        return float(self.shares.mean()) if self.count else 0.0

    @property
    def empty(self) -> int:
        return int((self.shares == 0).sum())

    @property
    def full(self) -> int:
        return int((self.shares == 1).sum())


def foreground(store: Store, rows: list[int]) -> Foreground:
    """Measure each mask of one part."""
    return Foreground(np.array([store.mask(row).mean(dtype=np.float64) for row in rows]))


def doubts(name: str, part: Foreground) -> list[str]:
    """Say in sentences what looks wrong about the masks of one part."""
    if not part.count:
        return [f"{name}: no images"]
    remedy = "look at dataset.threshold, dataset.mask_value or dataset.target"
    if part.empty == part.count:
        return [f"{name}: no mask has any foreground; {remedy}"]
    if part.full == part.count:
        return [f"{name}: every mask is foreground everywhere; {remedy}"]
    return [f"{name}: {part.full} of {part.count} masks are foreground everywhere; {remedy}"] if part.full else []
