"""Surface distances of two masks: the 95th percentile (HD95) and the mean (ASD), in pixels."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from seglab.contract import require
from seglab.distance_transform import distance_to_zero

CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)


def surface_distances(pred_mask: NDArray, true_mask: NDArray) -> tuple[float, float]:
    """Measure HD95 and the average symmetric surface distance of two masks (h,w), in pixels.

    An outline is the foreground pixels that touch background, or the image's border, by a side. HD95 is the larger of
    the two directed 95th percentiles of the distances from outline to outline, as in MONAI and Metrics Reloaded (Maier-
    Hein et al. 2024; pooling both directions before the percentile, as others do, gives smaller values). ASD averages
    both directions' distances together. Both are NaN where either mask is empty.
    """
    require(pred_mask.shape == true_mask.shape and pred_mask.ndim == 2, "surface_distances", "two masks of one (h,w)")
    masks = [np.ascontiguousarray(mask, dtype=bool).view(np.uint8) for mask in (pred_mask, true_mask)]
    if not (masks[0].any() and masks[1].any()):
        return math.nan, math.nan
    left, top, width, height = cv2.boundingRect(masks[0] | masks[1])  # nothing outside can be nearest
    pred, true = (outline(mask[top : top + height, left : left + width]) for mask in masks)
    directed = distances(pred, true), distances(true, pred)
    return max(float(np.percentile(d, 95)) for d in directed), float(np.concatenate(directed).mean())


def outline(mask: NDArray) -> NDArray:
    """Mark the foreground pixels of a uint8 mask (h,w) that touch background or the border by a side."""
    return (mask - cv2.erode(mask, CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=0)).view(bool)


def distances(start: NDArray, goal: NDArray) -> NDArray:
    """Measure from each pixel marked in `start` to the nearest one in `goal`: (n,) float64."""
    return distance_to_zero((~goal).view(np.uint8), start)
