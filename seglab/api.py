"""Run, sweep, load and compare from a script or a notebook, with the same folders as the command line.

Each training runs in its own process, so that it neither changes nor depends on the state of a notebook (random
numbers, logging). A run that is interrupted here can be resumed on the command line, and vice versa.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seglab.contract import ContractError, require
from seglab.files import as_numbers, read_json, run_status, whole_file

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from seglab.data.pairs import Source
    from seglab.inference.predictor import Predictor
    from seglab.reporting import study as reporting
    from seglab.reporting.load_runs import Sweep


def run(*overrides: str, trust: Sequence[str] = ()) -> Run:
    """Train one model with one loss, as `python -m seglab.train` with these overrides; return the run.

    A finished run is not trained again; an interrupted one resumes. trust: your own modules that define a loss or a
    model, which `Run.predict` imports in this process. Raises ContractError with the error message of the command if
    the command fails.
    """
    require(not any(word in overrides for word in ("-m", "--multirun")), "run", "one run", "-m", "use seglab.sweep")
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder, "journal")  # the command appends its run folder to it
        _train(overrides, SEGLAB_SWEEP=str(journal))
        require(journal.exists(), "run", "overrides that start a training run", " ".join(overrides))
        return Run(Path(journal.read_text(encoding="utf-8").splitlines()[-1]), trust)


def sweep(*overrides: str, study: str, trust: Sequence[str] = ()) -> Study:
    """Train all combinations: `sweep("loss=bce,dice", "seed=1,2,3", study="first")` returns the study `outputs/first`.

    Repeating the call resumes interrupted runs. Raises ContractError if a run fails; `load` still opens the others.
    """
    fits = isinstance(study, str) and study == study.strip() and not set(study) & set(",$[(")
    require(fits, "sweep", 'study as a name such as "first"', repr(study))
    placed = [word for word in overrides if str(word).lstrip("+").startswith(("study=", "hydra.sweep.dir="))]
    require(not placed, "sweep", "the study as the argument study=NAME", ", ".join(placed))
    _train(["-m", f"study={study}", *overrides])
    return load(Path("outputs", study), trust=trust)


def load(*folders: str | Path, trust: Sequence[str] = ()) -> Study:
    """Open all runs below the given folders, at any depth, as one study."""
    fits = len(folders) > 0 and all(isinstance(folder, str | Path) for folder in folders)
    require(fits, "load", "folders such as load('outputs/first', 'outputs/second')", folders or "none")
    study = Study(tuple(Path(folder).expanduser().absolute() for folder in folders), trust)  # valid after os.chdir
    _ = study.runs  # read now, so that errors are raised here
    return study


def compare(
    images: Iterable[Source],
    masks: Iterable[Source],
    *overrides: str,
    losses: Sequence[str] = ("bce", "dice", "focal"),
    seeds: int = 3,
    groups: Iterable[Hashable] | None = None,
    study: str = "compare",
) -> Study:
    """Compare losses on images and masks; `compare(...).verdict()` says which losses may be the best.

    Args:
        images: (h, w) or (h, w, 3) in RGB order, uint8 or uint16, or paths.
        masks: (h, w), with foreground above 0, or paths.
        overrides: further overrides of the command, such as "dataset.size=128", "trainer.max_epochs=50".
        losses: names of losses, as in `python -m seglab.train loss=`.
        seeds: the number of runs of each loss, with the seeds 1, 2, ...
        groups: the patient or scene of each image; images of one group are never split between training and test.
        study: the name of the folder `outputs/<study>`.
    """
    from seglab.data.pairs import GROUP, write_pairs

    names = isinstance(losses, Sequence) and not isinstance(losses, str) and all(isinstance(n, str) for n in losses)
    require(names and len(losses) > 0, "compare", 'losses such as ["bce", "dice"]', repr(losses))
    require(isinstance(seeds, Integral) and seeds > 0, "compare", "seeds as a number of runs", repr(seeds))
    root = write_pairs(images, masks, groups, Path("outputs", ".pairs"))
    words = ["dataset=folder", f"dataset.root={root}", f"dataset.group_pattern='{GROUP}'"]  # parentheses need quotes
    words += [f"loss={','.join(losses)}", f"seed={','.join(map(str, range(1, seeds + 1)))}"]
    return sweep(*words, *overrides, study=study)


def _train(overrides: Sequence[str], **environment: str) -> None:
    """Run `seglab.train` in its own process and print its output; raise ContractError with its last lines on error."""
    from seglab.engine.sweep import by_signal

    other = [repr(word)[:80] for word in overrides if not isinstance(word, str)]
    require(not other, "overrides", 'text such as "loss=focal"', ", ".join(other))
    command = [sys.executable, "-u", "-m", "seglab.train", *overrides]  # -u: unbuffered output
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    process = subprocess.Popen(command, env={**os.environ, "SEGLAB_FROM_PYTHON": "1", **environment}, **pipes)
    assert process.stdout
    error: list[str] = []
    with process.stdout as lines:
        try:
            for line in lines:
                print(line, end="", flush=True)
                if not line.startswith("  "):  # lines of a sweep's summary, which follow its first one
                    error.clear()
                error.append(line.rstrip())
        except BaseException:  # a terminal has interrupted the command too, some editors have not: it saves and ends
            process.send_signal(signal.SIGINT)
            print(lines.read(), end="", flush=True)
            process.wait()
            raise
    if code := process.wait():
        died = f"run: expected a process that ends, got one that died{by_signal(code)}; repeat the call to resume"
        raise ContractError(died if code < 0 else "\n".join(error) or f"seglab.train exited with code {code}")


@dataclass(frozen=True)
class Run:
    """A training run: its folder and the files in it."""

    folder: Path
    trust: Sequence[str] = field(default=(), repr=False, hash=False)  # a list is not hashable

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder).expanduser().absolute())  # a str too

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The contents of run.json: configuration, data, status, versions, times, metrics."""
        facts = read_json(self.folder / "run.json")
        require(isinstance(facts, dict) and bool(facts), "run", f"a run.json in {self.folder}", "none")
        return facts

    @property
    def metrics(self) -> dict[str, float]:
        """The final metrics on validation and test images, such as `test/iou`."""
        return as_numbers(self.facts.get("metrics", {}))

    @property
    def table(self) -> pd.DataFrame:
        """The contents of per_image.csv: one row per test image and class."""
        from seglab.reporting.class_rows import read_rows

        return read_rows(whole_file(self.folder, self.facts, "per_image.csv"))

    @property
    def history(self) -> pd.DataFrame:
        """The contents of metrics.csv: one row per epoch."""
        import pandas as pd

        return pd.read_csv(whole_file(self.folder, self.facts, "metrics.csv"))

    @property
    def best(self) -> Path:
        """The weights that the run was tested with: its best checkpoint, or the weights of an exported hub folder."""
        from seglab.engine.trained_run import TrainedRun

        return TrainedRun(self.folder, self.facts).best

    def predict(self, images: Iterable[Source]) -> list[np.ndarray]:
        """Return the foreground probability of images of any size, given as arrays or paths: each (h, w) float32.

        For several classes each result is (k, h, w). Arrays must have the bands that the run was trained on, in the
        same order. Files with several pages need `python -m seglab.predict`.
        """
        from seglab.data.datasets.cbis_ddsm import CbisDdsm
        from seglab.images.raster import SeveralPages
        from seglab.inference.predictor import FULL, checked, warn_of_range

        is_list = isinstance(images, Iterable) and not isinstance(images, str) and getattr(images, "ndim", 1) in (1, 4)
        require(is_list, "predict", "a list of images", type(images).__name__, "write predict([image])[0]")
        model = self._predictor
        data = model.dataset
        only_files = isinstance(data, CbisDdsm) and (data.crop or data.window != "full")
        fits = not only_files or all(isinstance(image, str | Path) for image in images)
        expected = "paths, since the run reads files with its dataset.window and dataset.crop"
        require(fits, "predict", expected, "an array", "save it as PNG")
        sources = [checked(image, data.range == "full") for image in images]
        for number, image in enumerate(sources):
            if not isinstance(image, str | Path):  # files are checked when they are decoded
                warn_of_range(f"image {number}", image, data)
        maps = (model.of_file(str(item)) if isinstance(item, str | Path) else model.of_image(item) for item in sources)
        try:
            return [levels.astype("float32") / FULL for levels in maps]
        except SeveralPages as error:  # its own remedy names an option of training
            message, _, _ = str(error).partition(";")
            raise ContractError(f"{message}; use python -m seglab.predict for all pages") from None

    @cached_property
    def _predictor(self) -> Predictor:
        from seglab.engine.trained_run import open_run
        from seglab.inference.predictor import predictor

        trust = [self.trust] if isinstance(self.trust, str) else self.trust
        return predictor(open_run(self.folder, trust), window=None, overlap=0.5, tta="none", batch=4, device="auto")

    def _repr_html_(self) -> str:
        from seglab.reporting.html import notebook_page, picture_url

        names = ("iou", "dice", "precision", "recall", "hd95")
        metrics = [f"{name} {self.metrics[f'test/{name}']:.3f}" for name in names if f"test/{name}" in self.metrics]
        pictures = [self.folder / name for name in ("examples.png", "curves.png")]
        result = "test: " + ", ".join(metrics) if metrics else (self.facts.get("error") or {}).get("message", "")
        lines = [f"{run_status(self.folder, self.facts)} in {self.folder}", result]
        return notebook_page(self.folder.name, lines, pictures=map(picture_url, filter(Path.is_file, pictures)))


@dataclass(frozen=True)
class Study:
    """The runs below one or more folders, in any state."""

    folders: tuple[Path, ...]
    trust: Sequence[str] = field(default=(), repr=False, hash=False)

    @cached_property
    def _sweep(self) -> Sweep:
        from seglab.reporting.load_runs import collect

        return collect(self.folders)

    @property
    def runs(self) -> pd.DataFrame:
        """A table with one row per run: folder, status, loss label, seed, metrics and the other facts of run.json."""
        return self._sweep.runs

    @property
    def images(self) -> pd.DataFrame:
        """A table with one row per test image of each finished run, with the row number, label and seed of its run."""
        return self._sweep.images

    def run(self, loss: str, seed: int = 1, fold: int = -1) -> Run:
        """Return the finished run of a loss, by its label in `runs`, and a seed; studies with folds need `fold` too."""
        from seglab.reporting.run_labels import of_run

        used = self._sweep.used
        labels = ", ".join(sorted(set(used["label"])))
        used = used[used["label"] == loss]
        require(len(used) > 0, "study", f"a finished run of one of {labels or 'no losses'}", loss)
        folds = sorted(set(used["fold"]))
        require(fold != -1 or -1 in folds, "study", f"fold to be one of {', '.join(map(str, folds))}", "none")
        matches = used[(used["seed"] == seed) & (used["fold"] == fold)]
        rows = zip(used["label"], used["seed"], used["fold"], strict=True)
        existing = ", ".join(f"{label} with {of_run(seed, fold)}" for label, seed, fold in rows)
        several = f", {len(matches)} times; open one by seglab.Run(FOLDER)" * (len(matches) > 1)
        require(len(matches) == 1, "study", f"one of {existing}", f"{loss} with {of_run(seed, fold)}{several}")
        return Run(matches["folder"].iloc[0], self.trust)

    def verdict(self, data: str | None = None, **question: Any) -> Verdict:
        """Return which losses may be the best, are better, are equivalent, or cannot be distinguished.

        question: options of `python -m seglab.report`: question="pairs", against="bce", metric="dice", rule="tuned",
        images="foreground", of_class="cup" (`class` on the command line), delta=0.01, confidence=0.95. A look at new
        runs spends part of the allowed error and is recorded in the study's folders. data: the title of a dataset,
        required if the runs are on several; "all data sets" selects the verdict over all of them.
        """
        from seglab.reporting.write_report import answer

        runs, studies, overall = answer(self.folders, _question(question))
        require(bool(studies), "verdict", "a run to compare", f"none ({runs.reasons})")
        candidates = [*studies, overall] if overall else studies
        matches = [study for study in candidates if study.title == data] if data else studies
        titles = ", ".join(study.title for study in candidates) or "finished runs"
        require(len(matches) == 1, "verdict", f"one dataset of {titles}", data or len(matches), "set data=NAME")
        return Verdict(matches[0])

    def report(self, output: str | Path | None = None, **question: Any) -> Path:
        """Write report.html, tables and figures as `python -m seglab.report` does; return the path of report.html.

        output: the folder to write to; defaults to the study's first folder, or its subfolder `cup` if of_class="cup".
        """
        from seglab.reporting.write_report import answer, write

        options = _question(question)
        return write(self.folders, options, answer(self.folders, options), output)

    def _repr_html_(self) -> str:
        from seglab.reporting.html import notebook_page

        used = self._sweep.used
        names = [name for name in ("test/iou", "test/dice", "test/precision", "test/recall") if name in used]
        states = ", ".join(f"{count} {state}" for state, count in self.runs["status"].value_counts().items())
        tables = []
        if names:
            means = used.groupby(["benchmark", "label"])[names].mean()
            tables.append(means.to_html(float_format="{:.3f}".format))
        lines = [f"{len(self.runs)} runs: {states}; .verdict() compares the losses, .report() writes the page"]
        return notebook_page(", ".join(map(os.path.relpath, self.folders)), lines, tables)


def _question(values: dict[str, Any]) -> reporting.Question:
    from seglab.reporting.study import Question

    options = Question.__dataclass_fields__
    unknown = sorted(set(values) - set(options))
    require(not unknown, "verdict", f"options among {', '.join(options)}", ", ".join(unknown))
    return Question(**values)


@dataclass(frozen=True, eq=False, repr=False)
class Verdict:
    """The answer to a question about a study; `print(verdict)` prints it in sentences."""

    study: reporting.Study

    @property
    def headline(self) -> str:
        """The answer in one sentence."""
        return self.study.headline

    @property
    def table(self) -> pd.DataFrame:
        """A table with one row per comparison: first, second, verdict, ahead, low, high.

        ahead: how much better the first loss is than the second, also for metrics where lower is better.
        """
        import pandas as pd

        rows = [(v.pair.first, v.pair.second, v.name, v.gap, v.low, v.high) for v in self.study.verdicts]
        return pd.DataFrame(rows, columns=["first", "second", "verdict", "ahead", "low", "high"])

    def _lines(self) -> list[str]:
        study = self.study
        tuned = f"At the threshold tuned on validation: {study.tuned.headline}" if study.tuned else ""
        return list(filter(None, [*(finding.words for finding in study.named), tuned, study.look_words, study.blind]))

    def __repr__(self) -> str:
        return f"Verdict({self.study.title}: {self.headline})"

    def __str__(self) -> str:
        return "\n".join([f"{self.study.title}: {self.headline}", *self._lines()])

    def _repr_html_(self) -> str:
        from seglab.reporting.html import notebook_page, picture_url

        figures = self.study.figures()
        shown = [figures[name] for name in ("forest", "seeds") if name in figures]
        return notebook_page(self.headline, self._lines(), pictures=map(picture_url, shown))
