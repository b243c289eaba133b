"""The LightningModule: a model, a loss, and metrics that accumulate on the device and are read once an epoch."""

import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

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
"""What each batch has, see SegModule."""

STEPS_UNCHECKED = 256
"""On a GPU, after how many steps at most the losses are looked at; they are looked at when an epoch ends, too."""


class Normalize(nn.Module):
    """Normalize decoded images on the device: uint8 to float32, minus mean, over std.

    Args:
        mean, std: one number per channel, in units of the full range (0 is black, 1 is white).
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: str | Iterable[float], std: str | Iterable[float]) -> None:
        super().__init__()
        remedy = "seglab.train finds those of `auto`, and writes them into run.json"
        require("auto" not in (mean, std), "normalization", "numbers for dataset.mean and dataset.std", "auto", remedy)
        mean, std = torch.tensor(list(mean)), torch.tensor(list(std))
        self.register_buffer("scale", (1 / (255 * std)).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("shift", (-mean / std).view(1, -1, 1, 1), persistent=False)  # run.json has the numbers

    def forward(self, image: Image) -> Tensor:
        return torch.addcmul(self.shift, image.to(self.scale.dtype), self.scale)  # one pass over the memory


class Meter(nn.Module):
    """The mean loss and the metrics of one pass over the train, validation or test images."""

    def __init__(self, threshold: float, empty: str, task: Task | None = None) -> None:
        super().__init__()
        self.metrics = SegmentationMetrics(threshold, empty, task=task)

    def update(self, losses: PerImage, logits: Logits, target: Tensor, **more: Any) -> None:
        """Add a batch; `image`, `valid` and `measured` are as of SegmentationMetrics.update."""
        self.metrics.update(logits.detach(), target, losses=losses.detach(), **more)

    def flush(self) -> dict[str, Tensor]:
        """The values since the last flush, over all processes; resets."""
        values = self.metrics.compute()
        self.metrics.reset()
        return values


def metrics_of_epoch(trainer: Trainer) -> dict[str, Tensor]:
    """The metrics of this epoch, without those of the last validation, which Lightning keeps in epochs without one."""
    validated = (trainer.current_epoch + 1) % (trainer.check_val_every_n_epoch or 1) == 0
    return {name: value for name, value in trainer.callback_metrics.items() if validated or not name.startswith("val/")}


class SegModule(LightningModule):
    """Trains `model` with `loss`; training and validation are measured in the same way.

    In a Trainer of your own a batch is a dictionary: `image` (b, c, h, w), uint8 or float from 0 (black) to 255,
    `target` as of Loss, the names `id` of the images and int64 numbers `index` (b,), of which tiles of one image share
    one; `valid` (b, 1, h, w) bool where not all pixels count, and the maps that the loss needs.

    Args:
        model: (b, c, h, w) float to (b, k, h, w) logits; for deep supervision, in training, a list of those of several
            scales, the finest first, see over_scales.
        loss: one value per image from logits, target and `valid`; always computed in float32.
        optimizer: makes the optimizer from the parameters.
        scheduler: makes the learning rate scheduler from the optimizer; None keeps the rate.
        mean, std: the data set's normalisation, see Normalize.
        monitor: the metric that a plateau scheduler watches.
        threshold: the probability from which a pixel counts as foreground.
        empty: what an image without foreground counts in the metrics, see SegmentationMetrics.
        channels_last: the memory format of the convolutions.
        compile: compile the training passes of the model with torch.compile.
        cuda_graph: on a GPU, repeat the steps as CUDA graphs where that can be, see graphs.py.
        task: what the channels mean.

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
        remedy = "seglab.losses.External(function=...) makes one of any callable"
        require(isinstance(loss, Loss), "SegModule", "a loss of seglab", type(loss).__name__, remedy)
        self.task = task or Task()
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.model = model.to(memory_format=self.memory_format)
        self.normalize = Normalize(mean, std)
        self.loss, self.monitor = loss, monitor
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.train_meter, self.val_meter, self.test_meter = (Meter(threshold, empty, task) for _ in range(3))
        self.compiled = compile
        if compile:
            self.model.compile()  # without the loss, so that all runs of a sweep share what was compiled
        self.cuda_graph = cuda_graph
        self.graphs: Graphs | None = None
        self.latest: PerImage | None = None
        self.scheduler: Any = None
        self._schedule: dict[str, Any] = {}
        self._unchecked: list[tuple[PerImage, list[str]]] = []

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "SegModule":
        for module in self.loss.modules():  # they follow to the device; a checkpoint does not hold them
            module._apply(fn)
        return super()._apply(fn, recurse)

    def forward(self, image: Image) -> Logits:
        """Logits (b, k, h, w) of decoded images (b, c, h, w)."""
        return self.scales(image)[0]

    def scales(self, image: Image) -> list[Logits]:
        """Logits of decoded images, and in training those of the coarser scales that the model gives."""
        image = self.normalize(image).contiguous(memory_format=self.memory_format)
        plain = self.compiled and not self.training  # the shapes of evaluation take longer to compile than to compute
        with torch.compiler.set_stance("force_eager") if plain else nullcontext():
            found = self.model(image)
        return found if isinstance(found, list) else [found]

    def probability(self, logits: Logits) -> Tensor:
        """The probability of each class: a softmax where classes exclude each other, else a sigmoid of each."""
        return logits.softmax(1) if self.task.kind == "multiclass" else logits.sigmoid()

    def _objective(
        self, image: Image, target: Tensor, valid: Tensor | None, maps: dict[str, Tensor]
    ) -> tuple[PerImage, Logits]:
        logits, *coarse = self.scales(image)
        if coarse:
            return over_scales(self.loss, [logits, *coarse], target, valid), logits
        return self.loss(logits, target, valid, **maps), logits

    def step(self, batch: Batch) -> tuple[PerImage, Logits]:
        """The loss of each image (b,) and the logits of a batch."""
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
        keys, named = {*KEYS, *self.loss.needs}, isinstance(batch, dict)
        got = ", ".join(map(str, batch)) if named else type(batch).__name__
        require(named and keys <= batch.keys(), "SegModule", f"batches with {', '.join(sorted(keys))}", got)
        losses, logits, measured = self._repeat(batch, meter) or (*self.step(batch), None)
        self.check_finite(losses, batch["id"])
        image = batch["index"] if tiled else None  # a patch of training is an image by itself
        meter.update(losses, logits, batch["target"], image=image, valid=batch.get("valid"), measured=measured)
        return losses, logits

    def _repeat(self, batch: Batch, meter: Meter) -> tuple[Tensor, ...] | None:
        """What a step's CUDA graph gives: losses, logits, and what the meter measures of them; None without one."""
        if self.graphs is None:
            return None
        names = tuple(self.loss.needs)

        def work(image: Tensor, target: Tensor, valid: Tensor | None, *maps: Tensor) -> tuple[Tensor, ...]:
            losses, logits = self._objective(image, target, valid, dict(zip(names, maps, strict=True)))
            if self.training:
                losses.mean().backward()  # in the graph, too; `backward` takes the gradients from there
            return losses.detach(), logits.detach(), meter.metrics.measure(logits.detach(), target, valid)

        inputs = (batch["image"], batch["target"], batch.get("valid"), *(batch[name] for name in names))
        outputs = self.graphs((meter, self.loss), work, inputs)  # a meter tells training from validation
        if outputs is None:
            return None
        losses, logits, rows = outputs  # the next step overwrites them, and only the logits are used up by then
        return losses.clone(), logits, rows.clone()

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Compute the gradients, or take those that the graph of this step has computed."""
        if self.graphs is None or loss.requires_grad:  # a step that was not recorded has its own graph of autograd
            super().backward(loss, *args, **kwargs)
        else:
            self.graphs.latest.set_gradients()

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip as Lightning does, which refuses a fused optimizer in bf16 too, where no gradient is scaled."""
        plugin = self.trainer.precision_plugin
        fused = getattr(plugin, "scaler", None) is not None and optimizer.defaults.get("fused")
        remedy = "set optimizer.fused=null or trainer.precision=bf16-mixed"
        got = f"{type(optimizer).__name__}, fused, with trainer.precision=16-mixed"
        scaled = fused and gradient_clip_val
        require(not scaled, "trainer.gradient_clip_val", "gradients without a scale", got, remedy)
        how = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
        Precision.clip_gradients(plugin, optimizer, gradient_clip_val or 0, how)

    def on_train_start(self) -> None:
        """Begin to record, unless a step is more than one batch on one device, or scales its loss.

        DDP keeps what a step before the recording has used, even on one device.
        """
        trainer = self.trainer
        alone = isinstance(trainer.strategy, SingleDeviceStrategy)
        if not alone:  # DDP's gradients come from another stream, that in which Lightning has set it up
            warnings.filterwarnings("ignore", "The AccumulateGrad node's stream")
        plain = alone and trainer.accumulate_grad_batches == 1 and trainer.precision != "16-mixed"
        if self.cuda_graph and self.device.type == "cuda" and plain:
            self.graphs = Graphs(self)

    def on_train_end(self) -> None:
        self.graphs = None  # Lightning moves the weights to the host now

    def check_finite(self, losses: PerImage, ids: list[str]) -> None:
        """Look at the losses of a step: at once on a CPU; on a GPU, where that waits for all work, many together."""
        self._unchecked.append((losses.detach(), ids))
        if losses.device.type == "cpu" or len(self._unchecked) >= STEPS_UNCHECKED:
            self.raise_if_not_finite()

    def raise_if_not_finite(self) -> None:
        """Raise a ContractError that names the images of the first step whose loss is not finite."""
        unchecked, self._unchecked = self._unchecked, []
        if not unchecked or torch.cat([losses for losses, _ in unchecked]).isfinite().all():  # one wait for them all
            return
        for losses, ids in unchecked:
            finite = torch.isfinite(losses).tolist()
            if not all(finite):
                bad = [name for name, fine in zip(ids, finite, strict=True) if not fine]
                raise self._diverged(f"loss: expected a finite number, got {losses[finite.index(False)].item()}", bad)

    def _diverged(self, fault: str, ids: list[str]) -> ContractError:
        place = f"in epoch {self.current_epoch} for {', '.join(ids)}"
        if "finite" not in fault:  # a mask or an option is wrong, which no learning rate mends
            return ContractError(f"{fault}; {place}")
        remedy = "lower optimizer.lr, set trainer.gradient_clip_val=1, or use trainer.precision=32-true"
        return Diverged(f"{fault}; {place}; {remedy}")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._measured_step(batch, self.val_meter, tiled=True)

    def on_train_epoch_end(self) -> None:
        """Log the epoch, then step the scheduler here: Lightning steps a plateau scheduler after the checkpoint."""
        self._log("train", self.train_meter)
        if isinstance(self.scheduler, ReduceLROnPlateau):
            known = metrics_of_epoch(self.trainer)
            if self.monitor in known:
                self.scheduler.step(float(known[self.monitor]))
        elif self.scheduler is not None:
            self.scheduler.step()

    def on_validation_epoch_end(self) -> None:
        self._log("val", self.val_meter)

    def _log(self, stage: str, meter: Meter) -> None:
        self.raise_if_not_finite()
        self.log_values({f"{stage}/{name}": value for name, value in meter.flush().items()})

    def log_values(self, values: dict[str, Tensor]) -> None:
        """Give an epoch's values (scalars) to callbacks and loggers, read from the device together.

        Lightning's log_dict makes a Metric of each, which for some sixty of them took a seventh of a small epoch.
        """
        numbers = torch.stack(list(values.values())).cpu()  # one by one each would wait for the device
        self.trainer.callback_metrics.update(zip(values, numbers, strict=True))
        for logger in self.loggers:
            written = dict(zip(values, numbers.tolist(), strict=True))
            logger.log_metrics({**written, "epoch": self.current_epoch}, step=self.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the scheduler, and the random state, so that a resumed run draws what it would have drawn."""
        gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        checkpoint["random_state"] = {"cpu": torch.get_rng_state(), "gpu": gpu}
        checkpoint["schedule"] = self.scheduler.state_dict() if self.scheduler else {}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        torch.set_rng_state(checkpoint["random_state"]["cpu"].cpu())
        here = torch.cuda.device_count()  # a run may resume on a machine with fewer GPUs, or with none
        for device, state in enumerate(checkpoint["random_state"]["gpu"][:here]):
            torch.cuda.set_rng_state(state.cpu(), device)
        self._schedule = checkpoint["schedule"]  # Lightning asks for the optimizer and its scheduler later

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = self.make_optimizer(self.model.parameters())
        self.scheduler = self.make_scheduler(optimizer) if self.make_scheduler else None
        if self.scheduler and self._schedule:
            self.scheduler.load_state_dict(self._schedule)
        return optimizer
