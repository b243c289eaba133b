"""Histograms of probabilities: calibration, and the counts at every threshold, in constant memory."""

import torch
from torch import Tensor

from seglab.contract import require
from seglab.metrics.counts import Decisions, as_float

FIXED = 2**22
"""Sums of fractions are kept as integers in this unit, so that neither the order of the batches nor the number of
processes changes a digit of them, and no process needs float64. A float32 in [0, 1] keeps 22 of its 24 bits."""


@torch.no_grad()
def histogram(found: Decisions, bins: int = 256) -> Tensor:
    """Count pixels by truth and probability, of each image and class: (b*k, 2, bins) int64, row 1 what is true.

    Bin k holds the probabilities in [k / bins, (k + 1) / bins). 0.5 is exactly a bin's edge: the upper half of the
    bins holds the pixels with logit >= 0, just as `decide` predicts them; a NaN lies in the lowest bin. Pixels that do
    not count are left out. Waits once for the device.
    """
    require(bins > 0 and bins % 2 == 0, "metrics: bins", "an even number, so that 0.5 is an edge", bins)
    if found.values is None:
        level = found.probability * bins
    else:
        # A float32 sigmoid rounds up to 0.5 for logits above -1e-7; negative ones belong below the edge.
        level = found.values.abs().clamp_(min=1e-6).copysign_(found.values + 0.0).sigmoid_().mul_(bins)
    level = level.clamp_(max=bins - 1).nan_to_num_(0).int()
    rows = len(found.truth)
    row = torch.arange(0, 2 * rows, 2, device=level.device, dtype=torch.int32)[:, None, None] + found.truth
    table = (row * bins + level).flatten().bincount(minlength=2 * rows * bins).view(-1, 2, bins)
    table[:, 0, 0] -= found.invalid
    return table


def residuals(probability: Tensor, truth: Tensor, bins: int) -> Tensor:
    """Sum probability minus truth (b, rows, n) in equal bins of the probability: (bins,) int64 in units of 1 / FIXED.

    The absolute values of these sums, added and divided by the number of pixels, are the expected calibration error.
    """
    level = (probability * bins).clamp_(max=bins - 1).nan_to_num_(0).long()  # NaN is no index
    gap = to_fixed(probability - as_float(truth, probability))
    tables = gap.new_zeros(*gap.shape[:-1], bins)  # one a row, since a GPU's threads wait for each other at a bin
    return tables.scatter_add_(-1, level, gap).flatten(0, -2).sum(0)


def to_fixed(fractions: Tensor) -> Tensor:
    """Round to the integers in which sums are kept; NaN adds nothing."""
    return (fractions * FIXED).nan_to_num_(0).round_().long()
