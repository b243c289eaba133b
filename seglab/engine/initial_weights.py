"""The weights that a model starts from instead of chance: those of an earlier run, or of a file."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from torch import nn

from seglab.contract import require
from seglab.engine.trained_run import open_run
from seglab.files import read_weights, sha256

PREFIXES = ("", "model.", "module.", "net.")
"""What trainers put before a model's own names; that under which most of the weights fit is taken off."""


def start_from(model: nn.Module, source: str, include: Sequence[str] | None = None) -> dict[str, Any]:
    """Load weights into a model, draw no random number, and give what was and was not loaded as plain data.

    Args:
        model: the model, freshly built.
        source: the folder of a run, whose best checkpoint is meant, or a file of torch.save or safetensors.
        include: shell patterns of the model's own names (`down.0.*`), which may begin after any dot of them
            (`encoder.*`); None loads everything that fits.

    Weights keep their first values where the file lacks them (`missing`) or has another shape (`reshaped`);
    `unexpected` are the file's that the model lacks. Raises a ContractError where nothing fits.
    """
    file = file_of(source)
    own, theirs = model.state_dict(), read_weights(file, "init_from")
    prefix = max(PREFIXES, key=lambda start: sum(start + name in theirs for name in own))
    theirs = {name.removeprefix(prefix): value for name, value in theirs.items() if name.startswith(prefix)}
    patterns = ["*"] if include is None else [include] if isinstance(include, str) else list(include)
    for pattern in patterns:
        some = f"a pattern of names such as {', '.join(list(own)[:3])}"
        require(any(matches(name, [pattern]) for name in own), "init_include", some, pattern)
    wanted = {name: value for name, value in own.items() if matches(name, patterns)}
    both = [name for name in wanted if name in theirs]
    loaded = {name: theirs[name] for name in both if theirs[name].shape == own[name].shape}
    names = f"{len(theirs)} others such as {', '.join(list(theirs)[:3])}"
    any_fits = any(value.dim() for value in loaded.values())  # a BatchNorm's count of batches fits everywhere
    require(any_fits, f"init_from {file}", f"weights that fit, such as {', '.join(list(wanted)[:3])}", names)
    model.load_state_dict(loaded, strict=False)
    return {
        "file": str(file),
        "sha256": sha256(file),
        "weights": len(own),
        "loaded": len(loaded),
        "left_out": len(own) - len(wanted),
        "missing": [name for name in wanted if name not in theirs],
        "reshaped": {name: [list(theirs[name].shape), list(own[name].shape)] for name in both if name not in loaded},
        "unexpected": [name for name in theirs if name not in own and matches(name, patterns)],
    }


def file_of(source: str) -> Path:
    """Find the file that a source means."""
    place = Path(source)
    require(place.exists(), "init_from", "the folder of a run, or a .ckpt or .safetensors file", source)
    return open_run(place).best if place.is_dir() else place


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name, from its start or from one of its dots on, matches one of the patterns."""
    return any(fnmatchcase(f".{name}", f"*.{pattern}") for pattern in patterns)


def unchanged(facts: dict[str, Any] | None) -> bool:
    """Whether the file that a run once started from holds the same weights still, or is there no more."""
    return facts is None or not Path(facts["file"]).exists() or sha256(Path(facts["file"])) == facts["sha256"]


def told(facts: dict[str, Any]) -> str:
    """Say in one line what was loaded and what was not; the first few names of each kind."""
    parts = [f"{facts['loaded']} of {facts['weights']} weights from {facts['file']}"]
    if facts["left_out"]:
        parts.append(f"{facts['left_out']} not in init_include")
    shapes = [f"{name} ({cross(there)} there, {cross(here)} here)" for name, (there, here) in facts["reshaped"].items()]
    kinds = {"missing there": facts["missing"], "of another shape": shapes, "not the model's": facts["unexpected"]}
    parts += [f"{len(names)} {kind}: {shortened(names)}" for kind, names in kinds.items() if names]
    return "; ".join(parts)


def cross(shape: Sequence[int]) -> str:
    """Write a shape as 16x3x3x3."""
    return "x".join(map(str, shape)) or "a number"


def shortened(names: Sequence[str], most: int = 5) -> str:
    """List the first few names."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
