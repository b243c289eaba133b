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


@torch.no_grad()
def counts(logits: Logits, target: Target, threshold: float = 0.5, valid: Tensor | None = None) -> Counts:
    """Count the pixels of each image at one threshold of the probability.

    A pixel is predicted as foreground where sigmoid(logit) >= threshold, and is true foreground where target >= 0.5.
    The counts are exact int64; `foreground_sum` adds the probability over true foreground, `background_sum` one minus
    it over true background (float32, or float64 for such logits). A logit that is NaN counts as background. Pixels
    that are false in `valid` (b, 1, *spatial) do not count. Raises ContractError for shapes that do not fit.
    """
    values, truth, invalid = pixels(logits, target, valid)
    return count_pixels(values >= logit(threshold), truth, values.sigmoid(), invalid)


def scores(counts: Counts, empty: str = "correct") -> dict[str, PerImage]:
    """Turn counts into the scores of each image: IoU, Dice, F2, the rates and the confidences, each (b,) in [0, 1].

    A rate without a denominator (precision where nothing is predicted, recall and foreground confidence where nothing
    is true, specificity and background confidence where everything is) is NaN. IoU, Dice and F2 of an image without
    true foreground follow the policy `empty`: "correct" gives 1 to an empty prediction and 0 to any other, "skip" gives
    NaN.
    """
    require(empty in EMPTY, "metrics: empty", " or ".join(EMPTY), empty)
    tp, fp, fn, tn, foreground, background = counts
    found, true, false = tp + fp, tp + fn, fp + tn
    above = torch.stack((tp, 2 * tp, 5 * tp, tp + tn, tp, tp, tn, foreground, background))
    below = torch.stack((true + fp, true + found, 4 * true + found, true + false, found, true, false, true, false))
    table = above / below
    overlap = table[:3]  # 0 / 0 exactly where nothing is true and nothing predicted
    table[:3] = overlap.nan_to_num(1.0) if empty == "correct" else overlap.masked_fill(true == 0, math.nan)
    return dict(zip(SCORES, table, strict=True))


def pixels(logits: Logits, target: Target, valid: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | int]:
    """Bring both to (b, rows, n): the logits in at least float32, the truth as booleans (target >= 0.5).

    Pixels outside `valid` become certain background; how many they are (b,) is returned too, to be subtracted.
    """
    fit = logits.shape == target.shape and logits.dim() > 2 and logits.shape[1] == 1
    require(fit, "metrics", "logits and target of one shape (b,1,*spatial)", f"{shape(logits)} and {shape(target)}")
    invalid: Tensor | int = 0
    if valid is not None:
        require(valid.shape == target.shape, "metrics", f"a valid mask {shape(target)}", shape(valid))
        logits, target = logits.masked_fill(~valid, -math.inf), target.masked_fill(~valid, 0)
        invalid = (~valid).flatten(1).sum(1)
    values, truth = logits.flatten(1, -2), target.flatten(1, -2)
    values = values if values.dtype == torch.float64 else values.float()
    return values, truth >= 0.5 if truth.is_floating_point() else truth.bool(), invalid


def count_pixels(predicted: Tensor, truth: Tensor, probability: Tensor, invalid: Tensor | int = 0) -> Counts:
    """Count booleans and sum probabilities, all (b, rows, n), without copying a value to the host.

    `invalid` (b,) pixels, which are certain background, are left out.
    """
    foreground = as_float(truth, probability)
    found = as_float(predicted, probability)
    size = truth.shape[1] * truth.shape[2]
    p, t, tp = exact_sum(found), exact_sum(foreground), exact_sum(found * foreground)
    confident = (probability * foreground).sum(-1).sum(-1)
    doubtful = probability.sum(-1).sum(-1) - confident
    return Counts(tp, p - tp, t - tp, size - p - t + tp - invalid, confident, size - t - doubtful - invalid)


def exact_sum(ones: Tensor) -> Tensor:
    """Add zeros and ones (b, rows, n) exactly: a row in floats, which needs no copy to int64, then the rows."""
    return ones.sum(-1).long().sum(-1)


def as_float(truth: Tensor, like: Tensor) -> Tensor:
    """Convert booleans to 0.0 and 1.0 by way of bytes: the direct conversion is six times slower on a CPU."""
    return truth.byte().to(like.dtype)


def logit(threshold: float) -> float:
    """The logit of a probability threshold: comparing logits needs no sigmoid and loses no digit."""
    require(0 < threshold < 1, "metrics: threshold", "a number between 0 and 1, both excluded", threshold)
    return math.log(threshold / (1 - threshold))


def shape(tensor: Tensor) -> str:
    """Write a shape the way users do, as 4x1x256x256."""
    return "x".join(map(str, tensor.shape))
