"""Pixel counts per image from one pass over the logits; every overlap score is computed from these few numbers.

Histograms of probabilities hold the counts at every threshold, and the calibration, in constant memory.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from seglab.contract import Kind, Logits, PerImage, Target, require

FIXED = 2**22
"""Sums of fractions are kept as integer multiples of 1 / FIXED, so that they do not depend on the order of batches or
the number of processes, and do not need float64. A float32 in [0, 1] keeps 22 of its 24 bits."""

BINS = 256  # of probabilities; an even number, so that 0.5 is an edge

EMPTY = ("correct", "skip")
"""Policy for an image without true foreground: score 1 if nothing is predicted in it and 0 otherwise, or skip it."""


class Counts(NamedTuple):
    """The pixel counts of each image and class by truth and prediction, and the summed probability of the truth."""

    tp: Tensor
    fp: Tensor
    fn: Tensor
    tn: Tensor
    foreground_sum: Tensor
    background_sum: Tensor


class Decisions(NamedTuple):
    """Prediction and truth of each image and class, (b*k, rows, n), with the classes of an image side by side.

    An invalid pixel is neither predicted nor true and has probability 0; `invalid` (b*k,) is the number of invalid
    pixels, to be subtracted. `values` are the logits, None for mutually exclusive classes.
    """

    predicted: Tensor
    truth: Tensor
    probability: Tensor
    values: Tensor | None
    invalid: Tensor | int


@torch.no_grad()
def decide(
    logits: Logits,
    target: Target,
    threshold: float | Sequence[float] = 0.5,
    valid: Tensor | None = None,
    kind: Kind = "binary",
) -> Decisions:
    """Decide for each pixel by thresholds on the probability, or for the most probable class of a multiclass task.

    Binary and multilabel: a class is predicted where sigmoid(logit) >= threshold, and true where target >= 0.5. A NaN
    logit counts as background. Multiclass: the target holds class ids (b, 1, *spatial), and a NaN logit counts as the
    largest. Pixels that are False in `valid` (b, 1, *spatial) are ignored. Raises ContractError if shapes do not match
    or if a threshold is not between 0 and 1.
    """
    one_channel = (len(logits), 1, *logits.shape[2:])
    fits = logits.dim() > 2 and target.shape == (one_channel if kind == "multiclass" else logits.shape)
    fits = fits and (kind != "binary" or logits.shape[1] == 1)
    axes = {"binary": "(b,1,*spatial)", "multilabel": "(b,k,*spatial)"}
    expected = "logits (b,k,*spatial) and class ids (b,1,*spatial)"
    expected = f"logits and target of the same shape {axes[kind]}" if kind in axes else expected
    require(fits, "metrics", expected, f"{shape(logits)} and {shape(target)}")
    invalid: Tensor | int = 0
    if valid is not None:
        expected = f"a valid mask of shape {'x'.join(map(str, one_channel))}"
        require(tuple(valid.shape) == one_channel, "metrics", expected, shape(valid))
        invalid = (~valid).flatten(1).sum(1).repeat_interleave(logits.shape[1])
    values = logits if logits.dtype == torch.float64 else logits.float()
    if kind == "multiclass":
        ids = torch.arange(logits.shape[1], device=logits.device).view(1, -1, *[1] * (logits.dim() - 2))
        predicted, truth = values.argmax(1, keepdim=True) == ids, target == ids
        mask = True if valid is None else valid
        probability = values.softmax(1).nan_to_num(0) * mask
        return Decisions(by_class(predicted & mask), by_class(truth & mask), by_class(probability), None, invalid)
    if valid is not None:  # invalid pixels become certain background
        values, target = values.masked_fill(~valid, -math.inf), target.masked_fill(~valid, 0)
    truth = by_class(target >= 0.5 if target.is_floating_point() else target.bool())
    values = by_class(values)
    if isinstance(threshold, float | int):
        return Decisions(values >= logit(threshold), truth, values.sigmoid(), values, invalid)
    edges = values.new_tensor([logit(value) for value in threshold]).repeat(len(logits))
    return Decisions(values >= edges[:, None, None], truth, values.sigmoid(), values, invalid)


def by_class(x: Tensor) -> Tensor:
    """Reshape (b, k, *spatial) to (b*k, rows, n)."""
    return x.reshape(x.shape[0] * x.shape[1], -1, x.shape[-1])


def counts(logits: Logits, target: Target, threshold: float = 0.5, valid: Tensor | None = None) -> Counts:
    """Count the pixels of each image of a binary task (b,), see `decide` and `count`."""
    return count(decide(logits, target, threshold, valid))


def scores(counts: Counts, empty: str = "correct") -> dict[str, PerImage]:
    """Compute the scores of each image and class from counts: IoU, Dice, F2, rates and confidences, each in [0, 1].

    A rate without a denominator (precision where nothing is predicted, recall and foreground confidence where nothing
    is true, specificity and background confidence where everything is) is NaN. IoU, Dice and F2 of an image without
    true foreground follow the policy `empty`: "correct" gives 1 to an empty prediction and 0 to any other, "skip" gives
    NaN.
    """
    require(empty in EMPTY, "metrics: empty", " or ".join(EMPTY), empty)
    tp, fp, fn, tn, foreground, background = counts
    predicted, true, false = tp + fp, tp + fn, fp + tn
    fractions = {
        "iou": (tp, true + fp),
        "dice": (2 * tp, true + predicted),
        "f2": (5 * tp, 4 * true + predicted),
        "accuracy": (tp + tn, true + false),
        "precision": (tp, predicted),
        "recall": (tp, true),
        "specificity": (tn, false),
        "foreground_confidence": (foreground, true),
        "background_confidence": (background, false),
    }
    numerators, denominators = (torch.stack(column) for column in zip(*fractions.values(), strict=True))
    table = numerators / denominators
    overlap = table[:3]  # 0 / 0 exactly where nothing is true and nothing predicted
    table[:3] = overlap.nan_to_num(1.0) if empty == "correct" else overlap.masked_fill(true == 0, math.nan)
    return dict(zip(fractions, table, strict=True))


def count(found: Decisions) -> Counts:
    """Count decisions and sum probabilities, each (b*k,), without copying a value to the host.

    The counts are exact int64. `foreground_sum` is the sum of the probability over the true pixels, `background_sum`
    the sum of one minus the probability over the rest (float32, or float64 for float64 logits).
    """
    truth, probability, invalid = found.truth, found.probability, found.invalid
    # via bytes: on a CPU the direct conversion of booleans takes six times as long
    foreground, predicted = (x.byte().to(probability.dtype) for x in (truth, found.predicted))
    size = truth.shape[1] * truth.shape[2]
    # exact: each row in floats (fewer than 2^24 pixels; needs no copy to int64), then the sum of the rows in int64
    p, t, tp = (x.sum(-1).long().sum(-1) for x in (predicted, foreground, predicted * foreground))
    on_true = foreground.mul_(probability)
    foreground_sum = on_true.sum(-1).sum(-1)
    # pixel by pixel: if there is little background, the difference of two large sums has no digits left
    on_rest = torch.sub(probability, on_true, out=on_true).sum(-1).sum(-1)
    background_sum = (size - t - invalid - on_rest).clamp(min=0)
    return Counts(tp, p - tp, t - tp, size - p - t + tp - invalid, foreground_sum, background_sum)


@torch.no_grad()
def confusion(logits: Logits, target: Target, valid: Tensor | None = None) -> Tensor:
    """Count the pixels of each image by true class (rows) and predicted class, for a multiclass task: (b, k, k)."""
    b, k = logits.shape[:2]
    cell = target[:, 0].long() * k + logits.argmax(1)
    cell = cell + torch.arange(b, device=cell.device).view(-1, *[1] * (cell.dim() - 1)) * k * k
    return (cell if valid is None else cell[valid[:, 0]]).flatten().bincount(minlength=b * k * k).view(b, k, k)


def logit(threshold: float) -> float:
    """Return the logit of a probability threshold: comparing logits needs no sigmoid and loses no precision."""
    require(0 < threshold < 1, "metrics: threshold", "a number between 0 and 1, both excluded", threshold)
    return math.log(threshold / (1 - threshold))


def shape(tensor: Tensor) -> str:
    """Format a shape for messages, such as 4x1x256x256."""
    return "x".join(map(str, tensor.shape))


@torch.no_grad()
def histogram(found: Decisions) -> Tensor:
    """Count pixels by truth and probability for each image and class: (b*k, 2, BINS) int64, true pixels in row 1.

    Bin k holds the probabilities in [k / BINS, (k + 1) / BINS). 0.5 is exactly a bin edge: the upper half of the bins
    holds the pixels with logit >= 0, as `decide` predicts them. NaN falls in the lowest bin. Invalid pixels are left
    out. Synchronizes with the device once.
    """
    if found.values is None:
        level = found.probability * BINS
    else:
        # A float32 sigmoid rounds up to 0.5 for logits above -1e-7: negative logits belong below the edge, but not -0.0
        level = found.values.abs().clamp_(min=1e-6).copysign_(found.values + 0.0).sigmoid_().mul_(BINS)
    level = level.clamp_(max=BINS - 1).nan_to_num_(0).int()  # NaN is not an index; int64 takes four times as long
    rows = len(found.truth)
    row = torch.arange(0, 2 * rows, 2, device=level.device, dtype=torch.int32)[:, None, None] + found.truth
    table = (row * BINS + level).flatten().bincount(minlength=2 * rows * BINS).view(-1, 2, BINS)
    table[:, 0, 0] -= found.invalid  # counted as not true, with probability 0
    return table


def to_fixed(fractions: Tensor) -> Tensor:
    """Round fractions to integer multiples of 1 / FIXED; NaN becomes 0."""
    return (fractions * FIXED).nan_to_num_(0).round_().long()
