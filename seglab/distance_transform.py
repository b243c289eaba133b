"""The exact Euclidean distance transform of a plane, the same digits every time."""

from typing import Any

import cv2
import numpy as np


def distance_to_zero(plane: np.ndarray, where: Any = ...) -> np.ndarray:
    """Distance in pixels of each pixel to the nearest 0 of a uint8 plane (h, w), float64; of those `where` indexes.

    OpenCV's float32 changes in its last digits with the alignment of the memory. The square of a distance is a whole
    number, so that rounding it undoes this.
    """
    approximate = cv2.distanceTransform(plane, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[where]
    return np.sqrt(np.rint(np.square(approximate, dtype=np.float64)))
