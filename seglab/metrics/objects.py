"""Scores of shapes: connected components matched by their overlap, and surface distances.

The object score is that of the Airbus Ship Detection challenge (Kaggle 2018): F2, averaged over ten IoU thresholds
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
"""IoU 0.50, 0.55, ..., 0.95: an object is found if its IoU with a predicted object is above the threshold."""


def components(mask: NDArray, smallest: int = 1) -> NDArray:
    """Number the 8-connected objects of a mask (h,w) from 1 (int32); objects below `smallest` pixels become 0."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(np.ascontiguousarray(mask, np.uint8), connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= smallest
    keep[0] = False  # the background
    numbers = np.where(keep, np.cumsum(keep), 0).astype(np.int32)
    return labels if keep.sum() == count - 1 else numbers[labels]


def object_scores(predicted: NDArray, true: NDArray) -> dict[str, float]:
    """Match and score the objects of two maps of object numbers (h,w), in which 0 is background.

    Objects of one map do not overlap, so no object can be matched twice at an IoU above one half. `object_f2` is F2 =
    5 tp / (4 true + predicted), averaged over the thresholds. `object_dice` is the mean Dice score of the objects
    (lesion-wise, as in BraTS 2023, not dilated): each true object is compared with the union of all predicted objects
    that overlap it; a predicted object that overlaps none scores 0. Both are 1 if there are no objects in either map.
    """
    shapes = f"{predicted.shape} and {true.shape}"
    require(predicted.shape == true.shape, "objects", "two maps of the same shape (h,w)", shapes)
    p, t = int(predicted.max(initial=0)), int(true.max(initial=0))
    size_p, size_t = (np.bincount(x.reshape(-1), minlength=n + 1) for x, n in ((predicted, p), (true, t)))
    # only overlapping pairs: a table of all pairs would take gigabytes if noise is predicted among many objects
    overlap = (predicted > 0) & (true > 0)
    pair, common = np.unique(predicted[overlap].astype(np.int64) * (t + 1) + true[overlap], return_counts=True)
    i, j = np.divmod(pair, t + 1)  # predicted and true number of each pair
    best_iou = np.zeros(t + 1)
    np.maximum.at(best_iou, j, common / (size_p[i] + size_t[j] - common))
    found = (best_iou[:, None] > THRESHOLDS).sum(0)
    # tp + fn = true and tp + fp = predicted, so 5 tp + 4 fn + fp = 4 true + predicted
    f2 = float(np.mean(5 * found / (4 * t + p))) if t + p else 1.0
    matched, touching = np.bincount(j, common, t + 1)[1:], np.bincount(j, size_p[i], t + 1)[1:]
    dice, unmatched = 2 * matched / (size_t[1:] + touching), p - len(np.unique(i))
    scores = {"object_f2": f2, "object_dice": float(dice.sum() / (t + unmatched)) if t + unmatched else 1.0}
    return scores | {"objects": float(t), "objects_predicted": float(p), "objects_found": float(found[0])}


class SurfaceScores(NamedTuple):
    """Distances between two outlines in pixels, and their normalized surface Dice."""

    hd95: float
    asd: float
    nsd: float


def surface_distances(pred_mask: NDArray, true_mask: NDArray, tolerance: float = 1.0) -> SurfaceScores:
    """Measure HD95, average symmetric surface distance and normalized surface Dice of two masks (h,w), in pixels.

    An outline is the foreground pixels that share a side with background or the image border. HD95 is the larger of
    the two directed 95th percentiles of the distances from outline to outline, as in MONAI and Metrics Reloaded (Maier-
    Hein et al. 2024; pooling both directions before the percentile, as others do, gives smaller values). ASD is the
    mean over the distances of both directions. Both are NaN if either mask is empty. NSD is the fraction of both
    outlines within `tolerance` of the other (Nikolov et al. 2021): 0 if one mask is empty, NaN if both are.
    """
    fits = pred_mask.shape == true_mask.shape and pred_mask.ndim == 2
    shapes = f"{pred_mask.shape} and {true_mask.shape}"
    require(fits, "surface_distances", "two masks of the same shape (h,w)", shapes)
    masks = [np.ascontiguousarray(mask, dtype=bool).view(np.uint8) for mask in (pred_mask, true_mask)]  # for OpenCV
    has_foreground = [bool(mask.any()) for mask in masks]
    if not all(has_foreground):
        return SurfaceScores(math.nan, math.nan, 0.0 if any(has_foreground) else math.nan)
    left, top, width, height = cv2.boundingRect(masks[0] | masks[1])  # no pixel outside can be nearest
    pred, true = (outline(mask[top : top + height, left : left + width]) for mask in masks)
    # distance from each pixel of one outline to the nearest pixel of the other
    directed = distance_to_zero((~true).view(np.uint8), pred), distance_to_zero((~pred).view(np.uint8), true)
    distances = np.concatenate(directed)
    hd95 = max(float(np.percentile(d, 95)) for d in directed)
    return SurfaceScores(hd95, float(distances.mean()), float((distances <= tolerance).mean()))


def outline(mask: NDArray) -> NDArray:
    """Mark the foreground pixels of a uint8 mask (h,w) that share a side with background or the image border."""
    # constant border: by default OpenCV treats everything outside as foreground
    return (mask - cv2.erode(mask, CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=0)).view(bool)


def shape_scores(found: NDArray, true: NDArray, numbers: NDArray | None = None) -> dict[str, float]:
    """Compute surface distances and object scores of a predicted and a true mask (h, w).

    The true objects are those of the map `numbers` (h, w) that have a pixel in `true`; without it, the components.
    """
    if numbers is None:
        objects = components(true)
    else:  # renumbered without gaps, because every number up to the largest counts as an object
        numbered = np.where(true, numbers, 0)
        objects = np.searchsorted(np.unique(np.append(numbered, 0)), numbered)
    return surface_distances(found, true)._asdict() | object_scores(components(found), objects)
