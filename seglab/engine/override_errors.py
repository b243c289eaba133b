"""Hydra's errors about overrides as one sentence each, with the nearest names that exist."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from seglab.contract import ContractError
from seglab.engine.domains import leaves

EXTERNAL = {
    "loss._target_": "loss=external loss.function._target_",
    "model._target_": "model=external model.module._target_",
}
"""How a class of the user's is named on the command line, by the option that newcomers try first."""


def explain(error: BaseException, command: str, conf: str, words: Sequence[str]) -> str:
    """One sentence for an error of composing `conf/<command>.yaml` with the overrides `words`."""
    first = first_line(error)  # in the words of Hydra 1.3; those of another version are given as they are
    if isinstance(error, OverrideParseException):
        return f"{error.override}: expected KEY=VALUE, got a word that cannot be read; lists are written 'KEY=[A,B]'"
    if isinstance(error, MissingConfigException) and (found := re.search(r"Could not (?:find|load) '([^']+)'", first)):
        group, _, name = found[1].rpartition("/")
        choices = error.options or [file.stem for file in Path(conf, group).glob("*.yaml")]
        return f"{group}: expected one of {nearest(name, choices)}, got {name}"
    if found := re.match(r"Could not override '([^'=]+)|Could not delete from config. '([^']+)'", first):
        key = found[1] or found[2]
        known = known_keys(command, conf, [word for word in words if key not in word])
        entry = re.search(r"Key '([^']+)' is not in struct", str(error.__cause__))
        if entry and any(name.startswith(f"{key}.") for name in known):  # a mapping, given with an entry of its own
            return f"{unknown_key(f'{key}.{entry[1]}', known)}; ++{key}.{entry[1]}=... adds one"
        return unknown_key(key, known)
    if found := re.match(r"Could not append to config. An item is already at '([^']+)'", first):
        return f"{found[1]}: expected {found[1]}=VALUE, since the option exists, got +{found[1]}; leave the + out"
    if found := re.match(r"Ambiguous value for argument '([^']+)'", first):
        return f"{found[1]}: expected one value, got several; add -m to run all of them"
    if found := re.match(r"Multiple values for ([\w/@]+)", first):
        return f"{found[1]}: expected one choice, got two; write {found[1]}=NAME without +"
    if isinstance(error, HydraException | OmegaConfBaseException):
        return first
    wrong = []
    with initialize_config_dir(conf, version_base="1.3"):
        for word in words:
            try:
                compose(command, [first_of_sweep(word)])
            except Exception:
                wrong.append(word)
    if not wrong:
        return str(error)
    return f"{' '.join(wrong)}: expected what its option or group can hold, got a value that Hydra cannot use ({first})"


def first_line(error: BaseException) -> str:
    """The first line of an error, without what omegaconf puts before the sentence of one of our resolvers."""
    line = next(iter(str(error).splitlines()), type(error).__name__)
    return re.sub(r"^ContractError raised while resolving interpolation: ", "", line)


def first_of_sweep(word: str) -> str:
    """An override with the first of the values that a sweep takes: loss=bce of loss=bce,dice."""
    key, equals, value = word.partition("=")
    return word if value.startswith(("[", "{", "(", "'", '"')) else f"{key}{equals}{value.split(',')[0]}"


def unknown_key(key: str, known: Sequence[str]) -> str:
    """The sentence about an option that does not exist: its siblings, or the options whose names are most like it."""
    parent, _, leaf = key.rpartition(".")
    siblings = sorted({name[len(parent) + 1 :].split(".")[0] for name in known if name.startswith(f"{parent}.")})
    if parent and siblings:
        shown = [name for name in siblings if not name.startswith("_")]
        if not shown:
            return f"{key}: expected the _target_ of {parent}, got {leaf}; +{key}=... hands a value to its target"
        if leaf in shown:  # of the first choice of a sweep
            return f"{key}: expected an option of each {parent} of the sweep, got one that some of them lack"
        return f"{key}: expected one of {nearest(leaf, shown)}, got {leaf}"
    near = sorted(known, key=lambda name: (-likeness(leaf, name.rpartition(".")[2]), len(name)))[:2]
    return f"{key}: expected an option of this command, such as {' or '.join(near)}, got {key}"


def refuse_added(cfg: DictConfig, words: Sequence[str], command: str, conf: str) -> None:
    """Raise a ContractError for an option that nothing would read: `folder=x`, or one added with `+`, as `+epochs=5`.

    One inside of a node with a `_target_` is checked against that.
    """
    for word in words:
        if word.startswith("folder="):  # the run would be recorded in one folder, and its callbacks write to another
            raise ContractError(f"{command}: expected hydra.run.dir=FOLDER for where results go, got {word}")
    read = {*OmegaConf.load(Path(conf, f"{command}.yaml")), *(folder.name for folder in Path(conf).iterdir())}
    added = {word.lstrip("+").partition("=")[0] for word in words if word.startswith("+")}
    unread = sorted(key for key in added - read if re.fullmatch(r"\w+", key))
    if unread:
        known = {*options(OmegaConf.to_container(cfg)), *read} - added
        raise ContractError(unknown_key(unread[0], sorted(known)))


def wrong_choice(word: str, conf: Path) -> str | None:
    """The sentence about a word that Hydra would merge with the parameters of another choice.

    Either a list for a group that takes one, as `loss=[bce,dice]`, or a class in the place of the default's.
    """
    group, _, listed = word.partition("=")
    if group in EXTERNAL:
        expected = f"expected a choice of {group.split('.')[0]}"
        return f"{group}: {expected}, got a class alone; write {EXTERNAL[group]}={listed}"
    names = [name.strip() for name in listed[1:-1].split(",")] if listed.startswith("[") else []
    texts = [file.read_text() for name in names if (file := conf / group / f"{name}.yaml").is_file()]
    if len(names) < 2 or not any(re.search("(?m)^_target_:", text) for text in texts):
        return None
    return f"{group}: expected one choice, got {listed}; a sweep tries each of them, -m {group}={','.join(names)}"


def likeness(word: str, name: str) -> float:
    """From 0 to 1; at least 0.9 where one is a part of the other, as epochs of max_epochs."""
    part = word in name.split("_") or name in word.split("_")
    return max(difflib.SequenceMatcher(None, word, name).ratio(), 0.9 if part else 0.0)


def nearest(name: str, names: Sequence[str]) -> str:
    """The names most like a misspelt one, or all where none is near."""
    return ", ".join(difflib.get_close_matches(name, names, n=3, cutoff=0.7) or sorted(names)) or "none"


def known_keys(command: str, conf: str, words: Sequence[str]) -> list[str]:
    """Every dotted option of a command with these overrides, or with the choices of groups among them."""
    words = [first_of_sweep(word) for word in words]
    with initialize_config_dir(conf, version_base="1.3"):
        try:
            cfg = compose(command, words)
        except (HydraException, OmegaConfBaseException):  # more than one word is wrong
            cfg = compose(command, [word for word in words if re.match(r"hydra\.|[^.=]*(=|$)", word)])
    groups = [folder.name for folder in Path(conf).iterdir() if folder.is_dir()]
    return [*options(OmegaConf.to_container(cfg)), *groups]


def options(node: Any) -> list[str]:
    """The dotted name of every option of a nested configuration."""
    return [path for path, value in leaves(node) if "[" not in path and not (value and isinstance(value, dict))]
