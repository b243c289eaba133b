"""All runs below some folders as two tables: a row per run, and a row per test image of each run.

Whatever a sweep may leave behind is reported and stops nothing: runs that failed, still run or were killed, truncated
or missing files, folders that are no runs, the same experiment twice.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from seglab.contract import ContractError, Task, require
from seglab.files import whole_file
from seglab.reporting.class_rows import chosen_classes, metrics_of, rows_per_image
from seglab.reporting.run_labels import benchmark_titles, fold, label


@dataclass(frozen=True)
class Sweep:
    """The runs of one or more sweeps; runs on different data belong to different benchmarks and are never compared.

    `runs` has a row per run folder: folder, name, status, used, problem, benchmark, label, loss, dataset, model, seed,
    fold (-1 where there are none), digest of per_image.csv, metrics as `test/iou`, ... and the facts of run.json
    (config, choices, data, card, git, versions, host, ...). `images` has the rows of per_image.csv of each used run
    with its run (a row number), benchmark, label, seed and fold.
    """

    runs: pd.DataFrame
    images: pd.DataFrame

    @property
    def used(self) -> pd.DataFrame:
        """The runs that finished and could be read: those that are compared."""
        return self.runs[self.runs["used"]]

    def benchmarks(self) -> Iterator[tuple[str, "Sweep"]]:
        """The parts that may be compared within themselves, each with its title."""
        titles = benchmark_titles(self.used)
        for name in self.used["benchmark"].unique():
            here = self.runs["benchmark"] == name
            unknown = self.runs["benchmark"] == self.runs["dataset"]  # a run that has not read its data yet
            here |= unknown & ~self.runs["used"] & (self.runs["dataset"] == self.runs.loc[here, "dataset"].iloc[0])
            yield titles[name], Sweep(self.runs[here], self.images[self.images["benchmark"] == name])

    @property
    def benchmark(self) -> str:
        """The name of the data that these runs have in common."""
        return str(self.used["benchmark"].iloc[0])

    @property
    def waiting(self) -> list[str]:
        """The runs that have not ended: at work, killed or interrupted."""
        return list(self.runs.loc[self.runs["status"].isin(["running", "interrupted", "paused"]), "name"])


def collect(roots: Iterable[Path | str], class_name: str | None = None) -> Sweep:
    """Read every run below the folders `roots`; raises one sentence if a folder is absent or none holds a run.

    class_name: of several classes the one that all metrics are of; None takes the mean over those that are scored.
    """
    folders = sorted({folder for root in roots for folder in _run_folders(Path(root))})
    shown = ", ".join(map(str, roots))
    require(bool(folders), "report", f"folders with a run.json below {shown}", "none", "give the folder of a sweep")
    runs = pd.DataFrame([_read(folder, class_name) for folder in folders])
    runs["label"] = label(runs)
    images = _images(runs, class_name)
    _supersede(runs)
    images = images[runs["used"].to_numpy()[images["run"]]].reset_index(drop=True)
    own = {key: runs[key].to_numpy()[images["run"]] for key in ("benchmark", "label", "seed", "fold")}
    return Sweep(runs, images.assign(**own))


def _run_folders(root: Path) -> Iterator[Path]:
    require(root.is_dir(), "report", "a folder", root)
    for folder, inside, files in os.walk(root):
        inside[:] = [name for name in inside if not name.startswith(".")]  # the short runs that tuned a learning rate
        if {"run.json", "metrics.csv"} & set(files):  # a run whose run.json is lost is told of
            inside.clear()
            yield Path(folder).resolve()


def _read(folder: Path, class_name: str | None = None) -> dict[str, Any]:
    """The facts of one run; it is used if it finished and its files are whole."""
    facts, problem = _facts(folder)
    try:
        for name in facts.get("files", {}) if not problem else ():
            if not name.endswith(".ckpt"):  # large, and not read here
                whole_file(folder, facts, name, hashed=not name.endswith(".png"))
    except ContractError as error:
        problem = str(error).partition(": ")[2]  # the table names the run
    config, choices, data = (facts.get(key) or {} for key in ("config", "choices", "data"))
    row = {key: value for key, value in facts.items() if key not in ("metrics", "threshold")}
    row |= {"folder": folder, "name": folder.name, "used": not problem, "problem": problem, "digest": ""}
    row |= {"config": config, "choices": choices, "data": data, "status": facts.get("status", "unreadable")}
    row |= {"dataset": choices.get("dataset", ""), "model": choices.get("model", ""), "seed": facts.get("seed", 0)}
    row |= {key: facts.get(key) for key in ("card", "error", "git", "overrides")}
    row["fold"] = fold(config)
    row["benchmark"] = f"{row['dataset']} {str(data.get('fingerprint', ''))[:6]}".strip()
    task = Task(**(data.get("task") or {}))
    tuned, chosen = (facts.get("threshold") or {}).get("tuned"), chosen_classes(task, class_name)
    row |= {"task": task, "classes": chosen, "thresholds": tuned}
    return row | metrics_of(facts.get("metrics") or {}, class_name)


def _facts(folder: Path) -> tuple[dict[str, Any], str]:
    try:
        facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return {}, f"run.json cannot be read: {error}"
    if not isinstance(facts, dict) or "config" not in facts:
        return {"status": "foreign"}, "run.json is not that of a training run"
    raised, status = facts.get("error") or {}, str(facts.get("status"))
    problems = {
        "finished": "",
        "running": "still running, or ended without a message",
        "interrupted": "interrupted; run it again to resume",
        "paused": "paused by stop_after; run it again without to resume",
        "failed": f"{raised.get('kind', 'error')}: {raised.get('message', '')}".strip().split("\n")[0],
    }
    return facts, problems.get(status, f"status {status}")


def _images(runs: pd.DataFrame, class_name: str | None) -> pd.DataFrame:
    """The rows per image of the used runs; enters the digests of their files, and leaves out those that are damaged."""
    parts, used = [], runs[runs["used"]]
    for task in dict.fromkeys(used["task"]):
        contents: dict[int, bytes] = {}
        problems: dict[int, str] = {}
        digests: dict[int, str] = {}
        for row in used.index[used["task"] == task]:
            try:
                contents[row] = (runs.loc[row, "folder"] / "per_image.csv").read_bytes()
                digests[row] = blake2b(contents[row], digest_size=8).hexdigest()
            except OSError as error:
                problems[row] = str(error)
        runs.loc[list(digests), "digest"] = list(digests.values())
        tables, damaged = read_together(contents, dtype={"id": str, "group": str}, na_values=[""])
        for table in tables:
            if missing := {"id", "group", "foreground", "iou"} - set(table):
                damaged |= dict.fromkeys(table["run"].unique(), f"no {', '.join(sorted(missing))}")
            else:
                parts.append(rows_per_image(table, task, class_name))
        for row, problem in (problems | damaged).items():
            runs.loc[row, ["used", "problem"]] = False, f"per_image.csv cannot be read: {problem}"
    images = pd.concat(parts) if parts else pd.DataFrame(columns=["run"], dtype=int)
    return images.sort_values("run", kind="stable")


def _supersede(runs: pd.DataFrame) -> None:
    """Of several finished runs with one label and seed keep the one that finished last."""
    used = runs[runs["used"]]
    used = used.sort_values("finished", kind="stable") if len(used) else used
    experiment = ["benchmark", "label", "seed", "fold"]
    for _, same in used[used.duplicated(experiment, keep=False)].groupby(experiment):
        runs.loc[same.index[:-1], "used"] = False
        last = runs.loc[same.index[-1], "folder"]
        runs.loc[same.index[:-1], "problem"] = f"superseded by {last.parent.name}/{last.name}"


def read_histories(runs: pd.DataFrame) -> pd.DataFrame:
    """The rows of metrics.csv of all runs that have one, with `run`, the run's row, and its `label`."""
    files = {row: folder / "metrics.csv" for row, folder in zip(runs.index, runs["folder"], strict=True)}
    tables, _ = read_together({row: file.read_bytes() for row, file in files.items() if file.is_file()})
    found = [table for table in tables if "epoch" in table]
    rows = pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=["run", "epoch"], dtype=int)
    return pd.concat([rows, runs["label"].reindex(rows["run"]).set_axis(rows.index)], axis=1)  # see _parsed


def read_together(contents: Mapping[int, bytes], **options: Any) -> tuple[list[pd.DataFrame], dict[int, str]]:
    """Read the CSV files of some runs as one, which takes a third of the time; `options` are those of pandas.read_csv.

    Returns a table for each set of columns, with the column `run`, and by run what is wrong with a file that is damaged
    or has no rows.
    """
    by_head: dict[bytes, dict[int, bytes]] = {}
    for run, content in contents.items():
        head, _, body = content.partition(b"\n")
        by_head.setdefault(head, {})[run] = body if body.endswith(b"\n") else body + b"\n"
    tables, problems = [], {}
    for head, bodies in by_head.items():
        try:
            tables.append(_parsed(head, bodies, options))
        except ValueError:  # one of them is damaged, or holds a line break within a cell
            for run, body in bodies.items():
                try:
                    tables.append(_parsed(head, {run: body}, options))
                except ValueError as error:
                    problems[run] = str(error)
    return tables, problems


def _parsed(head: bytes, bodies: Mapping[int, bytes], options: Mapping[str, Any]) -> pd.DataFrame:
    table = pd.read_csv(BytesIO(b"\n".join([head, b"".join(bodies.values())])), low_memory=False, **options)
    if table.empty:
        raise ValueError("no rows")
    lines = [body.count(b"\n") for body in bodies.values()] if len(bodies) > 1 else [len(table)]
    if sum(lines) != len(table):
        raise ValueError("rows of several lines")
    runs = pd.Series(np.repeat(list(bodies), lines), table.index, name="run")
    return pd.concat([table, runs], axis=1)  # a column added to a hundred makes pandas warn of their number
