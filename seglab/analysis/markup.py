"""Pieces of HTML: tables that sort, figures that follow the page's colours, formulas without a network."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.mathtext import MathTextParser

from seglab.analysis.charts import COLOURS
from seglab.analysis.figures import FAINT, GRID, INK, STYLE

INKS = {INK: "--ink", FAINT: "--faint", GRID: "--grid", "#ffffff": "--paper"}
SPELLINGS = {r"\tfrac": r"\frac", r"\dfrac": r"\frac", r"\lVert": r"\Vert", r"\rVert": r"\Vert", r"\text{": r"\mathrm{"}
INKS |= {colour: f"--c{k}" for k, colour in enumerate(COLOURS)}


class Cell(NamedTuple):
    """One cell of a table: what to show (HTML), what to sort by, and a class for its looks."""

    html: str
    sort: float | str | None = None
    kind: str = ""


def text(value: object) -> Cell:
    """A cell of plain text."""
    return Cell(escape(str(value)), str(value), "text")


def number(value: float, digits: int = 3, kind: str = "") -> Cell:
    """A cell with a number, a dash where it is undefined."""
    if value is None or not np.isfinite(value):
        return Cell("–", None, kind)
    return Cell(decimal(value, digits), float(value), kind)


def decimal(value: float, digits: int = 3) -> str:
    """A number with a true minus sign, and without one before zero."""
    shown = f"{value:.{digits}f}"
    return shown.removeprefix("-") if float(shown) == 0 else shown.replace("-", "−")


def table(head: Sequence[str], rows: Iterable[Sequence[Cell]], kind: str = "") -> str:
    """A table whose columns sort at a click on their heads; the first column names the row."""
    heads = "".join(f'<th scope="col"><button type="button">{escape(name)}</button></th>' for name in head)
    body = "".join(f"<tr>{''.join(_cell(cell, place == 0) for place, cell in enumerate(row))}</tr>\n" for row in rows)
    inner = f"<thead><tr>{heads}</tr></thead><tbody>\n{body}</tbody>"
    return f'<div class="scroll"><table class="{kind}">{inner}</table></div>'


def _cell(cell: Cell, first: bool) -> str:
    key = "" if cell.sort is None else escape(str(cell.sort), quote=True)
    tag, scope = ("th", ' scope="row"') if first else ("td", "")
    return f'<{tag}{scope} class="{cell.kind}" data-key="{key}">{cell.html}</{tag}>'


def figure(drawn: Figure, name: str, caption: str, kind: str = "") -> str:
    """A figure of the report with its caption; its title for readers of screens is the caption's first sentence."""
    first = re.split(r"(?<=[.:;]) ", re.sub(r"<[^>]+>", "", caption))[0]
    svg = vector(drawn, name).replace("<svg ", f'<svg role="img" aria-label="{escape(first, quote=True)}" ', 1)
    return f'<figure class="{kind}"><div class="scroll">{svg}</div><figcaption>{caption}</figcaption></figure>'


def vector(drawn: Figure, name: str, letters: str = "none") -> str:
    """A matplotlib figure as SVG to stand inside a page: its inks become the page's colours, its ids its own.

    `letters` none keeps text as text in the page's font, path draws it.
    """
    buffer = io.StringIO()
    style = STYLE | {"svg.hashsalt": name, "svg.fonttype": letters, "savefig.transparent": True}
    with mpl.rc_context(style):
        drawn.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    found = re.search(r'width="([\d.]+)pt" height="[\d.]+pt"', svg)
    width = float(found[1]) * 4 / 3
    wide = ' data-wide=""' if width > 660 else ""
    svg = svg.replace(found[0], f'width="100%" style="max-width:{width:.0f}px"{wide}', 1)
    return re.sub(r"#[0-9a-f]{6}\b", lambda ink: f"var({INKS[ink[0]]})" if ink[0] in INKS else ink[0], svg)


def formula(latex: str, name: str) -> str:
    """A LaTeX formula as SVG by matplotlib's mathtext; what mathtext cannot set is shown as it is written."""
    latex = latex.strip().strip("$")
    for theirs, ours in SPELLINGS.items():
        latex = latex.replace(theirs, ours)
    with mpl.rc_context({"mathtext.fontset": "stix"}):
        try:
            width, height, depth, *_ = MathTextParser("path").parse(f"${latex}$", dpi=72)
        except ValueError:
            return f"<code>{escape(latex)}</code>"
        wide, high = 1.15 * width + 4, 1.15 * height + 4
        drawn = Figure(figsize=(wide / 72, high / 72))
        drawn.text(2 / wide, (1.15 * depth + 2) / high, f"${latex}$", color=INK, fontsize=11.5)
        svg = vector(drawn, name, "path").replace('width="100%"', f'width="{wide * 4 / 3:.0f}"', 1)
    return f'<span class="formula" role="img" aria-label="{escape(latex, quote=True)}">{svg}</span>'
