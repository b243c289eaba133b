"""Histograms of probabilities: calibration, and the counts at every threshold, in constant memory."""

from __future__ import annotations

import torch
from torch import Tensor

from seglab.contract import Logits, Target, require
from seglab.metrics.counts import as_float, pixels

FIXED = 2**22
"""Sums of fractions are kept as integers in this unit, so that neither the order of the batches nor the number of
processes changes a digit of them, and no process needs float64. A float32 in [0, 1] keeps 22 of its 24 bits."""


@torch.no_grad()
def histogram(logits: Logits, target: Target, bins: int = 256, valid: Tensor | None = None) -> Tensor:
    """Count each image's pixels by truth and probability: (b, 2, bins) int64, row 0 background, row 1 foreground.

    Bin k holds the probabilities in [k / bins, (k + 1) / bins). 0.5 is exactly a bin's edge: the upper half of the
    bins holds the pixels with logit >= 0, just as `counts` predicts them; a NaN lies in the lowest bin. Pixels outside
    `valid` (b, 1, *spatial) are left out. Waits once for the device.
    """
    require(bins > 0 and bins % 2 == 0, "metrics: bins", "an even number, so that 0.5 is an edge", bins)
    values, truth, invalid = pixels(logits, target, valid)
    # A float32 sigmoid rounds up to 0.5 for logits above -1e-7; negative ones belong below the edge.
    signed = values.abs().clamp_(min=1e-6).copysign_(values + 0.0)
    level = signed.sigmoid_().mul_(bins).clamp_(max=bins - 1).nan_to_num_(0).int()
    row = torch.arange(0, 2 * len(values), 2, device=values.device, dtype=torch.int32)[:, None, None] + truth
    table = (row * bins + level).flatten().bincount(minlength=2 * len(values) * bins).view(-1, 2, bins)
    table[:, 0, 0] -= invalid
    return table


def residuals(probability: Tensor, truth: Tensor, bins: int) -> Tensor:
    """Sum probability minus truth in equal bins of the probability: (bins,) int64 in units of 1 / FIXED.

    The absolute values of these sums, added and divided by the number of pixels, are the expected calibration error.
    """
    level = (probability * bins).clamp_(max=bins - 1).nan_to_num_(0).long()  # NaN is no index
    gap = to_fixed(probability - as_float(truth, probability))
    return torch.zeros(bins, dtype=torch.int64, device=gap.device).scatter_add_(0, level.flatten(), gap.flatten())


def to_fixed(fractions: Tensor) -> Tensor:
    """Round to the integers in which sums are kept; NaN adds nothing."""
    return (fractions * FIXED).nan_to_num_(0).round_().long()
