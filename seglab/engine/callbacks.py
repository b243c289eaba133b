"""What a user sees while a model trains: a progress bar, or a line per epoch."""

import logging
import math
import time
import warnings
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, TQDMProgressBar

from seglab.engine.module import SegModule, metrics_of_epoch

log = logging.getLogger(__name__)


def silence_lightning_warnings() -> None:
    """Silence advertisements of Lightning, and warnings that do not apply here."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for advice in (
        "does not have many workers",  # small cached data are faster without
        "LeafSpec.* is deprecated",  # Lightning 2.6 calling torch 2.15
        "The number of training batches",  # the interval of a step logger that we do not use
        "It is recommended to use .*sync_dist",  # torchmetrics has synchronized the processes
        "Using `DistributedSampler` with the dataloaders",  # ours gives every test image once
        "The `srun` command is available",  # being on a cluster's login node is no fault
        "but have no `val_dataloader`",  # benchmarks time training alone
        "(Checkpoint|Experiment logs) directory .* exists and is not empty",  # a run that resumes
        "when using `ckpt_path`, callbacks used",  # snapshots, which may come and go
    ):
        warnings.filterwarnings("ignore", message=f".*{advice}.*")


def pass_on_sigterm(trainer: Trainer) -> Trainer:
    """Let SIGTERM end the processes of a run without a broadcast between them; gives the trainer back.

    Lightning 2.6 broadcasts within the signal's handler, while the other processes wait for this one in another
    collective operation: all of them hang for ever. Its loop tells them of `received_sigterm` at the next batch.
    """
    connector: Any = trainer._signal_connector

    def note(number: int, frame: object) -> None:
        if not connector.received_sigterm and trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(number)
        connector.received_sigterm = True

    connector._sigterm_notifier_fn = note
    return trainer


class StopAfter(Callback):
    """Ends training after `epochs` epochs in all, on a schedule made for more, so that it may resume from there.

    A run that resumes after early stopping had stopped it, and died before it was measured, ends at once again:
    Lightning restores the patience that is used up, but would train until the next validation, and on if that improves.
    """

    def __init__(self, epochs: int | None) -> None:
        self.epochs = math.inf if epochs is None else epochs

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        stopped = any(callback.stopping_reason_message for callback in trainer.early_stopping_callbacks)
        if stopped or trainer.current_epoch >= self.epochs:
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.current_epoch + 1 >= self.epochs:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        done, most = trainer.current_epoch, trainer.max_epochs  # Lightning has counted up
        if most is not None and done < min(most, self.epochs):
            reasons = [callback.stopping_reason_message for callback in trainer.early_stopping_callbacks]
            why = next(filter(None, reasons), "by trainer.max_time or a callback")
            log.info("stopped after epoch %d of %d: %s", done, most, why.removesuffix(" Signaling Trainer to stop."))


class Progress(TQDMProgressBar):
    """A bar with the loss and the validation IoU; the loss is read from the device only when the bar is drawn."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        shown: dict[str, Any] = {}
        if isinstance(pl_module, SegModule) and pl_module.latest is not None:
            shown["loss"] = f"{pl_module.latest.mean().item():.4f}"
        if "val/iou" in trainer.callback_metrics:
            shown["val/iou"] = f"{trainer.callback_metrics['val/iou'].item():.4f}"
        return shown


class EpochLines(Checkpoint):  # Lightning calls checkpoints last, when the metrics of the epoch are all there
    """Logs a line per epoch where there is no terminal (a pipe, a batch job); at most one every few seconds."""

    def __init__(self, every: float = 5.0) -> None:
        self.every, self._last = every, 0.0

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        last = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        if trainer.is_global_zero and (last or time.monotonic() - self._last > self.every):
            self._last = time.monotonic()
            known = metrics_of_epoch(trainer)
            keys = dict.fromkeys(("train/loss", "val/loss", "val/iou", str(module.monitor)))
            words = [f"{key} {float(known[key]):.4f}" for key in keys if key in known]
            log.info("epoch %d/%s  %s", trainer.current_epoch + 1, trainer.max_epochs, "  ".join(words))
