"""How the loss changes while a model trains: parameters that follow a schedule, and losses that follow one another."""

from __future__ import annotations

import dataclasses
import logging
import math
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from seglab.contract import require
from seglab.engine.module import SegModule
from seglab.losses.base import Loss

log = logging.getLogger(__name__)

Route = tuple[str, ...]

SHAPES = {
    "linear": lambda start, to, share: start + (to - start) * share,
    "cosine": lambda start, to, share: to + (start - to) * (1 + math.cos(math.pi * share)) / 2,
    "exponential": lambda start, to, share: start * (to / start) ** share,
}


@dataclass(frozen=True, kw_only=True)
class Ramp:
    """The way of one parameter to the value `to`, over so many epochs or optimizer steps; then it stays there.

    shape: linear, cosine (slow at both ends) or exponential (by the same factor each time). start: None for the
    parameter's own value.
    """

    to: float
    shape: str = "linear"
    epochs: int | None = None
    steps: int | None = None
    start: float | None = None

    def check(self, who: str) -> None:
        """Raise one sentence for what is missing, misspelt or impossible."""
        for name in ("start", "to"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            require(number, who, f"a number as {name}", value)
        require(self.shape in SHAPES, who, f"a shape of {', '.join(SHAPES)}", self.shape)
        lengths = [length for length in (self.epochs, self.steps) if length is not None]
        require(len(lengths) == 1, who, "epochs or steps, one of them", "both" if lengths else "none")
        whole = isinstance(lengths[0], int) and not isinstance(lengths[0], bool) and lengths[0] >= 1
        require(whole, who, "a whole number of epochs or steps, at least 1", lengths[0])
        above = self.shape != "exponential" or (self.start or 0) > 0 < self.to
        require(above, who, "start and to above 0 for shape=exponential", f"{self.start} and {self.to}")

    def at(self, epoch: int, step: int) -> float:
        """The value in an epoch that begins, or before an optimizer step; both count from 0."""
        share = epoch / self.epochs if self.epochs else step / (self.steps or 1)
        return float(self.to) if share >= 1 else float(SHAPES[self.shape](self.start, self.to, share))


def ramps(schedule: Mapping[str, Any], loss: Loss) -> dict[Route, Ramp]:
    """The ramps of a schedule such as `{terms: {boundary: {weight: {to: 1, epochs: 99}}}}`, by the way into the loss.

    Raises a ContractError for names that the loss lacks, parameters that are no numbers, and values at the start or at
    the end that the loss refuses.
    """
    require(isinstance(schedule, Mapping), "schedule", "the parameters of the loss that change", schedule)
    found = {}
    for path, spec in _leaves(schedule, ()):
        who = f"schedule.{'.'.join(path)}"
        names = [field.name for field in dataclasses.fields(Ramp)]
        wrong = sorted(spec.keys() - names) if isinstance(spec, Mapping) else [spec]
        require(not wrong, who, f"some of {', '.join(names)}", ", ".join(map(str, wrong)))
        require("to" in spec, who, "a value to go to", "none", "set to=...")
        ramp = Ramp(**spec)
        ramp = replace(ramp, start=_value(loss, path, who) if ramp.start is None else ramp.start)
        ramp.check(who)
        found[path] = ramp
    for moment in (0, max((ramp.epochs or ramp.steps or 1 for ramp in found.values()), default=0)):
        scheduled(loss, found, moment, moment)  # the loss itself holds its parameters to their limits
    return found


def _leaves(node: Mapping[str, Any], path: Route) -> Iterator[tuple[Route, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping) and any(isinstance(child, Mapping) for child in value.values()):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _value(loss: Loss, path: Route, who: str) -> Any:
    """The value of a parameter, which must be one that may be any real number."""
    node: Any = loss
    for depth, name in enumerate(path):
        known = list(node) if isinstance(node, Mapping) else _parameters(node)
        require(bool(known), who, "a part of the loss that has parameters", node)
        require(name in known, who, f"one of {', '.join(known)}", name)
        if depth + 1 == len(path) and not isinstance(node, Mapping):
            hint = typing.get_type_hints(type(node))[name]
            require(float in (hint, *typing.get_args(hint)), who, "a parameter that is a real number", hint)
        node = node[name] if isinstance(node, Mapping) else getattr(node, name)
    return node


def _parameters(node: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(node)] if dataclasses.is_dataclass(node) else []


def scheduled(loss: Loss, found: Mapping[Route, Ramp], epoch: int, step: int) -> Loss:
    """The loss with the parameters that it has in an epoch and before a step."""
    for path, ramp in found.items():
        loss = _replaced(loss, path, ramp.at(epoch, step))
    return loss


def _replaced(node: Any, path: Route, value: float) -> Any:
    if not path:
        return value
    name, rest = path[0], path[1:]
    if isinstance(node, Mapping):
        return {**node, name: _replaced(node[name], rest, value)}
    return replace(node, **{name: _replaced(getattr(node, name), rest, value)})


class Course(Checkpoint):  # called when the metrics of an epoch are there, and before the checkpoints that follow it
    """Gives the module the loss of each epoch, or of each step where the schedule goes by steps.

    Training and validation are measured with the loss of their epoch. When training ends the module gets its loss back
    as it was configured, and the test images are measured with that: the start of a schedule, the first loss of a
    switch. So all runs of a loss, and whoever opens them later, measure alike.

    At a switch the optimizer forgets its moments, which were those of another loss's gradients; the learning rate goes
    on as its schedule has it.

    Args:
        schedule: see `ramps`; empty leaves the loss as it is.
        mode: whether a larger (max) or a smaller (min) monitored value is better.
    """

    def __init__(self, schedule: Mapping[str, Any], mode: str) -> None:
        self.schedule, self.sign = schedule, 1.0 if mode == "max" else -1.0
        self.values: list[float] = []
        self.ramps: dict[Route, Ramp] = {}
        self.switches = False
        self.module: SegModule
        self.loss: Loss

    @property
    def turns(self) -> list[int]:
        """The epochs so far in which one loss took over from another."""
        return [epoch for epoch in self.loss.at_epoch(self.values)[1] if epoch < len(self.values)]

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, SegModule)
        self.module, self.loss = module, module.loss
        self.ramps = ramps(self.schedule, self.loss)
        self.switches = bool(self.loss.at_epoch([0.0] * (trainer.max_epochs or 0))[1])  # where nothing improves
        fixed = not (self.ramps or self.switches) or not module.monitor.endswith("/loss")
        remedy = "set monitor=val/iou_pooled"
        require(fixed, "monitor", "a value that does not change its meaning with the loss", module.monitor, remedy)
        if self.ramps:
            module.free_the_loss()

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        turns = self._set(trainer)
        if trainer.current_epoch in turns:
            trainer.optimizers[0].state.clear()
            log.info("epoch %d: the loss is now %s", trainer.current_epoch + 1, self.module.loss.name)
        now = (trainer.current_epoch, trainer.global_step)
        known = {f"loss/{'.'.join(path)}": ramp.at(*now) for path, ramp in self.ramps.items()}
        known |= {"loss/stage": 1.0 + len(turns)} if self.switches else {}
        module.log_dict({name: torch.tensor(value, dtype=torch.float64) for name, value in known.items()})

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        if any(ramp.steps for ramp in self.ramps.values()):
            self._set(trainer)

    def _set(self, trainer: Trainer) -> list[int]:
        loss = scheduled(self.loss, self.ramps, trainer.current_epoch, trainer.global_step)
        now, turns = loss.at_epoch(self.values)
        if now != self.module.loss:  # an equal one in its place might be compiled anew
            self.module.loss = now
        return turns

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.values.append(self.sign * float(trainer.callback_metrics.get(self.module.monitor, math.nan)))

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.module.loss = self.loss

    def state_dict(self) -> dict[str, Any]:
        return {"values": self.values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.values = list(state["values"])
