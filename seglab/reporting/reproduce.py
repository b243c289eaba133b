"""The commands that made the runs, put together from what Hydra wrote down beside each of them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from itertools import product
from pathlib import Path

COMMAND = "python -m seglab.train"


def commands(folders: Iterable[Path]) -> list[str]:
    """One sweep command if the runs are a full grid of their overrides, otherwise a command for each run.

    Runs whose overrides are not on record are left out.
    """
    runs = [overrides for folder in folders if (overrides := _overrides(folder)) is not None]
    keys = dict.fromkeys(key for run in runs for key in run)
    values = {key: dict.fromkeys(run[key] for run in runs if key in run) for key in keys}
    made = {tuple(run.get(key) for key in keys) for run in runs}
    if len(runs) > 1 and made == set(product(*values.values())):
        return [" ".join([f"{COMMAND} -m", *(shlex.quote(f"{key}={','.join(values[key])}") for key in keys)])]
    return [" ".join([COMMAND, *(shlex.quote(f"{key}={value}") for key, value in run.items())]) for run in runs]


def _overrides(folder: Path) -> dict[str, str] | None:
    """The overrides of one run by key, from the list in .hydra/overrides.yaml."""
    try:
        lines = (folder / ".hydra" / "overrides.yaml").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    words = [line[2:].strip().strip("'\"") for line in lines if line.startswith("- ")]
    return dict(word.split("=", 1) for word in words if "=" in word)
