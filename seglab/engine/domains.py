"""The domain (the valid values) of every option of a command, checked before any work begins."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from seglab.contract import processes

HUGE = 1e6  # the upper limit of options that are listed below without one


@dataclass(frozen=True)
class Domain:
    """The numbers in [low, high] except those in `without`, or only the `whole` ones; optionally also null or auto."""

    low: float
    high: float = HUGE
    without: tuple[float, ...] = ()
    whole: bool = False
    null: bool = False
    auto: bool = False

    def holds(self, value: Any) -> bool:
        if value is None:
            return self.null
        if value == "auto":
            return self.auto
        number = isinstance(value, int | float) and not isinstance(value, bool)
        fits = number and self.low <= value <= self.high and value not in self.without
        return bool(fits and (not self.whole or isinstance(value, int)))

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        low = f"{'above' if self.low in self.without else 'of at least'} {self.low:g}"
        high = f"{'below' if self.high in self.without else 'at most'} {self.high:.10g}"
        return f"{kind} {low} and {high}{' or null' * self.null}{' or auto' * self.auto}"


COUNT, THOUSAND = Domain(1, whole=True), Domain(1, 1000, whole=True)
POSITIVE, NOT_NEGATIVE, LIMIT = Domain(0, without=(0,)), Domain(0), Domain(0, without=(0,), null=True)
INSIDE, BELOW_1 = Domain(0, 1, without=(0, 1)), Domain(0, 1, without=(1,))

_NAMES = (
    (Domain(0, 2**32 - 1, whole=True), "seed *.seed *.*_seed"),  # NumPy's range
    (COUNT, "trainer.max_epochs trainer.check_val_every_n_epoch trainer.accumulate_grad_batches trainer.num_nodes"),
    (COUNT, "tune.epochs scheduler.T_max scheduler.total_iters callbacks.snapshots.every_n_epochs"),
    (COUNT, "batch_size min_area dataset.patches_per_image"),
    (THOUSAND, "examples tuning_repeats dataset.channels dataset.folds"),
    (Domain(0, whole=True), "scheduler.patience callbacks.*.patience"),
    (POSITIVE, "optimizer.lr optimizer.eps tune.lr[*] scheduler.power dataset.std[*] delta"),
    (NOT_NEGATIVE, "optimizer.weight_decay scheduler.eta_min scheduler.min_lr callbacks.*.min_delta dataset.cache_gb"),
    (BELOW_1, "optimizer.betas[*] optimizer.momentum dataset.val_fraction dataset.test_fraction"),
    (INSIDE, "threshold scheduler.factor"),
    (LIMIT, "trainer.gradient_clip_val trainer.limit_*_batches"),
    (Domain(0, 256, whole=True), "workers"),
    (Domain(0, 256, whole=True, auto=True), "evaluation_processes"),
    (Domain(1, 256, whole=True, auto=True), "threads"),
    (Domain(1, whole=True, null=True), "stop_after"),
    (Domain(1, 10_000, whole=True), "trials"),
    (Domain(2, 100, whole=True, null=True), "halving"),
    (Domain(1, 1000, whole=True, null=True), "fresh_seeds"),
    (Domain(1, 1024, whole=True), "model.in_channels model.base"),
    (Domain(1, 8, whole=True), "model.depth"),
    (Domain(0, 1, without=(0, 1), null=True), "model.prior"),
    (Domain(1, 16384, whole=True), "dataset.size"),
    (Domain(1, 64, whole=True), "dataset.reduce"),
    (Domain(0, 1000), "dataset.contrast dataset.noise"),
    (Domain(0, 1), "dataset.positive_fraction"),
    (Domain(0, 1, without=(0,)), "dataset.coverage"),
    (Domain(1, 65536, whole=True, null=True), "window"),
    (Domain(0, 0.75), "overlap"),
    (Domain(0.5, 1, without=(0.5, 1)), "confidence"),
)
DOMAINS = {name: domain for domain, names in _NAMES for name in names.split()}
"""The domains of numeric options by pattern of their dotted name; classes also check their own parameters."""

CHOICES: dict[str, tuple[Any, ...]] = {
    "monitor_mode": ("auto", "max", "min"),
    "trainer.precision": ("auto", "32-true", "bf16-mixed", "16-mixed"),
    "empty": ("correct", "skip"),
    "on_fail": ("continue", "stop"),
    "sampler": ("quasirandom", "tpe"),
    "tta": ("none", "flips", "d4"),
    "store": ("auto", "device", "memory", "disk"),
    "device": ("auto", "cpu", "cuda"),
    **dict.fromkeys(("channels_last", "compile", "cuda_graph", "pictures", "rerun", "plan"), (True, False)),
}
"""The values of options that have only a few."""

KINDS: dict[str, tuple[Any, str]] = {
    "monitor": (str, "a metric such as val/iou_pooled"),
    "init_include": (str | list | None, "a name pattern, or a list of name patterns"),
    "tune.lr": (list | None, "a list of learning rates, [1e-4,1e-3]"),
    "tuned": (list, "a list of options"),
}
"""The types of other options that are not checked against a signature, and their description."""

LOWER_IS_BETTER = ("loss",)  # for all other metrics of an epoch higher is better

COMPARING = (".EarlyStopping", ".ModelCheckpoint", ".ReduceLROnPlateau")
"""Classes that compare a metric by their `mode`, which is min by default; `mode` of other classes may be a word."""

NOT_EMPTY = {"init_from", "init_include", "tune.lr", "study", "optimizer.betas"}
NOT_EMPTY |= {"dataset.cache_dir", "dataset.mean", "dataset.std"}
"""Strings and lists that must not be empty; null is allowed where the yaml says so."""

GROUPS = ("dataset", "augment", "model", "loss", "optimizer", "scheduler", "trainer", "callbacks", "logger", "schedule")
"""Options that contain other options; null if nothing is chosen."""

SECTIONS = ("tune", "space", "curve", "xray", "pixels", "landscape", "sweep", "gpu")  # likewise, but never null

REFUSED = {
    "fast_dev_run": "use trainer=debug",
    "overfit_batches": "use trainer.limit_train_batches",
    "max_steps": "use trainer.max_epochs and trainer.limit_train_batches",
    "min_steps": "use trainer.max_epochs",
    "val_check_interval": "use trainer.check_val_every_n_epoch",
    "callbacks": "use callbacks.NAME",
    "logger": "use logger=NAME",
    "default_root_dir": "use hydra.run.dir",
}
_UNSUPPORTED = "enable_checkpointing enable_progress_bar enable_model_summary num_sanity_val_steps model_registry"
_UNSUPPORTED += " barebones reload_dataloaders_every_n_epochs use_distributed_sampler plugins limit_predict_batches"
REFUSED |= dict.fromkeys(_UNSUPPORTED.split(), "leave it out")
"""Options of Lightning's Trainer that conflict with resuming or comparing runs, and what to do instead."""

REFUSED_CALLBACKS = {
    "StochasticWeightAveraging": "the best checkpoint is measured, not the average at the end",
    "WeightAveraging": "use callbacks=ema",
    "EMAWeightAveraging": "use callbacks=ema",
    "BackboneFinetuning": "leave it out: the models have no attribute backbone",
    "LearningRateFinder": "use tune.lr=[...]",
    "BatchSizeFinder": "set batch_size=N, the same value for all compared runs",
    "ModelPruning": "leave it out",
    "SpikeDetection": "leave it out: Lightning cannot resume it",
    "TQDMProgressBar": "leave it out: a progress bar is always shown on a terminal",
    "RichProgressBar": "leave it out: a progress bar is always shown on a terminal",
}
"""Lightning callbacks whose effect would be lost or would make runs incomparable, and what to do instead."""


def better(metric: str, mode: str = "auto") -> str:
    """Return "max" or "min", whichever is better for a metric; a `mode` other than auto is returned unchanged."""
    if mode != "auto":
        return mode
    return "min" if str(metric).rpartition("/")[2] in LOWER_IS_BETTER else "max"


def domain_of(path: str) -> Domain | None:
    """Return the domain of an option, by its dotted name; None if it has no numeric domain."""
    for pattern, domain in DOMAINS.items():
        if fnmatchcase(path, pattern.replace("[", "[[]")):  # a literal bracket, not a character set
            return domain
    return None


def outside(config: Any) -> Iterator[str]:
    """Yield one sentence for each value of a plain configuration that lies outside its domain."""
    wrong = [name for name in GROUPS if not isinstance(config.get(name), dict | None)]
    wrong += [name for name in SECTIONS if not isinstance(config.get(name, {}), dict)]
    if wrong:
        yield from (f"{name}: expected {name}.OPTION=VALUE, got {name}={_spell(config[name])}" for name in wrong)
        return
    yield from _refused(config)
    yield from _contradictions(config)
    for path, value in leaves(config):
        domain = domain_of(path)
        if (path, value) == ("threshold", "tuned") and "run" in config:
            continue  # a command on trained runs reads their thresholds
        if domain and not domain.holds(value):
            yield f"{path}: expected {domain}, got {_spell(value)}"
        elif not domain and isinstance(value, int | float) and not abs(value) <= 1e12:  # also true for nan
            yield f"{path}: expected a finite number, got {_spell(value)}"  # 1e30 is finite but meaningless
        elif isinstance(value, str) and re.search(r"://[^/\s]*:[^/\s]*@", value):
            remedy = "set the environment variable of the program that reads it"
            yield f"{path}: expected an address without a password, since run.json keeps it, got one; {remedy}"
        elif path.endswith("_pattern") and isinstance(value, str) and (fault := _pattern_fault(value)):
            yield f"{path}: expected a valid regular expression, got {value} ({fault})"
        elif path in CHOICES and not any(value == choice and type(value) is type(choice) for choice in CHOICES[path]):
            yield f"{path}: expected {' or '.join(map(_spell, CHOICES[path]))}, got {_spell(value)}"
        elif path in KINDS and not isinstance(value, KINDS[path][0]):
            yield f"{path}: expected {KINDS[path][1]}, got {_spell(value)}"
        elif path in NOT_EMPTY and value in ("", [], {}):
            yield f"{path}: expected a value, got {value!r}"


def _refused(config: Any) -> Iterator[str]:
    """Yield one sentence for each option or callback of Lightning that seglab does not support."""
    trainer = config.get("trainer") or {}
    for name in (name for name in REFUSED if name in trainer):
        expected = "a Trainer option that seglab supports"
        yield f"trainer.{name}: expected {expected}, got an unsupported one; {REFUSED[name]}"
    for path, node in _callbacks(config):
        name = str(node.get("_target_")).rpartition(".")[2]
        if name in REFUSED_CALLBACKS:
            remedy = REFUSED_CALLBACKS[name]
            yield f"{path}: expected a callback that is compatible with seglab, got {name}; {remedy}"
        if name == "ModelCheckpoint" and Path(node.get("dirpath") or "checkpoints").name == "checkpoints":
            remedy = f"set {path}.dirpath='${{folder}}/mine'"  # best.ckpt and last.ckpt would be overwritten
            yield f"{path}.dirpath: expected another folder than the run's checkpoints, got none; {remedy}"


def _contradictions(config: Any) -> Iterator[str]:
    """Yield one sentence for each combination of valid options that contradict each other."""
    trainer: Any = config.get("trainer") or {}
    monitor = config.get("monitor")
    every, epochs = trainer.get("check_val_every_n_epoch"), trainer.get("max_epochs")
    for name in ("check_val_every_n_epoch", "min_epochs"):
        count = trainer.get(name)
        if COUNT.holds(count) and COUNT.holds(epochs) and epochs < count:
            yield f"trainer.{name}: expected at most trainer.max_epochs={epochs}, got {count}"
    tune = config.get("tune") or {}
    rates = tune.get("lr")
    for name, count in {"stop_after": config.get("stop_after"), "tune.epochs": rates and tune.get("epochs")}.items():
        if COUNT.holds(count) and COUNT.holds(every) and count < every:
            yield f"{name}: expected at least trainer.check_val_every_n_epoch={every}, got {count}"
    if rates and COUNT.holds(trainer.get("num_nodes", 1)) and (count := processes(trainer)) != 1:
        remedy = "tune with trainer.devices=1, then set optimizer.lr"  # a diverging rate ends all processes
        yield f"tune.lr: expected a run of one process, got {count}; {remedy}"
    data = config.get("dataset") or {}
    if trainer and data.get("split_file") and data.get("folds", 1) != 1:  # a report assumes that folds differ
        yield f"dataset.folds: expected 1 with dataset.split_file, which defines one split, got {data['folds']}"
    strategy = str(trainer.get("strategy"))
    if re.search("spawn|fork|notebook", strategy):
        yield f"trainer.strategy: expected one whose processes also evaluate, got {strategy}; set trainer.strategy=ddp"
    for name in ("train", "val", "test"):
        limit = trainer.get(f"limit_{name}_batches")
        if isinstance(limit, float) and 1 < limit < HUGE:  # Lightning takes a float as a fraction
            yield f"trainer.limit_{name}_batches: expected a fraction of at most 1 or a whole number, got {limit}"
    modes = [("monitor_mode", monitor, config.get("monitor_mode"))]
    nodes = [("scheduler", {"monitor": monitor, **(config.get("scheduler") or {})}), *_callbacks(config)]
    nodes = [(path, node) for path, node in nodes if str(node.get("_target_")).endswith(COMPARING)]
    modes += [(f"{path}.mode", node.get("monitor"), node.get("mode", "min")) for path, node in nodes]
    for path, metric, mode in modes:
        if isinstance(metric, str) and mode not in (None, "auto", better(metric)):
            best = "lower loss" if better(metric) == "min" else "higher value of every metric but a loss"
            remedy = f"set {path}={better(metric)}"
            yield f"{path}: expected {better(metric)}, since a {best} is better, got {mode}; {remedy}"
    for path, node in _callbacks(config):
        if node.get("check_on_train_epoch_end") and COUNT.holds(every) and every > 1:
            yield f"{path}.check_on_train_epoch_end: expected false, since not every epoch is validated, got true"
    monitors = {"monitor": monitor, **{f"{path}.monitor": node.get("monitor") for path, node in _callbacks(config)}}
    for path, metric in monitors.items():
        if str(metric).startswith("train/") and COUNT.holds(every) and every > 1:
            # Lightning reads the monitor after validation, before the training metrics of the epoch are logged
            yield f"{path}: expected a validation metric with trainer.check_val_every_n_epoch={every}, got {metric}"


def _callbacks(config: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return the dotted name and the configuration of each callback."""
    callbacks = config.get("callbacks") or {}
    return [(f"callbacks.{name}", node) for name, node in callbacks.items() if isinstance(node, dict)]


def _pattern_fault(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        return str(error)
    return ""


def _spell(value: Any) -> str:
    text = {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))
    return text if len(text) <= 80 else f"{text[:77]}..."


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and value of every node of a nested configuration; list items are named `name[0]`.

    Lists and dicts are yielded too, outermost first, since they may stand where a number is expected.
    """
    yield path, node
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from leaves(value, f"{path}[{index}]")
