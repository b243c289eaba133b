"""A data set: where its images lie, and how each one is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from seglab.contract import ContractError, require
from seglab.data.items import Item
from seglab.data.resize import FITS, crop, fit, resize, to_bits, to_channels, to_mask


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What all data sets have in common: the knobs of reading and splitting. A data set adds its own and `items()`.

    size: side in pixels of the square that the model sees.
    fit: `resize` stretches the image to the square, `pad` keeps its proportions on black, `patch` keeps its pixels:
    training draws squares of `size` from it, validation and test tile it with them (black beyond the edges).
    reduce: shrink the image by this whole factor before all that.
    positive_fraction: share of the patches of an image with foreground that are drawn around a pixel of it; the others
    are drawn anywhere. patches_per_image: patches drawn from each image in an epoch.
    channels: 3 (RGB; a grey image is repeated) or 1 (grey). bits: 8 or 16 of each, for what was decoded.
    coverage: share of a resized pixel that must be foreground for it to count as such; low values keep thin objects.
    soft: keep that share itself as the target (float32) instead of cutting it at `coverage`.
    mean, std: normalisation per channel (or one for all) in units of the full range 0..1, done on the device.
    val_fraction, test_fraction: share of the training images (of all images) set aside where there is no such part.
    split_seed: fixes that choice, apart from the training's seed. split_file: a frozen split to use instead (JSON).
    on_bad_item: `raise` stops at an image that cannot be read; `skip` leaves it out and counts it.
    cache_dir: folder for decoded images, null for none. cache_gb: bound for all that lies in that folder.
    """

    size: int = 256
    fit: str = "resize"
    reduce: int = 1
    positive_fraction: float = 0.5
    patches_per_image: int = 1
    channels: int = 3
    bits: int = 8
    coverage: float = 0.5
    soft: bool = False
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.25,)
    val_fraction: float = 0.15
    test_fraction: float = 0.15
    split_seed: int = 0
    split_file: str | None = None
    on_bad_item: str = "raise"
    cache_dir: str | None = "outputs/cache"
    cache_gb: float = 20.0

    def __post_init__(self) -> None:
        require(self.size >= 1, "dataset", "size of at least one pixel", self.size)
        require(self.fit in FITS, "dataset", f"fit to be one of {', '.join(FITS)}", self.fit)
        require(self.reduce >= 1, "dataset", "reduce of at least 1", self.reduce)
        require(self.patches_per_image >= 1, "dataset", "patches_per_image of at least 1", self.patches_per_image)
        positive = self.positive_fraction
        require(0 <= positive <= 1, "dataset", "positive_fraction in [0, 1]", positive)
        require(self.channels in (1, 3), "dataset", "channels to be 1 or 3", self.channels)
        require(self.bits in (8, 16), "dataset", "bits to be 8 or 16", self.bits)
        require(0 < self.coverage <= 1, "dataset", "coverage in (0, 1]", self.coverage)
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # a yaml list cannot be hashed
            length = len(getattr(self, name))
            require(length in (1, self.channels), "dataset", f"{name} with 1 or {self.channels} numbers", length)
        require(min(self.std) > 0, "dataset", "std above 0", self.std)
        for name in ("val_fraction", "test_fraction"):
            require(0 <= getattr(self, name) < 1, "dataset", f"{name} in [0, 1)", getattr(self, name))
        require(self.on_bad_item in ("raise", "skip"), "dataset", "on_bad_item to be raise or skip", self.on_bad_item)
        require(self.cache_gb >= 0, "dataset", "cache_gb of at least 0", self.cache_gb)

    def items(self) -> list[Item]:
        """List every labelled image without decoding any."""
        raise NotImplementedError


def decode_native(item: Item, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Decode one item in its own size, less `dataset.reduce`: image as its file has it, mask (h, w).

    The mask is uint8 of 0 and 1, or float32 shares where the file or `dataset.soft` says so. Raises a ContractError
    that names the item.
    """
    image, mask = item.image(), item.mask()
    require(
        image.shape[:2] == mask.shape,
        f"image {item.id}",
        f"a mask of its own size {image.shape[1]}x{image.shape[0]} (width x height)",
        "x".join(str(n) for n in mask.shape[::-1]),
    )
    if dataset.reduce == 1:
        return image, mask
    height, width = (max(1, n // dataset.reduce) for n in mask.shape)
    share = resize(mask.astype(np.float32), height, width)
    return resize(image, height, width), share if dataset.soft else to_mask(share, dataset.coverage)


def convert(image: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Give an image the channels and bits of the data set: (h, w, channels)."""
    return to_channels(to_bits(image, dataset.bits), dataset.channels)


def encode(share: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Write a mask of shares as it is kept: uint8 of 0 and 1, or 0 to 255 where `dataset.soft`."""
    return np.rint(share * 255.0).astype(np.uint8) if dataset.soft else to_mask(share, dataset.coverage)


def read(item: Item, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Decode one item as the model is to see it: image (size, size, channels), mask (size, size) as `encode` has it."""
    image, mask = decode_native(item, dataset)
    image = fit(convert(image, dataset), dataset.size, dataset.fit)
    share = fit(mask.astype(np.float32), dataset.size, dataset.fit)
    return image.reshape(*share.shape, dataset.channels), encode(share, dataset)


def native_objects(item: Item, dataset: Dataset) -> np.ndarray:
    """Number an item's objects (h, w) in its own size, less `dataset.reduce`; only where the data set tells them."""
    require(item.objects is not None, f"image {item.id}", "objects that the data set tells apart", "none")
    labels = item.objects()  # type: ignore[misc]
    height, width = (max(1, n // dataset.reduce) for n in labels.shape)
    return warp_instances(labels, lambda share: resize(share, height, width)) if dataset.reduce > 1 else labels


def objects_of(item: Item, dataset: Dataset) -> np.ndarray:
    """Number an item's objects as `read` shows its mask: (size, size), of an image cut into patches the first one.

    A pixel that the mask leaves to the background may bear a number: that is for the caller to leave out.
    """
    size, how = dataset.size, dataset.fit
    cut = how == "patch"
    return warp_instances(
        native_objects(item, dataset),
        lambda share: crop(share, 0, 0, size, size) if cut else fit(share, size, how),
    )


def warp_instances(labels: np.ndarray, move: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Move each object of a map of numbers as a map of shares; a pixel is of the object of which it shows most."""
    most = move(np.zeros(labels.shape, np.float32))
    numbers = np.zeros(most.shape, labels.dtype)
    for number in range(1, int(labels.max(initial=0)) + 1):
        share = move((labels == number).astype(np.float32))
        numbers[share > most] = number
        most = np.maximum(most, share)
    return numbers


def raise_unless_skipped(error: ContractError, dataset: Dataset) -> None:
    """Raise an item's error with the remedy, unless such items are to be left out."""
    if dataset.on_bad_item == "raise":
        raise ContractError(f"{error}; dataset.on_bad_item=skip leaves such images out") from None
