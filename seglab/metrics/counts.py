"""One pass over the logits counts each image; every overlap score is arithmetic on those few numbers."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from seglab.contract import Logits, PerImage, Target, require

EMPTY = ("correct", "skip")
"""What an image without true foreground scores: 1 if nothing is predicted in it and 0 otherwise, or nothing at all."""


class Counts(NamedTuple):
    """The pixels of each image by truth and prediction, and the summed probability of the true class; all (b,)."""

    tp: Tensor
    fp: Tensor
    fn: Tensor
    tn: Tensor
    white_sum: Tensor
    black_sum: Tensor


@torch.no_grad()
def counts(logits: Logits, target: Target, threshold: float = 0.5) -> Counts:
    """Count the pixels of each image at one threshold of the probability.

    A pixel is predicted as foreground where sigmoid(logit) >= threshold, and is true foreground where target >= 0.5.
    The counts are exact int64; `white_sum` adds the probability over true foreground, `black_sum` one minus it over
    true background (float32, or float64 for such logits). Raises ContractError for shapes that do not fit.
    """
    scores, truth = pixels(logits, target)
    return tally(scores >= logit(threshold), truth, scores.sigmoid())


def scores(counts: Counts, empty: str = "correct") -> dict[str, PerImage]:
    """Turn counts into the scores of each image: IoU, Dice, F2 and the rates, each (b,) and in [0, 1].

    A rate without a denominator (precision where nothing is predicted, recall and white confidence where nothing is
    true, specificity and black confidence where everything is) is NaN. IoU, Dice and F2 of an image without true
    foreground follow the policy `empty`: "correct" gives 1 to an empty prediction and 0 to any other, "skip" gives NaN.
    """
    require(empty in EMPTY, "metrics: empty", " or ".join(EMPTY), empty)
    tp, fp, fn, tn, white, black = counts
    found, true = tp + fp, tp + fn
    blank = torch.where(found == 0, 1.0, 0.0) if empty == "correct" else torch.full_like(white, math.nan)

    def overlap(hits: Tensor, misses: Tensor) -> Tensor:
        return torch.where(true == 0, blank, hits / (hits + misses)).to(white.dtype)

    return {
        "iou": overlap(tp, fp + fn),
        "dice": overlap(2 * tp, fp + fn),
        "accuracy": (tp + tn) / (true + fp + tn),
        "precision": tp / found,
        "recall": tp / true,
        "specificity": tn / (tn + fp),
        "f2": overlap(5 * tp, fp + 4 * fn),
        "white_confidence": white / true,
        "black_confidence": black / (tn + fp),
    }


def pixels(logits: Logits, target: Target) -> tuple[Tensor, Tensor]:
    """Flatten both to (b, n): the logits in at least float32 and the truth as booleans (target >= 0.5)."""
    fit = logits.shape == target.shape and logits.dim() > 2 and logits.shape[1] == 1
    require(fit, "metrics", "logits and target of one shape (b,1,*spatial)", f"{shape(logits)} and {shape(target)}")
    values = logits.flatten(1)
    values = values if values.dtype == torch.float64 else values.float()
    truth = target.flatten(1)
    if truth.is_floating_point():
        return values, truth >= 0.5
    return values, truth if truth.dtype == torch.bool else truth != 0


def tally(predicted: Tensor, truth: Tensor, probability: Tensor) -> Counts:
    """Count booleans and sum probabilities, all (b, n), without a look at the values on the host."""
    true, found = truth.count_nonzero(1), predicted.count_nonzero(1)
    tp = (predicted & truth).count_nonzero(1)
    false = truth.shape[1] - true
    white = torch.linalg.vecdot(probability, truth.to(probability.dtype))
    black = false - (probability.sum(1) - white)
    return Counts(tp, found - tp, true - tp, false - (found - tp), white, black)


def logit(threshold: float) -> float:
    """Move a threshold of the probability to the logits, where comparing needs no sigmoid and loses no digit."""
    require(0 < threshold < 1, "metrics: threshold", "a number between 0 and 1, both excluded", threshold)
    return math.log(threshold / (1 - threshold))


def shape(tensor: Tensor) -> str:
    """Write a shape the way users do, as 4x1x256x256."""
    return "x".join(map(str, tensor.shape))
