"""Deep supervision: a loss of the logits at several scales of a network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seglab.contract import Logits, PerImage, Target, Valid
from seglab.losses.base import Loss


def over_scales(loss: Loss, scales: Sequence[Logits], target: Target, valid: Valid | None = None) -> PerImage:
    """Return the mean (b,) of a loss over scales, the finest first, with normalized weights 1, 1/2, 1/4, ...

    (Lee et al. 2015, "Deeply-Supervised Nets"; the weights of Isensee et al. 2021, nnU-Net.) A scale that is f times
    smaller is compared with every f-th pixel of target and valid: the one at f // 2 in each block of f (nearest
    neighbor, as in nnU-Net), so that hard labels stay hard. An object without such a pixel is absent at that scale.
    """
    losses = [
        0.5**k * loss(logits, _reduced(target, logits), None if valid is None else _reduced(valid, logits))
        for k, logits in enumerate(scales)
    ]
    return torch.stack(losses).sum(0) / (2 - 0.5 ** (len(scales) - 1))  # the sum of the weights


def _reduced(x: Tensor, logits: Logits) -> Tensor:
    """Return x (b, c, *spatial) subsampled to the size of the logits."""
    for axis, size in enumerate(logits.shape[2:], 2):
        step = max(x.shape[axis] // size, 1)
        x = x.index_select(axis, torch.arange(step // 2, x.shape[axis], step, device=x.device))
    return x
