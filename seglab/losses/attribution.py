"""What each pixel has to do with a loss, from the loss itself: its part of the value, or its gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from seglab.contract import Logits, Target, Valid, require
from seglab.losses.base import Loss
from seglab.losses.composite import Batchwise, WeightedSum
from seglab.losses.cross_entropy import PixelLoss
from seglab.losses.pixels import pixels_of
from seglab.losses.schedule import Switch

NODES = 48  # of the quadrature: five digits of every loss here, roots at a perfect prediction included
BEND = 4  # the path is walked as s = u^4, which makes of a root at its start a polynomial
TOLERANCE = 0.02  # how far the parts may be from adding up: where the path has kinks they are less exact
FARTHEST = 300.0  # the largest logit on the path: e^300 is still a number in float64


def attribution(loss: Loss, logits: Logits, target: Target, valid: Valid | None = None, **maps: Tensor) -> Tensor:
    """Split a loss among the pixels: (b, k, *spatial), or (b, 1, *spatial) for a multiclass task.

    The mean over the pixels of an image that count, and over the channels, is the image's loss, less that of a perfect
    prediction. Of a loss that adds up over the pixels each pays its own. Any other is split by integrated gradients
    (Aumann and Shapley; Sundararajan, Taly, Yan 2017, Axiomatic attribution for deep networks): the probabilities of
    all pixels go from the target to the prediction together, and a pixel pays for what the loss grows by on account of
    it, which may be below 0 where an error lowers the loss. Raises ContractError for a loss that jumps on the way; that
    has only a gradient.
    """
    if isinstance(loss, Batchwise):
        require(len(logits) == 1, loss.name, "one image at a time to be split among pixels", len(logits))
        return attribution(loss.loss, logits, target, valid, **maps)
    if isinstance(loss, Switch):
        return attribution(loss.first, logits, target, valid, **maps)
    if isinstance(loss, WeightedSum):
        found = [weight * attribution(part, logits, target, valid, **maps) for weight, part in loss.parts()]
        return torch.stack(found).sum(0)
    z = logits.detach().double()
    if isinstance(loss, PixelLoss):
        x = pixels_of(loss.task, z, target, valid, maps)
        weights = loss.weights(x) if loss.task == "multilabel" else None
        split = x.spatial(loss.costs(x) * (1 if weights is None else (weights / weights.mean())[:, None]))
    else:
        split = grown(loss, z, target, valid, maps)
    return split.to(logits.dtype if logits.dtype == torch.float64 else torch.float32)


def gradients(loss: Loss, logits: Logits, target: Target, valid: Valid | None = None, **maps: Tensor) -> Tensor:
    """The size of the loss's slope at each logit, times the pixels of the image: (b, k, *spatial)."""
    z = logits.detach().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(loss(z, target, valid, **maps).sum(), z)
    return slope.abs() * logits[0].numel()


def grown(loss: Loss, z: Tensor, target: Target, valid: Valid | None, maps: dict[str, Tensor]) -> Tensor:
    """The integral of the gradient along the path, by Gauss and Legendre."""
    import numpy as np

    maps = {name: m.double() for name, m in maps.items()}
    x = pixels_of(loss.task, z.clamp(-FARTHEST, FARTHEST), target, valid, maps)
    t, u, p, q, error = (x.spatial(v) for v in (x.t, x.u, x.p, x.q, x.error))
    softmax = loss.task == "multiclass"

    def at(step: float) -> tuple[Tensor, Tensor]:
        """The logits of the probabilities so far on the way, and how fast they change."""
        here, rest = (1 - step) * t + step * p, (1 - step) * u + step * q
        logits = here.log() if softmax else here.log() - rest.log()
        return logits.clamp(-FARTHEST, FARTHEST), error / here if softmax else error / (here * rest)

    split = torch.zeros_like(z)
    for node, weight in zip(*np.polynomial.legendre.leggauss(NODES), strict=True):
        u4 = (1 + float(node)) / 2
        logits, speed = at(u4**BEND)
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(loss(logits.requires_grad_(), target, valid, **maps).sum(), logits)
        split += float(weight) / 2 * BEND * u4 ** (BEND - 1) * slope * speed
    split = split.sum(1, keepdim=True) if softmax else split
    value, perfect = loss(z, target, valid, **maps), loss(at(0.0)[0], target, valid, **maps)
    off = (split.flatten(1).sum(1) - (value - perfect)).abs()
    whole = bool((off <= TOLERANCE * (value - perfect).abs().clamp(min=TOLERANCE)).all())
    require(whole, loss.name, "a loss that grows without jumps", "one that jumps", "look at its gradient instead")
    return split * (x.n.view(-1, *[1] * (z.ndim - 1)) * split.shape[1])
