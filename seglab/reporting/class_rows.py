"""Reduce per_image.csv from one row per image and class to one row per image: one class, or the mean over classes."""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from seglab.contract import Task, require
from seglab.files import cell
from seglab.reporting.thresholds import best_threshold

DISTANCES = {"hd95", "asd"}  # scores that are defined for a class only if some of its foreground was predicted


def read_rows(file: Path | BytesIO) -> pd.DataFrame:
    """Read per_image.csv, keeping ids, groups and classes such as 007 or NA as strings."""
    texts = dict.fromkeys(("id", "group", "class"), str)
    # keep_default_na=False, since pandas would read NA and None as missing values
    return pd.read_csv(file, dtype=texts, keep_default_na=False, na_values=[""])


def rows_per_image(table: pd.DataFrame, task: Task, name: str | None = None) -> pd.DataFrame:
    """Return one row per image: the rows of class `name`, or the mean of each column over the scored classes.

    The mean skips classes for which a score is undefined, and an image is empty if all scored classes are empty in it.
    Distances, however, are undefined for an image in which a class was not found; otherwise finding fewer classes could
    improve the mean. Two columns are added for images with foreground: the relative area error, and whether nothing
    was found. The table may contain several runs, told apart by a column `run`.
    """
    chosen = [task.classes[k] for k in chosen_classes(task, name)]
    names = {*chosen, *map(cell, chosen)}  # csv_text writes a class named "-a" as "'-a"
    rows = table[table["class"].isin(names)].drop(columns="class").reset_index(drop=True)
    area_ratio = (rows["tp"] + rows["fp"]) / rows["foreground"].where(rows["foreground"] > 0)
    rows["found/area_error"] = area_ratio - 1
    rows["found/nothing"] = (area_ratio == 0).astype(float).where(area_ratio.notna())
    if len(chosen) == 1:
        return rows
    distances = DISTANCES & {*rows}
    for key in distances:
        rows[f"no {key}"] = rows[key].isna() & (rows["foreground"] > 0)
    keys = [key for key in ("run", "id", "group") if key in rows]
    means = rows.groupby(keys, sort=False, as_index=False, dropna=False).mean(numeric_only=True)  # keeps missing groups
    for key in distances:
        means.loc[means.pop(f"no {key}") > 0, key] = np.nan
    return means


def tuned_threshold(table: np.ndarray, task: Task, empty: str) -> Any:
    """Return the best thresholds on validation histograms (n, classes, 2, 256); `empty` is the run's empty-mask policy.

    A number for a binary task, a dict by class name for a multilabel task, None for a multiclass task (argmax).
    """
    if task.kind == "multiclass":
        return None
    thresholds = {name: best_threshold(table[:, k], empty=empty) for k, name in enumerate(task.classes)}
    return thresholds if task.channels > 1 else thresholds[task.classes[0]]


def threshold_of(tuned: Any, name: str) -> float:
    """Return the tuned threshold of one class, or NaN if there is none."""
    value = tuned.get(name) if isinstance(tuned, Mapping) else tuned
    return float("nan") if value is None else float(value)


def chosen_classes(task: Task, name: str | None = None) -> list[int]:
    """Return the indices of the classes that a report covers: the class `name`, or all scored classes if None."""
    require(name is None or name in task.classes, "report", f"class as one of {', '.join(task.classes)}", name)
    return list(task.scored) if name is None else [task.classes.index(name)]


def metrics_of(metrics: Mapping[str, float], name: str | None) -> dict[str, float]:
    """Return the metrics of one class without its name in the keys, for example `test/iou` for `test/iou/cup`."""
    if name is None:
        return dict(metrics)
    of_class = {key.removesuffix(f"/{name}"): value for key, value in metrics.items() if key.endswith(f"/{name}")}
    return of_class or dict(metrics)  # with a single class, keys do not contain its name
