"""Maps that some losses need besides the target, computed from the mask alone, on the CPU in the data workers."""

import cv2
import numpy as np

from seglab.contract import require
from seglab.distance_transform import distance_to_zero

FAR = 1e4  # pixels; stands for an infinite distance in `gap`: a weight exp(-distance^2) of it is zero


def plane(mask: np.ndarray) -> np.ndarray:
    """Return 1 where a mask is at least 0.5, else 0, (h, w) uint8; raises ContractError unless it is a 2-D array."""
    got = f"{type(mask).__name__} {tuple(mask.shape)}"
    fits = isinstance(mask, np.ndarray) and mask.ndim == 2
    require(fits, "maps", "the mask of a class as an array (h, w)", got, "pass mask.numpy(), or a slice of a volume")
    return np.ascontiguousarray(mask >= 0.5, dtype=np.uint8)


def distance(mask: np.ndarray) -> np.ndarray:
    """Return the signed Euclidean distance of each pixel (h, w) to the mask's boundary, in pixels; negative inside.

    An empty or full mask has no boundary: all zeros. (Kervadec et al. 2019, "Boundary loss for highly unbalanced
    segmentation".)
    """
    inside = plane(mask)
    if not inside.any() or inside.all():
        return np.zeros(mask.shape, np.float32)
    # 0 at the outermost pixels inside and 1 at the first ones outside, as in the paper's code.
    return np.where(inside > 0, 1 - distance_to_zero(inside), distance_to_zero(1 - inside)).astype(np.float32)


def gap(mask: np.ndarray) -> np.ndarray:
    """Return the sum of each pixel's distances (h, w) to its nearest and second nearest object, in pixels.

    Objects are 8-connected; `FAR` everywhere with fewer than two. (Ronneberger et al. 2015, "U-Net", the weight map.)
    """
    labels = components(mask)
    count = int(labels.max()) + 1
    nearest = np.full(mask.shape, np.inf, np.float32)
    second = nearest.copy()
    for label in range(1, count):
        to_object = distance_to_zero((labels != label).astype(np.uint8)).astype(np.float32)
        second = np.minimum(second, np.maximum(nearest, to_object))  # before `nearest` is overwritten
        nearest = np.minimum(nearest, to_object)
    return nearest + second if count > 2 else np.full(mask.shape, FAR, np.float32)


def components(mask: np.ndarray) -> np.ndarray:
    """Return the number of the 8-connected object of each pixel (h, w), from 1; 0 in the background."""
    return cv2.connectedComponents(plane(mask), connectivity=8)[1].astype(np.float32)


def cells(mask: np.ndarray) -> np.ndarray:
    """Return the number of the object nearest to each pixel (h, w); 0 everywhere if there are no objects."""
    from scipy.ndimage import distance_transform_edt

    objects = components(mask)
    if not objects.any():
        return objects
    # OpenCV finds the nearest pixels only with approximate distances (51.0 for 50.0).
    nearest = distance_transform_edt(objects == 0, return_distances=False, return_indices=True)
    return objects[tuple(nearest)]


def inverse_size(mask: np.ndarray) -> np.ndarray:
    """Return the mean size of objects and background over the size of each pixel's object (h, w), at least 1.

    The background is 1. (Shirokikh et al. 2020, "Universal Loss Reweighting to Balance Lesion Size Inequality".)
    """
    objects = components(mask).astype(np.int64)
    sizes = np.bincount(objects.ravel()).clip(min=1)  # a full mask has no background
    weights = np.maximum(mask.size / (len(sizes) * sizes), 1)
    weights[0] = 1
    return weights[objects].astype(np.float32)


RING = ((0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0), (0, 0))  # neighbors, from the one above clockwise


def thinned(mask: np.ndarray) -> np.ndarray:
    """Return lines (h, w) bool in the middle of the objects, with as many components and holes as the mask.

    (Guo and Hall 1989, "Parallel thinning with two-subiteration algorithms", A1. Zhang and Suen's algorithm, which the
    authors of skeleton recall use from scikit-image, does not fit here: it erases an object of 2x2 pixels.)
    """
    lines = np.pad(mask > 0, 1)
    inside, before = lines[1:-1, 1:-1], -1  # a view: pixels cleared here are cleared in `lines`
    while before != (before := int(inside.sum())):
        for turn in (0, 4):  # from the east and south, then from the west and north
            n = [lines[row : row + mask.shape[0], column : column + mask.shape[1]] for row, column in RING]
            n = n[turn:] + n[:turn]
            # In the paper's notation: C(p) is `pieces`; N(p), the smaller of N1 and N2, is `many`.
            first, second = ([n[i + k] | n[(i + 1 + k) % 8] for i in (0, 2, 4, 6)] for k in (0, 1))
            pieces = sum((~n[i] & neighbor).astype(np.int8) for i, neighbor in zip((0, 2, 4, 6), second, strict=True))
            many = np.minimum(sum(x.astype(np.int8) for x in first), sum(x.astype(np.int8) for x in second))
            inside &= ~((pieces == 1) & (many >= 2) & (many <= 3) & ~((n[0] | n[1] | ~n[3]) & n[2]))
    return inside


def skeleton(mask: np.ndarray) -> np.ndarray:
    """Return 1 (h, w) on the middle lines of the objects and up to two pixels beside them, inside the mask; else 0.

    (Kirchhoff et al. 2024, "Skeleton Recall Loss", its tubed skeleton.)
    """
    mask = plane(mask)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    return (cv2.dilate(thinned(mask).astype(np.uint8), cross, iterations=2) * mask).astype(np.float32)


MAPS = {make.__name__: make for make in (distance, gap, components, cells, inverse_size, skeleton)}
