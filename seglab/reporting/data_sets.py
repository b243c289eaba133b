"""One verdict over several datasets, where each dataset is one observation regardless of its images and seeds.

The difference between two losses is modeled as a random effect of the dataset. The quantity of interest is its mean
over datasets of this kind, so precision depends on the number of datasets.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from seglab.reporting import report_figures
from seglab.reporting.load_runs import Sweep
from seglab.reporting.looks import known_looks
from seglab.reporting.stats import Comparison, replicated
from seglab.reporting.study import Study

NAME = "all data sets"  # the title, and the key in looks.json


@dataclass(frozen=True)
class DataSets(Study):
    """Several `studies`, each of one dataset, and one question about all of them together."""

    studies: Sequence[Study] = ()
    left_out: str = ""
    """Sentences naming the datasets that are left out and why; empty if there are none."""

    @property
    def key(self) -> str:
        return NAME

    @property
    def digests(self) -> dict[str, str]:
        # runs of two datasets may share a name
        return {f"{study.key}: {name}": value for study in self.studies for name, value in study.digests.items()}

    @cached_property
    def no_verdict(self) -> str:
        return next((study.no_verdict for study in self.studies if study.no_verdict), "")

    @cached_property
    def pairs(self) -> list[Comparison]:
        """The comparisons between losses that occur in at least two datasets, with equal weight for each dataset."""
        if self.no_verdict:
            return []
        shared = _shared(self.studies)
        parts = [study.data.of([label for label in study.labels if label in shared]) for study in self.studies]
        return replicated(parts, "datasets", lower_is_better=self.lower_is_better)

    @property
    def labels(self) -> list[str]:
        return list(dict.fromkeys(label for pair in self.pairs for label in (pair.first, pair.second)))

    @cached_property
    def tuned(self) -> None:  # each study reports this for its own dataset
        return None

    @property
    def headline(self) -> str:
        """The answer, a caution if there are only two datasets, and the datasets that are left out."""
        count = len(self.studies)
        caution = "Two datasets say little about others, however many images they have." if count == 2 else ""
        return " ".join(filter(None, [f"Over {count} datasets: {self.answer}", caution, self.left_out]))

    @property
    def table(self) -> pd.DataFrame:
        """The mean metric of each loss (rows) on each dataset, and the mean over datasets that have all losses."""
        means = pd.DataFrame({study.title: study.means for study in self.studies}).reindex(self.labels)
        return means.assign(mean=means.dropna(axis=1).mean(axis=1))

    def figures(self) -> dict[str, Figure]:
        return {"forest": report_figures.forest(self.named, self.question.metric)} if self.verdicts else {}


def together(roots: Sequence[Path], sweep: Sweep, studies: Sequence[Study]) -> DataSets | None:
    """Return the verdict over the datasets that share at least two losses; None if there are fewer than two of them.

    Different targets on the same images are not separate datasets: only the first by title is used. A dataset
    without a verdict is left out, but an unfinished one postpones the verdict over all.
    """
    losses, included, left_out = _shared(studies), list[Study](), ""
    for study in sorted(studies, key=lambda study: study.title):  # independent of the order of the folders
        if study.question.against not in {None, *study.labels}:
            left_out += f" {study.title} is left out, since it has no run of {study.question.against}."
        elif study.no_verdict and not study.sweep.waiting:
            left_out += f" {study.title} is left out, since its runs were tested on different images."
        elif len(losses & set(study.labels)) > 1:
            overlapping = [other.title for other in included if _same_images(study, other)]
            if overlapping:
                left_out += f" {study.title} is left out, since it shares test images with {overlapping[0]}."
            else:
                included.append(study)
    if len(included) < 2:
        return None
    overall = DataSets(NAME, sweep, included[0].question, known_looks(roots, NAME), included, left_out.strip())
    overall.remember(roots)  # recorded before anyone can read the answer
    return overall


def _shared(studies: Sequence[Study]) -> set[str]:
    """Return the losses that occur in at least two studies."""
    counts = Counter(label for study in studies for label in study.labels)
    return {label for label, count in counts.items() if count > 1}


def _same_images(study: Study, other: Study) -> bool:
    """Whether two studies of the same data source share any test image, judged by image id."""
    first_run, second_run = study.sweep.used.iloc[0], other.sweep.used.iloc[0]
    options, other_options = first_run["config"].get("dataset") or {}, second_run["config"].get("dataset") or {}
    same_source = first_run["dataset"] == second_run["dataset"] and all(
        options.get(key) == other_options.get(key) for key in ("root", "images")
    )
    return same_source and not set(study.data.ids).isdisjoint(other.data.ids)
