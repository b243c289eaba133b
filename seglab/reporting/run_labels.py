"""What to call a run when it is compared: its loss, and whatever else sets it apart from the other runs.

A label holds the loss and those of its parameters that vary in the sweep. Anything else (model, learning rate, size)
joins it only where two runs of one seed would otherwise have the same label; what differs together with the loss, such
as a learning rate tuned for each loss, is not part of the label but is listed by `differences`.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from seglab.contract import NOT_IN_IDENTITY, processes

IGNORED = NOT_IN_IDENTITY | {"seed", "dataset.fold", "monitor_mode"}  # of which the last follows from the monitor
SWITCHED, IN_TURN = ("loss.first._target_", "loss.second._target_"), "loss.first -> loss.second"
NO_CHOICE = ("loss", "dataset", "experiment", "trainer", "callbacks", "logger", "hydra")


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration as dotted keys with scalar values; a list is one text, as on the command line."""
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = f"[{','.join(map(str, value))}]" if isinstance(value, list) else value
    return leaves


def loss_name(config: Mapping[str, Any], choices: Mapping[str, str]) -> str:
    """The chosen loss, or its class where no choice was recorded; an external one has its title or its function."""
    loss = config.get("loss") or {}
    if choices.get("loss") == "external":
        return str(loss.get("title") or _class((loss.get("function") or {}).get("_target_", "external")))
    return str(choices.get("loss") or _class(loss.get("_target_", "unknown")).lower())


def _class(target: object) -> str:
    """The class of a `_target_`; of a loss of this package in the form of its choice, such as generalized_dice."""
    name = str(target).rsplit(".", 1)[-1]
    own = str(target).startswith("seglab.losses.")
    # GeneralizedDice is generalized_dice, BCEDice is bce_dice, and IoU stays iou
    return re.sub(r"(?<=[a-z]{2})(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z]{2})", "_", name).lower() if own else name


def fold(config: Mapping[str, Any]) -> int:
    """The fold that a run was tested on, -1 where its data are not divided into folds."""
    dataset = config.get("dataset") or {}
    return int(dataset.get("fold") or 0) if (dataset.get("folds") or 1) > 1 else -1


def of_run(seed: int, fold: int) -> str:
    """The seed of a run, and its fold where the data are divided into folds."""
    return f"seed {seed}" if fold < 0 else f"seed {seed}, fold {fold}"


def label(runs: pd.DataFrame) -> list[str]:
    """One label a run, from the columns `config`, `choices`, `seed`, `used` and `benchmark` (never mixed).

    Only runs that are used add words to the labels.
    """
    leaves, used = _experiments(runs), list(runs["used"])
    labels = [loss_name(config, choices) for config, choices in zip(runs["config"], runs["choices"], strict=True)]
    for belongs in (_is_loss_class, _is_of_loss):  # the parameters of two classes are not compared
        for name, rows in pd.Series(labels).groupby(labels).indices.items():
            keys = [key for key in _differing([leaves[row] for row in rows if used[row]]) if belongs(key)]
            for row in rows:
                labels[row] = " ".join([str(name), *_parts(keys, leaves[row])])
    for rows in runs.groupby("benchmark").indices.values():
        who = {row: (labels[row], runs["seed"].iloc[row], fold(runs["config"].iloc[row])) for row in rows if used[row]}
        keys = _separating(list(who.values()), [leaves[row] for row in who])
        for row in rows:
            labels[row] = " · ".join([labels[row], *_parts(keys, leaves[row])])
    return labels


def _experiments(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """The values that may distinguish runs, choices of whole groups (`model`) before single values (`model.width`)."""
    used = map(flat, runs.loc[runs["used"], "config"])
    paths = {value for leaves in used for key, value in leaves.items() if key.endswith("._target_")}
    count = Counter(map(_class, paths))
    found = []
    for config, choices in zip(runs["config"], runs["choices"], strict=True):
        leaves = flat(config)
        chosen = {group: name for group, name in choices.items() if group not in NO_CHOICE}
        ignored = tuple(f"{name}." for name in IGNORED | set(config.get("tuned") or ()))  # a search chose for each loss
        kept = {key: value for key, value in leaves.items() if not f"{key}.".startswith(ignored)}
        kept["trainer.devices"] = processes(config.get("trainer") or {})  # each has batches of its own
        for key, value in kept.items():
            if key.endswith("._target_") and count[_class(value)] == 1:  # the whole path where two have one name
                kept[key] = _class(value)
        if set(SWITCHED) <= set(kept):
            chosen[IN_TURN] = " -> ".join(str(kept.pop(key)) for key in SWITCHED)
        found.append(chosen | kept)
    return found


def _is_loss_class(key: str) -> bool:
    return key == IN_TURN or (key.startswith("loss.") and key.endswith("._target_"))


def _is_of_loss(key: str) -> bool:
    return key.startswith("loss.") or _is_goal(key)


def _is_goal(key: str) -> bool:
    """Whether the key is the value to which a schedule brings a parameter of the loss."""
    return key.startswith("schedule.") and key.endswith(".to")


def _parts(keys: list[str], leaf: Mapping[str, Any]) -> list[str]:
    """The words for some values of a run: as much of each key as tells it from the others, nothing for None."""
    count = Counter(ending for key in keys for ending in _endings(key))
    names = {key: next((ending for ending in _endings(key) if count[ending] == 1), key) for key in keys}
    return [_part(key, leaf[key], names[key]) for key in keys if leaf.get(key) is not None]


def _endings(key: str) -> list[str]:
    """The endings of a dotted key, the shortest first, without the word that says that it is a class or a goal."""
    words = key.removesuffix("._target_").removesuffix(".to" if _is_goal(key) else "").split(".")
    return [".".join(words[-n:]) for n in range(1, len(words) + 1)]


def _part(key: str, value: Any, name: str) -> str:
    if key == IN_TURN or ("." not in key and isinstance(value, str) and value[:1] != "["):  # a choice
        return str(value)
    text = f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)  # all its digits
    return f"{name} to {text}" if _is_goal(key) else f"{name}={text}"


def _separating(who: list[tuple[str, int, int]], leaves: list[dict[str, Any]]) -> list[str]:
    """The fewest keys, choices first, that distinguish runs which share a label, a seed and a fold."""
    chosen: list[str] = []
    while True:
        groups: dict[tuple, list[dict[str, Any]]] = defaultdict(list)
        for key, leaf in zip(who, leaves, strict=True):
            groups[(*key, *(leaf.get(name) for name in chosen))].append(leaf)
        clashes = [keys for keys in map(_differing, groups.values()) if keys]  # equal runs are one experiment
        if not clashes:
            return chosen
        chosen.append(clashes[0][0])


def _differing(leaves: list[dict[str, Any]]) -> list[str]:
    keys = dict.fromkeys(key for leaf in leaves for key in leaf)
    return [key for key in keys if len({leaf.get(key) for leaf in leaves}) > 1]


def benchmark_titles(runs: pd.DataFrame) -> dict[str, str]:
    """A name for each benchmark: the data set and, where it occurs several times, what differs (`target=disc`).

    Data that changed under the same options are numbered.
    """
    first = runs.drop_duplicates("benchmark")
    titles = {}
    for dataset, same in first.groupby("dataset", sort=False):
        facts = zip(same["config"], same["scale"], strict=True)
        leaves = [flat((config.get("dataset") or {}) | {"scale": scale}) for config, scale in facts]
        keys = [key for key in _differing(leaves) if key != "fold" and not key.startswith("cache_")]
        keys = [key for key in keys if key not in ("root", "mean", "std")] or keys[:1]
        for number, (name, leaf) in enumerate(zip(same["benchmark"], leaves, strict=True), 1):
            words = [str(dataset), *(f"{key}={leaf[key]}" for key in keys if leaf.get(key) is not None)]
            titles[name] = " ".join(words) if keys or len(same) == 1 else f"{dataset}, data {number}"
    return titles


def setting(label: str) -> str:
    """What a label says besides the loss and its parameters."""
    return label.partition(" · ")[2]


def differing(configs: Iterable[Mapping[str, Any]], prefix: str) -> str:
    """The values below `prefix` that some configurations do not share, as `dataset.split_seed=0,1,2`.

    Those that choose no image are left out: where data lie, and how they are normalized.
    """
    none = NOT_IN_IDENTITY | {"dataset.mean", "dataset.std"}
    leaves = [flat(config) for config in configs]
    keys = [key for key in _differing(leaves) if key.startswith(prefix) and key not in none]
    return " ".join(f"{key}={','.join(dict.fromkeys(str(leaf.get(key)) for leaf in leaves))}" for key in keys)


def differences(runs: pd.DataFrame) -> dict[str, dict[str, list[str]]]:
    """What differs between runs although it is not in their labels: {key: {value: labels that have it}}.

    The loss and its parameters are left out; a learning rate tuned for each loss shows up here, and so does a run that
    was made with another batch size by mistake.
    """
    leaves = _experiments(runs)
    named = list(zip(leaves, runs["label"], strict=True))
    keys, found = _differing(leaves), {}
    for key in keys:
        known = [(leaf[key], name) for leaf, name in named if leaf.get(key) is not None]
        in_labels = all(_part(key, value, _endings(key)[0]) in name for value, name in known)
        by_choice = key.endswith("._target_") and key.removesuffix("._target_") in keys  # the choice of a whole group
        if not in_labels and not by_choice and not key.startswith(("loss.", "schedule.")):
            holders = runs["label"].groupby([str(leaf.get(key)) for leaf in leaves], sort=False).unique()
            found[key] = {str(value): list(labels) for value, labels in holders.items()}
    return found
