"""Losses of the user's own: a yaml may name any function or nn.Module, which `loss=external` then wraps."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields
from pkgutil import resolve_name
from typing import Any

EXTERNAL = "seglab.losses.external.External"


def as_loss(node: Any) -> Any:
    """The node of a loss, plain data, in which whatever is not a loss of seglab's kind is wrapped in one.

    A class is built with the values of its node. A function that needs more than these (the prediction and the target)
    is handed over with them; one that needs nothing more is called and gives the loss. What the node says besides for
    `External`, such as `takes: probabilities` or a title, goes to the wrapper.
    """
    if not isinstance(node, Mapping):
        return node
    name = str(node.get("_target_", ""))
    if name == EXTERNAL:
        return {**node, "function": handed_over(node.get("function"))}
    if not name or name.startswith("seglab."):
        return {key: as_loss(value) for key, value in node.items()}

    from seglab.losses.base import Loss
    from seglab.losses.external import External

    try:
        target = resolve_name(name)
        known = inspect.signature(target).parameters
    except Exception:  # whatever the import of somebody's module raises; validation.py says it in a sentence
        return node
    if inspect.isclass(target) and issubclass(target, Loss):
        return node
    options = {field.name for field in fields(External)} - {"function", "task", *known}
    inner = {key: value for key, value in node.items() if key not in options}
    return {"_target_": EXTERNAL, "function": handed_over(inner), **{key: node[key] for key in options & node.keys()}}


def handed_over(node: Any) -> Any:
    """The node of a function, to be handed over instead of called where it lacks parameters."""
    try:
        target = resolve_name(node["_target_"])
        inspect.signature(target).bind(**{key: value for key, value in node.items() if key[0] != "_"})
    except TypeError:
        return node if inspect.isclass(target) else {**node, "_partial_": True}
    except Exception:
        return node
    return node
