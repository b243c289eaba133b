"""Sources of the samples of a split: whole images, random patches, or tiles."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from seglab.data.dataset import Dataset, Decoded
from seglab.data.decode import convert, encode
from seglab.images.labels import Seen
from seglab.images.resize import crop

Pair = tuple[int, int]  # an epoch, and the index of a sample
Tile = tuple[int, int, int, tuple[slice, slice]]  # image number, top, left, and the part that no earlier tile covers


@dataclass(frozen=True)
class Whole:
    """Samples that are whole images, as decoded."""

    images: Sequence[Decoded]
    dataset: Dataset

    def __len__(self) -> int:
        return len(self.images)

    def number(self, index: int) -> int:
        """Return the number of the image, within the split, to which a sample belongs."""
        return index

    def sample(self, pair: Pair, seed: int) -> Seen:
        """Return the image (h, w, c), mask (h, w) or (h, w, k) uint8, and valid pixels of one sample; do not modify."""
        return self.images[pair[1]].seen()

    def batch(self, pairs: Sequence[Pair], seed: int) -> Seen:
        """Return images (b, h, w, c) uint8 or uint16, masks (b, h, w) or (b, h, w, k) uint8, valid pixels (b, h, w).

        All are copies that may be changed in place.
        """
        images, masks, valids = zip(*(self.sample(pair, seed) for pair in pairs), strict=True)
        if all(valid is None for valid in valids):
            return Seen(joined(images), joined(masks), None)
        everywhere = np.ones(masks[0].shape[:2], bool)
        valid = np.stack([everywhere if valid is None else valid for valid in valids])
        return Seen(joined(images), joined(masks), valid)

    def square(self, number: int, top: int, left: int) -> Seen:
        """Cut a square of `dataset.size` from an image; of a memory-mapped image, only the square is read."""
        size, (image, mask, valid) = self.dataset.size, self.images[number].seen()
        window = slice(top, top + size), slice(left, left + size)
        # Convert before padding with 0: only in the converted image is 0 always black.
        pixels = crop(convert(image[window], self.dataset), 0, 0, size, size).reshape(size, size, -1)
        truth = encode(crop(mask, top, left, size, size), self.dataset)
        if valid is None and mask[window].shape[:2] == (size, size):
            return Seen(pixels, truth, None)
        inside = np.ones(mask[window].shape[:2], bool) if valid is None else valid[window]
        return Seen(pixels, truth, crop(inside, 0, 0, size, size))  # not valid beyond the edge


@dataclass(frozen=True)
class RandomPatches(Whole):
    """Samples that are random squares, `patches_per_image` from each image per epoch."""

    def __len__(self) -> int:
        return len(self.images) * self.dataset.patches_per_image

    def number(self, index: int) -> int:
        return index // self.dataset.patches_per_image

    def sample(self, pair: Pair, seed: int) -> Seen:
        """Return one square; its position depends only on seed, epoch and index."""
        number = self.number(pair[1])
        return self.square(number, *self.corner(number, (seed, *pair, 1)))  # 1 separates it from augmentation's draw

    def corner(self, number: int, key: Sequence[int]) -> tuple[int, int]:
        """Draw the top left corner of a square, around a foreground pixel or anywhere, from a generator of its own."""
        rng, image, size = np.random.default_rng(key), self.images[number], self.dataset.size
        room = np.maximum(np.array(image.shape) - size, 0)
        if len(image.points) and rng.random() < self.dataset.positive_fraction:
            # At least an eighth of the square away from its edge, or most objects would be cut in half.
            inset = rng.uniform(0.125, 0.875, 2) * size
            corner = image.points[rng.integers(len(image.points))] - inset.astype(np.int64)
        else:
            corner = rng.integers(0, room + 1)
        top, left = np.clip(corner, 0, room).tolist()
        return top, left


@dataclass(frozen=True)
class Tiles(Whole):
    """Samples that cover each image with square tiles, which lie inside it if it is large enough."""

    @cached_property
    def places(self) -> list[Tile]:
        """The tiles of all images."""
        places: list[Tile] = []
        for number, image in enumerate(self.images):
            down, across = (steps(length, self.dataset.size) for length in image.shape)
            places += [(number, top, left, (rows, columns)) for top, rows in down for left, columns in across]
        return places

    def __len__(self) -> int:
        return len(self.places)

    def number(self, index: int) -> int:
        return self.places[index][0]

    def sample(self, pair: Pair, seed: int) -> Seen:
        """Return one tile, in which only the pixels that no earlier tile of its image covers are valid."""
        number, top, left, own = self.places[pair[1]]
        image, mask, valid = self.square(number, top, left)
        uncovered = np.zeros(mask.shape[:2], bool)
        uncovered[own] = True
        return Seen(image, mask, uncovered if valid is None else uncovered & valid)


def joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Stack arrays of one shape (h, ...) to (b, h, ...) by concatenating their rows, which is faster than np.stack."""
    return np.concatenate(arrays).reshape(len(arrays), *arrays[0].shape)


def steps(length: int, size: int) -> list[tuple[int, slice]]:
    """Divide a side of an image into tiles: where each tile starts, and its part that no earlier tile covers."""
    tiles = []
    for start in range(0, length, size):
        # Inside the image: a model found objects in black padding (IoU 0.19 instead of 0.69, docs/findings).
        begin = max(0, min(start, length - size))
        tiles.append((begin, slice(start - begin, min(size, length - begin))))
    return tiles
