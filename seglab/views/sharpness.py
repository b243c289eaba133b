"""How sharply a loss curves at a model's weights: the largest eigenvalue of its Hessian, without the Hessian."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from seglab.data.loading import Batch
from seglab.engine.module import SegModule
from seglab.losses.base import Loss
from seglab.views.run_inputs import Autocast, forward


def sharpness(
    module: SegModule,
    loss: Loss,
    batches: Sequence[Batch],
    vectors: int,
    tolerance: float = 0.01,
    autocast: Autocast = nullcontext,
) -> float:
    """The eigenvalue of largest magnitude of the Hessian of the mean loss with respect to the trained weights.

    By the Lanczos method with Hessian-vector products (Pearlmutter 1994). The model is as it is in evaluation;
    gradients are left as they were.

    Args:
        vectors: Lanczos vectors, of which each costs two backward passes; after ten restarts the value is NaN.
        tolerance: relative accuracy of the eigenvalue.
    """
    weights = [w for w in module.model.parameters() if w.requires_grad]
    sizes = [w.numel() for w in weights]
    count, images = sum(sizes), sum(len(batch["id"]) for batch in batches)

    def product(flat: np.ndarray) -> np.ndarray:
        parts = torch.from_numpy(flat.ravel()).to(weights[0]).split(sizes)
        total = np.zeros(count)
        for batch in batches:
            logits = forward(module, batch["image"], autocast)
            value = loss(logits, batch["target"], **{need: batch[need] for need in loss.needs}).sum() / images
            gradient = torch.autograd.grad(value, weights, create_graph=True)
            along = torch.stack([(g.flatten() * v).sum() for g, v in zip(gradient, parts, strict=True)]).sum()
            columns = torch.autograd.grad(along, weights, materialize_grads=True)
            total += torch.cat([column.flatten() for column in columns]).double().numpy()
        return total

    hessian = LinearOperator((count, count), matvec=product, dtype=np.float64)
    start = product(np.random.default_rng(0).standard_normal(count))
    if not start.any():  # which ARPACK takes for an error
        return 0.0
    options = {"ncv": min(max(vectors, 2), count), "tol": tolerance, "v0": start, "maxiter": 10}
    try:
        return float(eigsh(hessian, k=1, which="LM", return_eigenvectors=False, **options)[0])
    except ArpackNoConvergence:
        return float("nan")
