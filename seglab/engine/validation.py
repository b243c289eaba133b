"""Validation of the `_target_` nodes of a configuration: signatures, trusted classes, user-defined losses."""

import dataclasses
import inspect
import json
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pkgutil import resolve_name
from typing import Any, Union

from seglab.contract import require
from seglab.engine.domains import leaves

EXTERNAL = "seglab.losses.external.External"
TRUSTED: tuple[str, ...] = ("seglab.losses.", "seglab.models.", "seglab.data.", "torch.nn.", "torch.optim.")
TRUSTED += ("segmentation_models_pytorch.", "albumentations.", "monai.losses.", "kornia.losses.")
"""Packages whose classes may be built; their functions, and classes that they import from elsewhere, may not."""

UNTRUSTED = ("monai.losses.perceptual.",)
"""Modules in these packages whose classes run code from a folder that their arguments name (torch.hub)."""


def faults(config: Any) -> Iterator[str]:
    """Yield one sentence for each value of a plain configuration that its target would not accept."""
    for path, node in leaves(config):
        if isinstance(node, dict) and "_target_" in node:
            yield from _faults_of(path, node)


def _faults_of(path: str, node: dict) -> Iterator[str]:
    partial = node.get("_partial_", False)
    if not isinstance(partial, bool):
        yield f"{path}._partial_: expected true or false, got {partial}"
    try:
        target = resolve_name(node["_target_"])
    except Exception as error:
        name = str(node["_target_"])
        of_a_cell = name.partition(".")[0] in ("__main__", name)  # defined in a notebook or a script
        remedy = "; write it to a file MODULE.py and set MODULE.NAME" if of_a_cell else ""
        yield f"{path}._target_: expected a name that can be imported, got {name} ({error}){remedy}"
        return
    if not callable(target):
        yield f"{path}._target_: expected a class or a function, got {node['_target_']}"
        return
    try:
        parameters = dict(inspect.signature(target).parameters)
    except ValueError:  # some classes written in C have none
        return
    values = {key: value for key, value in node.items() if not (key.startswith("_") and key.endswith("_"))}  # Hydra's
    name = node["_target_"].rpartition(".")[2]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for key in sorted(values.keys() - parameters.keys()):
            yield f"{path}.{key}: expected one of {', '.join(parameters)}, got a parameter that {name} does not have"
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [key for key, p in parameters.items() if p.default is p.empty and p.kind not in variadic]
    missing = [key for key in required if key not in values]
    if missing and not node.get("_partial_") and not node.get("_args_"):
        remedy = "" if inspect.isclass(target) else f"; +{path}._partial_=true passes on the function itself"
        yield f"{path}: expected a value for {' and '.join(missing)}, which {name} requires, got none{remedy}"
    for key, hint in _hints(target).items():
        if key in values and not _fits(values[key], hint):
            yield f"{path}.{key}: expected {_spell(hint)}, got {repr(values[key])[:80]}"


def _hints(target: Any) -> dict[str, Any]:
    """Return the parameter types of a class or function; an empty dict if they cannot be resolved."""
    # Dataclass fields are resolved in the module of each base class, its __init__ only in that of one
    plain = inspect.isclass(target) and not dataclasses.is_dataclass(target)
    try:
        hints = typing.get_type_hints(target.__init__ if plain else target)
    except Exception:
        return {}
    return {key: hint for key, hint in hints.items() if key != "return"}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a yaml value has the type; checked via JSON, so that a list fits a tuple but "3" does not fit an int."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError
    from pydantic.errors import PydanticUserError

    if any(isinstance(node, dict) and "_target_" in node for _, node in leaves(value)):
        return True  # Hydra builds an object from it, whose own node is checked
    try:
        adapter: TypeAdapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:  # pydantic does not accept a configuration for a dataclass
        adapter = TypeAdapter(hint)
    try:
        adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        return all(fault["type"] == "is_instance_of" for fault in error.errors())  # left to the class itself
    except Exception:
        return True  # a type that JSON cannot represent
    return True


WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a string", type(None): "null"}


def _spell(hint: Any) -> str:
    """Describe a type in words: `int | None` is "a whole number or null"."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_spell, inner)))
    if hint in WORDS:
        return WORDS[hint]
    if origin is Callable:
        return "a callable, written {_target_: NAME}"
    if origin is typing.Literal:
        return " or ".join(map(str, inner))
    if origin in (Sequence, list):
        return "a list"
    if origin is tuple:
        return "a list" if ... in inner else f"a list of {len(inner)} item{'s' * (len(inner) > 1)}"
    if origin in (Mapping, dict):
        return "a mapping"
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def require_trusted(config: Any, who: str, trust: Sequence[str] = ()) -> None:
    """Raise a ContractError unless every `_target_` of a plain configuration is a class of a trusted package.

    The run.json of another person must not be able to execute arbitrary code.

    Args:
        config: plain data, as in run.json.
        who: the name of the run in the error.
        trust: further modules that the user trusts; their functions may be called too.
    """
    unknown = dict[str, str]()  # targets and their modules
    for path, value in leaves(config):
        if "_target_" in path:
            target = str(value)
            if not any(f"{target}.".startswith(f"{module}.") for module in trust) and not _is_trusted(target):
                unknown[target] = target.rpartition(".")[0]
        if isinstance(value, str):  # interpolations are resolved after this check, when the node is built
            require("${" not in value, who, "a configuration without interpolations", value, "train the run again")
    remedy = f"if you trust the run, add trust=[{','.join(dict.fromkeys([*trust, *unknown.values()]))}]"
    require(not unknown, who, "classes of trusted packages", ", ".join(unknown), remedy)


def _is_trusted(target: str) -> bool:
    if not target.startswith(TRUSTED):
        return False
    try:
        resolved = resolve_name(target)
    except Exception:  # importing an untrusted name may raise anything
        return False
    module = f"{getattr(resolved, '__module__', None)}."
    return inspect.isclass(resolved) and module.startswith(TRUSTED) and not module.startswith(UNTRUSTED)


def as_loss(node: Any) -> Any:
    """Return a loss node (plain data) in which every target that is not a seglab loss is wrapped in `External`.

    A class is built with the values of its node. A function that needs further arguments (the prediction and target)
    is passed on with these values bound; one that needs none is called and returns the loss. Values of the node that
    are meant for `External`, such as `takes: probabilities` or a title, go to the wrapper.
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
        parameters = inspect.signature(target).parameters
    except Exception:  # importing a user's module may raise anything; `faults` reports it
        return node
    if inspect.isclass(target) and issubclass(target, Loss):
        return node
    options = {field.name for field in dataclasses.fields(External)} - {"function", "task", *parameters}
    inner = {key: value for key, value in node.items() if key not in options}
    return {"_target_": EXTERNAL, "function": handed_over(inner), **{key: node[key] for key in options & node.keys()}}


def handed_over(node: Any) -> Any:
    """Return a function's node; `_partial_` is set if parameters are missing, so that it is passed on, not called."""
    try:
        target = resolve_name(node["_target_"])
        inspect.signature(target).bind(**{key: value for key, value in node.items() if key[0] != "_"})
    except TypeError:
        return node if inspect.isclass(target) else {**node, "_partial_": True}
    except Exception:
        return node
    return node
