"""The label of a run in a comparison: its loss, and whatever else distinguishes it from the other runs.

A label contains the loss and those of its parameters that vary in the sweep. Any other setting (model, learning rate,
size) is added only if two runs with the same seed would otherwise share a label. Settings that vary together with the
loss, such as a learning rate tuned for each loss, are not part of the label but are listed by `differences`.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from seglab.contract import NOT_IN_IDENTITY, processes

IGNORED = NOT_IN_IDENTITY | {"seed", "dataset.fold", "monitor_mode"}  # monitor_mode follows from the monitor
SWITCHED, IN_TURN = ("loss.first._target_", "loss.second._target_"), "loss.first -> loss.second"
NO_CHOICE = ("loss", "dataset", "experiment", "trainer", "callbacks", "logger", "hydra")


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a nested configuration to dotted keys with scalar values; lists become text, as on the command line."""
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = f"[{','.join(map(str, value))}]" if isinstance(value, list) else value
    return leaves


def loss_name(config: Mapping[str, Any], choices: Mapping[str, str]) -> str:
    """Return the chosen loss, or its class if no choice was recorded; for an external loss, its title or function."""
    loss = config.get("loss") or {}
    if choices.get("loss") == "external":
        return str(loss.get("title") or _class((loss.get("function") or {}).get("_target_", "external")))
    return str(choices.get("loss") or _class(loss.get("_target_", "unknown")).lower())


def _class(target: object) -> str:
    """Return the class name of a `_target_`; for a loss of this package in snake case, such as generalized_dice."""
    name = str(target).rsplit(".", 1)[-1]
    own = str(target).startswith("seglab.losses.")
    # GeneralizedDice -> generalized_dice, BCEDice -> bce_dice, IoU -> iou
    return re.sub(r"(?<=[a-z]{2})(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z]{2})", "_", name).lower() if own else name


def fold(config: Mapping[str, Any]) -> int:
    """Return the fold whose images a run was tested on, or -1 if its data are not divided into folds."""
    dataset = config.get("dataset") or {}
    return int(dataset.get("fold") or 0) if (dataset.get("folds") or 1) > 1 else -1


def of_run(seed: int, fold: int) -> str:
    """Describe a run by its seed, and by its fold if the data are divided into folds."""
    return f"seed {seed}" if fold < 0 else f"seed {seed}, fold {fold}"


def label(runs: pd.DataFrame) -> list[str]:
    """Return one label per run, from the columns `config`, `choices`, `seed`, `used` and `benchmark`.

    Runs of different benchmarks are never compared. Only used runs add words to the labels.
    """
    leaves, used = _experiments(runs), list(runs["used"])
    labels = [loss_name(config, choices) for config, choices in zip(runs["config"], runs["choices"], strict=True)]
    for is_relevant in (_is_loss_class, _is_of_loss):  # parameters of different classes are not compared
        for name, rows in pd.Series(labels).groupby(labels).indices.items():
            keys = [key for key in _differing([leaves[row] for row in rows if used[row]]) if is_relevant(key)]
            for row in rows:
                labels[row] = " ".join([str(name), *_words_of(keys, leaves[row])])
    for rows in runs.groupby("benchmark").indices.values():
        ids = {row: (labels[row], runs["seed"].iloc[row], fold(runs["config"].iloc[row])) for row in rows if used[row]}
        keys = _separating(list(ids.values()), [leaves[row] for row in ids])
        for row in rows:
            labels[row] = " · ".join([labels[row], *_words_of(keys, leaves[row])])
    return labels


def _experiments(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the values that may distinguish runs, choices of groups (`model`) before single values (`model.width`)."""
    used = map(flat, runs.loc[runs["used"], "config"])
    paths = {value for leaves in used for key, value in leaves.items() if key.endswith("._target_")}
    count = Counter(map(_class, paths))
    experiments = []
    for config, choices in zip(runs["config"], runs["choices"], strict=True):
        leaves = flat(config)
        choice_of = {group: name for group, name in choices.items() if group not in NO_CHOICE}
        ignored = tuple(f"{name}." for name in IGNORED | set(config.get("tuned") or ()))  # a search tuned them per loss
        settings = {key: value for key, value in leaves.items() if not f"{key}.".startswith(ignored)}
        settings["trainer.devices"] = processes(config.get("trainer") or {})  # each process has its own batches
        for key, value in settings.items():
            if key.endswith("._target_") and count[_class(value)] == 1:  # the full path if two classes share a name
                settings[key] = _class(value)
        if set(SWITCHED) <= set(settings):
            choice_of[IN_TURN] = " -> ".join(str(settings.pop(key)) for key in SWITCHED)
        experiments.append(choice_of | settings)
    return experiments


def _is_loss_class(key: str) -> bool:
    return key == IN_TURN or (key.startswith("loss.") and key.endswith("._target_"))


def _is_of_loss(key: str) -> bool:
    return key.startswith("loss.") or _is_goal(key)


def _is_goal(key: str) -> bool:
    """Whether the key is the value that a scheduled loss parameter ends at."""
    return key.startswith("schedule.") and key.endswith(".to")


def _words_of(keys: list[str], leaf: Mapping[str, Any]) -> list[str]:
    """Return words for the values of a run that are not None, shortening each key as far as it remains unambiguous."""
    count = Counter(ending for key in keys for ending in _endings(key))
    names = {key: next((ending for ending in _endings(key) if count[ending] == 1), key) for key in keys}
    return [_word_of(key, leaf[key], names[key]) for key in keys if leaf.get(key) is not None]


def _endings(key: str) -> list[str]:
    """Return the endings of a dotted key, shortest first, without a final `_target_`, or `to` in a schedule."""
    words = key.removesuffix("._target_").removesuffix(".to" if _is_goal(key) else "").split(".")
    return [".".join(words[-n:]) for n in range(1, len(words) + 1)]


def _word_of(key: str, value: Any, name: str) -> str:
    if key == IN_TURN or ("." not in key and isinstance(value, str) and value[:1] != "["):  # the choice of a group
        return str(value)
    text = f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)  # all digits
    return f"{name} to {text}" if _is_goal(key) else f"{name}={text}"


def _separating(run_keys: list[tuple[str, int, int]], leaves: list[dict[str, Any]]) -> list[str]:
    """Return keys, added one at a time and choices first, that distinguish runs with the same label, seed and fold."""
    chosen: list[str] = []
    while True:
        groups: dict[tuple, list[dict[str, Any]]] = defaultdict(list)
        for key, leaf in zip(run_keys, leaves, strict=True):
            groups[(*key, *(leaf.get(name) for name in chosen))].append(leaf)
        clashes = [keys for keys in map(_differing, groups.values()) if keys]  # equal runs are the same experiment
        if not clashes:
            return chosen
        chosen.append(clashes[0][0])


def _differing(leaves: list[dict[str, Any]]) -> list[str]:
    keys = dict.fromkeys(key for leaf in leaves for key in leaf)
    return [key for key in keys if len({leaf.get(key) for leaf in leaves}) > 1]


def benchmark_titles(runs: pd.DataFrame) -> dict[str, str]:
    """Return a title per benchmark: the dataset and, if it occurs several times, what differs (`target=disc`).

    Datasets that changed under the same options are numbered.
    """
    first = runs.drop_duplicates("benchmark")
    titles = {}
    for dataset, group in first.groupby("dataset", sort=False):
        facts = zip(group["config"], group["scale"], strict=True)
        leaves = [flat((config.get("dataset") or {}) | {"scale": scale}) for config, scale in facts]
        keys = [key for key in _differing(leaves) if key != "fold" and not key.startswith("cache_")]
        keys = [key for key in keys if key not in ("root", "mean", "std")] or keys[:1]
        for number, (name, leaf) in enumerate(zip(group["benchmark"], leaves, strict=True), 1):
            words = [str(dataset), *(f"{key}={leaf[key]}" for key in keys if leaf.get(key) is not None)]
            titles[name] = " ".join(words) if keys or len(group) == 1 else f"{dataset}, data {number}"
    return titles


def setting(label: str) -> str:
    """Return the part of a label that follows the loss and its parameters."""
    return label.partition(" · ")[2]


def differing(configs: Iterable[Mapping[str, Any]], prefix: str) -> str:
    """Return the values below `prefix` that configurations do not share, for example `dataset.split_seed=0,1,2`.

    Values that do not select images are left out: the location of the data and its normalization.
    """
    ignored = NOT_IN_IDENTITY | {"dataset.mean", "dataset.std"}
    leaves = [flat(config) for config in configs]
    keys = [key for key in _differing(leaves) if key.startswith(prefix) and key not in ignored]
    return " ".join(f"{key}={','.join(dict.fromkeys(str(leaf.get(key)) for leaf in leaves))}" for key in keys)


def differences(runs: pd.DataFrame) -> dict[str, dict[str, list[str]]]:
    """Return the settings in which runs differ although their labels omit them: {key: {value: labels with it}}.

    The loss and its parameters are left out. A learning rate tuned for each loss appears here, and so does a run
    accidentally trained with a different batch size.
    """
    leaves = _experiments(runs)
    named = list(zip(leaves, runs["label"], strict=True))
    keys, differences = _differing(leaves), {}
    for key in keys:
        values = [(leaf[key], name) for leaf, name in named if leaf.get(key) is not None]
        in_labels = all(_word_of(key, value, _endings(key)[0]) in name for value, name in values)
        by_choice = key.endswith("._target_") and key.removesuffix("._target_") in keys  # the choice of a group
        if not in_labels and not by_choice and not key.startswith(("loss.", "schedule.")):
            holders = runs["label"].groupby([str(leaf.get(key)) for leaf in leaves], sort=False).unique()
            differences[key] = {str(value): list(labels) for value, labels in holders.items()}
    return differences
