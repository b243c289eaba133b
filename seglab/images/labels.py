"""Interpret the values of a decoded mask for a task: classes, foreground, and pixels without a label.

A mask is (h, w) uint8 of 0 and 1 or float32 fractions (binary), (h, w, classes) of the same (multilabel), or (h, w)
uint8 of class numbers (multiclass). A pixel without a label is IGNORED in an integer mask and NaN in a float mask.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from seglab.contract import Task

IGNORED = 255  # marks a pixel without a label in an integer mask, as in PASCAL VOC and Cityscapes


class Seen(NamedTuple):
    """An image, its mask, and the valid pixels, (h, w) bool; None if all pixels are valid."""

    image: np.ndarray
    mask: np.ndarray
    valid: np.ndarray | None


def valid_pixels(image: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
    """Return which pixels, (h, w) bool, have data (not NaN) in the image and a label in the mask; None if all do."""
    valid = np.isfinite(mask) if mask.dtype.kind == "f" else mask != IGNORED
    valid = valid if valid.ndim == 2 else valid.all(2)
    if image.dtype.kind == "f":
        valid &= np.isfinite(image) if image.ndim == 2 else np.isfinite(image).all(2)
    return None if valid.all() else valid


def with_ignored(mask: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Return a copy of a mask in which the pixels outside of `valid` (h, w) have no label."""
    marked = mask.copy()  # the original may be cached or memory-mapped
    marked[~valid] = np.nan if mask.dtype.kind == "f" else IGNORED
    return marked


def without_ignored(mask: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    """Return a mask with the label 0 in the pixels outside of `valid` (h, w); the mask itself if `valid` is None."""
    if valid is None:
        return mask
    cleared = mask.copy()
    cleared[~valid] = 0
    return cleared


def layers(mask: np.ndarray, task: Task) -> list[np.ndarray]:
    """Return one map (h, w) per class, in order: where the class is, or its fraction of each pixel."""
    if task.kind == "multiclass":
        return [(mask == k).astype(np.uint8) for k in range(task.channels)]
    return [mask] if mask.ndim == 2 else [np.ascontiguousarray(mask[..., k]) for k in range(mask.shape[2])]


def foreground_of(mask: np.ndarray, task: Task) -> np.ndarray:
    """Return where there is any class but the background, (h, w); for a binary task, the mask itself."""
    if task.kind == "multiclass":
        return (mask > 0).astype(np.uint8)
    return mask if mask.ndim == 2 else mask.max(axis=2)


def fractions(mask: np.ndarray, valid: np.ndarray | None, task: Task) -> tuple[float, list[float]]:
    """Return the fractions of the valid pixels that are foreground and of each class; others must have the label 0."""
    maps = (foreground_of(mask, task), *layers(mask, task))
    foreground, *classes = (float(layer.mean(dtype=np.float64)) for layer in maps)
    if valid is not None:
        scale = valid.size / int(valid.sum())
        foreground, classes = foreground * scale, [share * scale for share in classes]
        if task.kind == "multiclass":
            classes[0] = 1 - sum(classes[1:])  # invalid pixels have the background's number, 0
    return foreground, classes


def has_foreground(mask: np.ndarray) -> bool:
    """Return True if a mask, which may contain ignored pixels, has any foreground."""
    return bool(((mask >= 0.5) & (mask != IGNORED)).any())  # NaN compares false


def map_layers(make: Callable[[np.ndarray], np.ndarray], mask: np.ndarray, task: Task) -> np.ndarray:
    """Apply a function of a mask (h, w) to each class and stack the results: (classes, h, w)."""
    return np.stack([make(layer) for layer in layers(mask, task)])
