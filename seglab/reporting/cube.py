"""One metric of a sweep as an array: losses x seeds x images."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from seglab.contract import require

META = {"label", "seed", "fold", "id", "group", "run", "benchmark"}
NO_SCORES = {"loss", "pixels", "foreground", "tp", "tn", "foreground_sum", "background_sum"}
NO_SCORES |= {"objects", "objects_predicted", "objects_found", "found/area_error", "found/nothing"}
"""Columns of per_image.csv that cannot rank losses: the loss values, whose units differ, and counts."""


class Cube(NamedTuple):
    """One metric of a sweep: `values` (losses, seeds, images), NaN if there is no run or the metric is undefined.

    `fold` (images,) is the fold that tested each image, one of `of_folds`; None if there are no folds.
    """

    labels: list[str]
    seeds: list[int]
    ids: list[str]
    groups: np.ndarray
    values: np.ndarray
    fold: np.ndarray | None = None
    of_folds: int = 1

    @property
    def folds(self) -> list["Cube"]:
        """One cube per fold, each with the test images of that fold; the cube itself if there are no folds."""
        if self.fold is None:
            return [self]
        parts = [np.flatnonzero(self.fold == fold) for fold in np.unique(self.fold)]
        return [
            Cube(self.labels, self.seeds, [self.ids[k] for k in part], self.groups[part], self.values[:, :, part])
            for part in parts
        ]

    @property
    def means(self) -> dict[str, float]:
        """The mean of each loss over its runs, each run being the mean over its images, as in the metrics table."""
        of_folds = [[[finite_mean(run) for run in loss] for loss in fold.values] for fold in self.folds]
        runs = np.concatenate(of_folds, axis=1)  # (losses, folds x seeds)
        return {label: finite_mean(row) for label, row in zip(self.labels, runs, strict=True)}

    def of(self, labels: Sequence[str]) -> "Cube":
        """Return the cube restricted to these losses, in this order."""
        return self._replace(labels=list(labels), values=self.values[[self.labels.index(label) for label in labels]])

    def balanced(self, labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the values on the seeds and images that these losses share, and a mask (images,) of these images."""
        values = self.of(labels).values
        defined = np.isfinite(values)
        seeds = defined.any(axis=2).all(axis=0)
        images = defined[:, seeds].all(axis=(0, 1)) & seeds.any()  # all() over zero seeds is True
        return values[:, seeds][:, :, images], images


def finite_mean(values: np.ndarray) -> float:
    """Return the mean of the finite values, or NaN if there are none."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else np.nan


def cube(images: pd.DataFrame, metric: str, of_folds: int = 1) -> Cube:
    """Arrange the per-image rows of a sweep (label, seed, fold, id, group, metric) as losses x seeds x images."""
    scores = sorted(set(map(str, images)) - META - NO_SCORES)
    require(metric in scores, "report: metric", f"a score of per_image.csv, one of {', '.join(scores)}", metric)
    # a loss tested both on folds and on all images gets no verdict, but it still appears in tables
    rows = images.drop_duplicates(["label", "seed", "id"], keep="last")
    wide = rows.pivot(index=["label", "seed"], columns="id", values=metric)
    labels, seeds = list(wide.index.unique("label")), sorted(map(int, rows["seed"].unique()))
    complete = wide.reindex(pd.MultiIndex.from_product([labels, seeds]))
    by_id = rows.drop_duplicates("id").set_index("id").reindex(wide.columns)
    group = by_id["group"].fillna(wide.columns.to_series()).astype(str)  # an image without a group forms its own group
    values = complete.to_numpy(float).reshape(len(labels), len(seeds), -1)
    fold = by_id["fold"].to_numpy() if of_folds > 1 else None
    return Cube(labels, seeds, list(map(str, wide.columns)), group.to_numpy(), values, fold, of_folds)
