"""All runs below some folders as two tables: one row per run, and one row per test image of each run.

Nothing that a sweep may leave behind raises an error; it is reported instead: failed, running or killed runs,
truncated or missing files, folders that are not runs, and duplicates of an experiment.
"""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd

from seglab.contract import ContractError, Task, require
from seglab.files import NOT_JSON, as_numbers, mistyped, of_version_1, run_status, whole_file
from seglab.reporting.class_rows import chosen_classes, metrics_of, read_rows, rows_per_image
from seglab.reporting.run_labels import benchmark_titles, fold, label


@dataclass(frozen=True)
class Sweep:
    """The runs of one or more sweeps; runs on different data belong to different benchmarks and are never compared.

    Args:
        runs: one row per run folder: folder, name, status, used, problem, benchmark, label, dataset, model, seed, fold
            (-1 without folds), the digest of per_image.csv, metrics such as `test/iou`, and the facts of run.json
            (config, choices, data, card, git, versions, host, ...).
        images: the rows of per_image.csv of every used run, with its run (a row number), benchmark, label, seed and
            fold.
    """

    runs: pd.DataFrame
    images: pd.DataFrame

    @property
    def used(self) -> pd.DataFrame:
        """The runs that are compared: those that finished and could be read, without superseded ones."""
        return self.runs[self.runs["used"]]

    def benchmarks(self) -> Iterator[tuple[str, "Sweep"]]:
        """Yield one sweep per benchmark, with its title; runs are compared only within a benchmark."""
        titles = benchmark_titles(self.used)
        for name in self.used["benchmark"].unique():
            rows = self.runs["benchmark"] == name
            unknown = self.runs["benchmark"] == self.runs["dataset"]  # a run that has not read its data yet
            rows |= unknown & ~self.runs["used"] & (self.runs["dataset"] == self.runs.loc[rows, "dataset"].iloc[0])
            yield titles[name], Sweep(self.runs[rows], self.images[self.images["benchmark"] == name])

    @property
    def benchmark(self) -> str:
        """The name of the data that all used runs share."""
        return str(self.used["benchmark"].iloc[0])

    @property
    def waiting(self) -> list[str]:
        """The names of the runs that have not ended: running, interrupted or paused."""
        return list(self.runs.loc[self.runs["status"].isin(["running", "interrupted", "paused"]), "name"])

    @property
    def reasons(self) -> str:
        """The most frequent reasons why runs are not compared, each with its number of runs."""
        counts = self.runs["problem"].value_counts()
        reasons = [f"{count} {problem}" for problem, count in counts.items() if problem]
        return "; ".join([*reasons[:5], *[f"further reasons: {len(reasons) - 5}"] * (len(reasons) > 5)])


def collect(roots: Iterable[Path | str], class_name: str | None = None) -> Sweep:
    """Read every run below `roots`; raise ContractError if a folder is missing, no run is found or a class unknown.

    class_name: the class whose metrics to report; None takes the mean over the scored classes.
    """
    folders = sorted({folder for root in roots for folder in _run_folders(Path(root))})
    places = ", ".join(map(str, roots))
    require(bool(folders), "report", f"folders with a run.json below {places}", "none", "give the folder of a sweep")
    runs = pd.DataFrame([_read_run(folder, class_name) for folder in folders])
    names = dict.fromkeys(name for task in runs["task"] for name in task.classes)
    require(class_name in {None, *names}, "report", f"class as one of {', '.join(names)}", class_name)
    images = _read_images(runs, class_name)
    runs["label"] = label(runs)
    _supersede(runs)
    images = images[runs["used"].to_numpy()[images["run"]]].reset_index(drop=True)
    columns = {key: runs[key].to_numpy()[images["run"]] for key in ("benchmark", "label", "seed", "fold")}
    return Sweep(runs, images.assign(**columns))


def _run_folders(root: Path) -> Iterator[Path]:
    """Yield the run folders below a root, at any depth but never inside another run; links are followed."""
    require(root.is_dir(), "report", "an existing folder", root)
    seen, denied = set[Path](), list[OSError]()
    for folder, subfolders, files in os.walk(root, onerror=denied.append, followlinks=True):
        resolved = Path(folder).resolve()  # a folder below two roots counts once
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]  # runs that tuned a learning rate
        if resolved in seen:  # links may be circular
            subfolders.clear()
        elif {"run.json", "metrics.csv"} & set(files):  # a run whose run.json was lost is reported
            subfolders.clear()
            yield resolved
        seen.add(resolved)
    yield from (Path(error.filename).resolve() for error in denied)  # reported, since they may contain a run


def _read_run(folder: Path, class_name: str | None = None) -> dict[str, Any]:
    """Return the facts of one run; it is used if it finished, has the requested class, and its files are intact."""
    facts, problem = _read_facts(folder)
    config, choices, data = (facts.get(key) or {} for key in ("config", "choices", "data"))
    task, classes = Task(), list[int]()
    try:
        task = Task(**(data.get("task") or {}))
        classes = chosen_classes(task, class_name)
        files = {} if problem else facts.get("files", {})
        for name in files:
            if not name.endswith(".ckpt"):  # checkpoints are large and not read here
                whole_file(folder, facts, name, hashed=not name.endswith(".png"))  # nor are pictures
    except (ContractError, TypeError) as error:  # a run that failed early has the default task
        problem = problem or str(error).partition(": ")[2] or str(error)  # without the run, which the table names
    row = {key: value for key, value in facts.items() if key not in ("metrics", "threshold")}
    row |= {"folder": folder, "name": folder.name, "used": not problem, "problem": problem, "digest": ""}
    row |= {"config": config, "choices": choices, "data": data, "status": facts.get("status", "unreadable")}
    row |= {"dataset": choices.get("dataset", ""), "model": choices.get("model", ""), "seed": facts.get("seed", 0)}
    row |= {key: facts.get(key) for key in ("card", "error", "git", "overrides", "finished")}
    row["fold"] = fold(config)
    row["scale"] = facts.get("scale", "run")
    row["benchmark"] = f"{row['dataset']} {str(data.get('fingerprint', ''))[:6]}".strip()
    row["benchmark"] += " native" * (row["scale"] == "native")  # older runs on patches have scores of tiles
    row |= {"task": task, "classes": classes, "thresholds": (facts.get("threshold") or {}).get("tuned")}
    return row | metrics_of(as_numbers(facts.get("metrics") or {}), class_name)


def _read_facts(folder: Path) -> tuple[dict[str, Any], str]:
    """Return the facts in run.json, and a sentence why the run cannot be used; an empty string if it can."""
    try:
        facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, *NOT_JSON) as error:
        return {}, f"run.json cannot be read: {_reason(error)}"
    if not isinstance(facts, dict) or not facts.get("config") or mistyped(facts):  # other programs also write run.json
        return {"status": "foreign"}, "run.json is not that of a training run"
    if reason := of_version_1(facts):
        return facts | {"status": "unreadable"}, reason
    facts["status"] = status = run_status(folder, facts)
    failure = facts.get("error") or {}
    kind = [failure.get("kind", "error")] * (failure.get("traceback", "") is not None)  # a message for users has none
    problems = {
        "finished": "",
        "running": "still running",
        "interrupted": "interrupted; run it again to resume",
        "paused": "paused by stop_after; run it again without stop_after to resume",
        "failed": ": ".join([*kind, str(failure.get("message", ""))]).strip().split("\n")[0],
    }
    return facts, problems.get(status, f"status {status}")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)  # without a path, so that equal reasons are counted together


def _read_images(runs: pd.DataFrame, class_name: str | None) -> pd.DataFrame:
    """Return the per-image rows of the used runs; `runs` gets the file digests, and unreadable runs become unused."""
    tables: dict[Task, dict[int, pd.DataFrame]] = {}
    for row, folder, task in runs.loc[runs["used"], ["folder", "task"]].itertuples(name=None):
        try:
            content = (folder / "per_image.csv").read_bytes()
            runs.loc[row, "digest"] = blake2b(content, digest_size=8).hexdigest()
            table = read_rows(BytesIO(content))
            needed = {"id", "group", "class", "pixels", "foreground", "tp", "fp", "iou"}
            if missing := sorted(needed - set(table)):
                raise ValueError(f"no column {', '.join(missing)}")
            if table.empty:
                raise ValueError("no rows")
            tables.setdefault(task, {})[row] = table  # the task decides which classes are averaged
        except (OSError, ValueError) as error:
            runs.loc[row, ["used", "problem"]] = False, f"per_image.csv cannot be read: {_reason(error)}"
    joined = {task: pd.concat(of_task, names=["run"]).reset_index(level="run") for task, of_task in tables.items()}
    parts = [rows_per_image(rows, task, class_name) for task, rows in joined.items()]
    return pd.concat(parts).sort_values("run", kind="stable") if parts else pd.DataFrame(columns=["run"], dtype=int)


def _supersede(runs: pd.DataFrame) -> None:
    """Keep only the run that finished last for each benchmark, label, seed and fold; mark the others in place."""
    chronological = runs[runs["used"]].sort_values("finished", kind="stable")  # ISO timestamps sort as strings
    last = chronological.groupby(["benchmark", "label", "seed", "fold"])["folder"].transform("last")
    for row, folder in last[last != chronological["folder"]].items():
        digests = runs.loc[[row, *runs.index[runs["folder"] == folder]], "digest"]
        scores = "equal" if digests.nunique() == 1 else "different"
        successor = f"{folder.parent.name}/{folder.name}, which finished last, with {scores} scores"
        runs.loc[row, ["used", "problem"]] = False, f"superseded by {successor}"


def read_histories(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of metrics.csv of all runs that have one, with columns `run` (the run's row) and `label`.

    Columns of single classes, such as `val/iou/cup`, are left out.
    """
    tables: dict[Any, pd.DataFrame] = {}
    for row, folder in runs["folder"].items():
        with suppress(OSError, ValueError):
            table = pd.read_csv(folder / "metrics.csv", usecols=lambda name: name.count("/") < 2)
            tables |= {row: table} if "epoch" in table else {}
    empty = pd.DataFrame(columns=["run", "epoch"], dtype=int)
    rows = pd.concat(tables, names=["run"]).reset_index(level="run") if tables else empty
    return rows.assign(label=runs["label"].reindex(rows["run"]).to_numpy())
