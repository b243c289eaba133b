"""Losses of overlap that look at the background as a second class."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from seglab.losses.base import Card
from seglab.losses.region import BY_POLICY, TINY, Confusion, Overlap, OverlapLoss, power, ratio, tversky


@dataclass(frozen=True, kw_only=True)
class GeneralisedDice(OverlapLoss):
    """Dice over foreground and background together, each weighted by one over its squared size.

    The weights are divided by the larger one, so that they neither overflow nor vanish beside the smoothing.
    """

    part: ClassVar[Overlap] = Overlap(with_tn=True)
    card: ClassVar[Card] = Card(
        title="Generalised Dice loss",
        family="region",
        formula=(
            r"\frac{\sum_c w_c(fp_c+fn_c)}{\sum_c w_c(2\,tp_c+fp_c+fn_c)+s},\quad "
            r"w_c\propto1/T_c^2,\;c\in\{\text{bg},\text{fg}\}"
        ),
        paper=(
            "Sudre et al. 2017, Generalised Dice overlap as a deep learning loss function for highly unbalanced "
            "segmentations"
        ),
        empty="An absent class has no weight, so the other one is scored; or the image is skipped.",
        differs=(
            "MONAI with one channel is plain Dice, and its smoothing swamps the weights of large images (0.05 for"
            " a wrong 4096x4096 mask). smp and kornia have none."
        ),
    )

    def overlap(self, m: Confusion) -> Tensor:
        foreground, background = (m.tp + m.fn).detach(), (m.tn + m.fp).detach()
        smaller = torch.minimum(
            torch.where(foreground > 0, foreground, torch.inf), torch.where(background > 0, background, torch.inf)
        )
        fg = torch.where(foreground > 0, (smaller / foreground.clamp(min=TINY)) ** 2, 0)
        bg = torch.where(background > 0, (smaller / background.clamp(min=TINY)) ** 2, 0)
        error = (fg + bg) * (m.fp + m.fn)
        return ratio(error, 2 * (fg * m.tp + bg * m.tn) + error + self.smooth)


@dataclass(frozen=True, kw_only=True)
class MCC(OverlapLoss):
    """One minus Matthews' correlation coefficient between prediction and mask, which counts all four cells alike."""

    smooth: float = field(default=0.0, init=False)

    part: ClassVar[Overlap] = Overlap(with_tn=True, exact=True)
    card: ClassVar[Card] = Card(
        title="Matthews correlation (MCC) loss",
        family="region",
        formula=r"1-\frac{tp\cdot tn-fp\cdot fn}{\sqrt{(tp+fp)(tp+fn)(tn+fp)(tn+fn)}}",
        paper="Abhishek and Hamarneh 2021, Matthews correlation coefficient loss for deep convolutional networks",
        empty=(
            "MCC is undefined on one class: the factors of the class present remain, its Fowlkes-Mallows index "
            "(formula: 1); or skipped."
        ),
        differs=(
            "smp pools the batch and wants probabilities; in smp and MONAI masks of one class have gradient 0 and"
            " fp16 gives NaN. kornia has none."
        ),
    )

    def overlap(self, m: Confusion) -> Tensor:
        wrong = torch.stack([m.fp, m.fn])
        whole = torch.stack([m.tp, m.tn]).unsqueeze(1) + wrong  # the factors under the root
        foreground, background = either(*ratio(wrong, whole).unbind(1)).unbind()
        if self.empty == "complement":
            background = torch.where(m.tn + m.fp == 0, 0, background)
        missing = either(foreground, background)
        crossed = ratio(wrong, root(whole[0] * whole[1]))
        return missing / (1 + root(1 - missing)) + crossed[0] * crossed[1]


def either(a: Tensor, b: Tensor) -> Tensor:
    """1 - (1 - a)(1 - b), exact where both are small."""
    return a + b - a * b


def root(x: Tensor) -> Tensor:
    """The square root, with a finite slope at 0."""
    return power(x, 0.5)


@dataclass(frozen=True, kw_only=True)
class AsymmetricFocalTversky(OverlapLoss):
    """The mean of a Tversky loss of the background and a focal one of the foreground, the rare class.

    The exponent of the foreground's loss is 1 - `gamma`; `fn_weight` weighs what each class misses of itself.
    """

    fp_weight: float = 0.4
    fn_weight: float = 0.6
    gamma: float = 0.5

    part: ClassVar[Overlap] = Overlap(with_tn=True)
    card: ClassVar[Card] = Card(
        title="Asymmetric focal Tversky loss",
        family="region",
        formula=r"\tfrac12\big(1-TI_{bg}\big)+\tfrac12\big(1-TI_{fg}\big)^{1-\gamma}",
        paper="Yeung et al. 2022, Unified Focal loss: Generalising Dice and cross entropy-based losses",
        empty=BY_POLICY + " A class that is absent is scored like the other one.",
        differs=(
            "fn_weight is the paper's delta, .7 in MONAI, which wants probabilities though it says logits. smp "
            "and kornia have none."
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.limit(self.fp_weight > 0, "fp_weight", "above 0")
        self.limit(self.fn_weight > 0, "fn_weight", "above 0")
        self.limit(0 <= self.gamma < 1, "gamma", "in [0, 1)")

    def overlap(self, m: Confusion) -> Tensor:
        back = m.swapped()
        if self.empty == "complement":
            back = back.complemented(back.empty)
        foreground = power(tversky(m, self.fp_weight, self.fn_weight, self.smooth), 1 - self.gamma)
        return (foreground + tversky(back, self.fp_weight, self.fn_weight, self.smooth)) / 2
