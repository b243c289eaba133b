"""What the values of a decoded mask mean for a task: classes, foreground, and pixels without a label.

A mask is (h, w) uint8 of 0 and 1 or float32 fractions (binary), (h, w, classes) of the same (multilabel), or (h, w)
uint8 of class numbers (multiclass). A pixel without a label is IGNORED in whole numbers and NaN in fractions.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from seglab.contract import Task

IGNORED = 255  # marks a pixel without a label in a mask of whole numbers, as in PASCAL VOC and Cityscapes


class Seen(NamedTuple):
    """An image, its mask, and which pixels (h, w) bool count; None where all do."""

    image: np.ndarray
    mask: np.ndarray
    valid: np.ndarray | None


def valid_pixels(image: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
    """Mark the pixels (h, w) bool with data in the image (NaN is none) and a label in the mask; None if all have."""
    marks = np.isfinite(mask) if mask.dtype.kind == "f" else mask != IGNORED
    marks = marks if marks.ndim == 2 else marks.all(2)
    if image.dtype.kind == "f":
        marks &= np.isfinite(image) if image.ndim == 2 else np.isfinite(image).all(2)
    return None if marks.all() else marks


def with_ignored(mask: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Mark the pixels of a mask that are not valid (h, w) as ones without a label."""
    marked = mask.copy()  # the given one may be cached or memory-mapped
    marked[~valid] = np.nan if mask.dtype.kind == "f" else IGNORED
    return marked


def without_ignored(mask: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    """Give pixels that are not valid (h, w) the label 0."""
    if valid is None:
        return mask
    cleared = mask.copy()
    cleared[~valid] = 0
    return cleared


def layers(mask: np.ndarray, task: Task) -> list[np.ndarray]:
    """Give a map (h, w) of each class in order: where it is, or what share of each pixel it has."""
    if task.kind == "multiclass":
        return [(mask == k).astype(np.uint8) for k in range(task.channels)]
    return [mask] if mask.ndim == 2 else [np.ascontiguousarray(mask[..., k]) for k in range(mask.shape[2])]


def foreground_of(mask: np.ndarray, task: Task) -> np.ndarray:
    """Give where there is any class but a background, (h, w); for a binary task the mask itself."""
    if task.kind == "multiclass":
        return (mask > 0).astype(np.uint8)
    return mask if mask.ndim == 2 else mask.max(axis=2)


def fractions(mask: np.ndarray, valid: np.ndarray | None, task: Task) -> tuple[float, list[float]]:
    """Give what fraction of the pixels that count is foreground, and each class; others have the label 0."""
    maps = (foreground_of(mask, task), *layers(mask, task))
    foreground, *classes = (float(one.mean(dtype=np.float64)) for one in maps)
    if valid is not None:
        scale = valid.size / int(valid.sum())
        foreground, classes = foreground * scale, [share * scale for share in classes]
        if task.kind == "multiclass":
            classes[0] = 1 - sum(classes[1:])  # pixels that do not count have its number, 0
    return foreground, classes


def has_foreground(mask: np.ndarray) -> bool:
    """Say whether a mask that may have ignored pixels has any foreground."""
    return bool(((mask >= 0.5) & (mask != IGNORED)).any())  # NaN compares false


def map_layers(make: Callable[[np.ndarray], np.ndarray], mask: np.ndarray, task: Task) -> np.ndarray:
    """Apply a function of a mask (h, w) to each class: (classes, h, w)."""
    return np.stack([make(layer) for layer in layers(mask, task)])
