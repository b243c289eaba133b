"""Scores of shapes: connected components matched by their overlap, and distances of surfaces.

That of objects is the score of the Airbus Ship Detection challenge (Kaggle 2018): F2, averaged over ten IoU thresholds,
and then over images.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from seglab.contract import require
from seglab.distance_transform import distance_to_zero

CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)

THRESHOLDS = np.arange(50, 100, 5) / 100
"""IoU 0.50, 0.55, ..., 0.95: an object is found where its IoU with a predicted one lies above."""


def components(mask: NDArray, smallest: int = 1) -> NDArray:
    """Number the 8-connected objects of a mask (h,w) from 1: int32; those of fewer pixels than `smallest` become 0."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(np.ascontiguousarray(mask, np.uint8), connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= smallest
    keep[0] = False  # the background
    numbers = np.where(keep, np.cumsum(keep), 0).astype(np.int32)
    return labels if keep.sum() == count - 1 else numbers[labels]


def object_scores(predicted: NDArray, true: NDArray) -> dict[str, float]:
    """Match and score the objects of two maps of object numbers (h,w), 0 for none.

    Objects do not overlap within a map, so at IoU above one half none can be matched twice. `object_f2` is F2 =
    5 tp / (4 true + predicted), averaged over the thresholds. `object_dice` averages the Dice score over the objects
    (lesion-wise, as in BraTS 2023, not dilated): each true object is compared with all predicted ones that touch it
    together; a predicted one that touches none scores 0. Both are 1 where nothing is true and nothing predicted.
    """
    require(predicted.shape == true.shape, "objects", "two maps of one (h,w)", f"{predicted.shape} and {true.shape}")
    p, t = int(predicted.max(initial=0)), int(true.max(initial=0))
    size_p, size_t = (np.bincount(x.reshape(-1), minlength=n + 1) for x, n in ((predicted, p), (true, t)))
    # only pairs that overlap: a table of all would take gigabytes where noise is predicted among many objects
    both = (predicted > 0) & (true > 0)
    pair, inner = np.unique(predicted[both].astype(np.int64) * (t + 1) + true[both], return_counts=True)
    i, j = np.divmod(pair, t + 1)  # their predicted and their true number
    best = np.zeros(t + 1)
    np.maximum.at(best, j, inner / (size_p[i] + size_t[j] - inner))
    found = (best[:, None] > THRESHOLDS).sum(0)
    # tp + fn = true and tp + fp = predicted, so 5 tp + 4 fn + fp = 4 true + predicted
    f2 = float(np.mean(5 * found / (4 * t + p))) if t + p else 1.0
    inside, touching = np.bincount(j, inner, t + 1)[1:], np.bincount(j, size_p[i], t + 1)[1:]
    dice, alone = 2 * inside / (size_t[1:] + touching), p - len(np.unique(i))
    scores = {"object_f2": f2, "object_dice": float(dice.sum() / (t + alone)) if t + alone else 1.0}
    return scores | {"objects": float(t), "objects_predicted": float(p), "objects_found": float(found[0])}


class SurfaceScores(NamedTuple):
    """How far two outlines lie apart: distances in pixels, and the normalized surface Dice."""

    hd95: float
    asd: float
    nsd: float


def surface_distances(pred_mask: NDArray, true_mask: NDArray, tolerance: float = 1.0) -> SurfaceScores:
    """Measure HD95, average symmetric surface distance and normalized surface Dice of two masks (h,w), in pixels.

    An outline is the foreground pixels that touch background, or the image's border, by a side. HD95 is the larger of
    the two directed 95th percentiles of the distances from outline to outline, as in MONAI and Metrics Reloaded (Maier-
    Hein et al. 2024; pooling both directions before the percentile, as others do, gives smaller values). ASD averages
    both directions' distances together. Both are NaN where either mask is empty. NSD is the fraction of both outlines
    that lies within `tolerance` of the other (Nikolov et al. 2021): 0 where one mask is empty, NaN where both are.
    """
    require(pred_mask.shape == true_mask.shape and pred_mask.ndim == 2, "surface_distances", "two masks of one (h,w)")
    masks = [np.ascontiguousarray(mask, dtype=bool).view(np.uint8) for mask in (pred_mask, true_mask)]  # for OpenCV
    seen = [bool(mask.any()) for mask in masks]
    if not all(seen):
        return SurfaceScores(math.nan, math.nan, 0.0 if any(seen) else math.nan)
    left, top, width, height = cv2.boundingRect(masks[0] | masks[1])  # nothing outside can be nearest
    pred, true = (outline(mask[top : top + height, left : left + width]) for mask in masks)
    # of each pixel of one outline the distance to the nearest of the other
    directed = distance_to_zero((~true).view(np.uint8), pred), distance_to_zero((~pred).view(np.uint8), true)
    both = np.concatenate(directed)
    hd95 = max(float(np.percentile(d, 95)) for d in directed)
    return SurfaceScores(hd95, float(both.mean()), float((both <= tolerance).mean()))


def outline(mask: NDArray) -> NDArray:
    """Mark the foreground pixels of a uint8 mask (h,w) that touch background or the border by a side."""
    # a constant border: by default OpenCV takes what lies outside for foreground
    return (mask - cv2.erode(mask, CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=0)).view(bool)


def shape_scores(found: NDArray, true: NDArray, numbers: NDArray | None = None) -> dict[str, float]:
    """Surface distances and object counts of a predicted and a true mask (h, w).

    The true objects are those of the map `numbers` (h, w) that have a pixel in `true`, or whatever is connected.
    """
    if numbers is None:
        objects = components(true)
    else:  # numbered anew, without those that have no pixel, as every number up to the largest counts as an object
        kept = np.where(true, numbers, 0)
        objects = np.searchsorted(np.unique(np.append(kept, 0)), kept)
    return surface_distances(found, true)._asdict() | object_scores(components(found), objects)
