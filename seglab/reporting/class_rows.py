"""The rows of per_image.csv, one per image and class, as one row per image: of one class, or the mean over classes."""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from seglab.contract import Task, require
from seglab.files import cell
from seglab.reporting.thresholds import best_threshold

DISTANCES = {"hd95", "asd"}  # scores that a class has only where something of it was found


def read_rows(file: Path | BytesIO) -> pd.DataFrame:
    """Read per_image.csv; an id, group or class that looks like a number or like no value (007, NA) stays a text."""
    texts = dict.fromkeys(("id", "group", "class"), str)
    # keep_default_na: pandas takes NA and None for no value
    return pd.read_csv(file, dtype=texts, keep_default_na=False, na_values=[""])


def rows_per_image(table: pd.DataFrame, task: Task, name: str | None = None) -> pd.DataFrame:
    """Give a row per image: those of the class `name`, or the mean of each column over the scored classes.

    A score that is undefined for a class is left out of the mean; an image is empty where all scored classes are. But
    distances are undefined for an image with a class that was not found: else finding fewer classes could look better.
    Where there is foreground, columns of its relative area error and of whether nothing was found are added. The table
    may be of several runs, by a column `run`.
    """
    chosen = [task.classes[k] for k in chosen_classes(task, name)]
    written = {*chosen, *map(cell, chosen)}  # in a file the class "-a" is the safe cell "'-a"
    rows = table[table["class"].isin(written)].drop(columns="class").reset_index(drop=True)
    found = (rows["tp"] + rows["fp"]) / rows["foreground"].where(rows["foreground"] > 0)
    rows["found/area_error"], rows["found/nothing"] = found - 1, (found == 0).astype(float).where(found.notna())
    if len(chosen) == 1:
        return rows
    distances = DISTANCES & {*rows}
    for key in distances:
        rows[f"no {key}"] = rows[key].isna() & (rows["foreground"] > 0)
    by = [key for key in ("run", "id", "group") if key in rows]
    means = rows.groupby(by, sort=False, as_index=False, dropna=False).mean(numeric_only=True)  # also without a group
    for key in distances:
        means.loc[means.pop(f"no {key}") > 0, key] = np.nan
    return means


def tuned_threshold(table: np.ndarray, task: Task, empty: str) -> Any:
    """Find the threshold that is best on validation histograms (n, classes, 2, 256); `empty` is the policy of the run.

    A number for a binary task, a number for each class of a multilabel one, None where the likeliest class is taken.
    """
    if task.kind == "multiclass":
        return None
    found = {name: best_threshold(table[:, k], empty=empty) for k, name in enumerate(task.classes)}
    return found if task.channels > 1 else found[task.classes[0]]


def threshold_of(tuned: Any, name: str) -> float:
    """Give the tuned threshold of one class; NaN where there is none."""
    one = tuned.get(name) if isinstance(tuned, Mapping) else tuned
    return float("nan") if one is None else float(one)


def chosen_classes(task: Task, name: str | None = None) -> list[int]:
    """Give the numbers of the classes that a report is about: one by its name, or all that are scored."""
    require(name is None or name in task.classes, "report", f"class as one of {', '.join(task.classes)}", name)
    return list(task.scored) if name is None else [task.classes.index(name)]


def metrics_of(metrics: Mapping[str, float], name: str | None) -> dict[str, float]:
    """Give the metrics of one class under the names without it, such as `test/iou` of `test/iou/cup`."""
    if name is None:
        return dict(metrics)
    own = {key.removesuffix(f"/{name}"): value for key, value in metrics.items() if key.endswith(f"/{name}")}
    return own or dict(metrics)  # where there is one class, no key names it
