"""Everything the report says about the runs on one benchmark, computed once; words and figures are elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from seglab.contract import require
from seglab.reporting import learning_curves, report_figures
from seglab.reporting.cube import Cube, cube, finite_mean
from seglab.reporting.load_runs import Sweep
from seglab.reporting.metrics_table import (
    BLOCKS,
    THRESHOLDED,
    Pooled,
    at_tuned,
    over_seeds,
    per_run,
    read_histograms,
    worse_if_higher,
)
from seglab.reporting.ranks import mean_ranks, rank_shares
from seglab.reporting.stats import compare
from seglab.reporting.verdict import Verdict, depends_on_threshold, headline, judge

IMAGES = {"all": "all test images", "foreground": "the test images with foreground", "empty": "the empty test images"}


@dataclass(frozen=True, kw_only=True)
class Question:
    """What the verdict is about.

    `metric` is a column of per_image.csv, `images` which images count (all, foreground, empty), `delta` the largest
    difference that does not matter, `confidence` that of the intervals, `resamples` and `seed` those of the bootstrap.
    """

    metric: str = "iou"
    images: str = "all"
    delta: float = 0.01
    confidence: float = 0.95
    resamples: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.images in IMAGES, "report: images", f"one of {', '.join(IMAGES)}", self.images)
        require(self.delta > 0, "report: delta", "a number above 0", self.delta)
        require(0.5 < self.confidence < 1, "report: confidence", "a number between 0.5 and 1", self.confidence)
        require(self.resamples >= 100, "report: resamples", "at least 100", self.resamples)


@dataclass(frozen=True)
class Study:
    """The runs on one benchmark and the question put to them; every answer is computed when it is first asked for."""

    title: str
    sweep: Sweep
    question: Question

    @cached_property
    def lower_is_better(self) -> bool:
        return worse_if_higher(self.question.metric)

    @cached_property
    def data(self) -> Cube:
        """The metric as losses x seeds x images, the losses from the best mean to the worst."""
        images = self.sweep.images
        if self.question.images != "all":
            images = images[(images["foreground"] > 0) == (self.question.images == "foreground")]
            require(len(images) > 0, f"report: images={self.question.images}", IMAGES[self.question.images], "none")
        found = cube(images, self.question.metric)
        means = np.array([finite_mean(run) for run in found.values])
        order = np.argsort(means if self.lower_is_better else -means, kind="stable")
        return found._replace(labels=[found.labels[k] for k in order], values=found.values[order])

    @property
    def labels(self) -> list[str]:
        return self.data.labels

    @cached_property
    def verdicts(self) -> list[Verdict]:
        ask = self.question
        asked: dict[str, Any] = {"confidence": ask.confidence, "resamples": ask.resamples, "seed": ask.seed}
        pairs = compare(self.data, lower_is_better=self.lower_is_better, **asked)
        return judge(pairs, delta=ask.delta, confidence=ask.confidence)

    @cached_property
    def headline(self) -> str:
        """The verdicts in one sentence."""
        return headline(self.verdicts)

    @cached_property
    def named(self) -> list[Verdict]:
        """The pairs worth naming: all of up to ten, otherwise those of the best loss."""
        if len(self.verdicts) <= 10:
            return self.verdicts
        return [verdict for verdict in self.verdicts if verdict.pair.first == self.labels[0]]

    @cached_property
    def blind(self) -> str:
        """A sentence about runs that find nothing in any test image that has foreground; empty where there are none."""
        images = self.sweep.images[self.sweep.images["foreground"] > 0]
        sees = (images["tp"] + images["fp"] > 0).groupby([images["label"], images["run"]]).any().groupby("label")
        found = sees.agg(["sum", "size"])
        some = [f"{n - k} of {n} runs of {label}" for label, (k, n) in found.iterrows() if k < n]
        return f"Nothing is found by {', '.join(some)}: they have the score of the empty images." if some else ""

    @cached_property
    def tuned(self) -> Study | None:
        """The same study with each run at the threshold tuned on its validation images; None where there is no verdict.

        A loss whose probabilities lie too high or too low scores badly at 0.5 although a threshold would mend it.
        """
        histograms = any(len(found.images) for found in self._pooled.values())
        if self.question.metric not in THRESHOLDED or not histograms or not self.verdicts:
            return None
        return Study(self.title, Sweep(self.sweep.runs, at_tuned(self.sweep.images, self._pooled)), self.question)

    @cached_property
    def threshold_warning(self) -> str:
        """A sentence where the verdicts change once thresholds are tuned; empty where they do not."""
        return depends_on_threshold(self.verdicts, self.tuned.verdicts) if self.tuned else ""

    @cached_property
    def rank_shares(self) -> pd.DataFrame:
        """How often each loss takes each rank when seeds and images are resampled."""
        return rank_shares(self.data, seed=self.question.seed, lower_is_better=self.lower_is_better)

    @cached_property
    def _pooled(self) -> dict[int, Pooled]:
        return read_histograms(self.sweep.used)

    @cached_property
    def _histories(self) -> dict[int, pd.DataFrame]:
        return learning_curves.read(self.sweep.used)

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """All metrics, one row a run."""
        return per_run(self.sweep, self._pooled, self._histories)

    @cached_property
    def spread(self) -> pd.DataFrame:
        """All metrics, mean and standard deviation over seeds, one row a label."""
        table = over_seeds(self.metrics, chain(*BLOCKS.values()), ["label"])
        return table.reindex([*self.labels, *(label for label in table.index if label not in self.labels)])

    @cached_property
    def tables(self) -> dict[str, np.ndarray]:
        """The histogram over all test pixels and seeds of each loss, (2, 256)."""
        runs = self._by_label(self._pooled)
        return {label: np.sum([found.table for found in pooled], axis=0) for label, pooled in runs.items()}

    def _by_label(self, by_run: Mapping[int, Any]) -> dict[str, list[Any]]:
        labels = self.sweep.used["label"]
        found = {label: [value for row, value in by_run.items() if labels[row] == label] for label in self.labels}
        return {label: values for label, values in found.items() if values}

    @cached_property
    def missing(self) -> list[tuple[str, int]]:
        """Labels and seeds that other labels have and these lack."""
        runs = self.sweep.used
        have = set(zip(runs["label"], runs["seed"], strict=True))
        seeds = sorted(set(runs["seed"]))
        return [(label, seed) for label in self.labels for seed in seeds if (label, seed) not in have]

    def figures(self) -> dict[str, Figure]:
        """The figures that these runs allow, by the name of their files."""
        drawn = {"seeds": report_figures.seeds(self.data, self.question.metric)}
        if self._histories:
            drawn["learning"] = report_figures.learning(self._by_label(self._histories))
        if self.verdicts:
            drawn["forest"] = report_figures.forest(self.named, self.question.metric)
        ranks = mean_ranks(self.data, self.lower_is_better)
        if self.verdicts and len(ranks) > 2:
            drawn["ranks"] = report_figures.ranks(ranks, self.verdicts)
        if self.tables:
            drawn["precision_recall"] = report_figures.precision_recall(self.metrics, self.tables)
            drawn["reliability"] = report_figures.reliability(self.tables)
        shares = report_figures.win_shares(self.sweep.images, self.labels, self.question.metric, self.lower_is_better)
        if shares and len(self.labels) > 1:
            drawn["wins"] = report_figures.wins(shares, self.labels)
        return drawn
