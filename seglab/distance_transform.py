"""Exact and reproducible Euclidean distance transform of a 2D mask."""

from typing import Any

import cv2
import numpy as np


def distance_to_zero(plane: np.ndarray, where: Any = ...) -> np.ndarray:
    """Compute the distance in pixels (float64) of each pixel of a uint8 plane (h, w) to the nearest 0.

    `where` selects the pixels to return. The last digits of OpenCV's float32 result depend on the memory alignment;
    the squares of the distances are integers, so rounding the squares removes this variation.
    """
    approximate = cv2.distanceTransform(plane, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[where]
    return np.sqrt(np.rint(np.square(approximate, dtype=np.float64)))
