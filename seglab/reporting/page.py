"""The report as one HTML file: no network, opens in any browser, light and dark, on a phone and on paper."""

from __future__ import annotations

import datetime
from html import escape
from pathlib import Path

import pandas as pd

from seglab.reporting import external_data, report_sections
from seglab.reporting.html import table, text
from seglab.reporting.study import Study


def page(name: str, studies: list[Study], figures: list[dict[str, str]], runs: pd.DataFrame, again: str) -> str:
    """The whole report: one part for each data set, then what failed or is missing and how to run it again."""
    several = len(studies) > 1
    others = external_data.evaluated(runs)
    boards = [
        _board(study, drawn, f"b{place}-", several, len(others) > 0)
        for place, (study, drawn) in enumerate(zip(studies, figures, strict=True))
    ]
    used = runs["used"].sum()
    seeds = runs.loc[runs["used"], "seed"].nunique()
    facts = f"{used} of {len(runs)} runs, {seeds} seed{'s' * (seeds != 1)}, {datetime.date.today().isoformat()}"
    body = (
        f'<header><h1>{escape(name)}</h1><p class="facts">{facts}</p></header>'
        + ("".join(boards) or "<p class='headline'>No run has finished: there is nothing to compare yet.</p>")
        + (section("elsewhere", "On other data", external_data.section(others)) if len(others) else "")
        + section("failed", "What failed or is missing", _failed(runs, studies))
        + section("again", "How to run it again", f"<pre>{escape(again)}</pre>")
    )
    return document(f"{name}: which loss?", body)


def document(title: str, body: str, head: str = "") -> str:
    """A whole page in the project's looks: `body` is HTML, `head` what goes before it, such as a script."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_file('page.css')}</style>{head}</head>"
        f"<body><main>{body}</main><script>{_file('page.js')}</script></body></html>\n"
    )


def _file(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _board(study: Study, drawn: dict[str, str], prefix: str, several: bool, others: bool) -> str:
    parts = {
        "verdict": ("Verdict", report_sections.verdict(study)),
        "metrics": ("Every metric", report_sections.metrics(study)),
        "figures": ("Figures", report_sections.figures(drawn)),
        "images": ("The same images under every loss", report_sections.pictures(study)),
        "losses": ("The losses", report_sections.cards(study)),
        "compared": ("What was compared", report_sections.compared(study)),
        "method": ("How it was judged", report_sections.method(study)),
    }
    links = "".join(f'<a href="#{prefix}{key}">{heading}</a>' for key, (heading, _) in parts.items())
    links += '<a href="#elsewhere">On other data</a>' if others else ""
    links += '<a href="#failed">What failed</a><a href="#again">Run it again</a>'
    head = f'<h2 class="board">{escape(study.title)}</h2>' if several else ""
    return f"{head}<nav>{links}</nav>" + "".join(
        section(prefix + key, heading, html) for key, (heading, html) in parts.items()
    )


def section(key: str, heading: str, html: str) -> str:
    """One part of a page, which a link can name by its key."""
    return f'<section id="{key}"><h2>{heading}</h2>{html}</section>\n'


def _failed(runs: pd.DataFrame, studies: list[Study]) -> str:
    bad = runs[~runs["used"]]
    parts = []
    if len(bad):
        rows = [
            [text(row["name"]), text(row["status"]), text(row["problem"])]
            for row in bad[["name", "status", "problem"]].to_dict("records")
        ]
        parts.append(table(["run", "status", "what happened"], rows))
    missing = [f"{label} with seed {seed}" for study in studies for label, seed in study.missing]
    if missing:
        parts.append(f"<p>Not there, though other losses have them: {escape('; '.join(missing))}.</p>")
    return "".join(parts) or "<p>Nothing: every run finished, and every loss has every seed.</p>"
