"""Loss schedules: loss parameters that change over the epochs, and losses that follow one another."""

import dataclasses
import logging
import math
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from seglab.contract import ContractError, require
from seglab.engine.module import SegModule, metrics_of_epoch
from seglab.engine.validation import faults
from seglab.losses.base import Loss

log = logging.getLogger(__name__)

Path = tuple[str, ...]
"""The names that lead to a parameter of a loss: ("terms", "boundary", "weight")."""

SHAPES = {
    "linear": lambda start, to, share: start + (to - start) * share,
    "cosine": lambda start, to, share: to + (start - to) * (1 + math.cos(math.pi * share)) / 2,
    "exponential": lambda start, to, share: start * (to / start) ** share,
}


@dataclass(frozen=True, kw_only=True)
class Ramp:
    """A change of one parameter to the value `to` over `epochs` epochs, after which it stays constant.

    shape: linear, cosine (slow at both ends) or exponential (a constant factor). start: defaults to the loss's value.
    """

    to: float
    epochs: int
    shape: Literal["linear", "cosine", "exponential"] = "linear"
    start: float | None = None

    def at(self, epoch: int) -> float:
        """Return the value in an epoch, counted from 0."""
        share = epoch / self.epochs
        if share >= 1:
            return float(self.to)  # exact, without the rounding of a shape
        return float(SHAPES[self.shape](self.start, self.to, share))


def ramps(schedule: Mapping[str, Any], loss: Loss) -> dict[Path, Ramp]:
    """Return the ramps of a schedule such as `{terms: {boundary: {weight: {to: 1, epochs: 99}}}}` by path in the loss.

    Raises a ContractError if a parameter is unknown or not a number, or if the loss refuses its first or last value.
    """
    require(isinstance(schedule, Mapping), "schedule", "the parameters of the loss that change", schedule)
    by_path = {}
    for path, spec in _leaves(schedule, ()):
        who = f"schedule.{'.'.join(path)}"
        require(isinstance(spec, Mapping), who, "{to: NUMBER, epochs: COUNT}", spec)
        if fault := next(faults({who: {"_target_": f"{__name__}.Ramp", **spec}}), None):
            raise ContractError(fault)
        ramp = Ramp(**spec)
        value = _parameter_value(loss, path, who)
        require(isinstance(value, float | int | None), who, "a parameter that is a number", type(value).__name__)
        start = value if ramp.start is None else ramp.start
        require(isinstance(start, int | float), who, "a number as start", start)
        require(ramp.epochs >= 1, who, "epochs of at least 1", ramp.epochs)
        above = ramp.shape != "exponential" or start > 0 < ramp.to
        require(above, who, "start and to above 0 for shape=exponential", f"{start} and {ramp.to}")
        by_path[path] = replace(ramp, start=start)
    for epoch in (0, max((ramp.epochs for ramp in by_path.values()), default=0)):
        scheduled(loss, by_path, epoch)  # the loss validates its parameters
    return by_path


def unreached(loss: Loss, by_path: Mapping[Path, Ramp], epochs: int, every: int = 1) -> list[str]:
    """Return a sentence for each ramp or switch of losses not reached in `epochs`, with validation every `every`."""
    late = {".".join(path): ramp.epochs for path, ramp in by_path.items() if ramp.epochs >= epochs}
    sentences = [f"schedule.{name}: needs more than {end} epochs, got {epochs}" for name, end in late.items()]
    switches = bool(loss.at_epoch([0.0] * 10**5)[1])  # at the latest after 10**5 epochs without improvement
    history = [0.0 if epoch % every == 0 else None for epoch in range(1, epochs)]
    if switches and not loss.at_epoch(history)[1]:
        sentences.append(f"loss: the switch to the second loss needs more than {epochs} epochs (trainer.max_epochs)")
    return sentences


def _leaves(node: Mapping[str, Any], path: Path) -> Iterator[tuple[Path, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping) and any(isinstance(child, Mapping) for child in value.values()):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _parameter_value(loss: Loss, path: Path, who: str) -> Any:
    """Return the value of a parameter; raise ContractError unless the parameter takes real numbers."""
    node: Any = loss
    for name in path:
        parts = _schedulable_parts(node)
        require(bool(parts), who, "a loss with a parameter that is a real number", type(node).__name__)
        require(name in parts, who, f"one of {', '.join(parts)}", name)
        node = parts[name]
    return node


def _schedulable_parts(node: Any) -> dict[str, Any]:
    """Return what a schedule may name in a loss: parameters that take real numbers, and inner losses or terms."""
    if isinstance(node, Mapping):
        return dict(node)
    if not dataclasses.is_dataclass(node) or isinstance(node, type):
        return {}
    hints = typing.get_type_hints(type(node))
    values = {field.name: getattr(node, field.name) for field in dataclasses.fields(node)}
    real = {name for name in values if float in (hints[name], *typing.get_args(hints[name]))}
    inner = {name for name, value in values.items() if dataclasses.is_dataclass(value) or isinstance(value, Mapping)}
    return {name: value for name, value in values.items() if name in real | inner}


def scheduled(loss: Loss, by_path: Mapping[Path, Ramp], epoch: int) -> Loss:
    """Return the loss with the values that its ramps have in an epoch."""
    for path, ramp in by_path.items():
        loss = _replaced(loss, path, ramp.at(epoch))
    return loss


def _replaced(node: Any, path: Path, value: float) -> Any:
    if not path:
        return value
    name, rest = path[0], path[1:]
    if isinstance(node, Mapping):
        return {**node, name: _replaced(node[name], rest, value)}
    return replace(node, **{name: _replaced(getattr(node, name), rest, value)})


class LossSchedule(Checkpoint):  # called when an epoch's metrics are known, before the checkpoints listed after it
    """Set the loss of each epoch.

    Training and validation are measured with the loss of their epoch. When training ends the configured loss is
    restored (the start of a schedule, the first loss of a switch) and measures the test images, so that all runs of a
    loss are measured alike, also when they are opened later.

    At a switch the optimizer's moment estimates (of the old loss) are cleared; the learning rate stays as scheduled.

    Args:
        schedule: see `ramps`; an empty one leaves the loss unchanged.
        mode: "max" or "min", whichever monitored values are better.
    """

    def __init__(self, schedule: Mapping[str, Any], mode: str) -> None:
        self.schedule, self.sign = schedule, 1.0 if mode == "max" else -1.0
        self.history: list[float | None] = []  # None: an epoch without a validation
        self.ramps: dict[Path, Ramp] = {}
        self.switches = False
        self.module: SegModule
        self.loss: Loss

    @property
    def switched_at(self) -> list[int]:
        """The epochs so far at which one loss replaced another."""
        return [epoch for epoch in self.loss.at_epoch(self.history)[1] if epoch < len(self.history)]

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, SegModule)
        self.module, self.loss = module, module.loss
        self.ramps = ramps(self.schedule, self.loss)
        self.switches = bool(self.loss.at_epoch([0.0] * (trainer.max_epochs or 0))[1])  # at least if nothing improves
        fixed = not (self.ramps or self.switches) or not module.monitor.endswith("/loss")
        remedy = "set monitor=val/iou_pooled"
        require(fixed, "monitor", "a metric whose meaning does not change with the loss", module.monitor, remedy)
        if self.ramps:
            module.cuda_graph = False  # each parameter value would need its own graph

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        loss = scheduled(self.loss, self.ramps, trainer.current_epoch)
        current, switched = loss.at_epoch(self.history)
        if current != self.module.loss:  # an equal loss is kept, since CUDA graphs belong to one object
            self.module.loss = current
        if trainer.current_epoch in switched:
            trainer.optimizers[0].state.clear()
            log.info("epoch %d: the loss is now %s", trainer.current_epoch + 1, self.module.loss.name)
        values = {f"loss/{'.'.join(path)}": ramp.at(trainer.current_epoch) for path, ramp in self.ramps.items()}
        values |= {"loss/stage": 1.0 + len(switched)} if self.switches else {}
        if values:
            # float32 would turn 0.1 into 0.10000000149
            self.module.log_values({name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()})

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        value = metrics_of_epoch(trainer).get(self.module.monitor)
        self.history.append(None if value is None else self.sign * float(value))

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.module.loss = self.loss

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history = list(state["history"])
