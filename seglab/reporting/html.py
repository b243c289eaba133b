"""HTML by Jinja2 with autoescape: tables that sort, figures in the page's colors, formulas as MathML, notebooks.

Text is escaped wherever it enters a page; what is HTML already is of the type `markupsafe.Markup`.
"""

import base64
import re
import tempfile
from collections.abc import Iterable, Sequence
from html import unescape
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree.ElementTree import tostring

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from seglab.plots import COLORS, FAINT, GRID, INK, save

LOADER = FileSystemLoader(Path(__file__).parent)
TEMPLATES = Environment(loader=LOADER, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
MACROS: Any = TEMPLATES.get_template("macros.html.j2").module
note, bullets = MACROS.note, MACROS.bullets
"""A paragraph in small print, from its words, and a list, from its sentences."""
VARIABLES = {INK: "--ink", FAINT: "--faint", GRID: "--grid", "#ffffff": "--paper"}
VARIABLES |= {color: f"--c{k}" for k, color in enumerate(COLORS)}
"""The colors of a figure, and the variables of page.css that replace them."""


class Cell(NamedTuple):
    """One cell of a table: what to show, what to sort by (None goes last), and its CSS class."""

    shown: str
    sort: float | str | None = None
    kind: str = ""


def number(value: float, digits: int = 3) -> Cell:
    """A cell with a number, a dash where it is undefined."""
    return Cell(decimal(value, digits), float(value)) if np.isfinite(value) else Cell("–")


def mean_sd(mean: float, sd: float, runs: str = "", best: bool = False) -> Cell:
    """A cell with a mean, its standard deviation over seeds, and `runs` if not all; the best of a column is bold."""
    if not np.isfinite(mean):
        return Cell("–")
    digits = decimals(mean, sd) if abs(mean) < 2 else 2
    rest = [f"±{sd:.{digits}f}"] * bool(np.isfinite(sd)) + [runs] * bool(runs)
    spread = Markup(' <span class="sd">{}</span>').format(", ".join(rest)) if rest else ""
    return Cell(Markup("{}{}").format(decimal(mean, digits), spread), mean, "best" if best else "")


def decimals(mean: float, sd: float) -> int:
    """How many decimals to show: 3, and of what these would hide as many as make three digits, up to 8."""
    size = np.nanmax([abs(mean), sd])
    return min(8, 2 - int(np.floor(np.log10(size)))) if 0 < size < 0.001 else 3


def decimal(value: float, digits: int = 3) -> str:
    """A number with a true minus sign, and without one before zero; a dash where it is undefined."""
    if not np.isfinite(value):
        return "–"
    shown = f"{value:.{digits}f}"
    return shown.removeprefix("-") if float(shown) == 0 else shown.replace("-", "−")


def table(head: Sequence[str], rows: Iterable[Sequence[Cell | str | float]]) -> Markup:
    """A table whose columns sort at a click on their heads; the first column names the row.

    Beside cells a row may have texts and numbers, which are shown with three decimals.
    """
    return MACROS.table(head, [[_cell(value) for value in row] for row in rows])


def _cell(value: Cell | str | float) -> Cell:
    if isinstance(value, Cell):
        return value
    return Cell(value, value, "text") if isinstance(value, str) else number(value)


def figure(drawn: str, caption: str) -> Markup:
    """A figure with its caption, from the text of its SVG file: in the page's colors, at most as wide as it.

    The caption's first sentence names it to those who do not see it.
    """
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn[drawn.index("<svg") :], flags=re.DOTALL)
    for color, variable in VARIABLES.items():
        drawn = drawn.replace(color, f"var({variable})")
    first = re.split(r"(?<=[.:;])\s", caption, maxsplit=1)[0]
    size = re.search(r'width="([\d.]+)pt" height="[\d.]+pt"', drawn)
    assert size
    pixels = float(size[1]) * 4 / 3  # of CSS, 96 an inch; a point is 1/72
    wide = " data-wide" if pixels > 660 else ""  # what scrolls on a phone, see page.css
    style = Markup('role="img" aria-label="{}" width="100%" style="max-width:{:.0f}px"{}').format(first, pixels, wide)
    return MACROS.figure(Markup(drawn.replace(size[0], style, 1)), caption)


def formula(latex: str) -> Markup:
    """A LaTeX formula as MathML; what cannot be converted is shown as it is written."""
    from latex2mathml.converter import convert_to_element

    latex = latex.strip().strip("$")
    spelled = re.sub(r"\\[bB]igg?l?(?=[(\[])", r"\\left", latex)  # browsers do not stretch \Big) below an exponent
    spelled = re.sub(r"\\[bB]igg?r?(?=[)\]])", r"\\right", spelled)
    spelled = re.sub(r"\\(log|ln|cosh|min)\b", r"\\,\\\1\\,", spelled)  # nor set names of functions apart
    try:
        math = convert_to_element(spelled, display="block")
    except Exception:  # latex2mathml's errors have no common class
        return Markup("<code>{}</code>").format(latex)
    for node in math.iter():  # its own serializer would leave < and & of the formula's words as they are
        node.text = unescape(node.text or "")
    return Markup(tostring(math, encoding="unicode"))


TEMPLATES.globals |= {"figure": figure, "formula": formula, "decimal": decimal}


def notebook_page(title: str, lines: Sequence[str], tables: Iterable[str] = (), pictures: Iterable[str] = ()) -> str:
    """What a notebook shows: a heading, sentences, tables (HTML, as pandas writes it) and pictures (data URLs)."""
    return str(MACROS.notebook(title, lines, tables, pictures))


def picture_url(picture: Path | Figure) -> str:
    """A PNG file or a figure as a data URL."""
    if isinstance(picture, Path):
        return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
    with tempfile.TemporaryDirectory() as place:
        return picture_url(save(picture, Path(place, "figure.png")))
