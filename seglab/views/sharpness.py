"""How sharply a loss curves at a model's weights: the largest eigenvalue of its Hessian, without the Hessian."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from seglab.data.loading import Batch
from seglab.engine.module import SegModule
from seglab.losses.base import Loss


def sharpness(module: SegModule, loss: Loss, batches: Sequence[Batch], steps: int, tolerance: float = 0.01) -> float:
    """The Hessian's eigenvalue of largest size, of the mean loss over the images by the trained weights.

    By power iteration with Hessian-vector products (Pearlmutter 1994): at most `steps` of them, ending early where the
    estimate changes by less than the share `tolerance`. The model is as it is in evaluation; gradients are left as
    they were.
    """
    weights = [w for w in module.model.parameters() if w.requires_grad]
    rng = torch.Generator().manual_seed(0)
    vector = unit([torch.randn(w.shape, generator=rng) for w in weights])
    found = float("nan")
    for _ in range(steps):
        product = curve(module, loss, batches, weights, vector)
        before, found = found, float(sum((v * p).sum() for v, p in zip(vector, product, strict=True)))
        if not any(p.any() for p in product):
            return 0.0
        vector = unit(product)
        if abs(found - before) < tolerance * abs(found):
            break
    return found


def curve(
    module: SegModule, loss: Loss, batches: Sequence[Batch], weights: list[torch.Tensor], vector: list[torch.Tensor]
) -> list[torch.Tensor]:
    """The Hessian of the mean loss times a vector."""
    total = [torch.zeros_like(w) for w in weights]
    images = sum(len(batch["id"]) for batch in batches)
    for batch in batches:
        maps = {need: batch[need] for need in loss.needs}
        value = loss(module(batch["image"]).float(), batch["target"], **maps).sum() / images
        slope = torch.autograd.grad(value, weights, create_graph=True)
        along = torch.stack([(s * v).sum() for s, v in zip(slope, vector, strict=True)]).sum()
        for sum_, part in zip(total, torch.autograd.grad(along, weights, allow_unused=True), strict=True):
            if part is not None:
                sum_ += part
    return total


def unit(vector: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The vector with length 1."""
    length = torch.stack([v.double().square().sum() for v in vector]).sum().sqrt()
    return [v / length.to(v.dtype) for v in vector]
