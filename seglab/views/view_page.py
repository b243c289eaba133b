"""The files of a view (PNG, SVG, CSV and an HTML page), and the layout of its panels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from seglab.files import csv_text, write_text
from seglab.plots import save, svg
from seglab.reporting import html


class Section(NamedTuple):
    """A section of a page: its heading (plain text), a figure saved as `name`, and the content below the figure.

    content: HTML, made by the functions below.
    """

    heading: str
    content: Markup = Markup()
    figure: Figure | None = None
    name: str = ""
    caption: str = ""


@dataclass(frozen=True)
class ViewPage:
    """The result of one view: its title, the sections of its page, and the tables to save, by file name."""

    title: str
    sections: Sequence[Section]
    tables: Mapping[str, pd.DataFrame]

    def write(self, out: Path) -> Path:
        """Write surface.html, NAME.png and NAME.svg per figure, and NAME.csv per table; return surface.html."""
        out.mkdir(parents=True, exist_ok=True)
        sections = []
        for heading, content, figure, name, caption in self.sections:
            if figure:
                save(figure, out / f"{name}.png")
                text = svg(figure, name)
                write_text(out / f"{name}.svg", text)
                content = html.figure(text, caption) + content
            sections.append((heading, content))
        for name, table in self.tables.items():
            write_text(out / f"{name}.csv", csv_text(table))
        page = html.TEMPLATES.get_template("page.html.j2").render(title=self.title, sections=sections)
        return write_text(out / "surface.html", page)


def number_table(table: pd.DataFrame, digits: int = 4) -> Markup:
    """Return a sortable table of text and numbers, with `digits` significant digits and a dash if not finite."""

    def cell(value: Any) -> html.Cell | str:
        if isinstance(value, str):
            return value
        return html.Cell(f"{value:.{digits}g}", float(value)) if np.isfinite(value) else html.Cell("–")

    return html.table([*map(str, table.columns)], [[*map(cell, row)] for row in table.itertuples(index=False)])


def panels(count: int, columns: int, width: float, height: float, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """Return a figure and its `count` panels, in rows of at most `columns`, each panel `width` x `height` inches."""
    columns = min(columns, count)
    rows = ceil(count / columns)
    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, sharey=sharey).flat)
    for spare in axes[count:]:
        spare.set_visible(False)
    return figure, axes[:count]


def legend_below(figure: Figure, axis: Axes, columns: int = 5, **more: Any) -> None:
    """Add a legend below the whole figure, for the lines drawn in one of its panels."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, handlelength=2.4, **more)
