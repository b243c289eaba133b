"""The parts of report.html.j2 that show a Study: its tables, pictures, losses and settings."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from seglab.plots import class_colors
from seglab.reporting import verdict
from seglab.reporting.data_sets import DataSets
from seglab.reporting.gallery import gallery, one_run_each, which_runs
from seglab.reporting.html import Cell, decimal, decimals, mean_sd, number, table
from seglab.reporting.metrics_table import blocks, part_of, rows_of, title, worse_if_higher
from seglab.reporting.run_decisions import RULES
from seglab.reporting.run_labels import differences, of_run
from seglab.reporting.stats import components
from seglab.reporting.study import Study
from seglab.reporting.verdict import Verdict

MOST_PAIRS = 1000  # in a table: all 31,125 of 250 losses make a page of 70 MB


def pairs(verdicts: list[Verdict]) -> Markup:
    """Return a table of pairs with their intervals and the probability of each answer."""
    columns = ("pair", "verdict", "ahead by", "low", "high", "first better", "equivalent", "second better", "p")
    rows: list[list[Cell | str | float]] = []
    for each in verdicts:
        pair, tag = each.pair, Cell(each.name, each.name, f"text {each.kind}")
        numbers: list[Cell | float] = [each.gap, each.low, each.high, *map(_percent, each.chances)]
        p = Cell("<0.001", pair.p) if pair.p < 0.001 else pair.p
        counts = [number(pair.replicates, 0), number(pair.images, 0)]
        rows.append([f"{pair.first} ahead of {pair.second}", tag, *numbers, p, *counts])
    return table([*columns, verdicts[0].pair.kind, "images"], rows)


def _percent(share: float) -> Cell:
    return Cell(f"{100 * share:.0f} %", share) if np.isfinite(share) else Cell("–")


def cost(study: Study) -> str:
    """Return a sentence with the duration of the runs and the number that is not compared."""
    runs = study.sweep.runs
    left_out = len(runs) - len(study.sweep.used)
    duration = f" took {_duration(runs['seconds'].sum())} in total" if "seconds" in runs else ""
    verb = "is" if left_out == 1 else "are"
    comparison = f"{left_out} of them {verb} not compared, see below" if left_out else "all of them are compared"
    return f"{len(runs)} run{'s' * (len(runs) != 1)} on these data{duration}; {comparison}."


def decisions(study: Study) -> Markup | None:
    """Return the metric of each loss under each decision rule, and its range over losses; None with under two rules."""
    scores = study.decisions
    if scores.shape[1] < 2:  # only the fixed threshold
        return None
    rows = [[label, *row] for label, row in zip(scores.index, scores.to_numpy(), strict=True)]
    rows.append([Cell("best − worst"), *map(Cell, map(decimal, scores.max() - scores.min()))])  # no key: stays last
    return table(["loss", *(RULES[str(rule)] for rule in scores)], rows)


def data_sets(over: DataSets) -> Markup:
    """Return a table of the mean of each loss on each dataset."""
    means = over.table
    return table(["loss", *means], means.reset_index().itertuples(index=False))


def variance(study: Study) -> Markup | None:
    """Return the variance components of the scores; None if there is only one loss, seed or image."""
    values, _ = study.data.balanced(study.labels)
    if min(values.shape) < 2:
        return None
    parts = {name: max(part, 0.0) for name, part in components(values).items()}  # an unbiased estimate may be negative
    total = sum(parts.values()) or 1.0  # all scores may be equal
    rows = [[name, part**0.5, _percent(part / total)] for name, part in parts.items()]
    return table(["source", "standard deviation", "share of the variance"], rows)


def ranks(study: Study) -> Markup:
    """Return a table of the possible ranks of each loss, from the verdicts on all pairs."""
    possible = verdict.ranks(study.judged("pairs"))
    texts = {label: f"{low} to {high}" if low < high else str(low) for label, (low, high) in possible.items()}
    return table(["loss", "rank"], [(label, Cell(texts[label], low)) for label, (low, _) in possible.items()])


def metric_blocks(spread: pd.DataFrame, decision: str) -> Iterator[tuple[str, Markup]]:
    """Yield a heading and a table, with mean and standard deviation over runs, for each block of metrics."""
    runs, means = part_of(spread, "runs"), part_of(spread, "mean")
    undefined = runs.rsub(runs.max(axis=1), axis=0)  # a loss that lacks its worst run has a better mean
    eligible = means.where(undefined == undefined.min())
    text = eligible.map(_formatted)
    for name, keys in blocks(spread.columns.get_level_values(0), decision).items():
        best = {key: _best_mean(key, eligible[key]) for key in keys}
        if "found/nothing" in keys and spread["found/nothing", "mean"].max() > 0:
            best = {}  # a loss that finds only the easy objects has the best distances
        rows = list[list[Any]]()
        for label, values in rows_of(spread, keys):
            is_best = [text.at[label, key] == best.get(key) for key in keys]
            rows.append([label, *(mean_sd(*value, bold) for value, bold in zip(values, is_best, strict=True))])
        yield name, table(["loss", *map(title, keys)], rows)


def confusions(study: Study) -> Iterator[tuple[str, Markup]]:
    """Yield, for each loss, a table of predicted classes by true class, in % of the test pixels of the true class."""
    classes = study.sweep.used["task"].iloc[0].classes if study.confusions else ()
    for label, counts in study.confusions.items():
        shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)  # a class may occur in no test image
        rows = [[name, *(number(share, 1) for share in row)] for name, row in zip(classes, shares, strict=True)]
        yield label, table(["true class", *(f"predicted as {name}" for name in classes)], rows)


def _best_mean(key: str, means: pd.Series) -> str | None:
    """Return the best mean, formatted, to print in bold; None if the metric has no best value or all means agree."""
    equal = means.dropna().map(_formatted).nunique() < 2
    if key in ("tuned/threshold", "scaled/temperature", "found/area_error") or equal:
        return None
    return _formatted(means.min() if worse_if_higher(key) else means.max())


def _formatted(mean: float) -> str:
    return decimal(mean, decimals(mean, np.nan)) if np.isfinite(mean) else ""


def pictures(study: Study) -> dict[str, Any]:
    """Return the same test images under every loss: `labels`, `rows` from `gallery`, `first`, `which` and `colors`.

    `first` contains the row to show first, the median of those with foreground. `which` describes the runs. `colors`
    lists the names and colors of the painted classes; it is empty if a single class is shown.
    """
    run_of = one_run_each(study.sweep.used, study.labels)
    labels, rows = gallery(run_of, study.sweep.images, study.question.metric)
    with_foreground = set(study.sweep.images.loc[study.sweep.images["foreground"] > 0, "id"])
    candidates = [row for row in rows if row["id"] in with_foreground] or rows
    example = next(iter(run_of.values()))
    colors = class_colors(example["task"]) if len(example["classes"]) > 1 else []
    which = which_runs({label: run_of[label] for label in labels})
    first = candidates[len(candidates) // 2 :][:1]
    return {"labels": labels, "rows": rows, "first": first, "which": which, "colors": colors}


def best_run(study: Study) -> tuple[str, str] | None:
    """Return a sentence about the best run and the path of its weights; None if no run recorded a validation score."""
    runs, scores = study.sweep.used[study.sweep.used["label"] == study.labels[0]], list[float]()
    for _, run in runs.iterrows():
        monitor: Any = run.get("monitor")  # NaN if only other runs have a monitor
        scored = isinstance(monitor, dict) and monitor.get("value") is not None
        sign = -1 if scored and worse_if_higher(monitor["name"].removeprefix("val/")) else 1
        scores.append(sign * monitor["value"] if scored else np.nan)
    if not np.isfinite(scores).any():
        return None
    best = runs.iloc[int(np.nanargmax(scores))]  # chosen by validation, since test images must not select anything
    details = f"{best['monitor']['value']:.3f}, {of_run(best['seed'], best['fold'])}"
    words = f"The best run of {study.labels[0]} by {best['monitor']['name']} ({details}):"
    return words, str(best["folder"] / "checkpoints" / "best.ckpt")


def cards(study: Study) -> list[dict[str, Any]]:
    """Return the description of each loss: title, family, formula, parameters, and notes (paper, empty, differs)."""
    run_of = study.sweep.used.drop_duplicates("label").set_index("label")
    entries = []
    for label in (*study.labels, *(label for label in run_of.index if label not in study.labels)):
        run = run_of.loc[label]
        card = run["card"] if isinstance(run["card"], dict) else {}
        values = run["config"].get("loss") or {}
        parameters = ", ".join(f"{key}={value}" for key, value in values.items() if not key.startswith("_"))  # _target_
        notes = [card[key] for key in ("paper", "empty", "differs") if card.get(key)]
        facts = {key: card.get(key, "") for key in ("title", "family", "formula")}
        entries.append({"label": label, "parameters": parameters, "notes": notes} | facts)
    return entries


def compared(runs: pd.DataFrame) -> dict[str, str]:
    """Return what was compared (data, model, seeds, versions), with an empty string for anything unknown."""
    first, data = runs.iloc[0], runs.iloc[0]["data"]
    settings = {key: value for key, value in (first["config"].get("dataset") or {}).items() if key[0] != "_"}
    settings.pop("fold", None)  # it belongs to one run
    of_fold = f" of fold {first['fold']}" if first["fold"] >= 0 else ""
    duration = f", {_duration(runs['seconds'].sum())} in total" if "seconds" in runs else ""
    return {
        "data": f"{first['dataset']}, fingerprint {data.get('fingerprint', 'unknown')}",
        "settings": _as_text(settings),
        f"images{of_fold}": _as_text(data.get("images"), "{1} {0}"),
        f"without foreground{of_fold}": _as_text(data.get("empty_masks"), "{1} {0}"),
        "foreground": f"{100 * data['foreground']:.3g} % of the training pixels" if data.get("foreground") else "",
        "left out": _as_text(data.get("skipped_why"), "{1}: {0}"),
        "model": ", ".join(sorted(set(runs["model"]))),
        "seeds": ", ".join(map(str, sorted(set(runs["seed"])))),
        "runs": f"{len(runs)}{duration}",
        "code": "; ".join(sorted(set(map(_commit, runs["git"])))),
        "versions": "; ".join(sorted(set(map(_as_text, runs.get("versions", []))))),
        "machine": "; ".join(sorted(set(map(_as_text, runs.get("host", []))))),
    }


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"


def _commit(git: object) -> str:
    if not isinstance(git, dict):
        return "not in git"
    return f"commit {git.get('commit', '')[:10]}{' with uncommitted changes' if git.get('dirty') else ''}"


def _as_text(facts: object, form: str = "{} {}") -> str:
    """Format known facts as text; lists and mappings look as on the command line, `{water: 0, house: [7, 8]}`."""
    values = facts if isinstance(facts, dict) else {}
    texts = {key: str(x).replace("'", "") if isinstance(x, list | dict) else x for key, x in values.items()}
    return ", ".join(form.format(key, text) for key, text in texts.items() if text is not None)


def unlike(runs: pd.DataFrame) -> Markup | None:
    """Return the settings in which the runs differ apart from their labels; None if there are none."""
    settings = differences(runs)
    commits = runs["label"].groupby(runs["git"].map(_commit)).unique()
    if len(commits) > 1:
        settings["code"] = {str(commit): sorted(labels) for commit, labels in commits.items()}
    rows = [
        [key, "; ".join(f"{value} ({', '.join(labels)})" for value, labels in values.items())]
        for key, values in settings.items()
    ]
    return table(["setting", "values"], rows) if rows else None


def missing(study: Study) -> list[str]:
    """Return descriptions of the runs that a loss lacks although other losses have them."""
    existing = set(study.sweep.used[["label", "seed", "fold"]].itertuples(index=False, name=None))
    runs = sorted({(seed, fold) for _, seed, fold in existing})
    return [f"{label} with {of_run(*run)}" for label in study.labels for run in runs if (label, *run) not in existing]


def failed(runs: pd.DataFrame) -> Markup | None:
    """Return a table of the runs that are not compared, with the reasons; None if there are none."""
    rows = runs.loc[~runs["used"], ["name", "status", "problem"]]
    return table(["run", "status", "reason"], rows.itertuples(index=False)) if len(rows) else None
