"""Scores of a data set, per image and pooled over all pixels, as one torchmetrics Metric."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from seglab.contract import Logits, Target, require
from seglab.metrics.calibration import FIXED, residuals, to_fixed
from seglab.metrics.counts import EMPTY, SCORES, Counts, count_pixels, logit, pixels, scores


class SegmentationMetrics(Metric):
    """Overlap, rates, confidence and calibration of a data set, from one pass over the logits of each batch.

    `compute()` gives each score of `scores` as the mean over the images where it is defined and, with the suffix
    `_pooled`, from the counts summed over all pixels; `image_accuracy` and `image_recall` judge whether an image holds
    any foreground; `ece` is the expected calibration error (Guo et al. 2017) of the foreground probability in
    `calibration_bins` equal bins (None leaves it out). A mean over no image at all is NaN.

    All states are integers, so that several processes give the same digits as one.
    """

    full_state_update = False
    counted: list[Tensor]
    images: list[Tensor]
    residual: Tensor

    def __init__(self, threshold: float = 0.5, empty: str = "correct", calibration_bins: int | None = 15) -> None:
        super().__init__()
        require(empty in EMPTY, "metrics: empty", " or ".join(EMPTY), empty)
        require(calibration_bins is None or calibration_bins > 0, "metrics: calibration_bins", "at least 1 or null")
        self.edge = logit(threshold)
        self.empty = empty
        self.calibration_bins = calibration_bins
        self.add_state("counted", [], dist_reduce_fx="cat")
        self.add_state("images", [], dist_reduce_fx="cat")
        self.add_state("residual", torch.zeros(calibration_bins or 0, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Logits, target: Target, image: Tensor | None = None, valid: Tensor | None = None) -> None:
        """Add a batch: logits and target (b,1,*spatial) of any float type and device; nothing waits for the device.

        `image` (b,) int64 numbers the image of which each is a tile: the counts of one image's tiles are added before
        they are scored, whatever batch or process they came in. Without it each is an image by itself. `valid`
        (b,1,*spatial) bool marks the pixels that count; without it all do.
        """
        values, truth, invalid = pixels(logits, target, valid)
        probability = values.sigmoid()
        batch = count_pixels(values >= self.edge, truth, probability, invalid)
        self.counted.append(torch.cat([torch.stack(batch[:4]), to_fixed(torch.stack(batch[4:]))]).T)
        if image is not None:
            self.images.append(image)
        if self.calibration_bins:
            self.residual = self.residual + residuals(probability, truth, self.calibration_bins)

    def compute(self) -> dict[str, Tensor]:
        """Give every score of the data set as a scalar tensor."""
        rows = dim_zero_cat(self.counted) if len(self.counted) else self.residual.new_zeros(0, 6)
        if len(self.images):
            rows = added_by_image(rows, dim_zero_cat(self.images))
        images, total = unpacked(rows.T), unpacked(rows.sum(0))
        table = torch.stack(list(scores(images, self.empty).values()))
        means = dict(zip(SCORES, to_fixed(table).sum(1) / table.isfinite().sum(1) / FIXED, strict=True))
        result = means | {f"{name}_pooled": value for name, value in scores(total, self.empty).items()}
        tp, fp, fn, tn = presence(images)
        result |= {"image_accuracy": (tp + tn) / (tp + fp + fn + tn), "image_recall": tp / (tp + fn)}
        if self.calibration_bins:
            result["ece"] = self.residual.abs().sum() / sum(total[:4]) / FIXED
        return result


def unpacked(columns: Tensor) -> Counts:
    """Decode the rows (6,...) of images: four counts, and two sums of probabilities in units of 1 / FIXED."""
    return Counts(*columns[:4], *(columns[4:] / FIXED))


def added_by_image(rows: Tensor, image: Tensor) -> Tensor:
    """Add the rows (k,6) of each image, by its number (k,): (images,6)."""
    numbers, place = image.unique(return_inverse=True)
    return rows.new_zeros(len(numbers), 6).index_add_(0, place, rows)


def presence(batch: Counts) -> Tensor:
    """Count images by whether they hold foreground and whether any is predicted: (4,) int64 as tp, fp, fn, tn."""
    true, found = batch.tp + batch.fn > 0, batch.tp + batch.fp > 0
    return torch.stack([true & found, ~true & found, true & ~found, ~true & ~found]).sum(1)
