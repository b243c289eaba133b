"""Small checkpoints during training, for views of how a prediction and its loss developed."""

from pathlib import Path

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from seglab.files import atomic


def is_due(epoch: int, growth: float) -> bool:
    """Whether a snapshot is taken after this many epochs: 0, 1, 2, 4, 8, ... for a growth of 2."""
    at = 1.0
    while round(at) < epoch:
        at = max(at * growth, at + 1)
    return epoch == 0 or round(at) == epoch


class Snapshots(Callback):
    """Saves the weights before training, after 1, 2, 4, 8, ... epochs and at the end, as `snapshots/epoch-00004.ckpt`.

    Parameters are saved in half precision (three significant digits), buffers of norm layers in full, so that a
    snapshot takes half the space of a checkpoint of the weights. A run that resumes writes the same files.

    Args:
        growth: factor between the epochs of two snapshots; they are at least one epoch apart.
    """

    def __init__(self, growth: float = 2.0) -> None:
        self.growth = growth

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.current_epoch == 0:
            self.save(trainer, module, 0)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        done = trainer.current_epoch + 1
        if is_due(done, self.growth) or done == trainer.max_epochs or trainer.should_stop:
            self.save(trainer, module, done)

    def save(self, trainer: Trainer, module: LightningModule, epoch: int) -> None:
        """Write the weights after `epoch` epochs, atomically."""
        if not trainer.is_global_zero:
            return
        halved = {name for name, _ in module.named_parameters()}
        state = {name: x.half() if name in halved else x for name, x in module.state_dict().items()}
        with atomic(Path(trainer.default_root_dir) / "snapshots" / f"epoch-{epoch:05d}.ckpt") as partial:
            torch.save({"state_dict": state, "epoch": epoch}, partial)
