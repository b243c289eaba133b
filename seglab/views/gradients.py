"""The gradient of a loss with respect to the logits, as all views compute it, and the maps that a loss needs."""

from __future__ import annotations  # for `Valid | None`: Valid is a string, since contract.py imports no torch

from collections.abc import Mapping

import torch
from torch import Tensor

from seglab.contract import Logits, PerImage, Target, Valid
from seglab.data.distance_maps import MAPS
from seglab.losses.base import Loss


def loss_and_gradient(
    loss: Loss, logits: Logits, target: Target, maps: Mapping[str, Tensor], valid: Valid | None = None
) -> tuple[PerImage, Tensor]:
    """Return the per-image loss (b,), and the gradient of its sum with respect to the logits, in at least float32."""
    z = (logits if logits.dtype == torch.float64 else logits.float()).detach().requires_grad_()
    losses = loss(z, target, valid, **maps)
    (gradient,) = torch.autograd.grad(losses.sum(), z)
    return losses.detach(), gradient


def maps_of(loss: Loss, target: Target) -> dict[str, Tensor]:
    """Return the maps that the loss needs for a mask (1, 1, h, w), each (1, 1, h, w)."""
    return {name: torch.from_numpy(MAPS[name](target[0, 0].numpy()))[None, None] for name in loss.needs}
