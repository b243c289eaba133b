"""Items decoded: images and masks as the model sees them, or in their own size, and their objects."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from seglab.contract import ContractError, require
from seglab.data.dataset import Dataset, Decoded, Item, Reader
from seglab.data.facts import item_facts
from seglab.images.resize import crop, fit, resize, to_bits, to_channels, to_full_range, to_mask

POINTS = 64
"""Foreground pixels remembered of each image, for patches to be drawn around."""


def read_item(item: Item) -> tuple[np.ndarray, np.ndarray]:
    """Decode one item as it is stored; raises a ContractError that names it."""
    image, mask = item.image(), item.mask()
    require(
        image.shape[:2] == mask.shape,
        f"image {item.id}",
        f"a mask of its own size {image.shape[1]}x{image.shape[0]} (width x height)",
        "x".join(str(n) for n in mask.shape[::-1]),
    )
    return image, mask


def decode_item(item: Item, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Decode one item: its image by `view_image` and its mask by `view_mask`."""
    image, mask = read_item(item)
    return view_image(image, dataset), view_mask(mask, dataset)


def decode_native(item: Item, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Decode one item in its own size, less `dataset.reduce`, as patches are cut from it."""
    return decode_item(item, replace(dataset, fit="patch"))


def view_image(image: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Bring an image to what the model sees: (size, size, channels); for patches only shrink it by `reduce`."""
    image = resize(image, *reduced(image.shape, dataset))
    if dataset.fit == "patch":
        return image
    return fit(convert(image, dataset), dataset.size, dataset.fit).reshape(dataset.size, dataset.size, -1)


def view_mask(mask: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Bring a mask to what the model sees: (size, size) uint8 as `encode` has it.

    For patches it is only shrunk by `reduce`: uint8 of 0 and 1, or float32 fractions where the file or `soft` says so.
    """
    some = mask.max(initial=0) >= 0.5
    if dataset.reduce > 1:
        mask = keep_one(resize(mask.astype(np.float32), *reduced(mask.shape, dataset)), some, dataset)
        mask = mask if dataset.soft else to_mask(mask, dataset.coverage)
    if dataset.fit == "patch":
        return mask
    return encode(keep_one(fit(mask.astype(np.float32), dataset.size, dataset.fit), some, dataset), dataset)


def keep_one(fraction: np.ndarray, some: bool, dataset: Dataset) -> np.ndarray:
    """Make the pixel with most foreground count as such where the mask had some and shrinking it would leave none.

    The image would otherwise be scored as an empty one: right if nothing is found in it.
    """
    least = 0.5 if dataset.soft else dataset.coverage
    place = fraction.argmax()
    if some and fraction.flat[place] < least:
        fraction = fraction.copy()
        fraction.flat[place] = least
    return fraction


def reduced(shape: tuple[int, ...], dataset: Dataset) -> tuple[int, int]:
    """Give the height and width of an image after `dataset.reduce`."""
    return max(1, shape[0] // dataset.reduce), max(1, shape[1] // dataset.reduce)


def convert(image: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Give an image the range, channels and bits of the data set: (h, w, channels)."""
    return to_channels(to_bits(to_full_range(image, dataset.range), dataset.bits), dataset.channels)


def encode(fraction: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Write a mask of fractions as it is kept: uint8 of 0 and 1, or 0 to 255 where `dataset.soft`."""
    return np.rint(fraction * 255.0).astype(np.uint8) if dataset.soft else to_mask(fraction, dataset.coverage)


def native_objects(item: Item, dataset: Dataset) -> np.ndarray:
    """Number an item's objects (h, w) in its own size, less `dataset.reduce`; only where it has `objects`."""
    assert item.objects is not None
    labels = item.objects()
    height, width = reduced(labels.shape, dataset)
    return warp_instances(labels, lambda one: resize(one, height, width)) if dataset.reduce > 1 else labels


def objects_of(item: Item, dataset: Dataset) -> np.ndarray:
    """Number an item's objects as the model sees its mask: (size, size), of an image cut into patches the first one.

    A pixel that the mask leaves to the background may bear a number: that is for the caller to leave out.
    """
    size, how = dataset.size, dataset.fit
    return warp_instances(
        native_objects(item, dataset),
        lambda one: crop(one, 0, 0, size, size) if how == "patch" else fit(one, size, how),
    )


def warp_instances(labels: np.ndarray, warp: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Resize or cut a map of numbered objects; a pixel belongs to the object of which it shows most."""
    most = warp(np.zeros(labels.shape, np.float32))
    numbers = np.zeros(most.shape, labels.dtype)
    for number in range(1, int(labels.max(initial=0)) + 1):
        fraction = warp((labels == number).astype(np.float32))
        numbers[fraction > most] = number
        most = np.maximum(most, fraction)
    return numbers


def raise_unless_skipped(error: ContractError, dataset: Dataset) -> None:
    """Raise an item's error with the remedy, unless such items are to be left out."""
    if dataset.on_bad_item == "raise":
        raise ContractError(f"{error}; dataset.on_bad_item=skip leaves such images out") from None


def decode_once(item: Item, dataset: Dataset, in_memory: bool = True) -> Item:
    """Decode one item, or say why it is left out; its pixels are kept in memory, or decoded again at every use.

    Raises the item's ContractError, unless `dataset.on_bad_item` is `skip`.
    """
    try:
        stored = read_item(item)
        facts = item_facts(item, *stored, dataset)
    except ContractError as error:
        raise_unless_skipped(error, dataset)
        return replace(item, fault=str(error))
    image, mask = view_image(stored[0], dataset), view_mask(stored[1], dataset)
    readers = partial(np.asarray, image), partial(np.asarray, mask)
    if not in_memory:
        readers = partial(read_as, view_image, item.image, dataset), partial(read_as, view_mask, item.mask, dataset)
    height, width = mask.shape
    foreground, points = measure(item.id, mask, dataset)
    return replace(item, decoded=Decoded(*readers, (height, width), foreground, points, facts))


def read_as(view: Callable[[np.ndarray, Dataset], np.ndarray], reader: Reader, dataset: Dataset) -> np.ndarray:
    """Decode an array and bring it to what samples are made of."""
    return view(reader(), dataset)


def measure(name: str, mask: np.ndarray, dataset: Dataset) -> tuple[float, np.ndarray]:
    """Give a decoded mask's fraction of foreground, and for patches some pixels of it (k, 2) as row and column."""
    if dataset.fit != "patch":
        return float(mask.mean(dtype=np.float64)) / (255 if dataset.soft else 1), np.zeros((0, 2), np.int64)
    places = np.flatnonzero(mask >= 0.5)
    rng = np.random.default_rng(list(hashlib.sha256(name.encode()).digest()[:8]))
    chosen = rng.choice(places, min(POINTS, len(places)), replace=False) if len(places) else places
    return float(mask.mean(dtype=np.float64)), np.stack(np.unravel_index(chosen, mask.shape), 1)
