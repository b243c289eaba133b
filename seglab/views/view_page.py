"""What a view writes, PNG, SVG, CSV and a page, and how its panels are laid out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from seglab.files import csv_text, write_text
from seglab.plots import save, svg
from seglab.reporting import html


@dataclass(frozen=True)
class ViewPage:
    """The result of one view: its title, the page's sections, and what is saved beside the page by file name.

    sections: each a heading (plain text) and its content (HTML, made by the functions below).
    """

    title: str
    sections: Sequence[tuple[str, Markup]]
    figures: Mapping[str, Figure] = field(default_factory=dict)
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    def write(self, out: Path) -> Path:
        """Write surface.html, NAME.png and .svg per figure, and .csv per table; return surface.html."""
        out.mkdir(parents=True, exist_ok=True)
        for name, figure in self.figures.items():
            save(figure, out / f"{name}.png")
            write_text(out / f"{name}.svg", svg(figure, name))
        for name, table in self.tables.items():
            write_text(out / f"{name}.csv", csv_text(table))
        page = html.TEMPLATES.get_template("page.html.j2").render(title=self.title, sections=self.sections)
        return write_text(out / "surface.html", page)


def static(figure: Figure, name: str, caption: str) -> Markup:
    """A figure of matplotlib as an element of the page; `name` sets its ids apart from those of other figures."""
    return html.figure(svg(figure, name), caption)


def bullets(sentences: Sequence[str]) -> Markup:
    """A list of sentences."""
    items = Markup("").join(Markup("<li>{}</li>").format(sentence) for sentence in sentences)
    return Markup("<ul>{}</ul>").format(items)


def number_table(table: pd.DataFrame, digits: int = 4) -> Markup:
    """A table of text and of numbers with so many significant digits, a dash for NaN; its columns sort at a click."""

    def cell(value: Any) -> html.Cell:
        if isinstance(value, str):
            return html.text(value)
        return html.Cell(f"{value:.{digits}g}", float(value)) if np.isfinite(value) else html.Cell("–")

    return html.table([*map(str, table.columns)], [[*map(cell, row)] for row in table.itertuples(index=False)])


def panels(count: int, columns: int, width: float, height: float, **shared: Any) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels in rows of at most `columns`, each of width x height inches.

    `shared` goes to `Figure.subplots`: sharex, sharey.
    """
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, **shared).flat)
    for spare in axes[count:]:
        spare.set_visible(False)
    for lowest in axes[:count][-columns:]:  # a spare panel below would keep the tick labels of a shared axis
        lowest.tick_params(labelbottom=True)
    return figure, axes[:count]


def legend_below(figure: Figure, axis: Axes, columns: int = 5, **more: Any) -> None:
    """A legend under the whole figure, of what is drawn in one of its panels."""
    handles, labels = axis.get_legend_handles_labels()
    columns = min(columns, len(labels))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, handlelength=2.4, **more)
