"""The LightningModule: a model, a loss, and metrics that accumulate on the device and are read once per epoch."""

import random
import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.plugins import Precision
from pytorch_lightning.strategies import SingleDeviceStrategy
from pytorch_lightning.utilities.enums import GradClipAlgorithmType
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from seglab.contract import ContractError, Diverged, Image, Logits, PerImage, Task, require
from seglab.data.loading import Batch
from seglab.engine.graphs import Graphs
from seglab.losses.base import Loss
from seglab.losses.deep_supervision import over_scales
from seglab.metrics.segmentation import SegmentationMetrics

KEYS = ("image", "target", "id", "index")
"""The keys of every batch, see SegModule."""

STEPS_UNCHECKED = 256
"""On a GPU, the largest number of steps between checks for losses that are not finite; an epoch ends with a check."""


class Normalize(nn.Module):
    """Normalize decoded images on the device: convert uint8 to float32, subtract the mean, divide by the std.

    Args:
        mean, std: one number per channel, in units of the full range (0 is black, 1 is white).
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: str | Iterable[float], std: str | Iterable[float]) -> None:
        super().__init__()
        remedy = "seglab.train computes those of `auto` and writes them to run.json"
        require("auto" not in (mean, std), "normalization", "numbers for dataset.mean and dataset.std", "auto", remedy)
        mean, std = torch.tensor(list(mean)), torch.tensor(list(std))
        self.register_buffer("scale", (1 / (255 * std)).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("shift", (-mean / std).view(1, -1, 1, 1), persistent=False)  # run.json stores mean and std

    def forward(self, image: Image) -> Tensor:
        return torch.addcmul(self.shift, image.to(self.scale.dtype), self.scale)  # one pass over the memory


class Meter(nn.Module):
    """The mean loss and the metrics of one pass over the train, validation or test images."""

    def __init__(self, threshold: float, empty: str, task: Task | None = None) -> None:
        super().__init__()
        self.metrics = SegmentationMetrics(threshold, empty, task=task)

    def update(self, losses: PerImage, logits: Logits, target: Tensor, **more: Any) -> None:
        """Add a batch; for `image`, `valid` and `measured` see SegmentationMetrics.update."""
        self.metrics.update(logits.detach(), target, losses=losses.detach(), **more)

    def flush(self) -> dict[str, Tensor]:
        """Return the values since the last flush, over all processes, and reset them."""
        values = self.metrics.compute()
        self.metrics.reset()
        return values


def metrics_of_epoch(trainer: Trainer) -> dict[str, Tensor]:
    """Return this epoch's metrics, without those of an earlier validation, which Lightning does not clear."""
    validated = (trainer.current_epoch + 1) % (trainer.check_val_every_n_epoch or 1) == 0
    return {name: value for name, value in trainer.callback_metrics.items() if validated or not name.startswith("val/")}


class SegModule(LightningModule):
    """Train `model` with `loss`; training and validation are measured in the same way.

    In a Trainer of your own a batch is a dictionary: `image` (b, c, h, w), uint8 or float from 0 (black) to 255;
    `target` as in Loss; the image names `id`; int64 numbers `index` (b,), which tiles of one image share; `valid`
    (b, 1, h, w) bool, if not all pixels count; and the maps that the loss needs. `Trainer.predict` takes images. The
    metrics are in `trainer.callback_metrics`; `Trainer.validate` returns none, and there is no test step.

    Args:
        model: maps (b, c, h, w) float to (b, k, h, w) logits; for deep supervision, in training, to a list of logits
            at several scales, the finest first, see over_scales.
        loss: one value per image from logits, target and `valid`; always computed in float32.
        optimizer: creates the optimizer from the parameters.
        scheduler: creates the learning rate scheduler from the optimizer; None keeps the rate constant.
        mean, std: the normalization of the dataset, see Normalize.
        monitor: the metric that a plateau scheduler monitors.
        threshold: the probability from which a pixel counts as foreground.
        empty: how the metrics score an image without foreground, see SegmentationMetrics.
        channels_last: use the channels-last memory format for convolutions.
        compile: compile the training passes of the model with torch.compile.
        cuda_graph: on a GPU, replay the steps as CUDA graphs where possible, see graphs.py.
        task: the meaning of the channels.

    Attributes:
        latest: the losses (b,) of the latest training step, for the progress bar.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
        *,
        mean: str | Iterable[float],
        std: str | Iterable[float],
        monitor: str = "val/iou_pooled",
        threshold: float = 0.5,
        empty: str = "correct",
        channels_last: bool = True,
        compile: bool = False,
        cuda_graph: bool = True,
        task: Task | None = None,
    ) -> None:
        super().__init__()
        remedy = "wrap any callable in seglab.losses.External(function=...)"
        require(isinstance(loss, Loss), "SegModule", "a seglab loss", type(loss).__name__, remedy)
        self.task = task or Task()
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.model = model.to(memory_format=self.memory_format)
        self.normalize = Normalize(mean, std)
        self.loss, self.monitor = loss, monitor
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.train_meter, self.val_meter, self.test_meter = (Meter(threshold, empty, task) for _ in range(3))
        self.compiled = compile
        if compile:
            self.model.compile()  # without the loss, so that all runs of a sweep share the compiled code
        self.cuda_graph = cuda_graph
        self.graphs: Graphs | None = None
        self.latest: PerImage | None = None
        self.scheduler: Any = None
        self._schedule: dict[str, Any] = {}
        self._unchecked: list[tuple[PerImage, list[str]]] = []

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "SegModule":
        for module in self.loss.modules():  # moved to the device, but not saved in checkpoints
            module._apply(fn)
        return super()._apply(fn, recurse)

    def forward(self, image: Image) -> Logits:
        """Return the logits (b, k, h, w) of decoded images (b, c, h, w)."""
        return self.scales(image)[0]

    def scales(self, image: Image) -> list[Logits]:
        """Return the logits of decoded images and, in training, those of the model's coarser scales if it has any."""
        image = self.normalize(image).contiguous(memory_format=self.memory_format)
        eager = self.compiled and not self.training  # evaluation shapes take longer to compile than to compute
        with torch.compiler.set_stance("force_eager") if eager else nullcontext():
            logits = self.model(image)
        return logits if isinstance(logits, list) else [logits]

    def probability(self, logits: Logits) -> Tensor:
        """Return the probability of each class: a softmax for a multiclass task, else a sigmoid of each logit."""
        return logits.softmax(1) if self.task.kind == "multiclass" else logits.sigmoid()

    def _objective(
        self, image: Image, target: Tensor, valid: Tensor | None, maps: dict[str, Tensor]
    ) -> tuple[PerImage, Logits]:
        logits, *coarse = self.scales(image)
        if coarse:
            return over_scales(self.loss, [logits, *coarse], target, valid), logits
        return self.loss(logits, target, valid, **maps), logits

    def step(self, batch: Batch) -> tuple[PerImage, Logits]:
        """Return the loss of each image (b,) and the logits of a batch."""
        try:
            maps = {name: batch[name] for name in self.loss.needs}
            return self._objective(batch["image"], batch["target"], batch.get("valid"), maps)
        except ContractError as fault:
            raise self._diverged(str(fault), batch["id"]) from None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        losses, _ = self._measured_step(batch, self.train_meter)
        self.latest = losses.detach()
        return losses.mean()

    def _measured_step(self, batch: Batch, meter: Meter, tiled: bool = False) -> tuple[PerImage, Logits]:
        keys, is_dict = {*KEYS, *self.loss.needs}, isinstance(batch, dict)
        got = ", ".join(map(str, batch)) if is_dict else type(batch).__name__
        require(is_dict and keys <= batch.keys(), "SegModule", f"batches with {', '.join(sorted(keys))}", got)
        losses, logits, measured = self._replay(batch, meter) or (*self.step(batch), None)
        self.check_finite(losses, batch["id"])
        image = batch["index"] if tiled else None  # a training patch counts as one image
        meter.update(losses, logits, batch["target"], image=image, valid=batch.get("valid"), measured=measured)
        return losses, logits

    def _replay(self, batch: Batch, meter: Meter) -> tuple[Tensor, ...] | None:
        """Replay the step's CUDA graph; return losses, logits and the meter's measurements, or None without a graph."""
        if self.graphs is None or self.trainer.accumulate_grad_batches > 1:  # a callback may set it in any epoch
            return None
        names = tuple(self.loss.needs)

        def work(image: Tensor, target: Tensor, valid: Tensor | None, *maps: Tensor) -> tuple[Tensor, ...]:
            losses, logits = self._objective(image, target, valid, dict(zip(names, maps, strict=True)))
            if self.training:
                losses.mean().backward()  # part of the graph; `backward` takes the gradients from it
            return losses.detach(), logits.detach(), meter.metrics.measure(logits.detach(), target, valid)

        inputs = (batch["image"], batch["target"], batch.get("valid"), *(batch[name] for name in names))
        outputs = self.graphs((meter, self.loss), work, inputs)  # a meter identifies training or validation
        if outputs is None:
            return None
        losses, logits, rows = outputs  # overwritten by the next step, before which only the logits are used up
        return losses.clone(), logits, rows.clone()

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Compute the gradients, or take those that the CUDA graph of this step has computed."""
        if self.graphs is None or loss.requires_grad:  # a step without a CUDA graph has an autograd graph
            super().backward(loss, *args, **kwargs)
        else:
            self.graphs.latest.set_gradients()

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip as Lightning does, but allow a fused optimizer in bf16, where gradients are not scaled."""
        plugin = self.trainer.precision_plugin
        fused = getattr(plugin, "scaler", None) is not None and optimizer.defaults.get("fused")
        remedy = "set optimizer.fused=null or trainer.precision=bf16-mixed"
        got = f"those of a fused {type(optimizer).__name__} with trainer.precision=16-mixed"
        scaled = fused and gradient_clip_val
        require(not scaled, "trainer.gradient_clip_val", "unscaled gradients", got, remedy)
        algorithm = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
        Precision.clip_gradients(plugin, optimizer, gradient_clip_val or 0, algorithm)

    def on_train_start(self) -> None:
        """Use CUDA graphs if each step is one batch on one device and does not scale its loss.

        DDP cannot be recorded even on one device, because it keeps autograd nodes of earlier steps.
        """
        trainer = self.trainer
        single_device = isinstance(trainer.strategy, SingleDeviceStrategy)
        if not single_device:  # DDP's gradients come from another stream, the one on which Lightning set it up
            warnings.filterwarnings("ignore", "The AccumulateGrad node's stream")
        recordable = single_device and trainer.accumulate_grad_batches == 1 and trainer.precision != "16-mixed"
        if self.cuda_graph and self.device.type == "cuda" and recordable:
            self.graphs = Graphs(self)

    def on_train_end(self) -> None:
        self.graphs = None  # Lightning now moves the weights to the host

    def check_finite(self, losses: PerImage, ids: list[str]) -> None:
        """Check that a step's losses are finite: on a CPU at once, on a GPU for many steps together, to wait rarely."""
        self._unchecked.append((losses.detach(), ids))
        if losses.device.type == "cpu" or len(self._unchecked) >= STEPS_UNCHECKED:
            self.raise_if_not_finite()

    def raise_if_not_finite(self) -> None:
        """Raise a ContractError that names the images of the first step whose loss is not finite."""
        unchecked, self._unchecked = self._unchecked, []
        if not unchecked or torch.cat([losses for losses, _ in unchecked]).isfinite().all():  # synchronizes once
            return
        for losses, ids in unchecked:
            finite = torch.isfinite(losses).tolist()
            if not all(finite):
                names = [name for name, is_finite in zip(ids, finite, strict=True) if not is_finite]
                fault = f"loss: expected a finite number, got {losses[finite.index(False)].item()}"
                raise self._diverged(fault, names)

    def _diverged(self, fault: str, ids: list[str]) -> ContractError:
        place = f"in epoch {self.current_epoch} for {', '.join(ids)}"
        if "finite" not in fault:  # a mask or an option is wrong, which no learning rate fixes
            return ContractError(f"{fault}; {place}")
        remedy = "lower optimizer.lr, set trainer.gradient_clip_val=1, or use trainer.precision=32-true"
        return Diverged(f"{fault}; {place}; {remedy}")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._measured_step(batch, self.val_meter, tiled=True)

    def on_train_epoch_end(self) -> None:
        """Log the epoch and step the scheduler; Lightning would step a plateau scheduler after the checkpoint."""
        self._log("train", self.train_meter)
        if isinstance(self.scheduler, ReduceLROnPlateau):
            metrics = metrics_of_epoch(self.trainer)
            if self.monitor in metrics:
                self.scheduler.step(float(metrics[self.monitor]))
        elif self.scheduler is not None:
            self.scheduler.step()

    def on_validation_epoch_end(self) -> None:
        self._log("val", self.val_meter)

    def _log(self, stage: str, meter: Meter) -> None:
        self.raise_if_not_finite()
        self.log_values({f"{stage}/{name}": value for name, value in meter.flush().items()})

    def log_values(self, values: dict[str, Tensor]) -> None:
        """Pass an epoch's values (scalars) to callbacks and loggers, read from the device all at once.

        Lightning's log_dict creates a Metric for each value, which took a seventh of a small epoch for about 60 values.
        """
        numbers = torch.stack(list(values.values())).cpu()  # one by one, each would synchronize the device
        self.trainer.callback_metrics.update(zip(values, numbers, strict=True))
        for logger in self.loggers:
            written = dict(zip(values, numbers.tolist(), strict=True))
            logger.log_metrics({**written, "epoch": self.current_epoch}, step=self.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the scheduler and the random state, so that a resumed run draws the same random numbers."""
        gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        numpy: Any = np.random.get_state()
        others = {"python": random.getstate(), "numpy": (numpy[0], numpy[1].tolist(), *numpy[2:])}  # for users' code
        checkpoint["random_state"] = {"cpu": torch.get_rng_state(), "gpu": gpu, **others}
        checkpoint["schedule"] = self.scheduler.state_dict() if self.scheduler else {}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        torch.set_rng_state(checkpoint["random_state"]["cpu"].cpu())
        if "python" in checkpoint["random_state"]:  # not in checkpoints of earlier versions
            random.setstate(checkpoint["random_state"]["python"])
            np.random.set_state(checkpoint["random_state"]["numpy"])
        count = torch.cuda.device_count()  # a run may resume on a machine with fewer GPUs, or with none
        for device, state in enumerate(checkpoint["random_state"]["gpu"][:count]):
            torch.cuda.set_rng_state(state.cpu(), device)
        self._schedule = checkpoint["schedule"]  # Lightning calls configure_optimizers later

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = self.make_optimizer(self.model.parameters())
        self.scheduler = self.make_scheduler(optimizer) if self.make_scheduler else None
        if self.scheduler and self._schedule:
            self.scheduler.load_state_dict(self._schedule)
        return optimizer
