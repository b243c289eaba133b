"""The commands that made the runs, put together from the overrides that run.json holds of each of them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from itertools import product

COMMAND = "python -m seglab.train"


def commands(overrides: Iterable[list[str] | None]) -> list[str]:
    """One sweep command if runs are a full grid of their overrides, otherwise a command for each run.

    Runs without a record of their overrides are left out.
    """
    runs = [dict(word.split("=", 1) for word in words if "=" in word) for words in overrides if isinstance(words, list)]
    keys = dict.fromkeys(key for run in runs for key in run)
    values = {key: dict.fromkeys(run[key] for run in runs if key in run) for key in keys}
    made = {tuple(run.get(key) for key in keys) for run in runs}
    if len(runs) > 1 and made == set(product(*values.values())):
        return [" ".join([f"{COMMAND} -m", *(shlex.quote(f"{key}={','.join(values[key])}") for key in keys)])]
    return [" ".join([COMMAND, *(shlex.quote(f"{key}={value}") for key, value in run.items())]) for run in runs]
