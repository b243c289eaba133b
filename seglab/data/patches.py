"""Squares cut from images that are too large to be seen whole: drawn at random for training, as tiles for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from seglab.data.dataset import Dataset, convert, decode_native, encode
from seglab.data.items import Item
from seglab.data.resize import crop

Place = tuple[int, int, int]
"""Row of an image, and the top and left corner of a square in it."""

Own = tuple[int, int, int, int]
"""The pixels of a square that count as its own: from and to which row and column, without the latter."""


@dataclass(frozen=True)
class Scans:
    """Images of any size: the items, their shapes (n, 2), and some foreground pixels (k, 2) of each."""

    items: Sequence[Item]
    dataset: Dataset
    shapes: np.ndarray
    points: Sequence[np.ndarray]

    def cut(self, places: Sequence[Place]) -> tuple[np.ndarray, np.ndarray]:
        """Give the squares at these places: images (b, size, size, c) and masks (b, size, size)."""
        images, masks = zip(*(self.square(*place) for place in places), strict=True)
        return np.stack(images), np.stack(masks)

    def square(self, row: int, top: int, left: int) -> tuple[np.ndarray, np.ndarray]:
        """Give one square; of a memory-mapped image only that is read."""
        size = self.dataset.size
        image, mask = decode_native(self.items[row], self.dataset)
        image, mask = (crop(array, top, left, size, size) for array in (image, mask))
        return convert(image, self.dataset).reshape(size, size, -1), encode(mask.astype(np.float32), self.dataset)

    def tiles(self, row: int) -> list[tuple[Place, Own]]:
        """Cover one image with squares, none of them over its edge where the image is large enough."""
        height, width = (steps(int(length), self.dataset.size) for length in self.shapes[row])
        return [((row, top, left), (*rows, *columns)) for top, *rows in height for left, *columns in width]

    def drawn(self, row: int, key: Sequence[int]) -> Place:
        """Draw a square of one image from a generator of its own: around some foreground, or anywhere."""
        rng = np.random.default_rng(key)
        free = np.maximum(self.shapes[row] - self.dataset.size, 0)
        points = self.points[row]
        if len(points) and rng.random() < self.dataset.positive_fraction:
            # Not nearer to the square's edge than an eighth, or half of an object would be the rule.
            into = rng.uniform(0.125, 0.875, 2) * self.dataset.size
            corner = points[rng.integers(len(points))] - into.astype(np.int64)
        else:
            corner = rng.integers(0, free + 1)
        top, left = (int(n) for n in np.clip(corner, 0, free))
        return row, top, left


@dataclass(frozen=True)
class Drawn:
    """Samples that are squares drawn at random, so many from each image in each epoch."""

    scans: Scans
    rows: Sequence[int]

    def __len__(self) -> int:
        return len(self.rows) * self.scans.dataset.patches_per_image

    def cut(self, pairs: Sequence[tuple[int, int]], seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Give the images and masks of (epoch, index) pairs; both and the seed alone decide the places."""
        # The last number keeps this draw apart from the augmentation's, whose key has three.
        places = [self.scans.drawn(self.rows[self.number(index)], (seed, epoch, index, 1)) for epoch, index in pairs]
        return self.scans.cut(places)

    def number(self, index: int) -> int:
        """Say which image of the part a sample is of."""
        return index // self.scans.dataset.patches_per_image


@dataclass(frozen=True)
class Tiled:
    """Samples that cover each image with squares; of those that overlap each has pixels of its own."""

    scans: Scans
    rows: Sequence[int]

    @cached_property
    def places(self) -> list[tuple[int, Place, Own]]:
        """List every square with the number of its image in the part."""
        return [(number, *tile) for number, row in enumerate(self.rows) for tile in self.scans.tiles(row)]

    def __len__(self) -> int:
        return len(self.places)

    def cut(self, pairs: Sequence[tuple[int, int]], seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Give the images and masks of (epoch, index) pairs."""
        return self.scans.cut([self.places[index][1] for _, index in pairs])

    def number(self, index: int) -> int:
        """Say which image of the part a sample is of."""
        return self.places[index][0]

    def valid(self, indices: Sequence[int]) -> np.ndarray:
        """Mark the pixels (b, size, size) of each square that count, so that every pixel of an image counts once."""
        size = self.scans.dataset.size
        masks = np.zeros((len(indices), size, size), bool)
        for mask, index in zip(masks, indices, strict=True):
            top, bottom, left, right = self.places[index][2]
            mask[top:bottom, left:right] = True
        return masks


def steps(length: int, size: int) -> list[tuple[int, int, int]]:
    """Cover a side of an image: where each square begins, and from and to which of its pixels it is the first there."""
    places = [(max(0, min(start, length - size)), start) for start in range(0, length, size)]
    return [(begin, start - begin, min(begin + size, length) - begin) for begin, start in places]
