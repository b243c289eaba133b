"""How the losses do on other data, from what seglab.evaluate has left in the folders of their runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from seglab.reporting.html import number, table, text
from seglab.reporting.metrics_table import title
from seglab.reporting.report_sections import mean_sd

KEYS = ("iou", "tuned/iou", "precision", "recall", "hd95", "object_recall")
NOTE = (
    "Each row is one loss on one set of images: the mean over the images, then mean and standard deviation over the "
    "seeds that were evaluated there. “IoU at home” is that of the same runs on their own test images; the tuned "
    "threshold is the one of the run's own validation. No verdict is given here: it rests on the runs' own test images."
)


def evaluated(runs: pd.DataFrame) -> pd.DataFrame:
    """One row for each evaluation of a used run: data, what, images, trained, label, seed, home, and KEYS.

    Left out is what cannot be read, or was measured before the run was trained again.
    """
    rows = [row for _, run in runs[runs["used"]].iterrows() for row in _of(run)]
    return pd.DataFrame(rows, columns=["data", "what", "trained", "label", "seed", "home", *KEYS])


def _of(run: pd.Series) -> Iterator[dict[str, Any]]:
    for file in sorted(run["folder"].glob("evaluations/*/evaluation.json")):
        try:
            facts = json.loads(file.read_text(encoding="utf-8"))
            if facts["run_finished"] != run["finished"]:
                continue
            row = {
                "data": file.parent.name,
                "what": words(facts, run["config"]),
                "trained": run["board"],
                "label": run["label"],
            }
            row |= {"seed": run["seed"], "home": run.get("test/iou", np.nan)}
            yield row | {key: facts["metrics"].get(key, np.nan) for key in KEYS}
        except (OSError, ValueError, KeyError):
            continue


def words(facts: dict[str, Any], config: dict[str, Any]) -> str:
    """Say what was measured: how many images of which part, seen how, and what is not as in the run's configuration."""
    count, part, own, now = facts["data"]["images"], facts["split"], config.get("dataset") or {}, facts["dataset"]
    scale = "whole images in their own size" if facts["scale"] == "native" else "as the runs' own test sees them"
    more = [f"{key} {facts[key]}" for key in ("window", "tta") if facts.get(key) not in (None, "none")]
    if own.get("_target_") == now.get("_target_"):
        more += [f"{key}={value}" for key, value in now.items() if value != own.get(key)]
    seen = facts.get("seen_in_training")
    more += [f"{seen} of them trained on"] if seen else []
    return ", ".join([f"{count} images ({part})", scale, *more])


def over_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over the seeds, a row for each data, training board and label.

    Index (data, trained, label); columns (seeds, ""), (what, ""), and (key, mean | sd) of home and KEYS.
    """
    grouped = rows.groupby(["data", "trained", "label"], sort=False)
    keys = ["home", *(key for key in KEYS if rows[key].notna().any())]
    parts = {("seeds", ""): grouped["seed"].nunique(), ("what", ""): grouped["what"].first()}
    for key in keys:
        parts |= {(key, "mean"): grouped[key].mean(), (key, "sd"): grouped[key].std(ddof=1)}
    return pd.DataFrame(parts).sort_index(level="data", sort_remaining=False, kind="stable")


def section(rows: pd.DataFrame) -> str:
    """The part of the page: a table for each set of images."""
    spread, parts = over_seeds(rows), []
    keys = [key for key, part in spread.columns if part == "mean"]
    head = ["loss", "trained on", "seeds", *(heading(key) for key in keys)]
    for data, block in spread.groupby(level="data", sort=False):
        cells = []
        for (_, trained, label), row in block.iterrows():
            measured = [mean_sd(row[key, "mean"], row[key, "sd"]) for key in keys]
            cells.append([text(label), text(trained), number(row["seeds", ""], 0), *measured])
        parts.append(f"<h3>{escape(data)}</h3><p>{escape(block['what', ''].iloc[0])}</p>{table(head, cells)}")
    return "".join(parts) + f'<p class="note">{NOTE}</p>'


def heading(key: str) -> str:
    """The head of a column."""
    if key == "home":
        return "IoU at home"
    return f"{title(key)}, tuned" if key.startswith("tuned/") else title(key)
