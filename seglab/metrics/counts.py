"""One pass over the logits counts each image; every overlap score is arithmetic on those few numbers."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from seglab.contract import Logits, PerImage, Target, require

EMPTY = ("correct", "skip")
"""What an image without true foreground scores: 1 if nothing is predicted in it and 0 otherwise, or nothing at all."""

SCORES = (
    "iou",
    "dice",
    "f2",
    "accuracy",
    "precision",
    "recall",
    "specificity",
    "foreground_confidence",
    "background_confidence",
)


class Counts(NamedTuple):
    """The pixels of each image by truth and prediction, and the summed probability of the true class; all (b,)."""

    tp: Tensor
    fp: Tensor
    fn: Tensor
    tn: Tensor
    foreground_sum: Tensor
    background_sum: Tensor


def cleared(logits: Logits, target: Target, own: Tensor) -> tuple[Logits, Target, Tensor]:
    """Make sure background of all that is not a tile's own, and say how many pixels (b,) that is; see `less`.

    `own` (b,4) int64 holds the rows and columns that are: from, to, from, to. Pixels beyond an image's edge, or that
    another tile of it has, would else count as if they were more of the image.
    """
    top, bottom, left, right = own.T[..., None]
    row, column = (torch.arange(n, device=logits.device) for n in logits.shape[-2:])
    rows, columns = (row >= top) & (row < bottom), (column >= left) & (column < right)
    other = ~(rows[:, None, :, None] & columns[:, None, None, :])
    return logits.masked_fill(other, -math.inf), target.masked_fill(other, 0), other.flatten(1).sum(1)


def less(counts: Counts, spare: Tensor) -> Counts:
    """Take (b,) pixels of sure background off the counts."""
    return counts._replace(tn=counts.tn - spare, background_sum=counts.background_sum - spare)


@torch.no_grad()
def counts(logits: Logits, target: Target, threshold: float = 0.5) -> Counts:
    """Count the pixels of each image at one threshold of the probability.

    A pixel is predicted as foreground where sigmoid(logit) >= threshold, and is true foreground where target >= 0.5.
    The counts are exact int64; `foreground_sum` adds the probability over true foreground, `background_sum` one minus
    it over true background (float32, or float64 for such logits). A logit that is NaN counts as background. Raises
    ContractError for shapes that do not fit.
    """
    values, truth = pixels(logits, target)
    return tally(values >= logit(threshold), truth, values.sigmoid())


def scores(counts: Counts, empty: str = "correct") -> dict[str, PerImage]:
    """Turn counts into the scores of each image: IoU, Dice, F2, the rates and the confidences, each (b,) in [0, 1].

    A rate without a denominator (precision where nothing is predicted, recall and foreground confidence where nothing
    is true, specificity and background confidence where everything is) is NaN. IoU, Dice and F2 of an image without
    true foreground follow the policy `empty`: "correct" gives 1 to an empty prediction and 0 to any other, "skip" gives
    NaN.
    """
    require(empty in EMPTY, "metrics: empty", " or ".join(EMPTY), empty)
    tp, fp, fn, tn, white, black = counts
    found, true, false = tp + fp, tp + fn, fp + tn
    above = torch.stack((tp, 2 * tp, 5 * tp, tp + tn, tp, tp, tn, white, black))
    below = torch.stack((true + fp, true + found, 4 * true + found, true + false, found, true, false, true, false))
    table = above / below
    overlap = table[:3]  # 0 / 0 exactly where nothing is true and nothing predicted
    table[:3] = overlap.nan_to_num(1.0) if empty == "correct" else overlap.masked_fill(true == 0, math.nan)
    return dict(zip(SCORES, table, strict=True))


def pixels(logits: Logits, target: Target) -> tuple[Tensor, Tensor]:
    """Bring both to (b, rows, n): the logits in at least float32, the truth as booleans (target >= 0.5)."""
    fit = logits.shape == target.shape and logits.dim() > 2 and logits.shape[1] == 1
    require(fit, "metrics", "logits and target of one shape (b,1,*spatial)", f"{shape(logits)} and {shape(target)}")
    values, truth = logits.flatten(1, -2), target.flatten(1, -2)
    values = values if values.dtype == torch.float64 else values.float()
    return values, truth >= 0.5 if truth.is_floating_point() else truth.bool()


def tally(predicted: Tensor, truth: Tensor, probability: Tensor) -> Counts:
    """Count booleans and sum probabilities, all (b, rows, n), without a look at the values on the host."""
    white = share(truth, probability)
    found = share(predicted, probability)
    size = truth.shape[1] * truth.shape[2]
    p, t, tp = count(found), count(white), count(found * white)
    confident = (probability * white).sum(-1).sum(-1)
    doubtful = probability.sum(-1).sum(-1) - confident
    return Counts(tp, p - tp, t - tp, size - p - t + tp, confident, size - t - doubtful)


def count(ones: Tensor) -> Tensor:
    """Add zeros and ones (b, rows, n) exactly: a row in floats, which no copy to int64 slows down, then the rows."""
    return ones.sum(-1).long().sum(-1)


def share(truth: Tensor, like: Tensor) -> Tensor:
    """Write booleans as 0.0 and 1.0, by way of bytes: the direct conversion is six times slower on a CPU."""
    return truth.byte().to(like.dtype)


def logit(threshold: float) -> float:
    """Move a threshold of the probability to the logits, where comparing needs no sigmoid and loses no digit."""
    require(0 < threshold < 1, "metrics: threshold", "a number between 0 and 1, both excluded", threshold)
    return math.log(threshold / (1 - threshold))


def shape(tensor: Tensor) -> str:
    """Write a shape the way users do, as 4x1x256x256."""
    return "x".join(map(str, tensor.shape))
