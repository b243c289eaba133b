"""Decode items: images and masks as the model sees them or in native size, and their objects."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from seglab.contract import ContractError, require
from seglab.data.dataset import Dataset, Decoded, Item
from seglab.data.facts import item_facts
from seglab.images.labels import Seen, fractions, layers, valid_pixels, without_ignored
from seglab.images.resize import fit, require_bands, resize, to_bits, to_channels, to_full_range, to_mask

POINTS = 64  # number of foreground pixels kept per image, around which patches are drawn


def read_item(item: Item, dataset: Dataset) -> Seen:
    """Decode one item as stored; raises ContractError, naming it, if image and mask do not fit."""
    image, mask = item.image(), item.mask()
    require_bands(f"image {item.id}", image, dataset.channels)
    who, expected = f"image {item.id}", f"a mask of the same size, {image.shape[1]}x{image.shape[0]} (width x height)"
    require(image.shape[:2] == mask.shape[:2], who, expected, f"{mask.shape[1]}x{mask.shape[0]}")
    valid = valid_pixels(image, mask)
    require(valid is None or bool(valid.any()), who, "a pixel with data and a label", "none")
    return Seen(image, without_ignored(mask, valid), valid)


def decode_item(item: Item, dataset: Dataset) -> Seen:
    """Decode one item as the model sees it, see `view_image`, `view_mask` and `view_valid`."""
    return view(read_item(item, dataset), dataset)


def decode_native(item: Item, dataset: Dataset) -> Seen:
    """Decode one item in native size, reduced by `dataset.reduce`, from which patches are cut."""
    return decode_item(item, replace(dataset, fit="patch"))


def view(stored: Seen, dataset: Dataset) -> Seen:
    """Convert a stored item to what the model sees or, for patches, to what they are cut from."""
    image, mask, valid = stored
    seen = view_valid(valid, mask.shape, dataset)
    return Seen(view_image(image, dataset), without_ignored(view_mask(mask, valid, dataset), seen), seen)


def view_image(image: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Convert an image to what the model sees, (size, size, channels); for patches, only shrink it by `reduce`."""
    if image.dtype.kind == "f":  # no data becomes black: resizing would spread NaN to other pixels
        image = np.nan_to_num(image, nan=0.0 if isinstance(dataset.range, str) else dataset.range[0])
    image = resize(image, *reduced(image.shape, dataset))
    if dataset.fit == "patch":
        return image
    fitted = fit(convert(image, dataset), dataset.size, dataset.fit)
    return fitted.reshape(dataset.size, dataset.size, -1)  # OpenCV drops a single-channel axis


def view_valid(valid: np.ndarray | None, shape: tuple[int, ...], dataset: Dataset) -> np.ndarray | None:
    """Resize the valid mask: True where at least half of a pixel is valid, False in padding; None if all are valid."""
    height, width = reduced(shape, dataset)
    if valid is None and (dataset.fit != "pad" or height == width):
        return None
    fraction = np.ones(shape[:2], np.float32) if valid is None else valid.astype(np.float32)  # `fit` pads it with 0
    fraction = (resize(fraction, height, width) >= 0.5).astype(np.float32)  # thresholded once here, as in `view_mask`
    seen = (fraction if dataset.fit == "patch" else fit(fraction, dataset.size, dataset.fit)) >= 0.5
    return None if seen.all() else seen


def view_mask(mask: np.ndarray, valid: np.ndarray | None, dataset: Dataset) -> np.ndarray:
    """Convert a mask without ignored pixels to what the model sees, (size, size) or (size, size, k), see `encode`.

    For patches, only shrink it by `reduce`: integers, or float32 fractions if the file has them or `soft` is set.
    """
    if dataset.reduce > 1:
        height, width = reduced(mask.shape, dataset)
        mask = warp_mask(mask, valid, lambda layer: resize(layer, height, width), dataset)
        valid = view_valid(valid, valid.shape, replace(dataset, fit="patch")) if valid is not None else None
    if dataset.fit == "patch":
        return mask
    return encode(warp_mask(mask, valid, lambda layer: fit(layer, dataset.size, dataset.fit), dataset), dataset)


def warp_mask(
    mask: np.ndarray, valid: np.ndarray | None, warp: Callable[[np.ndarray], np.ndarray], dataset: Dataset
) -> np.ndarray:
    """Resize a mask by the fraction that each class covers of the valid part of a pixel.

    A pixel belongs to a class that covers at least `coverage` of it. Mutually exclusive classes must together cover
    that much, and the pixel belongs to the largest of them.
    """
    exclusive, maps, valid_share = dataset.task.kind == "multiclass", layers(mask, dataset.task), np.float32(1)
    maps = maps[1:] if exclusive else maps  # without the background
    shares = [warp(layer.astype(np.float32)) for layer in maps]
    if valid is not None:
        valid_share = np.maximum(warp(valid.astype(np.float32)), 1e-6)
        # Zero where less than half is valid: `view` clears such pixels, and keep_one must not choose one of them.
        shares = [np.where(valid_share >= 0.5, share, 0) for share in shares]
    if exclusive:
        total, largest = np.sum(shares, axis=0) / valid_share, np.argmax(shares, axis=0)
        numbers = to_mask(total, dataset.coverage) * (1 + largest).astype(np.uint8)
        for k, (layer, share) in enumerate(zip(maps, shares, strict=True), 1):
            if layer.any() and share.any() and not (numbers == k).any():  # it would vanish, see keep_one
                numbers.flat[share.argmax()] = k
        return numbers
    pairs = zip(maps, shares, strict=True)
    covered = np.stack([keep_one(share / valid_share, layer.max() >= 0.5, dataset) for layer, share in pairs], axis=-1)
    result = covered if dataset.soft else to_mask(covered, dataset.coverage)
    return result[..., 0] if mask.ndim == 2 else result


def keep_one(fraction: np.ndarray, some: bool, dataset: Dataset) -> np.ndarray:
    """If shrinking a mask erased all its foreground, mark the pixel with the most as foreground, in place.

    Otherwise the image would be scored as an empty one, for which finding nothing is right.
    """
    least = 0.5 if dataset.soft else dataset.coverage  # soft targets count as foreground from 0.5
    index = fraction.argmax()
    if some and 0 < fraction.flat[index] < least:
        fraction.flat[index] = least
    return fraction


def reduced(shape: tuple[int, ...], dataset: Dataset) -> tuple[int, int]:
    """Return the height and width of an image after `dataset.reduce`."""
    return max(1, shape[0] // dataset.reduce), max(1, shape[1] // dataset.reduce)


def convert(image: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Convert an image to the range, bits and channels of the dataset: (h, w, channels)."""
    return to_channels(to_bits(to_full_range(image, dataset.range), dataset.bits), dataset.channels)


def encode(fraction: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Convert a mask to its stored form: uint8 of 0 and 1, of class numbers, or of 0 to 255 if `dataset.soft`."""
    if dataset.task.kind == "multiclass":
        return fraction.astype(np.uint8)
    return np.rint(fraction * 255.0).astype(np.uint8) if dataset.soft else to_mask(fraction, dataset.coverage)


def native_objects(item: Item, dataset: Dataset) -> np.ndarray:
    """Number an item's objects (h, w) in native size, reduced by `dataset.reduce`; the item must have `objects`."""
    assert item.objects is not None
    labels = item.objects()
    height, width = reduced(labels.shape, dataset)
    return warp_instances(labels, lambda layer: resize(layer, height, width)) if dataset.reduce > 1 else labels


def objects_of(item: Item, dataset: Dataset) -> np.ndarray:
    """Number an item's objects at the size at which masks are scored: (size, size), or native size for patches.

    A pixel may have a number although it is background in the mask; the caller must leave such pixels out.
    """
    native, is_patch = native_objects(item, dataset), dataset.fit == "patch"
    return native if is_patch else warp_instances(native, lambda layer: fit(layer, dataset.size, dataset.fit))


def warp_instances(labels: np.ndarray, warp: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Resize or crop a map of numbered objects; each pixel belongs to the object that covers most of it."""
    largest = warp(np.zeros(labels.shape, np.float32))
    numbers = np.zeros(largest.shape, labels.dtype)
    for number in range(1, int(labels.max()) + 1):
        fraction = warp((labels == number).astype(np.float32))
        numbers[fraction > largest] = number
        largest = np.maximum(largest, fraction)
    return numbers


def raise_unless_skipped(error: ContractError, dataset: Dataset) -> None:
    """Raise an item's error, with the option that skips it, unless such items are to be skipped."""
    if dataset.on_bad_item == "raise":
        raise ContractError(f"{error}; dataset.on_bad_item=skip leaves such images out") from None


def decode_once(item: Item, dataset: Dataset, in_memory: bool = True) -> Item:
    """Decode one item, or note why it is left out; its pixels are kept in memory or decoded again at every use.

    Raises the item's ContractError unless `dataset.on_bad_item` is `skip`.
    """
    try:
        stored = read_item(item, dataset)
        facts, seen = item_facts(item, stored, dataset), view(stored, dataset)
        has_valid = seen.valid is None or bool(seen.valid.any())  # scribbles may cover less than half of every pixel
        remedy = "a larger dataset.size, a smaller dataset.reduce or dataset.fit=patch keeps them"
        require(has_valid, f"image {item.id}", "a pixel that is half valid after resizing", "none", remedy)
    except ContractError as error:
        raise_unless_skipped(error, dataset)
        return replace(item, fault=str(error))
    read = partial(Seen, *seen) if in_memory else partial(decode_item, item, dataset)
    shape, (foreground, classes, points) = seen.mask.shape[:2], measure(item.id, seen, dataset)
    return replace(item, decoded=Decoded(read, shape, foreground, points, facts, classes))


def measure(name: str, seen: Seen, dataset: Dataset) -> tuple[float, tuple[float, ...], np.ndarray]:
    """Return the fractions of the valid pixels that are foreground and of each class, and some points for patches.

    The points (k, 2) are foreground pixels as row and column, as many from each scored class where it has enough.
    """
    foreground, classes = fractions(seen.mask, seen.valid, dataset.task)
    if dataset.fit != "patch":
        unit = 255 if dataset.soft else 1
        return foreground / unit, tuple(share / unit for share in classes), np.zeros((0, 2), np.int64)
    maps = layers(seen.mask, dataset.task)
    rng = np.random.default_rng(list(hashlib.sha256(name.encode()).digest()[:8]))  # `hash` differs between processes
    scored, picks = [maps[k] for k in dataset.task.scored], []
    for layer in scored:
        indices = np.flatnonzero(layer >= 0.5)
        picks.append(rng.choice(indices, min(POINTS // len(scored), len(indices)), replace=False))
    points = np.stack(np.unravel_index(np.concatenate(picks), seen.mask.shape[:2]), 1)
    return foreground, tuple(classes), points
