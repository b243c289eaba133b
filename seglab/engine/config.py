"""Configuration: where it is stored, which objects it describes, and which of its values define the experiment.

Apart from the commands, only this file, cli.py and override_errors.py import Hydra. This file does not import torch.
"""

import hashlib
import inspect
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import CompactHydraException, InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from seglab.contract import NOT_IN_IDENTITY, ContractError, Task, processes, require
from seglab.engine.domains import better, leaves, outside
from seglab.engine.override_errors import nearest
from seglab.engine.validation import as_loss, faults
from seglab.files import stays_inside

PACKAGE = Path(__file__).resolve().parents[1]
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
"""The configuration folder: inside the package when installed from a wheel, next to it in a checkout."""

SWEPT = "SEGLAB_SWEPT_ROOT"
"""The environment variable that is set for the jobs of a sweep over several values of dataset.root."""

NO_COMMAND = OmegaConf.create("{runtime: {choices: {}, config_sources: []}, overrides: {hydra: [], task: []}}")


class ConfigError(CompactHydraException, ContractError):
    """An error of one sentence for the user: Hydra prints no traceback and exits with 1; a sweep continues."""


def to_container(cfg: Any) -> Any:
    """Return the configuration as resolved plain dicts, lists and scalars; raise ConfigError if a value is missing."""
    missing = sorted(OmegaConf.missing_keys(cfg)) if OmegaConf.is_config(cfg) else []
    if missing:
        raise ConfigError("; ".join(f"{key}: expected a value, got none; set {key}=..." for key in missing))
    return OmegaConf.to_container(cfg, resolve=True) if OmegaConf.is_config(cfg) else cfg


def build(node: Any, **more: Any) -> Any:
    """Build the object of a `_target_` node; a node without a target returns its built children, an empty one None."""
    if not node:
        return None
    try:
        return hydra.utils.instantiate(node, _convert_="all", **more)  # objects get plain lists and dicts
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, ContractError):
            raise ConfigError(str(cause)) from None
        place = str(error).rpartition("full_key: ")[2] + ": " if "full_key: " in str(error) else ""
        message = one_line(cause or error)  # the message of the class, without Hydra's words around it
        remedy = "; install it, or add its folder to sys.path (--config-dir)" if "No module named" in message else ""
        raise ConfigError(place + message + remedy) from cause


def model_node(node: dict[str, Any], task: Task) -> dict[str, Any]:
    """Set a model node's `out_channels` to the number of classes if above 1; an external model sets its own."""
    if node["_target_"] == "seglab.models.external.External" or task.channels == 1:
        return node
    parameters = inspect.signature(hydra.utils.get_object(node["_target_"])).parameters
    accepted = "out_channels" in parameters or any(p.kind == p.VAR_KEYWORD for p in parameters.values())
    require(accepted, "model", f"a parameter out_channels for {task.channels} classes", f"none in {node['_target_']}")
    return {**node, "out_channels": task.channels}


def without_download(node: dict[str, Any]) -> dict[str, Any]:
    """Return a model node without `encoder_weights`, which would be downloaded from a hub that may be unreachable."""
    return {key: None if key == "encoder_weights" else value for key, value in node.items()}


def build_loss(node: Any) -> Any:
    """Build the loss that a node describes, one of seglab's or a third-party function or module."""
    from seglab.losses.base import Loss

    loss = build(as_loss(to_container(node)))
    require(isinstance(loss, Loss), "loss", "a loss, a function or an nn.Module", type(loss).__name__)
    return loss


def build_parts(group: str, node: Any, kind: type) -> list[Any]:
    """Build what a group lists, one object or several by name; raise ContractError unless all are of type `kind`."""
    built = build(node)
    parts = built if isinstance(built, dict) else {"": built}
    for name, part in parts.items():
        remedy = "write {_target_: pytorch_lightning....}"
        fits = part is None or isinstance(part, kind)
        require(fits, f"{group}.{name}".rstrip("."), f"a Lightning {kind.__name__}", part, remedy)
    return [part for part in parts.values() if part is not None]


def one_line(error: BaseException) -> str:
    """Return an error's message in one line; pydantic, which validates albumentations' options, writes four lines."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
    if "validation error" in lines[0] and len(lines) > 2:
        return f"{lines[1]}: {lines[2].partition(' [')[0]}"
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


def hydra_facts() -> Any:
    """Return Hydra's configuration of the current job; an empty one if composed outside a command."""
    return HydraConfig.get() if HydraConfig.initialized() else NO_COMMAND


def choices() -> dict[str, str]:
    """Return the name of the choice in each configuration group (loss, dataset, model, ...)."""
    by_group = hydra_facts().runtime.choices
    return {group: str(name) for group, name in by_group.items() if not group.startswith("hydra/")}


def overrides() -> list[str]:
    """Return the command-line overrides of this run, without `plan` and `rerun`."""
    node: Any = OmegaConf.to_container(hydra_facts().overrides)  # unresolved: ${.lr} would refer to this list
    searchpath = [word for word in node["hydra"] if word.startswith("hydra.searchpath=")]  # needed to find the choices
    return searchpath + [word for word in node["task"] if word.split("=")[0] not in ("plan", "rerun")]


def facts_of(cfg: DictConfig) -> dict[str, Any]:
    """Return what run.json records of a configuration."""
    folders = [source.path for source in hydra_facts().runtime.config_sources if source.provider == "command-line"]
    words = [*(f"--config-dir={os.path.relpath(folder)}" for folder in folders), *overrides()]
    facts = {"identity": identity(cfg), "choices": choices(), "overrides": words, "seed": cfg.seed}
    return facts | {"config": to_container(cfg)}


def overridden(group: str) -> set[str]:
    """Return the names of a group's options set on the command line: `dataset.size=512` gives `size`."""
    keys = [word.lstrip("+~").split("=")[0].split(".") for word in overrides()]
    return {key[1] for key in keys if key[0] == group and len(key) > 1}


def check_domains(cfg: DictConfig) -> None:
    """Raise a ConfigError with one sentence for each option outside its domain."""
    _raise_if_any(list(outside(to_container(cfg))), cfg)


def check_root(cfg: DictConfig) -> None:
    """Raise a ContractError if the dataset's folder does not exist, before any slow import."""
    root = cfg.dataset.get("root")
    exists = not isinstance(root, str) or Path(os.path.expanduser(root)).is_dir()
    require(exists, "dataset.root", "an existing folder", root)


def check(cfg: DictConfig) -> None:
    """Check every option against its domain, and every `_target_` node against the signature of its target."""
    config = {key: as_loss(value) if key == "loss" else value for key, value in to_container(cfg).items()}
    sentences = list(outside(config))
    named = {sentence.partition(":")[0] for sentence in sentences}  # such an option may also have the wrong type
    sentences += [sentence for sentence in faults(config) if sentence.partition(":")[0] not in named]
    _raise_if_any(sentences, cfg)


def _raise_if_any(sentences: list[str], cfg: DictConfig) -> None:
    """Raise one error with all sentences, but without options interpolated (`${...}`) from another reported option."""
    written = dict(leaves(OmegaConf.to_container(cfg)))
    named = {f"${{{sentence.partition(':')[0]}}}" for sentence in sentences}
    if sentences := [line for line in sentences if str(written.get(line.partition(":")[0])) not in named]:
        lines = [sentence.replace("\n", "\\n") for sentence in sentences]  # a value may contain a line break
        raise ConfigError("\n".join(lines))


def mark_swept(words: Sequence[str]) -> None:
    """Make `dataset.root` part of the experiment's identity if a sweep covers several: `-m dataset.root=A,B`."""
    roots = [word for word in words if word.lstrip("+").startswith("dataset.root=")]
    with suppress(CompactHydraException):  # the sweep itself reports a wrong word
        if any(override.is_sweep_override() for override in OverridesParser.create().parse_overrides(roots)):
            os.environ[SWEPT] = "1"  # else the runs of a loss on A and on B would share a folder


def experiment(cfg: DictConfig) -> dict[str, Any]:
    """Return the resolved values that define the experiment, without paths, device, workers and logging."""

    def keep(value: Any, path: str) -> Any:
        if isinstance(value, list):
            return [keep(item, path) for item in value]
        if not isinstance(value, dict):
            whole = isinstance(value, float) and value.is_integer() and path.startswith(("loss.", "optimizer."))
            return int(value) if whole else value  # gamma=2 is gamma=2.0; in the trainer 1 is one batch, 1.0 all
        mixed = len({isinstance(key, str) for key in value}) > 1  # such keys cannot be sorted for the identity
        require(not mixed, path, "keys that are all strings or all numbers", ", ".join(map(str, value)), "use strings")
        paths = {key: (f"{path}.{key}" if path else key) for key in value}
        return {key: keep(value[key], name) for key, name in paths.items() if name not in excluded}

    excluded = NOT_IN_IDENTITY - ({"dataset.root"} if SWEPT in os.environ else set())
    # Values interpolated from the folder do not count either, nor does monitor_mode, which follows from the monitor
    values = keep(OmegaConf.to_container(cfg), "") | {"folder": "", "monitor_mode": "auto"}
    resolved: Any = OmegaConf.to_container(OmegaConf.create(values), resolve=True)
    count = processes(to_container(cfg.get("trainer") or {}))
    return resolved if count == 1 else resolved | {"processes": count}


def identity(cfg: DictConfig) -> str:
    """Return six hex digits that two runs share if and only if they are the same experiment."""
    return _digest(experiment(cfg))


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:6]


def run_name(root: DictConfig) -> str:
    """Return a run's name, `focal_gamma-3_unet_fundus_s1-3fa9c2`: choices, changed loss values, seed, fold, digest."""
    choices = root.hydra.runtime.choices
    values = experiment(root)
    file = _file_of_choice("loss", choices.loss, root.hydra.runtime.config_sources)
    default: Any = OmegaConf.to_container(OmegaConf.load(file)) if file else {}
    scalars = {key: value for key, value in values["loss"].items() if not isinstance(value, dict | list)}
    changed = [f"{key}-{value}" for key, value in scalars.items() if default.get(key) != value]
    changed += [f"to-{value}" for path, value in leaves(values["schedule"]) if path.endswith(".to")]
    words = [choices.loss, *changed, choices.model, choices.dataset, f"s{root.seed}"]
    words += [f"fold{root.dataset.fold}"] if root.dataset.get("folds", 1) != 1 else []
    safe = "".join(c if c.isalnum() or c in "._-+" else "-" for c in "_".join(map(str, words)))
    return f"{safe[:80]}-{_digest(values)}"  # file systems allow 255 bytes


def _file_of_choice(group: str, name: str, sources: Any) -> Path | None:
    """Return the yaml file of a choice, in our configuration or the user's (`--config-dir`); None if there is none."""
    files = (Path(source.path, group, f"{name}.yaml") for source in sources if source.schema == "file")
    return next(filter(Path.exists, files), None)


def build_choices(group: str, words: Any) -> dict[str, Any]:
    """Build losses from a list such as `[bce, {focal: {gamma: 3}}]`; return them by label: name and overrides."""
    losses = {}
    listed = [words] if isinstance(words, str) else to_container(words)
    require(isinstance(listed, list | tuple), group, "a list of names", words)
    for word in listed:
        single = not isinstance(word, dict) or len(word) == 1
        require(single, group, "a name or {NAME: {OPTION: VALUE}} as each item of the list", word)
        name, values = next(iter(word.items())) if isinstance(word, dict) else (word, {})
        node = inner(group, name)
        OmegaConf.set_struct(node, True)  # or a misspelled option would be added
        if not isinstance(values, dict):
            raise ConfigError(f"{group}.{name}: expected {{OPTION: VALUE}}, got {values}")
        try:
            node.merge_with(values)
        except OmegaConfBaseException as error:
            options = [str(key) for key in node if key != "_target_"]
            unknown = ", ".join(str(key) for key in values if key not in node)
            reason = f"expected one of {', '.join(options)}, got {unknown}" if unknown else str(error).splitlines()[0]
            raise ConfigError(f"{group}.{name}: {reason}") from None
        check(OmegaConf.create({name: as_loss(to_container(node))}))
        label = " ".join([name, *(f"{key}={value}" for key, value in values.items())])
        losses[label] = build_loss(node)
    require(bool(losses), group, "at least one name", "none")
    return losses


def inner(group: str, name: str) -> DictConfig:
    """Return the yaml of a choice for use inside another: `'loss.second=${inner:loss,dice}'`."""
    file = _file_of_choice(group, name, hydra_facts().runtime.config_sources) or CONF / group / f"{name}.yaml"
    names = [choice.stem for choice in file.parent.glob("*.yaml")]
    require(file.exists(), group, nearest(name, names, "a choice"), name)
    node = OmegaConf.load(file)
    assert isinstance(node, DictConfig)
    return node


def scale(small: Any, full: Any, *, _root_: DictConfig) -> Any:
    """Return one of two sizes of an experiment: `${scale:128,572}` is 128 with scale=small and 572 with scale=full."""
    require(_root_.scale in ("small", "full"), "scale", "small or full", _root_.scale)
    return full if _root_.scale == "full" else small


def inside(name: Any) -> str:
    """Return a study's name; raise ContractError if it leaves outputs/, as Hydra creates folders before any check."""
    fits = name not in (None, "") and stays_inside(str(name))  # study=2024 is parsed as a number
    require(fits, "study", "a folder inside outputs/", name, "set hydra.run.dir=DIR to put a run elsewhere")
    return str(name)


ConfigStore.instance().store("open", OmegaConf.create({}, flags={"struct": False}))  # accepts names that no yaml lists
OmegaConf.register_new_resolver("folder_name", lambda folder: Path(folder).name, replace=True)
OmegaConf.register_new_resolver("trial_folder", lambda stop_after: ".search" if stop_after else ".", replace=True)
OmegaConf.register_new_resolver("inside", inside, replace=True)
OmegaConf.register_new_resolver("better", better, replace=True)
OmegaConf.register_new_resolver("inner", inner, replace=True)
OmegaConf.register_new_resolver("scale", scale, replace=True)
OmegaConf.register_new_resolver("run_name", lambda *, _root_: run_name(_root_), replace=True)
OmegaConf.register_new_resolver("one_minus", lambda share: round(1 - share, 10), replace=True)
