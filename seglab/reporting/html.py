"""Pieces of HTML: tables that sort, figures that follow the page's colours, formulas without a network."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.mathtext import MathTextParser

from seglab.plots import COLORS, FAINT, GRID, INK, svg

INKS = {INK: "--ink", FAINT: "--faint", GRID: "--grid", "#ffffff": "--paper"}
SPELLINGS = {
    r"\\[td]?frac\s*(\w)\s*(\w)": r"\\dfrac{\1}{\2}",
    r"\\[td]?frac\b": r"\\dfrac",
    r"\\[bB]igg?l?(?=[(\[])": r"\\left",
    r"\\[bB]igg?r?(?=[)\]])": r"\\right",
    r"\\[lr]Vert": r"\\Vert",
    r"\\[lr]vert": "|",
    r"(?<=[\w)}'])\s*(?=\\(log|ln)\b)": r"\\,",
    r"(\\sum(_\{[^{}]*\}|_\w)?)": r"\1\\,",
}
"""LaTeX that mathtext lacks or sets too tightly, and what it takes instead."""
INKS |= {colour: f"--c{k}" for k, colour in enumerate(COLORS)}


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


def figure(drawn: str, caption: str) -> str:
    """A figure of the report, from the text of its SVG file, with its caption."""
    first = re.split(r"(?<=[.:;]) ", re.sub(r"<[^>]+>", "", caption.replace("\n", " ")))[0]
    named = inline(drawn).replace("<svg ", f'<svg role="img" aria-label="{escape(first, quote=True)}" ', 1)
    return f'<figure><div class="scroll">{named}</div><figcaption>{caption}</figcaption></figure>'


def inline(drawn: str) -> str:
    """An SVG file as an element of a page: its inks become the page's colours, its width that of the column."""
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn[drawn.index("<svg") :], flags=re.DOTALL)
    size = re.search(r'width="([\d.]+)pt" height="[\d.]+pt"', drawn)
    width = float(size[1]) * 4 / 3
    wide = ' data-wide=""' if width > 660 else ""
    drawn = drawn.replace(size[0], f'width="100%" style="max-width:{width:.0f}px"{wide}', 1)
    return re.sub(r"#[0-9a-f]{6}\b", lambda ink: f"var({INKS[ink[0]]})" if ink[0] in INKS else ink[0], drawn)


def formula(latex: str, name: str) -> str:
    """A LaTeX formula as SVG by matplotlib's mathtext; what mathtext cannot set is shown as it is written."""
    latex = latex.strip().strip("$")
    for theirs, ours in SPELLINGS.items():
        latex = re.sub(theirs, ours, latex)
    with mpl.rc_context({"mathtext.fontset": "stix"}):
        try:
            width, height, depth, *_ = MathTextParser("path").parse(f"${latex}$", dpi=72)
        except ValueError:
            return f"<code>{escape(latex)}</code>"
        wide, high = 1.15 * width + 4, 1.15 * height + 4
        drawn = Figure(figsize=(wide / 72, high / 72))
        drawn.text(2 / wide, (1.15 * depth + 2) / high, f"${latex}$", color=INK, fontsize=11.5)
        shown = inline(svg(drawn, name, "path")).replace('width="100%"', f'width="{wide * 4 / 3:.0f}"', 1)
    return f'<span class="formula" role="img" aria-label="{escape(latex, quote=True)}">{shown}</span>'
