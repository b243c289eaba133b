"""HTML via Jinja2 with autoescape: sortable tables, figures in the page's colors, formulas as MathML, notebooks.

All text is escaped when it enters a page; text that is already HTML has the type `markupsafe.Markup`.
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
"""Template macros: `note` renders text as a paragraph in small print, `bullets` renders sentences as a list."""
VARIABLES = {INK: "--ink", FAINT: "--faint", GRID: "--grid", "#ffffff": "--paper"}
VARIABLES |= {color: f"--c{k}" for k, color in enumerate(COLORS)}
"""The colors of figures, mapped to the variables of page.css that replace them."""


class Cell(NamedTuple):
    """A table cell: the text to show, the value to sort by (None sorts last), and the CSS class."""

    shown: str
    sort: float | str | None = None
    kind: str = ""


def number(value: float, digits: int = 3) -> Cell:
    """Return a cell with a number, or a dash if it is not finite."""
    return Cell(decimal(value, digits), float(value)) if np.isfinite(value) else Cell("–")


def mean_sd(mean: float, sd: float, runs: str = "", best: bool = False) -> Cell:
    """Return a cell with a mean, its standard deviation if finite, and the text `runs`; `best` prints it in bold."""
    if not np.isfinite(mean):
        return Cell("–")
    digits = decimals(mean, sd) if abs(mean) < 2 else 2
    parts = [f"±{sd:.{digits}f}"] * bool(np.isfinite(sd)) + [runs] * bool(runs)
    spread = Markup(' <span class="sd">{}</span>').format(", ".join(parts)) if parts else ""
    return Cell(Markup("{}{}").format(decimal(mean, digits), spread), mean, "best" if best else "")


def decimals(mean: float, sd: float) -> int:
    """Return the number of decimals: 3, or below 0.001 as many as give three significant digits, at most 8."""
    size = np.nanmax([abs(mean), sd])
    return min(8, 2 - int(np.floor(np.log10(size)))) if 0 < size < 0.001 else 3


def decimal(value: float, digits: int = 3) -> str:
    """Format a number with a true minus sign, except for zero; a dash if it is not finite."""
    if not np.isfinite(value):
        return "–"
    shown = f"{value:.{digits}f}"
    return shown.removeprefix("-") if float(shown) == 0 else shown.replace("-", "−")


def table(head: Sequence[str], rows: Iterable[Sequence[Cell | str | float]]) -> Markup:
    """Return a table whose columns sort on a click on their headings; the first column names the row.

    A row may mix cells, strings and numbers; numbers are shown with three decimals.
    """
    return MACROS.table(head, [[_cell(value) for value in row] for row in rows])


def _cell(value: Cell | str | float) -> Cell:
    if isinstance(value, Cell):
        return value
    return Cell(value, value, "text") if isinstance(value, str) else number(value)


def figure(drawn: str, caption: str) -> Markup:
    """Return a figure with its caption, from the text of an SVG file, in the page's colors and no wider than the page.

    The first sentence of the caption becomes the accessible name of the figure.
    """
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn[drawn.index("<svg") :], flags=re.DOTALL)
    for color, variable in VARIABLES.items():
        drawn = drawn.replace(color, f"var({variable})")
    first = re.split(r"(?<=[.:;])\s", caption, maxsplit=1)[0]
    size = re.search(r'width="([\d.]+)pt" height="[\d.]+pt"', drawn)
    assert size
    pixels = float(size[1]) * 4 / 3  # CSS pixels, 96 per inch; a point is 1/72 inch
    wide = " data-wide" if pixels > 660 else ""  # scrolls on phones, see page.css
    style = Markup('role="img" aria-label="{}" width="100%" style="max-width:{:.0f}px"{}').format(first, pixels, wide)
    return MACROS.figure(Markup(drawn.replace(size[0], style, 1)), caption)


def formula(latex: str) -> Markup:
    """Convert a LaTeX formula to MathML, or return its source in a code tag if it cannot be converted."""
    from latex2mathml.converter import convert_to_element

    latex = latex.strip().strip("$")
    rewritten = re.sub(r"\\[bB]igg?l?(?=[(\[])", r"\\left", latex)  # browsers do not stretch \Big) below an exponent
    rewritten = re.sub(r"\\[bB]igg?r?(?=[)\]])", r"\\right", rewritten)
    rewritten = re.sub(r"\\(log|ln|cosh|min)\b", r"\\,\\\1\\,", rewritten)  # nor add space around function names
    try:
        math = convert_to_element(rewritten, display="block")
    except Exception:  # errors of latex2mathml have no common base class
        return Markup("<code>{}</code>").format(latex)
    for node in math.iter():  # the serializer of latex2mathml does not escape < and & in text
        node.text = unescape(node.text or "")
        node.attrib.pop("href", None)  # \href{javascript:...} would run when it is clicked
    return Markup(tostring(math, encoding="unicode"))


TEMPLATES.globals |= {"figure": figure, "formula": formula, "decimal": decimal}


def notebook_page(title: str, lines: Sequence[str], tables: Iterable[str] = (), pictures: Iterable[str] = ()) -> str:
    """Return the HTML that a notebook displays: a heading, sentences, tables (pandas HTML) and pictures (data URLs)."""
    return str(MACROS.notebook(title, lines, tables, pictures))


def picture_url(picture: Path | Figure) -> str:
    """Return a PNG file or a figure as a data URL."""
    if isinstance(picture, Path):
        return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
    with tempfile.TemporaryDirectory() as folder:
        return picture_url(save(picture, Path(folder, "figure.png")))
