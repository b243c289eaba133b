"""Where decoded images come from: one array, in memory or mapped into it, or their files each time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from seglab.contract import ContractError
from seglab.data.dataset import Dataset, raise_unless_skipped, read
from seglab.data.items import Item
from seglab.data.parallel import each


class Store(Protocol):
    """Decoded images by number, all of one size."""

    def batch(self, rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Give images (b, h, w, c) uint8 or uint16 and masks (b, h, w) uint8; copies, free to be changed."""


@dataclass(frozen=True)
class Whole:
    """Samples that are whole images: the rows of one part in a store."""

    store: Store
    rows: Sequence[int]

    def __len__(self) -> int:
        return len(self.rows)

    def cut(self, pairs: Sequence[tuple[int, int]], seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Give the images and masks of (epoch, index) pairs."""
        return self.store.batch([self.rows[index] for _, index in pairs])

    def number(self, index: int) -> int:
        """Say which image of the part a sample is of."""
        return index


@dataclass(frozen=True)
class Arrays:
    """Every image in one array (n, h, w, c) and every mask in another (n, h, w): a batch is one index."""

    images: np.ndarray
    masks: np.ndarray
    folder: str = ""

    @staticmethod
    def mapped(folder: str) -> Arrays:
        """Map images.npy and masks.npy of a folder into memory."""
        images, masks = (np.load(Path(folder) / f"{name}.npy", mmap_mode="r") for name in ("images", "masks"))
        return Arrays(images, masks, folder)

    def batch(self, rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        return np.asarray(self.images[list(rows)]), np.asarray(self.masks[list(rows)])

    def __reduce__(self) -> tuple[Any, ...]:
        # A memory map would be pickled as all its bytes: a spawned worker maps the files again instead.
        return (Arrays.mapped, (self.folder,)) if self.folder else (Arrays, (self.images, self.masks))


@dataclass(frozen=True)
class Files:
    """Decode at every use: for data that nobody wants to keep."""

    items: Sequence[Item]
    dataset: Dataset

    def batch(self, rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        pairs = [read(self.items[row], self.dataset) for row in rows]
        return np.stack([image for image, _ in pairs]), np.stack([mask for _, mask in pairs])


@dataclass(frozen=True)
class Survey:
    """What one pass over all pixels found: the foreground share of each item (n,), and the faults by id."""

    shares: np.ndarray
    faults: dict[str, str]


Keep = Callable[[int, np.ndarray, np.ndarray], None]


def decode(items: Sequence[Item], dataset: Dataset, keep: Keep) -> Survey:
    """Read every item with a thread per core and hand it to `keep(row, image, mask)`.

    The first item that cannot be read raises its ContractError unless `dataset.on_bad_item` is `skip`.
    """
    shares = np.zeros(len(items))

    def one(row: int) -> str:
        try:
            image, mask = read(items[row], dataset)
        except ContractError as error:
            raise_unless_skipped(error, dataset)
            return str(error)
        keep(row, image, mask)
        shares[row] = mask.mean(dtype=np.float64) / (255 if dataset.soft else 1)
        return ""

    found = each(one, range(len(items)), "decode")
    return Survey(shares, {item.id: fault for item, fault in zip(items, found, strict=True) if fault})


def in_memory(items: Sequence[Item], dataset: Dataset) -> tuple[Arrays, Survey]:
    """Decode everything now and keep it."""
    images = np.zeros((len(items), dataset.size, dataset.size, dataset.channels), f"uint{dataset.bits}")
    masks = np.zeros(images.shape[:3], np.uint8)
    return Arrays(images, masks), fill(images, masks, items, dataset)


def fill(images: np.ndarray, masks: np.ndarray, items: Sequence[Item], dataset: Dataset) -> Survey:
    """Decode all items into two arrays."""

    def keep(row: int, image: np.ndarray, mask: np.ndarray) -> None:
        images[row], masks[row] = image, mask

    return decode(items, dataset, keep)
