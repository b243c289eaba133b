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
    count, labels = cv2.connectedComponents((mask > 0).astype(np.uint8), connectivity=8)
    nearest = np.full(mask.shape, np.inf, np.float32)
    second = nearest.copy()
    for label in range(1, count):
        away = distance_to_zero((labels != label).astype(np.uint8)).astype(np.float32)
        second = np.minimum(second, np.maximum(nearest, away))
        nearest = np.minimum(nearest, away)
    return nearest + second if count > 2 else np.full(mask.shape, FAR, np.float32)


MAPS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"distance": distance, "gap": gap}
