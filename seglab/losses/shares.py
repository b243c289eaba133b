"""What each pixel has to do with a loss, from the loss itself: its share of the value, or its gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from seglab.contract import Logits, Target, require
from seglab.losses.base import Loss, real
from seglab.losses.combine import Batchwise, Sum
from seglab.losses.pixel import PixelLoss
from seglab.losses.sums import Pixels, SumLoss, Sums

SURE = 60.0
"""The logit of a perfect prediction: its error, 1e-26, is nothing in float32, and finite."""
NODES = 48
"""Points of the quadrature; enough for six digits of every loss here, roots at a perfect prediction included."""
BEND = 4
"""The path to the prediction is walked as s = u^4, which makes of a root at its start a polynomial."""


def shares(loss: Loss, logits: Logits, target: Target, **maps: Tensor) -> Tensor:
    """Split a loss among the pixels: (b, c, *spatial), whose mean over an image is the image's loss.

    The share of a pixel of a `PixelLoss` is what it adds to the sum. A loss of sums that is none of pixels, such as
    Dice, is split by Aumann and Shapley: all errors grow in together from a perfect prediction to this one, and a pixel
    pays for what the loss grows by on account of it (the path integral of its gradient by the sums; Sundararajan, Taly,
    Yan 2017, Axiomatic attribution for deep networks). The shares then add up to the loss less that of a perfect
    prediction, which is 0 for most. They may be below 0 where an error lowers the loss. Raises ContractError for losses
    that are no function of sums over the pixels; those have only a gradient.
    """
    if isinstance(loss, Batchwise):
        require(len(logits) == 1, loss.name, "one image at a time to be split among pixels", len(logits))
        return shares(loss.loss, logits, target, **maps)
    if isinstance(loss, Sum):
        return sum(term.weight * shares(term.loss, logits, target, **maps) for term in loss.given.values())  # type: ignore[return-value]
    remedy = "look at its gradient instead"
    require(isinstance(loss, SumLoss), loss.name, "a loss that is a function of sums over the pixels", None, remedy)
    assert isinstance(loss, SumLoss)
    flat = {name: x.flatten(2) for name, x in maps.items()}
    z, t = real(logits).flatten(2).double(), target.flatten(2).double()
    split = own(loss, z, t, flat) if isinstance(loss, PixelLoss) else grown(loss, z, t, flat)
    return (split * z.shape[-1] * z.shape[1]).view(logits.shape).to(real(logits[:0]).dtype)


def gradients(loss: Loss, logits: Logits, target: Target, **maps: Tensor) -> Tensor:
    """The size of the loss's slope at each pixel's logit, times the pixels of the image: (b, c, *spatial)."""
    z = logits.detach().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(loss(z, target, **maps).sum(), z)
    return slope.abs() * logits[0].numel()


def own(loss: PixelLoss, z: Tensor, t: Tensor, maps: dict[str, Tensor]) -> Tensor:
    """The shares of a loss that is linear in what its pixels cost; sums of the mask alone only set the scale."""
    with torch.enable_grad():
        terms = loss.terms(Pixels(z.detach().requires_grad_(), t, maps))
    costs = [term.requires_grad for term in terms]
    sums = torch.stack([term.detach().sum(-1) for term in terms])
    slopes = slope(loss, sums, z.shape[-1])
    return sum(s[..., None] * term.detach() for s, term, cost in zip(slopes, terms, costs, strict=True) if cost)


def grown(loss: SumLoss, z: Tensor, t: Tensor, maps: dict[str, Tensor]) -> Tensor:
    """The shares by Aumann and Shapley of a loss of any sums, integrated by Gauss and Legendre."""
    parts = tuple(dict.fromkeys(loss.parts()))
    perfect = torch.logit(t).clamp(-SURE, SURE)
    here, there = (torch.stack([y for part in parts for y in part.terms(Pixels(x, t, maps))]) for x in (perfect, z))
    start, way = here.sum(-1), (there - here).sum(-1)
    nodes, weights = gauss()
    total = torch.zeros_like(start)
    for u, weight in zip(nodes, weights, strict=True):
        total += weight * BEND * u ** (BEND - 1) * slope(loss, start + u**BEND * way, z.shape[-1])
    return (total[..., None] * (there - here)).sum(0)


def gauss() -> tuple[list[float], list[float]]:
    """Nodes and weights on [0, 1]."""
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    return list((nodes + 1) / 2), list(weights / 2)


def slope(loss: SumLoss, sums: Tensor, n: int) -> Tensor:
    """The derivative of the loss of each image by its sums (k, b, c)."""
    parts = tuple(dict.fromkeys(loss.parts()))
    with torch.enable_grad():
        x = sums.detach().requires_grad_()
        rows = iter(x.unbind())
        named: Sums = {part: tuple(next(rows) for _ in range(part.count)) for part in parts}
        return torch.autograd.grad(loss.value(named, n).sum(), x)[0]
