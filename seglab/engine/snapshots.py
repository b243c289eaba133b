"""Small checkpoints on the way of a training, for views of how a prediction and its loss came about."""

from __future__ import annotations

from pathlib import Path

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from seglab.contract import require
from seglab.files import atomic


def due(epoch: int, growth: float) -> bool:
    """Whether a log-spaced schedule keeps the weights after this many epochs: 0, 1, 2, 4, 8, ... for a growth of 2."""
    at = 1.0
    while round(at) < epoch:
        at = max(at * growth, at + 1)
    return epoch == 0 or round(at) == epoch


class Snapshots(Callback):
    """Keeps the weights before training, after 1, 2, 4, 8, ... epochs and at the end, as `epoch-00004.ckpt`.

    The parameters are kept in half precision (three significant digits), the buffers of the norms whole, so a snapshot
    takes half the room of a checkpoint of the weights. A run that goes on writes the same files again.

    Args:
        folder: where the snapshots lie.
        growth: from one snapshot to the next the epochs grow by this factor, and by one epoch at least.
    """

    def __init__(self, folder: str, growth: float = 2.0) -> None:
        require(growth >= 1, "callbacks.snapshots", "growth of at least 1", growth)
        self.folder, self.growth = Path(folder), growth

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.current_epoch == 0:
            self.keep(trainer, module, 0)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        done = trainer.current_epoch + 1
        if due(done, self.growth) or done == trainer.max_epochs or trainer.should_stop:
            self.keep(trainer, module, done)

    def keep(self, trainer: Trainer, module: LightningModule, epoch: int) -> None:
        """Write the weights after `epoch` epochs whole, or not at all."""
        if not trainer.is_global_zero:
            return
        halved = {name for name, _ in module.named_parameters()}
        state = {name: x.half() if name in halved else x for name, x in module.state_dict().items()}
        with atomic(self.folder / f"epoch-{epoch:05d}.ckpt") as partial:
            torch.save({"state_dict": state, "epoch": epoch}, partial)
