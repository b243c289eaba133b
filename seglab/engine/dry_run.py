"""Dry runs before the first epoch: the model on the `meta` device, then a complete step on two real images."""

import copy
import difflib
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from typing import Any

import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor
from torch.nn import functional as F
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader

from seglab.contract import ContractError, Task, require
from seglab.data.dataset import Dataset
from seglab.data.loading import Batch, Samples
from seglab.engine.config import build, model_node, one_line, without_download
from seglab.engine.module import Meter, SegModule
from seglab.losses.external import External

log = logging.getLogger(__name__)
_tried = set[str]()


def check_model(node: dict[str, Any], dataset: Dataset) -> None:
    """Check the model's shapes before any image is read; raise ContractError if they or its weights do not fit.

    The model is built on torch's `meta` device, which has shapes but no data, so that it needs no memory.
    """
    count, value = dataset.task.channels, node.get("out_channels", 1)
    fits = count == 1 or value in (1, count)  # another value would only change the run's identity
    require(fits, "model.out_channels", f"{count}, one for each class", value, "leave it out")
    _check_model(json.dumps(node), (2, dataset.channels, dataset.size, dataset.size), dataset.task)


@lru_cache  # cached, since most sweeps have a single model
def _check_model(node: str, shape: tuple[int, ...], task: Task) -> None:
    try:
        with torch.device("meta"):
            model = build(without_download(model_node(json.loads(node), task)))
            weights = 4 * sum(weight.numel() for weight in model.parameters())  # bytes of float32
            memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
            got, remedy = f"{weights / 1e9:.3g} GB of {memory / 1e9:.3g} GB", "lower model.base or model.depth"
            require(weights < memory, "model", "weights that fit into memory", got, remedy)
            logits = model.eval()(torch.empty(shape))
    except Exception as error:
        if isinstance(error, ContractError) and error.__cause__ is None:  # raised by the model itself
            raise
        return  # a user's model may need data; the dry run tries it on real images
    require_shape(logits, (2, task.channels, *shape[2:]))


def require_shape(logits: Any, expected: tuple[int, ...]) -> None:
    """Raise a ContractError unless a model returned logits of the target's shape."""
    got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    require(got == expected, "model", f"logits of the target's shape {expected}", got)


def check_monitors(monitors: Mapping[str, str], threshold: float, empty: str, task: Task) -> None:
    """Raise a ContractError unless each monitor, by the name of its option, is a metric of an epoch.

    Also raises if a threshold is set for a multiclass task, where it has no effect.
    """
    expected = "none for a multiclass task, where the most probable class is predicted"
    require(task.kind != "multiclass" or threshold == 0.5, "threshold", expected, threshold, "leave it out")
    meter, logits = Meter(threshold, empty, task), torch.zeros(1, task.channels, 2, 2)
    meter.update(torch.zeros(1), logits, logits[:, :1] if task.kind == "multiclass" else logits)
    names = list(meter.flush())
    metrics = [f"{stage}/{name}" for stage in ("val", "train") for name in names]
    for option, name in monitors.items():
        similar = difflib.get_close_matches(name, metrics, n=5, cutoff=0)
        require(name in metrics, option, f"a metric of an epoch such as {', '.join(similar)}", name)


def check_foreground(monitor: str, empty: str, some: bool) -> None:
    """Raise a ContractError if the monitor needs foreground and no validation image has any (`some` is false)."""
    overlap = ("iou", "dice", "f2") if empty == "skip" else ()
    stage, score = monitor.split("/")[:2]
    undefined = score.removesuffix("_pooled") in ("recall", "foreground_confidence", "image_recall", *overlap)
    remedy = "choose another monitor, or another split (dataset.stratify=true)"
    defined = some or stage != "val" or not undefined
    require(defined, f"monitor={monitor}", "a validation image with foreground", "none", remedy)


def dry_run(module: SegModule, loader: DataLoader, device: torch.device, key: str = "", epochs: int = 1) -> None:
    """Check on two images that data, model, loss and metrics fit together; raise ContractError if they do not.

    Uses one image if batches of one occur, and the training device. Works on a copy with a forked random state, so
    that BatchNorm statistics, weights and seeds do not change. Dry runs with the same `key` are done once per process.
    """
    if key and key in _tried:
        return
    samples: Samples = loader.dataset  # type: ignore[assignment]
    remedy = "check dataset.val_fraction and dataset.test_fraction"
    require(len(samples) > 0, "dataset", "at least one training image", "none", remedy)
    if samples.augment is not None:
        image, target, _ = samples.read([(0, 0)])
        mask = target[0].permute(1, 2, 0).squeeze(-1)
        samples.augment.check(image[0].permute(1, 2, 0).cpu().numpy(), mask.cpu().numpy())
    smallest = min(len(pairs) for pairs in loader.sampler)
    with isolate_rng(include_cuda=device.type == "cuda"):
        batch = samples[[(0, index) for index in range(min(2, smallest))]]
        trial = copy.deepcopy(module).train().to(device)
        batch = trial.transfer_batch_to_device(batch, device, 0)
        logits, *coarse = (scale.detach() for scale in scales_of(trial, batch))  # checked before the loss fails on them
        needs = ", ".join(trial.loss.needs) if coarse else ""
        expected = "a loss of only logits and target, since maps exist at one scale only"
        require(not needs, "model.deep_supervision", expected, f"{trial.loss.name}, which needs {needs}")
        require_shape(logits, (len(logits), module.task.channels, *batch["target"].shape[2:]))
        if isinstance(trial.loss, External):
            try_external(trial.loss, batch["target"], module.task.channels)
        trial.loss.check(logits, batch["target"], batch.get("valid"))
        losses, logits = trial.step(batch)
        value, name = losses.mean(), trial.loss.name
        require(bool(losses.isfinite().all()), name, "a finite number for each image", losses.tolist())
        require(value.requires_grad, name, "a value with a gradient", "one without, as after detach() or numpy()")
        value.backward()
        trial.val_meter.update(losses, logits, batch["target"], image=batch["index"], valid=batch.get("valid"))
        with one_sentence("optimizer", "one that can take a step with these options"):
            optimizer = trial.make_optimizer(trial.model.parameters())
            optimizer.step(lambda: float(value.detach()))  # LBFGS needs a closure that returns the loss
        with one_sentence("scheduler", f"one with a step after each of {epochs} epochs"):
            schedule: Any = trial.make_scheduler(optimizer) if trial.make_scheduler else None
            optimizer.step(lambda: 0.0)  # else torch warns that a schedule has begun before its optimizer
            for _ in range(epochs if schedule and not isinstance(schedule, ReduceLROnPlateau) else 0):
                schedule.step()
            torch.save(schedule and schedule.state_dict(), BytesIO())  # as a checkpoint does
    _tried.add(key)


@contextmanager
def one_sentence(who: str, expected: str, remedy: str = "") -> Iterator[None]:
    """Convert any error of third-party code to a ContractError."""
    try:
        yield
    except ContractError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise ContractError(f"{who}: expected {expected}, got {reason}" + (f"; {remedy}" if remedy else "")) from error


def scales_of(module: SegModule, batch: Batch) -> list[Tensor]:
    """Return the model's logits by scale; raise ContractError if a batch norm sees one value (after global pooling)."""
    try:
        return module.scales(batch["image"])
    except ValueError as error:
        unrelated = "more than 1 value per channel" not in str(error)
        expected = "at least 2 images in each batch, since a batch norm of this model sees one value per image"
        require(unrelated, "batch_size", expected, len(batch["id"]), "set batch_size=2, or choose another model")
        raise


def try_external(loss: External, target: Tensor, channels: int) -> None:
    """Try an external loss on logits from wrong to right; log a warning if its value does not decrease."""
    width = target.shape[-1]
    if loss.task == "multiclass":  # a target with all classes, whatever the images show
        truth = (torch.arange(width, device=target.device) * channels // width).expand(target.shape)
        right = F.one_hot(truth[:, 0], channels).movedim(-1, 1)
    else:  # a target with one eighth of foreground
        right = truth = torch.zeros(target.shape, device=target.device)
        truth[..., : -(-width // 8)] = 1
    alternative = "probabilities" if loss.takes == "logits" else "logits"
    remedy = f"set loss.takes={alternative} if it expects {alternative}"
    with one_sentence("loss", f"a function of {loss.takes} and target", remedy):
        values = [float(loss(scale * (2 * right - 1), truth).mean()) for scale in (-4.0, 0.0, 4.0)]
    listed = ", ".join(f"{value:.4g}" for value in values)
    require(all(map(math.isfinite, values)), "loss", f"finite values for {loss.takes}", listed, remedy)
    if not values[0] > values[1] > values[2]:
        question = f"does it expect {alternative} (loss.takes={alternative}), or is it a score to maximize?"
        log.warning("loss: its values for logits from wrong to right do not decrease (%s); %s", listed, question)
