"""The exponential moving average of the weights, which is validated, saved and tested instead of them."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from seglab.contract import require


class Ema(Callback):
    """Averages the weights over the steps of the optimizer (Polyak and Juditsky 1992; Tarvainen and Valpola 2017).

    Outside of a training epoch the model holds the average: it is what a validation measures, what every checkpoint
    saves and what the test measures. The weights that the optimizer moves lie in the state of this callback then.
    Lightning's own EMAWeightAveraging validates the average and saves, in a checkpoint of weights alone, the others.

    Args:
        decay: the part of the average that a step keeps; less in the first steps, (1 + n) / (10 + n) at most after n,
            so that the average forgets the initial weights.
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
        # Those of a checkpoint are on the CPU
        self.other = [other.to(weight.device) for other, weight in zip(self.other, weights, strict=True)]
        self._exchange(weights)
        self.trains = True

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *batch: Any) -> None:
        if trainer.global_step == self.steps:  # gradients are accumulated
            return
        self.steps = trainer.global_step
        keep = min(self.decay, (1 + self.steps) / (10 + self.steps))
        assert self.other is not None
        for average, weight in zip(self.other, _weights(module), strict=True):
            if average.is_floating_point():
                average.lerp_(weight, 1 - keep)
            else:  # a batch norm's number of batches
                average.copy_(weight)

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._end_epoch(module)  # Lightning validates before a training epoch ends

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._end_epoch(module)  # of an epoch without a validation

    def _end_epoch(self, module: LightningModule) -> None:
        if self.trains:
            self._exchange(_weights(module))
        self.trains = False

    @torch.no_grad()
    def _exchange(self, weights: list[Tensor]) -> None:
        assert self.other is not None
        for weight, other in zip(weights, self.other, strict=True):
            kept = weight.clone()
            weight.copy_(other)  # in place: the optimizer and recorded graphs hold these very tensors
            other.copy_(kept)


def _weights(module: LightningModule) -> list[Tensor]:
    """The parameters and buffers that a checkpoint holds."""
    return list(module.state_dict().values())
