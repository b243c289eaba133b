"""How each loss was tuned, from the search.json that seglab.search writes into the folder of a study."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from seglab.files import read_json
from seglab.plots import WIDTH, line_styles, styled
from seglab.reporting.html import number, table


def searches(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """Return the searches recorded in the study folders that contain these run folders, except incomplete records."""
    contents = [read_json(study / "search.json") for study in sorted({folder.parent for folder in folders})]
    needed = {"command", "monitor", "mode", "sampler", "halving", "tunings"}
    return [facts for facts in contents if isinstance(facts, dict) and needed <= facts.keys()]


def expected_best(values: Sequence[float], mode: str = "max") -> np.ndarray:
    """Return the expected best of k = 1 ... n values drawn with replacement from the n values that trials reached.

    Dodge et al., Show Your Work: Improved Reporting of Experimental Results, EMNLP 2019. `mode` says whether the best
    value is the largest (max) or the smallest (min).
    """
    n = len(values)
    rising = np.sort(np.asarray(values, float) * (1 if mode == "max" else -1))
    at_most = np.arange(n + 1) / n  # the probability that one draw has at most rank 0, 1, ..., n
    chances = np.diff(at_most[:, None] ** np.arange(1, n + 1), axis=0)  # that the best of k has the row's rank
    return (1 if mode == "max" else -1) * (rising @ chances)


def curves(search: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the best value of each loss after k trials: as observed for the tpe sampler, otherwise as expected.

    With tpe, each trial learns from earlier ones. The values are means over repetitions; failed trials are left out.
    """
    by_title = defaultdict(list)
    for tuning in search["tunings"]:
        values = [trial["value"] for trial in tuning["trials"] if trial["value"] is not None]
        running = np.maximum.accumulate if search["mode"] == "max" else np.minimum.accumulate
        if values:
            best = running(values) if search["sampler"] == "tpe" else expected_best(values, search["mode"])
            by_title[tuning["title"]].append(best)
    shortest = {title: min(map(len, runs)) for title, runs in by_title.items()}  # repetitions may have failed trials
    return {title: np.mean([best[: shortest[title]] for best in runs], axis=0) for title, runs in by_title.items()}


@styled
def figure(search: dict[str, Any]) -> Figure:
    """Draw the best value of each loss after k trials."""
    drawn = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    axis, best_values = drawn.subplots(), curves(search)
    for title, style in line_styles(best_values).items():
        axis.plot(1 + np.arange(len(best_values[title])), best_values[title], marker=".", label=title, **style)
    axis.set(xlabel="trials", ylabel=f"best {search['monitor']}")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if best_values:
        axis.legend()
    return drawn


def trials(search: dict[str, Any]) -> Markup:
    """Return a table of each search: its budget, its best setting, and warnings about too narrow ranges."""
    rows = []
    for tuning in search["tunings"]:
        best, all_trials = tuning["best"] or {"setting": {}, "value": np.nan}, tuning["trials"]
        failed = sum(trial["value"] is None for trial in all_trials)
        epochs = sum(trial["epochs"] for trial in all_trials)
        values = ", ".join(f"{name}={value}" for name, value in best["setting"].items())
        numbers = [number(count, 0) for count in (tuning["seed"], len(all_trials), failed, epochs)]
        rows.append([tuning["title"], *numbers, best["value"], values or "none", "; ".join(tuning["edges"])])
    head = ["loss", "seed", "trials", "failed", "epochs", f"best {search['monitor']}", "best setting", "warnings"]
    return table(head, rows)
