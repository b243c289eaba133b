"""What to call a run when it is compared: its loss, and whatever else sets it apart from the other runs.

A label holds the loss and those of its parameters that vary in the sweep. Anything else (model, learning rate, size)
joins it only where two runs of one seed would otherwise have the same label; what differs together with the loss, such
as a learning rate tuned for each loss, is not part of the label but is listed by `differences`.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

IGNORED = ("seed", "study", "folder", "rerun", "workers", "examples", "logger", "callbacks", "hydra", "name")
IGNORED_LEAVES = {"trainer.accelerator", "trainer.devices", "dataset.root", "dataset.fold"}
IGNORED_LEAVES |= {"dataset.cache_dir", "dataset.cache_gb", "pictures", "stop_after", "tuned", "evaluation_processes"}
NO_CHOICE = ("loss", "dataset", "experiment", "trainer", "callbacks", "logger", "hydra")


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration as dotted keys with scalar values; a list is one value."""
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = tuple(map(str, value)) if isinstance(value, list) else value
    return leaves


def loss_name(config: Mapping[str, Any], choices: Mapping[str, str]) -> str:
    """The chosen loss, or the class where no choice was recorded."""
    target = str((config.get("loss") or {}).get("_target_", "unknown"))
    return str(choices.get("loss") or target.rsplit(".", 1)[-1].lower())


def fold(config: Mapping[str, Any]) -> int:
    """The fold that a run was tested on, -1 where its data are not divided into folds."""
    dataset = config.get("dataset") or {}
    return int(dataset.get("fold") or 0) if (dataset.get("folds") or 1) > 1 else -1


def of_run(seed: int, fold: int) -> str:
    """The seed of a run, and its fold where the data are divided into folds."""
    return f"seed {seed}" if fold < 0 else f"seed {seed}, fold {fold}"


def label(runs: pd.DataFrame) -> list[str]:
    """One label a run, from the columns `config`, `choices`, `seed` and `benchmark` (never mixed)."""
    leaves = _experiments(runs)
    names = [loss_name(config, choices) for config, choices in zip(runs["config"], runs["choices"], strict=True)]
    by_name = {name: [leaf for other, leaf in zip(names, leaves, strict=True) if other == name] for name in set(names)}
    varying, labels = {name: _differing(same) for name, same in by_name.items()}, []
    for name, leaf in zip(names, leaves, strict=True):
        keys = [key for key in varying[name] if key.startswith("loss.") or (_is_goal(key) and key in leaf)]
        labels.append(" ".join([name, *(_part(key, leaf.get(key)) for key in keys)]))
    for benchmark in runs["benchmark"].unique():
        rows = [row for row, where in enumerate(runs["benchmark"]) if where == benchmark]
        who = [(labels[row], runs["seed"].iloc[row], fold(runs["config"].iloc[row])) for row in rows]
        keys = _separating(who, [leaves[row] for row in rows])
        for row in rows:
            labels[row] = " · ".join([labels[row], *(_part(key, leaves[row].get(key)) for key in keys)])
    return labels


def _experiments(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """The values that may distinguish runs, choices of whole groups (`model`) before single values (`model.width`)."""
    found = []
    for config, choices in zip(runs["config"], runs["choices"], strict=True):
        chosen = {group: name for group, name in choices.items() if group not in NO_CHOICE}
        ignored = IGNORED_LEAVES | set(config.get("tuned") or ())
        values = {key: value for key, value in flat(config).items() if key.split(".")[0] not in IGNORED}
        kept = [key for key in values if key not in ignored and not key.endswith("._target_")]
        found.append(chosen | {key: values[key] for key in kept})
    return found


def _is_goal(key: str) -> bool:
    """Whether the key is the value to which a schedule brings a parameter of the loss."""
    return key.startswith("schedule.") and key.endswith(".to")


def _part(key: str, value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    if _is_goal(key):
        return f"{key.split('.')[-2]} to {text}"
    return f"{key.rsplit('.', 1)[-1]}={text}" if "." in key or not isinstance(value, str) else text


def _separating(who: list[tuple[str, int, int]], leaves: list[dict[str, Any]]) -> list[str]:
    """The fewest keys, choices first, that distinguish runs which share a label, a seed and a fold."""
    chosen: list[str] = []
    while True:
        groups: dict[tuple, list[dict[str, Any]]] = defaultdict(list)
        for key, leaf in zip(who, leaves, strict=True):
            groups[(*key, *(leaf.get(name) for name in chosen))].append(leaf)
        clash = next((group for group in groups.values() if len(group) > 1 and _differing(group)), None)
        if clash is None:
            return chosen
        chosen.append(_differing(clash)[0])


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
        leaves = [flat(config.get("dataset") or {}) for config in same["config"]]
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
    """The values below `prefix` that some configurations do not share, as `dataset.split_seed=0,1,2`."""
    leaves = [flat(config) for config in configs]
    keys = [key for key in _differing(leaves) if key.startswith(prefix)]
    return " ".join(f"{key}={','.join(dict.fromkeys(str(leaf.get(key)) for leaf in leaves))}" for key in keys)


def differences(runs: pd.DataFrame) -> dict[str, dict[str, list[str]]]:
    """What differs between runs although it is not in their labels: {key: {value: labels that have it}}.

    The loss and its parameters are left out; a learning rate tuned for each loss shows up here, and so does a run that
    was made with another batch size by mistake.
    """
    named = list(zip(_experiments(runs), runs["label"], strict=True))
    found: dict[str, dict[str, list[str]]] = {}
    for key in _differing([leaf for leaf, _ in named]):
        in_labels = all(_part(key, leaf.get(key)) in name for leaf, name in named)
        if not in_labels and not key.startswith(("loss.", "schedule.")):
            holders: dict[str, dict[str, None]] = {}
            for leaf, name in named:
                holders.setdefault(str(leaf.get(key)), {})[name] = None
            found[key] = {value: list(names) for value, names in holders.items()}
    return found
