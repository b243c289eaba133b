"""The domain of every numeric option of a command: checked before any work begins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

HUGE = 1e6
"""No option that is not listed below is larger: loss.gamma=1e30 is finite and means nothing."""


@dataclass(frozen=True)
class Domain:
    """Numbers from `low` to `high`, both included unless `without` names them; `whole` ones only, or null too."""

    low: float
    high: float = HUGE
    without: tuple[float, ...] = ()
    whole: bool = False
    null: bool = False

    def holds(self, value: Any) -> bool:
        if value is None:
            return self.null
        number = isinstance(value, int | float) and not isinstance(value, bool)
        fits = number and self.low <= value <= self.high and value not in self.without
        return bool(fits and (not self.whole or isinstance(value, int)))

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        ends = [f"{'above' if self.low in self.without else 'of at least'} {self.low:g}"]
        if self.high < HUGE:
            ends.append(f"{'below' if self.high in self.without else 'at most'} {self.high:g}")
        return f"{kind} {' and '.join(ends)}{' or null' if self.null else ''}"


POSITIVE, FRACTION = Domain(0, without=(0,)), Domain(0, 1)
COUNT, COUNT_FROM_0 = Domain(1, whole=True), Domain(0, whole=True)
SEED = Domain(0, 2**32 - 1, whole=True)
LIMIT = Domain(0, without=(0,), null=True)

DOMAINS: dict[str, Domain] = {
    "seed": SEED,
    "*.seed": SEED,
    "*.*_seed": SEED,
    "batch_size": COUNT,
    "workers": Domain(0, 256, whole=True),
    "examples": Domain(1, 1000, whole=True),
    "tune.lr[*]": POSITIVE,
    "tune.epochs": COUNT,
    "optimizer.lr": POSITIVE,
    "optimizer.eps": POSITIVE,
    "optimizer.weight_decay": Domain(0),
    "optimizer.betas[*]": Domain(0, 1, without=(1,)),
    "optimizer.momentum": Domain(0, 1, without=(1,)),
    "scheduler.T_max": COUNT,
    "scheduler.total_iters": COUNT,
    "scheduler.eta_min": Domain(0),
    "scheduler.min_lr": Domain(0),
    "scheduler.factor": Domain(0, 1, without=(0, 1)),
    "scheduler.patience": COUNT_FROM_0,
    "scheduler.power": POSITIVE,
    "trainer.max_epochs": COUNT,
    "trainer.check_val_every_n_epoch": COUNT,
    "trainer.accumulate_grad_batches": COUNT,
    "trainer.gradient_clip_val": LIMIT,
    "trainer.limit_*_batches": LIMIT,
    "trainer.num_nodes": COUNT,
    "callbacks.*.patience": COUNT_FROM_0,
    "callbacks.*.min_delta": Domain(0),
    "callbacks.*.growth": Domain(1),
    "model.in_channels": Domain(1, 1024, whole=True),
    "model.base": Domain(1, 1024, whole=True),
    "model.depth": Domain(1, 8, whole=True),
    "model.prior": Domain(0, 1, without=(0, 1), null=True),
    "dataset.size": Domain(1, 16384, whole=True),
    "dataset.reduce": Domain(1, 64, whole=True),
    "dataset.patches_per_image": COUNT,
    "dataset.std[*]": POSITIVE,
    "dataset.contrast": Domain(0, 1000),
    "dataset.noise": Domain(0, 1000),
    "dataset.cache_gb": Domain(0),
    "window": Domain(1, 65536, whole=True, null=True),
    "overlap": Domain(0, 0.75),
    "min_area": COUNT,
    "delta": POSITIVE,
    "confidence": Domain(0.5, 1, without=(0.5, 1)),
    "resamples": Domain(100, whole=True),
    "export.images": COUNT,
}
"""Numeric options by dotted name; a class checks its own parameters besides."""

CHOICES: dict[str, tuple[Any, ...]] = {
    "monitor_mode": ("max", "min"),
    "empty": ("correct", "skip"),
    "on_fail": ("continue", "stop"),
    "tta": ("none", "flips", "d4"),
    "device": ("auto", "cpu", "cuda"),
    "channels_last": (True, False),
    "compile": (True, False),
    "rerun": (True, False),
    "plan": (True, False),
}
"""Options of a few values."""

NOT_EMPTY = ("init_from", "init_include", "tune.lr", "study", "optimizer.betas", "dataset.mean", "dataset.std")
"""Texts and lists that may be null where the yaml says so, but not empty."""


REFUSED = {
    "trainer.fast_dev_run": "take trainer=debug",
    "trainer.overfit_batches": "take trainer.limit_train_batches",
    "trainer.max_steps": "take trainer.max_epochs and trainer.limit_train_batches",
    "trainer.min_steps": "take trainer.max_epochs",
    "trainer.val_check_interval": "take trainer.check_val_every_n_epoch",
    "trainer.reload_dataloaders_every_n_epochs": "leave it out",
    "trainer.barebones": "leave it out",
    "trainer.enable_checkpointing": "leave it out",
    "trainer.callbacks": "take callbacks.NAME",
    "trainer.logger": "take logger=NAME",
    "trainer.plugins": "leave it out",
    "trainer.default_root_dir": "take hydra.run.dir",
    "trainer.num_sanity_val_steps": "leave it out",
    "trainer.use_distributed_sampler": "leave it out",
    "trainer.enable_progress_bar": "leave it out",
    "trainer.enable_model_summary": "leave it out",
}
"""Options of Lightning's Trainer that do not go together with runs that resume and compare, and what to do instead."""


def outside(config: Any) -> Iterator[str]:
    """One sentence for each value of a plain configuration that lies outside of its domain."""
    trainer = config.get("trainer") or {}
    for path, remedy in REFUSED.items():
        if path.partition(".")[2] in trainer:
            yield f"{path}: expected an option that seglab passes on to Lightning, got one that it does not; {remedy}"
    every, epochs = trainer.get("check_val_every_n_epoch"), trainer.get("max_epochs")
    if isinstance(every, int) and isinstance(epochs, int) and 0 < epochs < every:
        yield f"trainer.check_val_every_n_epoch: expected at most trainer.max_epochs={epochs}, got {every}"
    for path, value in _leaves(config, ""):
        domain = next((domain for pattern, domain in DOMAINS.items() if fnmatchcase(path, _escaped(pattern))), None)
        if domain and not domain.holds(value):
            yield f"{path}: expected {domain}, got {_spell(value)}"
        elif not domain and isinstance(value, float) and not abs(value) <= 1e12:
            yield f"{path}: expected a finite number, got {value}"
        elif path in CHOICES and not any(value == choice and type(value) is type(choice) for choice in CHOICES[path]):
            yield f"{path}: expected {' or '.join(map(_spell, CHOICES[path]))}, got {_spell(value)}"
        elif path in NOT_EMPTY and value in ("", [], {}):
            yield f"{path}: expected a value, got {value!r}"


def _escaped(pattern: str) -> str:
    return pattern.replace("[", "[[]")


def _spell(value: Any) -> str:
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every value of a nested configuration by its dotted name, the items of a list as `name[0]`."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list) and node:
        for index, value in enumerate(node):
            yield from _leaves(value, f"{path}[{index}]")
    else:
        yield path, node
