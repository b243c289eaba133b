"""Maps that some losses want beside the target; made on the CPU, in the data workers, from the mask alone."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from seglab.distance_transform import distance_to_zero

FAR = 1e4
"""Stands for an infinite distance in `gap`, in pixels: every weight exp(-distance^2) of it is zero."""


def distance(mask: np.ndarray) -> np.ndarray:
    """Signed Euclidean distance of each pixel (h, w) to the mask's boundary, in pixels; negative inside.

    An empty or a full mask has no boundary: all zeros. (Kervadec et al. 2019, "Boundary loss for highly unbalanced
    segmentation".)
    """
    inside = np.ascontiguousarray(mask > 0, dtype=np.uint8)
    if not inside.any() or inside.all():
        return np.zeros(mask.shape, np.float32)
    return np.where(inside > 0, 1 - distance_to_zero(inside), distance_to_zero(1 - inside)).astype(np.float32)


def gap(mask: np.ndarray) -> np.ndarray:
    """Sum of each pixel's distances (h, w) to its nearest and its second nearest object, in pixels.

    Objects are 8-connected; `FAR` everywhere with fewer than two. (Ronneberger et al. 2015, "U-Net", the weight map.)
    """
    labels = components(mask)
    count = int(labels.max()) + 1
    nearest = np.full(mask.shape, np.inf, np.float32)
    second = nearest.copy()
    for label in range(1, count):
        away = distance_to_zero((labels != label).astype(np.uint8)).astype(np.float32)
        second = np.minimum(second, np.maximum(nearest, away))
        nearest = np.minimum(nearest, away)
    return nearest + second if count > 2 else np.full(mask.shape, FAR, np.float32)


def components(mask: np.ndarray) -> np.ndarray:
    """Number of the 8-connected object of each pixel (h, w), from 1; 0 in the background."""
    return cv2.connectedComponents((mask > 0).astype(np.uint8), connectivity=8)[1].astype(np.float32)


def cells(mask: np.ndarray) -> np.ndarray:
    """Number of the object that is nearest to each pixel (h, w); 0 everywhere where there is none."""
    from scipy.ndimage import distance_transform_edt

    objects = components(mask)
    if not objects.any():
        return objects
    nearest = distance_transform_edt(objects == 0, return_distances=False, return_indices=True)
    return objects[tuple(nearest)]


def inverse_size(mask: np.ndarray) -> np.ndarray:
    """Mean size of objects and background over that of each pixel's object (h, w), at least 1; 1 in the background.

    (Shirokikh et al. 2020, "Universal Loss Reweighting to Balance Lesion Size Inequality".)
    """
    objects = components(mask).astype(np.int64)
    sizes = np.bincount(objects.ravel()).clip(min=1)
    weights = np.maximum(mask.size / (len(sizes) * sizes), 1)
    weights[0] = 1
    return weights[objects].astype(np.float32)


MAPS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "distance": distance,
    "gap": gap,
    "components": components,
    "cells": cells,
    "inverse_size": inverse_size,
}
