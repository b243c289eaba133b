"""The exponential moving average (EMA) of the weights, which is validated, saved and tested in their place."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from seglab.contract import require


class Ema(Callback):
    """Average the weights over optimizer steps (Polyak and Juditsky 1992; Tarvainen and Valpola 2017).

    Outside a training epoch the model holds the average: validation and test measure the average, and every checkpoint
    saves it. The weights that the optimizer updates are then in the state of this callback. Lightning's own
    EMAWeightAveraging validates the average, but saves the other weights in a weights-only checkpoint.

    Args:
        decay: the fraction of the average that a step keeps; at most (1 + n) / (10 + n) after n steps, so that the
            average forgets the initial weights.
    """

    def __init__(self, decay: float = 0.999) -> None:
        require(0 < decay < 1, "callbacks.ema: decay", "a number between 0 and 1", decay)
        self.decay, self.steps = decay, 0
        self.other: list[Tensor] | None = None
        self.trains = False

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "weights": self.other}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.other = state["steps"], state["weights"]

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        weights = _weights(module)
        if self.other is None:
            self.other = [weight.clone() for weight in weights]
        # weights that were loaded from a checkpoint are on the CPU
        self.other = [other.to(weight.device) for other, weight in zip(self.other, weights, strict=True)]
        self._exchange(weights)
        self.trains = True

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *batch: Any) -> None:
        if trainer.global_step == self.steps:  # gradients are still being accumulated
            return
        self.steps = trainer.global_step
        keep = min(self.decay, (1 + self.steps) / (10 + self.steps))
        assert self.other is not None
        for average, weight in zip(self.other, _weights(module), strict=True):
            if average.is_floating_point():
                average.lerp_(weight, 1 - keep)
            else:  # num_batches_tracked of a batch norm
                average.copy_(weight)

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._end_epoch(module)  # Lightning validates before a training epoch ends

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._end_epoch(module)  # for an epoch without validation

    def _end_epoch(self, module: LightningModule) -> None:
        if self.trains:
            self._exchange(_weights(module))
        self.trains = False

    @torch.no_grad()
    def _exchange(self, weights: list[Tensor]) -> None:
        assert self.other is not None
        for weight, other in zip(weights, self.other, strict=True):
            previous = weight.clone()
            weight.copy_(other)  # in place: the optimizer and CUDA graphs refer to these tensors
            other.copy_(previous)


def _weights(module: LightningModule) -> list[Tensor]:
    """Return the parameters and buffers that a checkpoint saves."""
    return list(module.state_dict().values())
