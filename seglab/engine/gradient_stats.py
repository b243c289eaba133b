"""Where the gradient of a loss falls: foreground or background, the edge of the mask, misclassified pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from seglab.contract import Logits, PerImage, Target, Valid
from seglab.engine.module import SegModule
from seglab.losses.base import Loss

EDGE = 2
"""How many pixels a pixel at the edge of the mask is away from the other class, at most."""


def loss_and_gradient(
    loss: Loss, logits: Logits, target: Target, maps: Mapping[str, Tensor], valid: Valid | None = None
) -> tuple[PerImage, Tensor]:
    """The loss of each image (b,), and the gradient of their sum by the logits, of their shape, at least float32."""
    z = (logits if logits.dtype == torch.float64 else logits.float()).detach().requires_grad_()
    with torch.enable_grad():
        losses = loss(z, target, valid, **maps)
        (gradient,) = torch.autograd.grad(losses.sum(), z)
    return losses.detach(), gradient


def near_edge(target: Target, width: int = EDGE) -> Tensor:
    """Which pixels (b, 1, h, w) have one of the other class within `width` rows and columns."""
    t = target.float()
    side = 2 * width + 1
    near_foreground, near_background = (F.max_pool2d(x, side, 1, width) for x in (t, 1 - t))
    return near_foreground * near_background > 0


def hard(logits: Logits, target: Target) -> Tensor:
    """Which pixels have a probability of the true class under one half."""
    return (2.0 * target - 1) * logits < 0


class GradientFractions(Callback):
    """Logs the fractions of |dL/dlogit| that fall on foreground, on the mask's edge and on hard pixels, each epoch.

    Only the first batch of an epoch is used: the loss is called once more on its logits, which costs no pass through
    the network and holds for compiled modules and mixed precision too. Nothing is copied from the device before the
    epoch ends. An epoch without any gradient has NaN.
    """

    names = ("foreground", "edge", "hard")

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        outputs, batch, number = args
        if number == 0 and isinstance(module, SegModule):
            logits, target = outputs["logits"], batch["target"]
            maps = {name: batch[name] for name in module.loss.needs}
            size = loss_and_gradient(module.loss, logits, target, maps, batch.get("valid"))[1].abs()
            if module.task.kind == "multiclass":  # of a pixel the sum over the classes
                each = target == torch.arange(module.task.channels, device=target.device).view(1, -1, 1, 1)
                wrong = logits.argmax(1, keepdim=True) != target
                size, masks = size.sum(1, keepdim=True), (target > 0, near_edge(each).any(1, keepdim=True), wrong)
            else:
                masks = (target, near_edge(target), hard(logits, target))
            self.sums = torch.stack([size.sum(), *((size * mask).sum() for mask in masks)])

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, SegModule)
        total, *parts = trainer.strategy.reduce(self.sums, reduce_op="sum")  # over the processes
        names = (f"train/gradient_{name}" for name in self.names)
        module.log_values({name: part / total for name, part in zip(names, parts, strict=True)})
