"""One metric of a sweep as an array: losses x seeds x images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from seglab.contract import require

META = {"label", "seed", "id", "group", "run", "benchmark"}


class Cube(NamedTuple):
    """One metric of a sweep: `values` (losses, seeds, images), NaN where there is no run or the metric is undefined."""

    labels: list[str]
    seeds: list[int]
    ids: list[str]
    groups: np.ndarray
    values: np.ndarray


def finite_mean(values: np.ndarray) -> float:
    """The mean of the finite values; NaN where there are none."""
    seen = values[np.isfinite(values)]
    return float(seen.mean()) if seen.size else np.nan


def cube(images: pd.DataFrame, metric: str) -> Cube:
    """Arrange the per-image rows of a sweep (label, seed, id, group, metric) as losses x seeds x images."""
    known = sorted(set(map(str, images)) - META)
    require(metric in known, "report", "a metric of per_image.csv", metric, f"one of {known}")
    rows = images.drop_duplicates(["label", "seed", "id"], keep="last")
    wide = rows.pivot(index=["label", "seed"], columns="id", values=metric)
    labels, seeds = list(wide.index.unique("label")), sorted(map(int, rows["seed"].unique()))
    full = wide.reindex(pd.MultiIndex.from_product([labels, seeds]))
    group = rows.drop_duplicates("id").set_index("id")["group"].reindex(wide.columns)
    group = group.fillna(pd.Series(wide.columns, index=wide.columns)).astype(str)
    values = full.to_numpy(float).reshape(len(labels), len(seeds), -1)
    return Cube(labels, seeds, list(map(str, wide.columns)), group.to_numpy(), values)
