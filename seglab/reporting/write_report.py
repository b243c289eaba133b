"""Write a report: the HTML page, the tables as CSV and Markdown, and the figures."""

import datetime
import math
import os
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from seglab.contract import require
from seglab.files import csv_text, write_text
from seglab.plots import file_keys, svg
from seglab.reporting import external_data, report_sections, tuning
from seglab.reporting.data_sets import DataSets, together
from seglab.reporting.html import TEMPLATES, decimals
from seglab.reporting.load_runs import Sweep, collect
from seglab.reporting.looks import known_looks
from seglab.reporting.metrics_table import blocks, part_of, rows_of, title
from seglab.reporting.study import IMAGES, Question, Study

Answer = tuple[Sweep, list[Study], DataSets | None]
"""All runs below some folders, one study per benchmark, and the verdict over all datasets, if there is one."""


def answer(roots: Sequence[Path], question: Question) -> Answer:
    """Answer the question for all runs below some folders, and record the new looks."""
    sweep = collect(roots, question.of_class)
    losses = dict.fromkeys(sweep.used["label"])
    valid = not losses or question.against in {None, *losses}
    require(valid, "report: against", f"one of {', '.join(losses)}", question.against)
    studies = []
    for name, runs in sweep.benchmarks():
        study = Study(name, runs, question, known_looks(roots, runs.benchmark))
        study.remember(roots)  # recorded before anyone can read the answer
        studies.append(study)
    return sweep, studies, together(roots, sweep, studies)


def write(roots: Sequence[Path], question: Question, found: Answer, output: str | Path | None) -> Path:
    """Write report.html, table.csv, table.md and figures/*.svg from the result of `answer`; return report.html.

    output: the output folder; defaults to the first root, or to its subfolder named after the class, if one is chosen.
    """
    sweep, studies, over = found
    # The report on one class does not replace that on all
    out = Path(output or roots[0] / (question.of_class or "")).expanduser()
    allowed = len(sweep.used) > 0 or not (out / "report.html").exists()
    remedy = f"{out / 'report.html'} is not replaced"
    require(allowed, "report", "a run to compare", f"none ({sweep.reasons})", remedy)
    (out / "figures").mkdir(parents=True, exist_ok=True)
    keys = file_keys(study.title for study in studies)
    prefixes = [f"{key}_" if len(keys) > 1 else "" for key in keys]
    figures = [_figures(study, out / "figures", prefix) for study, prefix in zip(studies, prefixes, strict=True)]
    write_text(out / "table.csv", csv(studies, sweep.runs))
    write_text(out / "table.md", markdown(studies, sweep.runs, over))
    commands = "\n".join([*training_commands(sweep.runs["overrides"]), report_command(roots, question)])
    name = (roots[0] if len(roots) == 1 else out).resolve().name  # "." has no name
    overall = (over, _figures(over, out / "figures", "all-data-sets_")) if over else None
    return write_text(out / "report.html", page(name, studies, figures, sweep.runs, commands, overall))


def report_command(roots: Sequence[Path], question: Question) -> str:
    """Return the command that asks the question about some folders."""
    defaults, arguments = Question().asked, [os.path.relpath(root) for root in roots]
    for key, value in question.asked.items():
        if value != defaults[key]:
            unquoted = re.fullmatch(r"[\w.-]+", str(value))
            arguments.append(f"{key}={value}" if unquoted else f'{key}="{value}"')  # Hydra needs "focal gamma=2"
    return " ".join(["python -m seglab.report", *map(shlex.quote, arguments)])


def training_commands(overrides: Iterable[list[str] | None]) -> list[str]:
    """Return the commands that made some runs: one sweep if they form a full grid of their overrides, else one per run.

    Runs without recorded overrides are left out.
    """
    runs = [dict(word.split("=", 1) for word in words if "=" in word) for words in overrides if isinstance(words, list)]
    keys = dict.fromkeys(key for run in runs for key in run)  # a dict keeps the order of insertion
    values = {key: dict.fromkeys(run[key] for run in runs if key in run) for key in keys}
    combinations = {tuple(run.get(key) for key in keys) for run in runs}
    command = "python -m seglab.train"
    # counted, not enumerated: 15 runs may span 10^11 combinations
    is_grid = all(len(run) == len(keys) for run in runs) and len(combinations) == math.prod(map(len, values.values()))
    if len(runs) > 1 and is_grid:
        return [" ".join([f"{command} -m", *(shlex.quote(f"{key}={','.join(values[key])}") for key in keys)])]
    return [" ".join([command, *(shlex.quote(f"{key}={value}") for key, value in run.items())]) for run in runs]


def _figures(study: Study, folder: Path, prefix: str) -> dict[str, str]:
    """Save the figures of a study as SVG files whose names begin with `prefix`; return their texts by figure name."""
    texts = {}
    for key, figure in study.figures().items():
        texts[key] = svg(figure, prefix + key)
        write_text(folder / f"{prefix}{key}.svg", texts[key])
    return texts


def page(
    name: str,
    studies: list[Study],
    figures: list[dict[str, str]],
    runs: pd.DataFrame,
    commands: str,
    over: tuple[DataSets, dict[str, str]] | None = None,
) -> str:
    """Return the report as a single HTML file that needs no network.

    It contains the verdict over all datasets, a part per study with its figures (SVG texts by name), external data,
    failed and missing runs, and the `commands` that reproduce it.
    """
    searches = tuning.searches(runs["folder"])
    compared = runs[runs["used"]]
    seeds = compared["seed"].nunique()
    facts = f"{len(compared)} of {len(runs)} runs compared, {seeds} seed{'s' * (seeds != 1)}, {datetime.date.today()}"
    return TEMPLATES.get_template("report.html.j2").render(
        title=name,
        facts=facts,
        studies=list(zip(studies, figures, strict=True)),
        over=over,
        external=list(external_data.tables(external_data.evaluated(runs))),
        searches=[(found, svg(tuning.figure(found), f"tuning{k}")) for k, found in enumerate(searches)],
        trials=tuning.trials,
        failed=report_sections.failed(runs),
        missing=[words for study in studies for words in report_sections.missing(study)],
        commands=commands,
        content=report_sections,
        metric_title=title,
        images_asked=IMAGES,
    )


def csv(studies: list[Study], runs: pd.DataFrame) -> str:
    """Return every metric with all digits as CSV: one row per loss, columns `iou`, `iou sd`, ..., and number of seeds.

    Rows for external data follow, one per loss and dataset, whose `data` also names the training data.
    """
    parts = []
    for study in studies:
        flat = _flat_columns(study.spread)
        flat.insert(0, "seeds", study.metrics.groupby("label")["seed"].nunique())
        flat.insert(0, "data", study.title)
        parts.append(flat.rename_axis("loss").reset_index())
    external = external_data.evaluated(runs)
    if len(external):
        spread = external_data.over_seeds(external)
        not_metrics = ["what", "seeds", "in_domain"]
        flat = _flat_columns(spread.drop(columns=not_metrics, level=0, errors="ignore"))  # some may be missing
        flat.insert(0, "seeds", spread["seeds", ""])
        flat = flat.rename_axis(["data", "trained", "loss"]).reset_index()
        flat["data"] += ", trained on " + flat.pop("trained")
        parts.append(flat)
    return csv_text(pd.concat(parts, ignore_index=True)) if parts else "loss,data,seeds\n"


def _flat_columns(spread: pd.DataFrame) -> pd.DataFrame:
    """Flatten the columns (key, mean | sd) to single names."""
    spread = spread.drop(columns="runs", level=1)
    keys, parts = (spread.columns.get_level_values(level) for level in (0, 1))
    return spread.set_axis(keys + np.where(parts == "sd", " sd", ""), axis=1).copy()  # contiguous, for insertions


def markdown(studies: list[Study], runs: pd.DataFrame, over: DataSets | None = None) -> str:
    """Return the verdicts and all metric tables as Markdown, for pasting into discussions."""
    lines = [f"**{over.headline}**", "", *filter(None, [over.look_words]), ""] if over else []
    for study in studies:
        lines += [f"## {study.title}", "", study.headline, "", *(f"- {found.words}" for found in study.named)]
        at_tuned = f"At the threshold tuned on validation: {study.tuned.headline}" if study.tuned else ""
        for sentence in filter(None, (study.blind, study.tiles, study.look_words, at_tuned)):
            lines += ["", sentence]
        for name, keys in blocks(study.spread.columns.get_level_values(0), study.decision).items():
            lines += ["", f"**{name}**", "", *_markdown_table(study.spread, keys)]
        lines.append("")
    external = external_data.over_seeds(external_data.evaluated(runs))
    for (data, trained), block in external.groupby(level=["data", "trained"], sort=False):
        lines += [f"## On {data}, trained on {trained}", "", f"{block['what', ''].iloc[0]}", ""]
        keys = list(map(str, part_of(block, "mean")))
        lines += [*_markdown_table(block.droplevel(["data", "trained"]), keys, external_data.heading), ""]
    return "\n".join(lines)


def _markdown_table(spread: pd.DataFrame, keys: list[str], head: Callable[[str], str] = title) -> list[str]:
    lines = [f"| loss | {' | '.join(head(key) for key in keys)} |", f"|---|{'---:|' * len(keys)}"]
    for label, values in rows_of(spread, keys):
        name = str(label).replace("|", r"\|")  # it would begin another column
        lines.append(f"| {name} | {' | '.join(_mean_sd(*value) for value in values)} |")
    return lines


def _mean_sd(mean: float, sd: float, runs: str) -> str:
    if pd.isna(mean):
        return "–"
    digits, suffix = decimals(mean, sd), f", {runs}" if runs else ""
    return f"{mean:.{digits}f}{suffix}" if pd.isna(sd) else f"{mean:.{digits}f} ±{sd:.{digits}f}{suffix}"
