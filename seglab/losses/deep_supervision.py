"""A loss over the logits of several scales of one network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seglab.contract import Logits, PerImage, Target, Valid
from seglab.losses.base import Loss


def over_scales(loss: Loss, scales: Sequence[Logits], target: Target, valid: Valid | None = None) -> PerImage:
    """The mean (b,) of a loss over scales, the finest first, with the weights 1, 1/2, 1/4, ..., normalized.

    (Lee et al. 2015, "Deeply-Supervised Nets"; the weights of Isensee et al. 2021, nnU-Net.) A scale that is f times
    smaller is compared with every f-th pixel of target and valid, the one at f // 2 of each block of f (nearest
    neighbor, as nnU-Net has it): labels stay labels, for every loss. An object that no such pixel hits is absent there.
    """
    losses = [
        0.5**k * loss(logits, _reduced(target, logits), None if valid is None else _reduced(valid, logits))
        for k, logits in enumerate(scales)
    ]
    return torch.stack(losses).sum(0) / (2 - 0.5 ** (len(scales) - 1))  # the sum of the weights


def _reduced(x: Tensor, logits: Logits) -> Tensor:
    """The pixels of x (b, c, *spatial) that stand for those of smaller logits."""
    for axis, size in enumerate(logits.shape[2:], 2):
        step = max(x.shape[axis] // size, 1)
        x = x.index_select(axis, torch.arange(step // 2, x.shape[axis], step, device=x.device))
    return x
