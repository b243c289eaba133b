"""Describe Hydra's errors about overrides in one sentence each, with the most similar names that exist."""

import difflib
import logging
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from seglab.contract import ContractError
from seglab.engine.domains import GROUPS, SECTIONS, leaves

log = logging.getLogger(__name__)

EXTERNAL = {"loss": "function", "model": "module"}
"""The option of a group's choice `external` that takes the user's class; newcomers try GROUP._target_ first."""


def explain(error: BaseException, command: str, conf: str, words: Sequence[str]) -> str:
    """Return one sentence for an error of composing `conf/<command>.yaml` with the overrides `words`."""
    first = first_line(error)  # messages of Hydra 1.3; those of other versions are returned unchanged
    if isinstance(error, OverrideParseException):
        remedy = "lists are written 'KEY=[A,B]', text with special characters 'KEY=\"TEXT\"'"
        return f"{error.override}: expected KEY=VALUE, got a word that cannot be parsed; {remedy}"
    if isinstance(error, MissingConfigException) and (match := re.search(r"Could not (?:find|load) '([^']+)'", first)):
        group, _, name = match[1].rpartition("/")
        if not group:  # --config-path replaces the configuration of seglab
            return f"--config-path: expected a folder with {name}.yaml, got none; use --config-dir, which adds a folder"
        choices = error.options or [file.stem for file in Path(conf, group).glob("*.yaml")]
        return f"{group}: expected {nearest(name, choices, 'a choice')}, got {name}"
    if match := re.match(r"Could not override '([^'=]+)|Could not delete from config. '([^']+)'", first):
        key = match[1] or match[2]
        known = known_keys(command, conf, [word for word in words if key not in word])
        entry = re.search(r"Key '([^']+)' is not in struct", str(error.__cause__))
        if entry and any(name.startswith(f"{key}.") for name in known):  # a mapping given with an unknown entry
            return f"{unknown_key(f'{key}.{entry[1]}', known)}; add one with ++{key}.{entry[1]}=..."
        return unknown_key(key, known)
    if match := re.match(r"Could not append to config. An item is already at '([^']+)'", first):
        return f"{match[1]}: expected {match[1]}=VALUE, since the option exists, got +{match[1]}; remove the +"
    if match := re.match(r"Error merging override ([^=]+)=(.*)", first):
        expected = "a value of the option's type (list or mapping)"
        return f"{match[1]}: expected {expected}, got {match[2]}; --cfg job shows the type"
    if match := re.match(r"Ambiguous value for argument '([^']+)'", first):
        return f"{match[1]}: expected one value, got several; add -m to run all of them"
    if match := re.match(r"Multiple values for ([\w/@]+)", first):
        return f"{match[1]}: expected one choice, got two; write {match[1]}=NAME without +"
    if "configure handler" in first:
        return f"hydra/job_logging: expected default or none, which {command}.yaml extends, got another choice"
    if isinstance(error, HydraException | OmegaConfBaseException):
        return first

    def composes(*overrides: str) -> bool:
        try:
            return bool(compose(command, list(map(first_of_sweep, overrides))))
        except Exception:
            return False

    with initialize_config_dir(conf, version_base="1.3"):
        wrong = [] if composes(*words) else [word for word in words if not composes(word)]
    if not wrong:
        return str(error)
    return f"{' '.join(wrong)}: expected a valid value for the option or group, got one that Hydra cannot use ({first})"


def first_line(error: BaseException) -> str:
    """Return the first line of an error after the name of its option; for an error of our resolvers, its sentence."""
    line = next(iter(str(error).splitlines()), type(error).__name__)
    sentence = line.removeprefix("ContractError raised while resolving interpolation: ")
    option = getattr(error, "full_key", None)
    if option and line.endswith("is not in struct"):
        return f"{option}: expected a value, got none; set {option}=..."
    return f"{option}: {line}" if option and option not in line and sentence == line else sentence


def first_of_sweep(word: str) -> str:
    """Return an override with only the first value of a sweep: loss=bce for loss=bce,dice."""
    key, equals, value = word.partition("=")
    return word if value.startswith(("[", "{", "(", "'", '"')) else f"{key}{equals}{value.split(',')[0]}"


def unknown_key(key: str, known: Sequence[str]) -> str:
    """Return the sentence about an unknown option, with its siblings or the options whose names are most similar."""
    parent, _, leaf = key.rpartition(".")
    siblings = sorted({name[len(parent) + 1 :].split(".")[0] for name in known if name.startswith(f"{parent}.")})
    if parent and siblings:
        shown = [name for name in siblings if not name.startswith("_")]
        if not shown:
            return f"{key}: expected the _target_ of {parent}, got {leaf}; +{key}=... passes a value to its target"
        if leaf in shown:  # known to the first choice of a sweep
            return f"{key}: expected an option of each {parent} of the sweep, got one that some of them lack"
        return f"{key}: expected {nearest(leaf, shown, 'an option')}, got {leaf}"
    others = [name for name in known if not name.endswith("_target_") and name.split(".")[0] != key]
    near = sorted(others, key=lambda name: (-likeness(leaf, name.rpartition(".")[2]), len(name)))[:2]
    return f"{key}: expected an option of this command, such as {' or '.join(near)}, got {key}"


def refuse_unread(cfg: DictConfig, words: Sequence[str], command: str, conf: str) -> None:
    """Raise a ContractError for an option that nothing reads: `folder=x`, or one added with `+`, such as `+epochs=5`.

    Only warn about an option of a file, which may be meant for interpolations that are overridden. An option inside a
    node with a `_target_` is checked elsewhere, against the signature of the target.
    """
    for word in words:
        if word.startswith("folder="):  # the run would be recorded in one folder while its callbacks write to another
            raise ContractError(f"{command}: expected hydra.run.dir=FOLDER as the output folder, got {word}")
    if "experiment" in cfg:
        raise ContractError("experiment: expected a file that begins with `# @package _global_`, got one without it")
    values: Any = OmegaConf.to_container(cfg)
    read = options_of(command, conf)
    added = {word.lstrip("+").partition("=")[0].rpartition("@")[2] for word in words if word.startswith("+")}
    used = set(re.findall(r"\w+", " ".join(re.findall(r"\${[^}]*", str(values)))))  # by interpolations
    unread = set(map(str, values.keys() - read)) - used
    for section in (name for name in SECTIONS if read.get(name) and isinstance(values.get(name), dict)):
        added |= (inside := {f"{section}.{key}" for key in values[section].keys() - read[section]})
        unread |= inside
    known = sorted({*options(values), *read} - unread - added)
    for name in sorted(unread):
        sentence = unknown_key(name, known)
        if name in added:
            raise ContractError(sentence)
        log.warning("%s, which has no effect", sentence)


@cache
def options_of(command: str, conf: str) -> dict[str, Any]:
    """Return the options and groups of a command at the top level, with the default values of its options."""
    found: dict[str, Any] = dict.fromkeys(groups_of(command, conf))
    for name in (command, "train") if command == "search" else (command,):
        values: Any = OmegaConf.to_container(OmegaConf.load(Path(conf, f"{name}.yaml")))
        found |= values
    return found


def wrong_choice(word: str, conf: Path) -> str | None:
    """Return the sentence about a word that Hydra would merge with the parameters of another choice, else None.

    Such a word is a list for a group that takes one choice (`loss=[bce,dice]`), or a class instead of the default's.
    """
    group, _, listed = word.partition("=")
    first, _, inside = group.lstrip("~").partition(".")
    if word.startswith("~") and (inside in ("", "_target_") or first not in {*GROUPS, "space", "hydra"} - {"trainer"}):
        return f"{word}: expected a value for every option, got its deletion; leave it out, or use {group[1:]}=VALUE"
    for name, part in EXTERNAL.items():
        if group == f"{name}._target_":
            remedy = f"write {name}=external {name}.{part}._target_={listed}"
            return f"{group}: expected a choice of {name}, got only a class; {remedy}"
    choices = [file.stem for file in (conf / group).glob("*.yaml")] if listed == "[]" else []
    if choices:
        return f"{group}: expected {nearest(listed, choices, 'a choice')}, got []"
    names = [name.strip() for name in listed[1:-1].split(",")] if listed.startswith("[") else []
    texts = [file.read_text() for name in names if (file := conf / group / f"{name}.yaml").is_file()]
    if len(names) < 2 or not any(re.search("(?m)^_target_:", text) for text in texts):
        return None
    return f"{group}: expected one choice, got {listed}; to run each of them, use -m {group}={','.join(names)}"


def likeness(word: str, name: str) -> float:
    """Return a similarity from 0 to 1; at least 0.9 if one name is part of the other, such as epochs of max_epochs."""
    part = word in name.split("_") or name in word.split("_")
    return max(difflib.SequenceMatcher(None, word, name).ratio(), 0.9 if part else 0.0)


def nearest(name: str, names: Sequence[str], kind: str) -> str:
    """Return what was expected instead of a misspelled name: the most similar names, or all if none is similar."""
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.7)
    return f"{kind} such as {' or '.join(near)}" if near else f"one of {', '.join(sorted(names)) or 'none'}"


def known_keys(command: str, conf: str, words: Sequence[str]) -> list[str]:
    """Return every dotted option of a command with these overrides, or only with their group choices if they fail."""
    words, groups = [first_of_sweep(word) for word in words], groups_of(command, conf)
    with initialize_config_dir(conf, version_base="1.3"):
        try:
            cfg = compose(command, words)
        except (HydraException, OmegaConfBaseException):  # more than one word is wrong
            chosen = {"hydra.searchpath", *groups}
            cfg = compose(command, [word for word in words if word.partition("=")[0].lstrip("+~") in chosen])
    return [*options(OmegaConf.to_container(cfg)), *groups]


def groups_of(command: str, conf: str) -> set[str]:
    """Return the configuration groups of a command, such as loss."""
    defaults = OmegaConf.load(Path(conf, f"{command}.yaml")).get("defaults", [])  # type: ignore[arg-type]
    named = {entry if isinstance(entry, str) else next(iter(entry)) for entry in defaults} - {"_self_"}
    commands = {name for name in named if Path(conf, f"{name}.yaml").is_file()}  # search builds on train
    groups = {name.rpartition("@")[2] for name in named - commands if not name.startswith("override ")}
    return groups.union(*(groups_of(name, conf) for name in commands))


def options(node: Any) -> list[str]:
    """Return the dotted name of every option of a nested configuration."""
    return [path for path, value in leaves(node) if "[" not in path and not (value and isinstance(value, dict))]
