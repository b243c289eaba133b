"""Lightning callbacks that stop training and show its progress: a progress bar, or a log line per epoch."""

import logging
import math
import time
import warnings
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, TQDMProgressBar

from seglab.data.memo import LINE_SECONDS
from seglab.engine.module import SegModule, metrics_of_epoch

log = logging.getLogger(__name__)


def silence_lightning_warnings() -> None:
    """Silence Lightning's advertisements, and warnings that do not apply here."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for wanted in ("profilers", "callbacks.model_summary"):  # print only if they are added
        logging.getLogger(f"pytorch_lightning.{wanted}").setLevel(logging.INFO)
    for advice in (
        "does not have many workers",  # small cached datasets load faster without workers
        "LeafSpec.* is deprecated",  # raised by Lightning 2.6 with torch 2.15
        "The number of training batches",  # about Lightning's logging interval, which is not used
        "It is recommended to use .*sync_dist",  # torchmetrics already synchronizes the processes
        "Using `DistributedSampler` with the dataloaders",  # our sampler yields every test image once
        "The `srun` command is available",  # running on a cluster's login node is allowed
        "but have no `val_dataloader`",  # benchmarks time only the training
        "(Checkpoint|Experiment logs) directory .* exists and is not empty",  # expected when a run resumes
        "when using `ckpt_path`, callbacks used",  # callbacks=snapshots may be added or removed
    ):
        warnings.filterwarnings("ignore", message=f".*{advice}.*")


def pass_on_sigterm(trainer: Trainer) -> Trainer:
    """Make SIGTERM end all processes of a run without a broadcast in the signal handler; return the trainer.

    Lightning 2.6 broadcasts in the signal handler while the other processes wait for this one in another collective
    operation, so all of them hang forever. Its training loop broadcasts `received_sigterm` at the next batch anyway.
    """
    connector: Any = trainer._signal_connector

    def on_sigterm(number: int, frame: object) -> None:
        if not connector.received_sigterm and trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(number)
        connector.received_sigterm = True

    connector._sigterm_notifier_fn = on_sigterm
    return trainer


class StopAfter(Callback):
    """Stop training after `epochs` epochs in total (None: never). Schedules still span all epochs, so a run can resume.

    If a run dies after early stopping and before it was measured, it stops at once when resumed. Lightning restores
    the exhausted patience, but would train until the next validation, and continue if the monitor improves there.
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
        done, planned = trainer.current_epoch, trainer.max_epochs  # Lightning has already incremented current_epoch
        if planned is not None and done < min(planned, self.epochs):
            reasons = [callback.stopping_reason_message for callback in trainer.early_stopping_callbacks]
            reason = next(filter(None, reasons), "by trainer.max_time or a callback")
            reason = reason.removesuffix(" Signaling Trainer to stop.")
            log.info("stopped after epoch %d of %d: %s", done, planned, reason)


class Progress(TQDMProgressBar):
    """Show the loss and the validation IoU; the loss is read from the device only when the bar is drawn."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        values: dict[str, Any] = {}
        if isinstance(pl_module, SegModule) and pl_module.latest is not None:
            values["loss"] = f"{pl_module.latest.mean().item():.4f}"
        if "val/iou" in trainer.callback_metrics:
            values["val/iou"] = f"{trainer.callback_metrics['val/iou'].item():.4f}"
        return values


class EpochLines(Checkpoint):  # Lightning calls Checkpoint callbacks last, when all metrics are known
    """Log one line per epoch where there is no terminal (a pipe, a batch job), at most one per `every` seconds.

    In a long epoch, log every half minute how many batches are done.
    """

    def __init__(self, every: float = 5.0) -> None:
        self.every, self._last, self._logged = every, 0.0, 0.0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._logged = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._log_batches(trainer, "training", batch_idx + 1, trainer.num_training_batches)

    def on_validation_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int, loader: int = 0
    ) -> None:
        self._log_batches(trainer, "validation", batch_idx + 1, trainer.num_val_batches[0])

    def _log_batches(self, trainer: Trainer, what: str, done: int, count: int | float) -> None:
        if trainer.is_global_zero and time.monotonic() - self._logged > LINE_SECONDS:
            self._logged = time.monotonic()
            log.info(
                "epoch %d/%s  %d of %s %s batches", trainer.current_epoch + 1, trainer.max_epochs, done, count, what
            )

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        last = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        if trainer.is_global_zero and (last or time.monotonic() - self._last > self.every):
            self._last = self._logged = time.monotonic()
            metrics = metrics_of_epoch(trainer)
            keys = dict.fromkeys(("train/loss", "val/loss", "val/iou", str(module.monitor)))
            values = [f"{key} {float(metrics[key]):.4f}" for key in keys if key in metrics]
            log.info("epoch %d/%s  %s", trainer.current_epoch + 1, trainer.max_epochs, "  ".join(values))
