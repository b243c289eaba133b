"""A dry run: two real images through data, model, loss and backward before the first epoch, without side effects."""

from __future__ import annotations

import copy

import torch
from torch.utils.data import DataLoader

from seglab.contract import require
from seglab.data.loading import Samples
from seglab.engine.module import SegModule


def dry_run(module: SegModule, loader: DataLoader) -> None:
    """Check on two images that data, model, loss and metrics fit together; raises a ContractError where they do not.

    Works on a copy inside a forked random state: BatchNorm statistics, weights and seeds stay as they were.
    """
    samples: Samples = loader.dataset  # type: ignore[assignment]
    require(
        len(samples) > 0, "dataset", "at least one training image", "none", "see dataset.val_fraction, test_fraction"
    )
    with torch.random.fork_rng(devices=[]):
        batch = samples.__getitems__([(0, index) for index in range(min(2, len(samples)))])
        trial = copy.deepcopy(module).train()
        logits = trial(batch["image"])
        require(
            tuple(logits.shape) == tuple(batch["target"].shape),
            "model",
            f"logits of the target's shape {tuple(batch['target'].shape)}",
            tuple(logits.shape),
        )
        trial.loss.check(logits.detach(), batch["target"])
        losses, logits = trial.step(batch)
        losses.mean().backward()
        trial.val_meter.update(losses, logits, batch["target"], image=batch["index"])
    measured = trial.val_meter.flush()
    known = [f"{stage}/{name}" for stage in ("val", "train") for name in measured]
    require(module.monitor in known, "monitor", f"one of {', '.join(known)}", module.monitor)
