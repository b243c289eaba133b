"""All results of a report about the runs on one benchmark, computed once; sentences and figures are made elsewhere."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from seglab.contract import require
from seglab.reporting import metrics_table, report_figures
from seglab.reporting.cube import Cube, cube
from seglab.reporting.decisions import rebinned, scaled
from seglab.reporting.load_runs import Sweep, read_histories
from seglab.reporting.looks import Look, remember
from seglab.reporting.metrics_table import FRACTIONS, THRESHOLDED
from seglab.reporting.run_decisions import RULES, Decisions
from seglab.reporting.run_labels import differing
from seglab.reporting.stats import Comparison, compare
from seglab.reporting.thresholds import MIDDLES
from seglab.reporting.verdict import QUESTIONS, Verdict, headline, judge, listed, signed

CHANCE = 0.2  # probability that a difference called mostly calibration is not real, over all losses behind the best
IMAGES = {"all": "all test images", "foreground": "the test images with foreground", "empty": "the empty test images"}


@dataclass(frozen=True, kw_only=True)
class Question:
    """The question that the verdict answers.

    `question` is best or pairs, see verdict.py; `against` names a baseline with which every other loss is compared
    instead. `metric` is a score of per_image.csv, for `of_class` or averaged over classes. `rule` is how a mask is
    made from probabilities (a key of RULES), and `images` selects the images (all, foreground, empty). `delta` is the
    largest difference that does not matter, and 1 - `confidence` the error probability of all looks together.
    """

    question: str = "best"
    against: str | None = None
    metric: str = "iou"
    of_class: str | None = None
    rule: str = "fixed"
    images: str = "all"
    delta: float = 0.01
    confidence: float = 0.95

    def __post_init__(self) -> None:
        require(self.question in QUESTIONS, "report: question", f"one of {', '.join(QUESTIONS)}", self.question)
        require(self.rule in RULES, "report: rule", f"one of {', '.join(RULES)}", self.rule)
        has_scores = self.rule == "fixed" or self.metric in THRESHOLDED
        require(has_scores, f"report: rule={self.rule}", f"metric as one of {', '.join(THRESHOLDED)}", self.metric)
        require(self.images in IMAGES, "report: images", f"one of {', '.join(IMAGES)}", self.images)
        require(self.delta > 0, "report: delta", "a number above 0", self.delta)
        require(0.5 < self.confidence < 1, "report: confidence", "a number between 0.5 and 1", self.confidence)

    @property
    def asked(self) -> dict[str, Any]:
        """The options under their command-line names."""
        return {"class" if key == "of_class" else key: value for key, value in asdict(self).items()}


@dataclass(frozen=True)
class Study:
    """The runs on one benchmark and a question about them; every result is computed on first access.

    `known` holds the looks taken at this benchmark before, see looks.py.
    """

    title: str
    sweep: Sweep
    question: Question
    known: Sequence[Mapping[str, Any]] = ()

    @cached_property
    def lower_is_better(self) -> bool:
        """Whether lower values of the metric are better."""
        return metrics_table.worse_if_higher(self.question.metric)

    @property
    def key(self) -> str:
        """The key of this benchmark in looks.json."""
        return self.sweep.benchmark

    @property
    def digests(self) -> dict[str, str]:
        """The names of the runs that are compared, mapped to digests of their values."""
        digests: dict[str, str] = {}
        for folder, digest in self.sweep.used[["folder", "digest"]].itertuples(index=False):
            name = f"{folder.parent.name}/{folder.name}" if folder.name in digests else folder.name  # from two studies
            digests[name] = digest
        return digests

    @cached_property
    def look(self) -> Look:
        """The number of this look at the study, and its share of the error."""
        return Look.at(self.known, self.question.asked, self.digests, 1 - self.question.confidence)

    @cached_property
    def look_words(self) -> str:
        """One or two sentences about this look and its error level; empty without a verdict."""
        if not self.has_verdict:
            return ""
        if first := self.look.instead:
            return f"Exploratory: errors are controlled only for the first look at this study, which used {first}."
        now, later, total = (100 * x for x in (self.look.error, self.look.next_error, 1 - self.question.confidence))
        return (
            f"Look {self.look.number} at this study, tested at an error rate of {now:.2g} % so that all looks together "
            f"err in at most {total:.2g} %; the next look will be tested at {later:.2g} %."
        )

    @property
    def has_verdict(self) -> bool:
        """Whether the answer makes any statement that could be wrong."""
        return any(verdict.kind != "none" for verdict in self.verdicts)

    def remember(self, roots: Sequence[Path]) -> None:
        """Record a new look and its answer in looks.json of the `roots` that contain some of its runs."""
        if self.look.is_new and self.has_verdict:
            folders = list(self.sweep.used["folder"])
            holders = [root for root in roots if any(folder.is_relative_to(root.resolve()) for folder in folders)]
            remember(holders, self.key, self.look, self.headline)

    @cached_property
    def data(self) -> Cube:
        """The metric as losses x seeds x images, with losses sorted from the best mean to the worst."""
        images = self.sweep.images
        if self.question.rule != "fixed":
            images = metrics_table.under(self.question.rule, images, self._run_decisions)
        if self.question.images != "all":
            images = images[(images["foreground"] > 0) == (self.question.images == "foreground")]
            require(len(images) > 0, f"report: images={self.question.images}", IMAGES[self.question.images], "none")
        data = cube(images, self.question.metric, self.of_folds)
        means = np.array(list(data.means.values()))
        order = np.argsort(means if self.lower_is_better else -means, kind="stable")  # ties are sorted by label
        return data.of([data.labels[k] for k in order])

    @property
    def labels(self) -> list[str]:
        """The labels of the losses from the best mean to the worst."""
        return self.data.labels

    @property
    def means(self) -> dict[str, float]:
        """The mean of the metric over runs and their images, by label."""
        return self.data.means

    @property
    def of_folds(self) -> int:
        """The number of folds into which the images are divided; 1 without folds."""
        return max((config.get("dataset") or {}).get("folds") or 1 for config in self.sweep.used["config"])

    @property
    def decision(self) -> str:
        """A description of how the runs made masks from their probabilities."""
        if self.sweep.used["task"].iloc[0].kind == "multiclass":
            return "the most probable class"
        thresholds = {config.get("threshold", 0.5) for config in self.sweep.used["config"]}
        return f"threshold {thresholds.pop()}" if len(thresholds) == 1 else "each run at its own threshold"

    @property
    def tiles(self) -> str:
        """A sentence if the test images were scored in tiles, as in older runs on patches; otherwise empty."""
        fits = {(config.get("dataset") or {}).get("fit") for config in self.sweep.used["config"]}
        return metrics_table.TILES if "patch" in fits and "native" not in set(self.sweep.used["scale"]) else ""

    @cached_property
    def no_verdict(self) -> str:
        """A sentence saying why there is no verdict; empty if there is one."""
        if waiting := self.sweep.waiting:
            names = f"{', '.join(waiting[:3])}{' and others' if len(waiting) > 3 else ''}"
            return f"No verdict yet: {len(waiting)} of {len(self.sweep.runs)} runs have not finished ({names})."
        if self.question.rule != "fixed" and self.decision == "the most probable class":
            return f"No verdict: mutually exclusive classes have only the rule fixed, got {self.question.rule}."
        if self.question.against not in {None, *self.labels}:
            return f"No verdict: no run of {self.question.against} has finished on these data."
        images = self.sweep.images
        of_fold, of_run = (images.groupby(by)["id"].nunique() for by in ("fold", ["fold", "run"]))
        incomplete = of_run < of_fold.reindex(of_run.index, level="fold")  # lacks some images of its fold
        mixed = of_fold.index.min() < 0 <= of_fold.index.max()  # runs on all images have fold -1
        if incomplete.any() or mixed:
            difference = differing(self.sweep.used["config"], "dataset.") or "their ids differ"
            return (
                f"No verdict: the runs were tested on different images ({difference}); test each loss on the same "
                "images, or on all of them with dataset.folds=5 dataset.fold=0,1,2,3,4."
            )
        return ""

    @cached_property
    def pairs(self) -> list[Comparison]:
        """The comparisons of all pairs of losses; empty if there is no verdict."""
        return [] if self.no_verdict else compare(self.data, lower_is_better=self.lower_is_better)

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """The answers to the question of this study."""
        return self.judged("against" if self.question.against else self.question.question)

    def judged(self, question: str) -> list[Verdict]:
        """Return the verdicts of this look for any question: best, pairs or against."""
        return judge(
            self.pairs,
            question=question,
            against=self.question.against,
            delta=self.question.delta,
            alpha=self.look.error,
            next_alpha=self.look.next_error,
            lower_is_better=self.lower_is_better,
            largest=1.0 if self.question.metric in FRACTIONS else np.inf,
        )

    @cached_property
    def answer(self) -> str:
        """The answer in one sentence, and the losses that it does not cover."""
        if self.no_verdict:
            return self.no_verdict
        undefined = [label for label in self.labels if np.isnan(self.means[label])]
        if undefined and not self.verdicts:
            images = IMAGES[self.question.images]
            return metrics_table.undefined(self.question.metric, images, undefined, bool(self.tiles))
        judged = {label for verdict in self.verdicts for label in (verdict.pair.first, verdict.pair.second)}
        apart = [label for label in self.labels if label not in judged]
        sentence = headline(self.verdicts, self.question.against, apart)
        if not apart or not judged:
            return sentence
        pair, pronoun = self.verdicts[0].pair, "it" if len(apart) == 1 else "them"
        lacking = f"no {pair.kind.removesuffix('s')} has {self.question.metric} both for {pronoun} and for"
        return f"{sentence} There is no verdict on {listed(apart)}: {lacking} {self.question.against or pair.first}."

    @property
    def headline(self) -> str:
        """The answer, followed by the sentence about calibration."""
        return f"{self.answer} {self.calibration}".strip()

    @cached_property
    def calibration(self) -> str:
        """A sentence if most of a probable difference from the best vanishes at tuned thresholds; otherwise empty."""
        if self.tuned is None or self.question.rule != "fixed":
            return ""
        behind = self.verdicts if self.verdicts[0].best else self.judged("best")
        best, sign = behind[0].pair.first, -1 if self.lower_is_better else 1
        fixed, tuned = self.means, self.tuned.means
        gap = {label: sign * (fixed[best] - fixed[label]) for label in self.labels}
        left = {label: sign * (tuned[best] - tuned[label]) for label in self.labels}
        least = 1 - CHANCE / len(behind)  # among equal losses, the best of many is probably ahead of some by chance
        probable = {verdict.pair.second for verdict in behind if verdict.chances[0] >= least}
        vanishing = [label for label in self.labels if label in probable and left[label] < gap[label] / 2]
        if not vanishing:
            return ""
        most = max(vanishing, key=gap.__getitem__)
        rest = [label for label in vanishing if label != most]
        others = f"; likewise for {listed(rest)}" if rest else ""
        at_fixed = f"{best} is ahead of {most} by {gap[most]:.3f} at the fixed threshold"
        overtakes = left[most] < -self.question.delta
        at_tuned = f"{most} is ahead by {-left[most]:.3f}" if overtakes else f"by {signed(left[most])}"
        return f"Mostly calibration: {at_fixed}, but {at_tuned} at thresholds tuned on validation{others}."

    @cached_property
    def named(self) -> list[Verdict]:
        """The verdicts worth listing: all, if up to ten or with a baseline; otherwise those of the leading loss."""
        if len(self.verdicts) <= 10 or self.question.against:
            return self.verdicts
        return [verdict for verdict in self.verdicts if verdict.pair.first == self.verdicts[0].pair.first]

    @cached_property
    def blind(self) -> str:
        """Sentences about runs that find no foreground in any test image, or none of a class; may be empty."""
        images = self.sweep.images
        if self.question.images == "foreground":  # then no score stems from empty images
            images = images[images["foreground"] > 0]
        return metrics_table.nothing_found(images, self.question.metric, self.sweep.used)

    @cached_property
    def tuned(self) -> "Study | None":
        """The same study at thresholds tuned on validation; None if the metric, the runs or the verdicts preclude it.

        A loss whose probabilities are too high or too low scores badly although another threshold would fix it.
        """
        available = any("tuned" in decisions.images for decisions in self._run_decisions.values())
        if self.question.metric not in THRESHOLDED or not available or not self.verdicts:
            return None
        tuned = replace(self, question=replace(self.question, rule="tuned"))
        vars(tuned)["_run_decisions"] = self._run_decisions  # where cached_property stores it: files are read only once
        return tuned if tuned.verdicts else None  # precision is undefined for a loss that finds nothing

    @cached_property
    def decisions(self) -> pd.DataFrame:
        """The mean metric of each loss (rows) under each decision rule (columns); empty without histograms."""
        if self.question.metric not in THRESHOLDED or not self._run_decisions:
            return pd.DataFrame()
        metric = self.question.metric
        keys = {rule: metric if rule == "fixed" else f"{rule}/{metric}" for rule in RULES}
        table = self.metrics.reindex(columns=list(keys.values())).set_axis(list(keys), axis=1)  # a rule may be missing
        return table.groupby(self.metrics["label"]).mean().reindex(self.labels).dropna(axis=1, how="all")

    @cached_property
    def _run_decisions(self) -> dict[int, Decisions]:
        return metrics_table.read_decisions(self.sweep, "dice" if self.question.metric == "dice" else "iou")

    @cached_property
    def _histories(self) -> pd.DataFrame:
        return read_histories(self.sweep.used)

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """All metrics, one row per run."""
        return metrics_table.per_run(self.sweep, self._run_decisions, self._histories)

    @cached_property
    def spread(self) -> pd.DataFrame:
        """The mean and standard deviation of all metrics over the runs, one row per label."""
        keys = chain(*metrics_table.blocks(map(str, self.metrics)).values())
        table = metrics_table.over_seeds(self.metrics, keys, ["label"])
        rest = [label for label in table.index if label not in self.labels]  # labels without images of that kind
        return table.reindex([*self.labels, *rest])

    @cached_property
    def tables(self) -> dict[str, np.ndarray]:
        """The histogram (2, 256) of each loss, summed over all test pixels and runs."""
        return self._summed({row: decisions.table for row, decisions in self._run_decisions.items()})

    @cached_property
    def confusions(self) -> dict[str, np.ndarray]:
        """The confusion matrix (k, k) of each loss over all its test pixels, for multiclass tasks only."""
        matrices = {row: decisions.confusion for row, decisions in self._run_decisions.items()}
        return self._summed({row: matrix for row, matrix in matrices.items() if matrix is not None})

    def _summed(self, by_run: Mapping[int, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the sum over the runs of each loss; losses without a run in `by_run` are left out."""
        labels = self.sweep.used["label"]
        values_of = {label: [value for row, value in by_run.items() if labels[row] == label] for label in self.labels}
        return {label: np.sum(values, axis=0) for label, values in values_of.items() if values}

    def figures(self) -> dict[str, Figure]:
        """Draw the figures that these runs allow; returns them by file name without suffix."""
        figures = {"seeds": report_figures.seeds(self.data, self.question.metric)}
        if len(self._histories):
            figures["learning"] = report_figures.learning(self._histories, self.labels)
        if self.verdicts:
            figures["forest"] = report_figures.forest(self.named, self.question.metric)
        if self.tables:
            figures["precision_recall"] = report_figures.precision_recall(self.metrics, self.tables, self.labels)
            rescaled = {  # each run with its own temperature
                row: rebinned(decisions.table, scaled(MIDDLES, decisions.scores["scaled/temperature"]))
                for row, decisions in self._run_decisions.items()
            }
            figures["reliability"] = report_figures.reliability(self.tables, self._summed(rescaled), self.labels)
        return figures
