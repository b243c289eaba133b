"""Objects found and missed, rather than pixels: connected components matched by their overlap.

The score is that of the Airbus Ship Detection challenge (Kaggle 2018): F2 of the objects, averaged over ten IoU
thresholds, and then over images.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from seglab.contract import Logits, Target, require
from seglab.metrics.calibration import FIXED, to_fixed
from seglab.metrics.counts import logit, pixels, shape

THRESHOLDS = np.arange(50, 100, 5) / 100
"""IoU 0.50, 0.55, ..., 0.95: an object is found where its IoU with a predicted one lies above."""


class Found(NamedTuple):
    """The objects of one image: how many are true, predicted, and found at each threshold (10,)."""

    true: int
    predicted: int
    hits: NDArray


def components(mask: NDArray, smallest: int = 1) -> NDArray:
    """Number the 8-connected objects of a mask (h,w) from 1: int32; those of fewer pixels than `smallest` become 0."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(np.ascontiguousarray(mask, np.uint8), connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= smallest
    keep[0] = False
    numbers = np.where(keep, np.cumsum(keep), 0).astype(np.int32)
    return labels if keep.sum() == count - 1 else numbers[labels]


def overlaps(predicted: NDArray, true: NDArray) -> NDArray:
    """Give the IoU of each predicted with each true object (p,t), from two maps of object numbers (h,w), 0 for none."""
    require(predicted.shape == true.shape, "objects", "two maps of one (h,w)", f"{predicted.shape} and {true.shape}")
    p, t = int(predicted.max(initial=0)) + 1, int(true.max(initial=0)) + 1
    joint = np.bincount((predicted.astype(np.int64) * t + true).reshape(-1), minlength=p * t).reshape(p, t)
    union = joint.sum(1, keepdims=True) + joint.sum(0, keepdims=True) - joint
    return (joint / np.maximum(union, 1))[1:, 1:]


def match(predicted: NDArray, true: NDArray) -> Found:
    """Match two maps of object numbers (h,w), 0 for none.

    Objects do not overlap within a map, so at IoU above one half none can be matched twice.
    """
    iou = overlaps(predicted, true)
    best = iou.max(axis=0, initial=0.0)
    return Found(iou.shape[1], iou.shape[0], (best[:, None] > THRESHOLDS).sum(0))


def f2(found: Found) -> float:
    """Give an image's F2 = 5 hits / (hits + 4 true + predicted), averaged over the thresholds.

    1 where nothing is true and nothing predicted.
    """
    weight = 4 * found.true + found.predicted
    # hits + misses = true and hits + false alarms = predicted: 5 tp + 4 fn + fp = 4 true + predicted
    return float(np.mean(5 * found.hits / weight)) if weight else 1.0


class ObjectScore(Metric):
    """Mean F2 over IoU 0.5 to 0.95, and recall and precision of the objects at IoU 0.5 over all images.

    Objects are 8-connected components; predicted ones of fewer pixels than `smallest` are dropped first. Recall and
    precision are NaN without any true (predicted) object. For the test, as it waits for the CPU.
    """

    full_state_update = False
    score: Tensor
    counts: Tensor

    def __init__(self, threshold: float = 0.5, smallest: int = 1) -> None:
        super().__init__()
        require(smallest >= 1, "ObjectScore", "smallest of at least 1 pixel", smallest)
        self.edge = logit(threshold)
        self.smallest = smallest
        self.add_state("score", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(4, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Logits, target: Target) -> None:
        """Add a batch: logits and target (b,1,h,w)."""
        require(logits.dim() == 4, "objects", "logits (b,1,h,w)", shape(logits))
        values, truth = pixels(logits, target)
        for predicted, true in zip((values >= self.edge).cpu().numpy(), truth.cpu().numpy(), strict=True):
            found = match(components(predicted, self.smallest), components(true))
            row = torch.tensor([1, found.true, found.predicted, int(found.hits[0])], device=self.counts.device)
            self.counts = self.counts + row
            self.score = self.score + to_fixed(torch.tensor(f2(found), dtype=torch.float64)).to(self.score.device)

    def compute(self) -> dict[str, Tensor]:
        """Give scalar tensors: object_f2, object_recall and object_precision."""
        images, true, predicted, hits = self.counts
        return {
            "object_f2": self.score / FIXED / images,
            "object_recall": hits / true,
            "object_precision": hits / predicted,
        }
