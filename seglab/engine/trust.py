"""What a stored configuration may build: other people's run.json must not run code of its choice."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pkgutil import resolve_name
from typing import Any

from seglab.contract import require
from seglab.engine.domains import leaves

TRUSTED = (
    "seglab.losses",
    "seglab.models",
    "seglab.data",
    "torch.nn",
    "torch.optim",
    "segmentation_models_pytorch",
    "albumentations",
    "monai.losses",
    "kornia.losses",
)
"""Packages whose classes may be built; their functions, and classes that they have imported, may not."""


def require_trusted(config: Any, who: str, trust: Sequence[str] = ()) -> None:
    """Raise a ContractError unless every `_target_` of a plain configuration is a class of a trusted package.

    Args:
        config: plain data, as run.json holds it.
        who: names the run in the error.
        trust: further modules that the user trusts; of these functions are built too.
    """
    for path, value in leaves(config):
        if "_target_" in path:
            target = str(value)
            named = [module for module in trust if f"{target}.".startswith(f"{module}.")]
            remedy = f"if you trust the run, add trust=[{target.rpartition('.')[0]}]"
            require(bool(named) or _is_trusted(target), who, "a class of a known package", target, remedy)
        if isinstance(value, str):
            require("${" not in value, who, "a configuration without interpolations", value, "train the run again")


def _is_trusted(target: str) -> bool:
    if not f"{target}.".startswith(tuple(f"{package}." for package in TRUSTED)):
        return False
    try:
        found = resolve_name(target)
    except Exception:  # whatever importing a name that a stranger chose may raise
        return False
    return inspect.isclass(found) and f"{found.__module__}.".startswith(tuple(f"{package}." for package in TRUSTED))
