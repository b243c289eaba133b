"""Where the decoded images of a data set come from: memory, or their files each time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from seglab.data.base import Dataset, read
from seglab.data.items import Item


class Store(Protocol):
    """Decoded images by number, all of one size."""

    def batch(self, indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Give images (b, h, w, c) uint8 and masks (b, h, w) uint8 or float32; copies, free to be changed."""

    def mask(self, index: int) -> np.ndarray:
        """Give one mask (h, w), for counting."""


@dataclass(frozen=True)
class Arrays:
    """Every image in one array (n, h, w, c) and every mask in another (n, h, w): a batch is one index."""

    images: np.ndarray
    masks: np.ndarray

    def batch(self, indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        return self.images[list(indices)], self.masks[list(indices)]

    def mask(self, index: int) -> np.ndarray:
        return self.masks[index]


@dataclass(frozen=True)
class Files:
    """Decode at every use: for data that nobody wants to keep."""

    items: list[Item]
    dataset: Dataset

    def batch(self, indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        pairs = [read(self.items[index], self.dataset) for index in indices]
        return np.stack([image for image, _ in pairs]), np.stack([mask for _, mask in pairs])

    def mask(self, index: int) -> np.ndarray:
        return read(self.items[index], self.dataset)[1]


def in_memory(items: list[Item], dataset: Dataset) -> Arrays:
    """Decode everything now and keep it."""
    images = np.empty((len(items), dataset.size, dataset.size, dataset.channels), np.uint8)
    masks = np.empty(images.shape[:3], np.float32 if dataset.soft else np.uint8)
    for index, item in enumerate(items):
        images[index], masks[index] = read(item, dataset)
    return Arrays(images, masks)
