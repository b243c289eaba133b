"""What a view writes, PNG, SVG, GIF, CSV and a page with sliders, and how its panels and pictures are laid out."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from seglab.files import atomic, csv_text, write_text
from seglab.plots import STYLE, save, svg
from seglab.reporting import html

DPI = 110
SHOW_FRAME = (
    "const f=this.closest('figure');f.querySelectorAll('img').forEach((p,i)=>p.hidden=i!=this.value);"
    "f.querySelector('output').value=f.querySelectorAll('img')[this.value].alt"
)


@dataclass
class Animation:
    """A sequence of figures of one size by name: a GIF to send, and a slider in the page."""

    frames: Mapping[str, Figure]

    @cached_property
    def pictures(self) -> dict[str, bytes]:
        """Each frame as the bytes of a PNG file."""
        buffers = {name: io.BytesIO() for name in self.frames}
        with mpl.rc_context(dict[Any, Any](STYLE)):
            for name, figure in self.frames.items():
                figure.savefig(buffers[name], format="png", dpi=DPI)
        return {name: buffer.getvalue() for name, buffer in buffers.items()}

    def write(self, out: Path, seconds: float = 0.9) -> Path:
        """Write a GIF that shows each frame for so many seconds, and the last one for twice as long."""
        images = [Image.open(io.BytesIO(drawn)).convert("RGB") for drawn in self.pictures.values()]
        first, *rest = [image.quantize(256) for image in images]  # each with its own palette, or grays would be tinted
        times = [int(1000 * seconds)] * len(rest) + [int(2000 * seconds)]
        with atomic(out) as partial:
            first.save(partial, "GIF", save_all=True, append_images=rest, duration=times, loop=0)
        return out

    def html(self, caption: str, start: str | None = None) -> Markup:
        """The frames with a slider below them, as an element of a page; it opens at the frame `start`, or the last."""
        names = list(self.frames)
        last, shown = len(names) - 1, names.index(start) if start else len(names) - 1
        image = Markup('<img alt="{}" {} style="width:100%" src="data:image/png;base64,{}">')
        images = Markup("").join(
            image.format(name, "" if place == shown else "hidden", base64.b64encode(drawn).decode())
            for place, (name, drawn) in enumerate(self.pictures.items())
        )
        slider = f'<input type="range" min="0" max="{last}" value="{shown}" style="width:70%" oninput="{SHOW_FRAME}">'
        label = Markup("<label>{} <output>{}</output></label>").format(Markup(slider), names[shown])
        return Markup("<figure>{}{}<figcaption>{}</figcaption></figure>").format(images, label, caption)


@dataclass(frozen=True)
class ViewPage:
    """The result of one view: its title, the page's sections, and what is saved beside the page by file name.

    sections: each a heading (plain text) and its content (HTML, made by the functions below).
    """

    title: str
    sections: Sequence[tuple[str, Markup]]
    figures: Mapping[str, Figure] = field(default_factory=dict)
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    animations: Mapping[str, Animation] = field(default_factory=dict)

    def write(self, out: Path) -> Path:
        """Write surface.html, NAME.png and .svg per figure, .csv per table, .gif per animation; return surface.html."""
        out.mkdir(parents=True, exist_ok=True)
        for name, figure in self.figures.items():
            save(figure, out / f"{name}.png")
            write_text(out / f"{name}.svg", svg(figure, name))
        for name, table in self.tables.items():
            write_text(out / f"{name}.csv", csv_text(table))
        for name, animation in self.animations.items():
            animation.write(out / f"{name}.gif")
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
