"""What the `_target_` nodes of a configuration may be: their signatures, trusted classes, losses of the user's own."""

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
"""Packages whose classes may be built; their functions, and classes that they have imported, may not."""


def faults(config: Any) -> Iterator[str]:
    """One sentence for each value of a plain configuration that its target would not accept."""
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
        yield f"{path}._target_: expected something that can be imported, got {node['_target_']} ({error})"
        return
    if not callable(target):
        yield f"{path}._target_: expected a class or a function, got {node['_target_']}"
        return
    try:
        parameters = dict(inspect.signature(target).parameters)
    except ValueError:  # of some classes written in C
        return
    given = {key: value for key, value in node.items() if not (key.startswith("_") and key.endswith("_"))}  # Hydra's
    name = node["_target_"].rpartition(".")[2]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for key in sorted(given.keys() - parameters.keys()):
            yield f"{path}.{key}: expected one of {', '.join(parameters)}, got a name unknown to {name}"
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [key for key, p in parameters.items() if p.default is p.empty and p.kind not in several]
    missing = [key for key in required if key not in given]
    if missing and not node.get("_partial_") and not node.get("_args_"):
        itself = "" if inspect.isclass(target) else f"; +{path}._partial_=true hands the function itself over"
        yield f"{path}: expected a value of {' and '.join(missing)}, which {name} needs, got none{itself}"
    for key, hint in _hints(target).items():
        if key in given and not _fits(given[key], hint):
            yield f"{path}.{key}: expected {_spell(hint)}, got {repr(given[key])[:80]}"


def _hints(target: Any) -> dict[str, Any]:
    """The parameter types of a class or function; those that cannot be resolved are left out."""
    # The fields of a dataclass are resolved in the module of each base, its __init__ in one alone
    plain = inspect.isclass(target) and not dataclasses.is_dataclass(target)
    try:
        hints = typing.get_type_hints(target.__init__ if plain else target)
    except Exception:
        return {}
    return {key: hint for key, hint in hints.items() if key != "return"}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a yaml value has the type: through JSON, so that a list fits a tuple but "3" does not fit an int."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError
    from pydantic.errors import PydanticUserError

    if any(isinstance(node, dict) and "_target_" in node for _, node in leaves(value)):
        return True  # Hydra builds an object of it; that object's own node is checked
    try:
        adapter: TypeAdapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:  # a dataclass takes no configuration beside its own
        adapter = TypeAdapter(hint)
    try:
        adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        return all(fault["type"] == "is_instance_of" for fault in error.errors())  # left to the class
    except Exception:
        return True  # a type that JSON cannot speak of
    return True


WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}


def _spell(hint: Any) -> str:
    """A type in words: `int | None` is "a whole number or null"."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_spell, inner)))
    if hint in WORDS:
        return WORDS[hint]
    if origin is Callable:
        return "something to call, written {_target_: NAME}"
    if origin is typing.Literal:
        return " or ".join(map(str, inner))
    if origin in (Sequence, list):
        return "a list"
    if origin is tuple:
        return "a list" if ... in inner else f"a list of {len(inner)}"
    if origin in (Mapping, dict):
        return "a mapping of names"
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def require_trusted(config: Any, who: str, trust: Sequence[str] = ()) -> None:
    """Raise a ContractError unless every `_target_` of a plain configuration is a class of a trusted package.

    Other people's run.json must not run code of its choice.

    Args:
        config: plain data, as run.json holds it.
        who: names the run in the error.
        trust: further modules that the user trusts; of these functions are built too.
    """
    unknown = dict[str, str]()  # and their modules
    for path, value in leaves(config):
        if "_target_" in path:
            target = str(value)
            if not any(f"{target}.".startswith(f"{module}.") for module in trust) and not _is_trusted(target):
                unknown[target] = target.rpartition(".")[0]
        if isinstance(value, str):  # one is resolved when the node is built, after this check
            require("${" not in value, who, "a configuration without interpolations", value, "train the run again")
    remedy = f"if you trust the run, add trust=[{','.join(dict.fromkeys([*trust, *unknown.values()]))}]"
    require(not unknown, who, "classes of known packages", ", ".join(unknown), remedy)


def _is_trusted(target: str) -> bool:
    if not target.startswith(TRUSTED):
        return False
    try:
        found = resolve_name(target)
    except Exception:  # whatever importing a name that a stranger chose may raise
        return False
    return inspect.isclass(found) and f"{found.__module__}.".startswith(TRUSTED)


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
    except Exception:  # whatever the import of somebody's module raises; `faults` says it in a sentence
        return node
    if inspect.isclass(target) and issubclass(target, Loss):
        return node
    options = {field.name for field in dataclasses.fields(External)} - {"function", "task", *known}
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
