"""The scores of a whole data set, per image and pooled, as one metric that any number of processes may share."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from seglab.contract import Logits, Target, require
from seglab.metrics.calibration import FIXED, residuals, to_fixed
from seglab.metrics.counts import EMPTY, SCORES, Counts, logit, pixels, scores, tally


class SegmentationMetrics(Metric):
    """Overlap, rates, confidence and calibration of a data set, from one pass over the logits of each batch.

    `compute()` gives each score of `scores` as the mean over the images where it is defined and, with the suffix
    `_pooled`, from the counts summed over all pixels; `image_accuracy` and `image_recall` judge whether an image holds
    any foreground; `ece` is the expected calibration error (Guo et al. 2017) of the foreground probability in
    `calibration_bins` equal bins (None leaves it out). A mean over no image at all is NaN.

    All states are integers that are summed, so that several processes give the very digits that one would.
    """

    full_state_update = False
    pixels: Tensor
    total: Tensor
    defined: Tensor
    images: Tensor
    residual: Tensor

    def __init__(self, threshold: float = 0.5, empty: str = "correct", calibration_bins: int | None = 15) -> None:
        super().__init__()
        require(empty in EMPTY, "metrics: empty", " or ".join(EMPTY), empty)
        require(calibration_bins is None or calibration_bins > 0, "metrics: calibration_bins", "at least 1 or null")
        self.edge = logit(threshold)
        self.empty = empty
        self.calibration_bins = calibration_bins
        sizes = {"pixels": 6, "total": len(SCORES), "defined": len(SCORES), "images": 4, "residual": calibration_bins}
        for name, size in sizes.items():
            self.add_state(name, torch.zeros(size or 0, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Logits, target: Target) -> None:
        """Add a batch: logits and target (b,1,*spatial) of any float type and device; nothing waits for the device."""
        values, truth = pixels(logits, target)
        probability = values.sigmoid()
        batch = tally(values >= self.edge, truth, probability)
        self.pixels = self.pixels + pooled(batch)
        per_image = torch.stack(list(scores(batch, self.empty).values()))
        self.total = self.total + to_fixed(per_image).sum(1)
        self.defined = self.defined + per_image.isfinite().sum(1)
        self.images = self.images + presence(batch)
        if self.calibration_bins:
            self.residual = self.residual + residuals(probability, truth, self.calibration_bins)

    def compute(self) -> dict[str, Tensor]:
        """Give every score of the data set as a scalar tensor."""
        means = dict(zip(SCORES, self.total / self.defined / FIXED, strict=True))
        fractions = self.pixels[4:] / FIXED
        pools = scores(Counts(*self.pixels[:4], *fractions), self.empty)
        tp, fp, fn, tn = self.images
        result = means | {f"{name}_pooled": value for name, value in pools.items()}
        result |= {"image_accuracy": (tp + tn) / (tp + fp + fn + tn), "image_recall": tp / (tp + fn)}
        if self.calibration_bins:
            result["ece"] = self.residual.abs().sum() / self.pixels[:4].sum() / FIXED
        return result


def pooled(batch: Counts) -> Tensor:
    """Add the counts of a batch over its images: (6,) int64, the two sums of probabilities in units of 1 / FIXED."""
    whole = torch.stack(batch[:4])
    fractions = to_fixed(torch.stack(batch[4:]))
    return torch.cat([whole, fractions]).sum(1)


def presence(batch: Counts) -> Tensor:
    """Count images by whether they hold foreground and whether any is predicted: (4,) int64 as tp, fp, fn, tn."""
    true, found = batch.tp + batch.fn > 0, batch.tp + batch.fp > 0
    return torch.stack([true & found, ~true & found, true & ~found, ~true & ~found]).sum(1)
