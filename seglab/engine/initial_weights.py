"""Initial weights of a model from an earlier run or a file (`init_from`)."""

import logging
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from torch import nn

from seglab.contract import Task, require
from seglab.engine.config import to_container
from seglab.engine.run import Run
from seglab.engine.trained_run import open_run
from seglab.files import read_weights, sha256

log = logging.getLogger(__name__)

PREFIXES = ("", "model.", "module.", "net.")
"""Prefixes that trainers add to a model's parameter names; the one with which most names match is removed."""


def initialize(cfg: Any, model: nn.Module, task: Task, run: Run) -> None:
    """Load the initial weights that a configuration requests, if any; a run that resumes has its own."""
    require(cfg.init_from or not cfg.init_include, "init_include", "init_from=RUN with it", "none")
    if cfg.init_from and run.last:
        run.note(initial=run.earlier.get("initial"))  # the file may have changed since
    elif cfg.init_from:
        facts = start_from(model, cfg.init_from, to_container(cfg.init_include), task)
        run.note(initial=facts)
        rest = f"; others, such as {', '.join(facts['left'][:5])}, keep their initial values" if facts["left"] else ""
        log.info("init_from: loaded %d of %d weights from %s%s", facts["loaded"], facts["weights"], facts["file"], rest)


def start_from(
    model: nn.Module, source: str, include: Sequence[str] | None = None, task: Task | None = None
) -> dict[str, Any]:
    """Load weights into a model; return as plain data how many were loaded and which were not. Draws no random numbers.

    Args:
        model: the newly built model.
        source: the folder of a run, whose best checkpoint is used, or a file of torch.save or safetensors.
        include: shell patterns of the model's parameter names (`down.0.*`), which may match after any dot of a name
            (`encoder.*`); None loads every weight of the same name and shape.
        task: the model's task; a run of another task is refused unless `include` selects the weights to share.

    Other weights keep their initial values (`left`). Raises a ContractError if nothing fits or most shapes differ.
    """
    file = Path(str(source))  # a yaml parses 2024 as a number
    require(file.exists(), "init_from", "the folder of a run, or a .ckpt or .safetensors file", source)
    if file.is_dir():
        run = open_run(file)
        if task and not include:
            run.require_task(task, "set init_include=[...] to load the weights they share, such as an encoder")
        file = run.best
    weights, saved = model.state_dict(), read_weights(file, "init_from")
    prefix = max(PREFIXES, key=lambda start: sum(start + name in saved for name in weights))  # the first of equals
    saved = {name.removeprefix(prefix): value for name, value in saved.items() if name.startswith(prefix)}
    patterns = [include] if isinstance(include, str) else list(include or "*")
    expected = f"a pattern of names such as {', '.join(list(weights)[:3])}"
    for pattern in patterns:
        require(any(matches(name, [pattern]) for name in weights), "init_include", expected, pattern)
    selected = [name for name in weights if matches(name, patterns)]
    loaded = {name: saved[name] for name in selected if name in saved and saved[name].shape == weights[name].shape}
    others = f"{len(saved)} others, such as {', '.join(list(saved)[:3])}"
    fits = [name for name, value in loaded.items() if value.dim()]  # a BatchNorm's num_batches_tracked always fits
    differ = [name for name in selected if name in saved and name not in loaded]
    if len(differ) > len(fits):  # a model of another width, not just with another head
        name, remedy = differ[0], "set the options of model to those of the trained model"
        got = f"others, such as {tuple(saved[name].shape)} instead of {tuple(weights[name].shape)} for {name}"
        require(False, f"init_from {file}", "the shapes of this model's weights", got, remedy)
    require(bool(fits), f"init_from {file}", f"weights that fit, such as {', '.join(selected[:3])}", others)
    model.load_state_dict(loaded, strict=False)
    left = [name for name in weights if name not in loaded]
    return {"file": str(file), "sha256": sha256(file), "weights": len(weights), "loaded": len(loaded), "left": left}


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name, from its start or from any of its dots, matches one of the patterns."""
    return any(fnmatchcase(f".{name}", f"*.{pattern}") for pattern in patterns)
