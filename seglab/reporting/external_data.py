"""Results on external data and on whole test images, read from what seglab.evaluate wrote into the run folders."""

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from seglab.files import NOT_JSON, as_numbers
from seglab.reporting import metrics_table
from seglab.reporting.class_rows import metrics_of, read_rows, rows_per_image
from seglab.reporting.html import mean_sd, number, table
from seglab.reporting.metrics_table import part_of, rows_of, title
from seglab.reporting.run_labels import benchmark_titles

FILES = "evaluations/*/evaluation.json"
KEYS = ("iou", "tuned/iou", "precision", "recall", "hd95", "object_recall", "found/false_objects")


def evaluated(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row per evaluation of a used run: data, what, trained, label, seed, in_domain, and KEYS.

    The metrics are those of the class that the report covers, or means over the scored classes. Evaluations that cannot
    be read, or that were made before the run was retrained, are left out.
    """
    compared = runs[runs["used"]]
    titles = benchmark_titles(compared) if len(compared) else {}
    rows = []
    for _, run in compared.iterrows():
        task, classes = run["task"], run["classes"]
        name = task.classes[classes[0]] if len(classes) == 1 else None
        auto = {key: run["data"][key] for key in ("range", "mean", "std") if key in run["data"]}  # the values of "auto"
        config = {"dataset": {**(run["config"].get("dataset") or {}), **auto}}
        for file in sorted(run["folder"].glob(FILES)):
            with suppress(OSError, AttributeError, KeyError, TypeError, *NOT_JSON):  # a foreign file may hold anything
                facts = json.loads(file.read_text(encoding="utf-8"))
                if facts["run_finished"] == run["finished"]:  # otherwise evaluated with weights that are gone
                    row = {"data": file.parent.name, "what": words(facts, config)}
                    row |= {"trained": titles[run["benchmark"]], "in_domain": run.get("test/iou", np.nan)}
                    row |= {"label": run["label"], "seed": run["seed"]}
                    metrics = metrics_of(as_numbers(facts["metrics"]), name)
                    if not name:  # as in the report, undefined for an image in which a class was not found
                        images = rows_per_image(read_rows(file.with_name("per_image.csv")), task)
                        metrics["hd95"] = images["hd95"].mean()
                    if "objects_predicted" in metrics:
                        metrics["found/false_objects"] = metrics["objects_predicted"] - metrics["objects_found"]
                    rows.append(row | {key: metrics.get(key, np.nan) for key in KEYS})
    return pd.DataFrame(rows, columns=["data", "what", "trained", "label", "seed", "in_domain", *KEYS])


def words(facts: dict[str, Any], config: dict[str, Any]) -> str:
    """Describe an evaluation: number of images, split, scale, and any options that differ from the run's config."""
    options, trained_options = facts["dataset"], config.get("dataset") or {}
    native = facts["scale"] == "native"
    scale = "whole images in their own size" if native else "scaled like the runs' own test images"
    details = [f"{key} {facts[key]}" for key in ("window", "tta") if facts.get(key) not in (None, "none")]
    if trained_options.get("_target_") == options.get("_target_"):  # options of another class are not comparable
        details += [f"{key}={value}" for key, value in options.items() if value != trained_options.get(key)]
    if facts.get("seen_in_training"):
        details.append(f"{facts['seen_in_training']} of them used in training")
    prefix = "The runs' own " if facts.get("own") else ""
    return ", ".join([f"{prefix}{facts['data']['images']} images ({facts['split']})", scale, *details])


def over_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """Return mean and standard deviation over the runs, one row per data, training benchmark and label.

    Index (data, trained, label); columns (seeds, ""), (what, ""), and (key, mean | sd | runs) for in_domain and KEYS.
    """
    by = ["data", "trained", "label"]
    grouped = rows.groupby(by, sort=False)
    facts = pd.DataFrame({("seeds", ""): grouped["seed"].nunique(), ("what", ""): grouped["what"].first()})
    combined = pd.concat([facts, metrics_table.over_seeds(rows, ("in_domain", *KEYS), by)], axis=1)
    return combined.sort_index(level="data", sort_remaining=False, kind="stable")


def tables(rows: pd.DataFrame) -> Iterator[tuple[str, str, Markup]]:
    """Yield the name of each set of images, a description of the evaluation, and a table of the losses."""
    for data, block in over_seeds(rows).groupby(level="data", sort=False):
        keys = list(map(str, part_of(block, "mean")))
        head = ["loss", "trained on", "seeds", *map(heading, keys)]
        cells = [
            [label, trained, number(seeds, 0), *(mean_sd(*value) for value in values)]
            for seeds, ((_, trained, label), values) in zip(block["seeds", ""], rows_of(block, keys), strict=True)
        ]
        yield str(data), block["what", ""].iloc[0], table(head, cells)


def heading(key: str) -> str:
    """Return the heading of a column."""
    if key == "in_domain":
        return "IoU in-domain"
    return f"{title(key)}, tuned" if key.startswith("tuned/") else title(key)
