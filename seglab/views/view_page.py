"""What a view leaves: its figures as PNG and SVG, its numbers as CSV, and one page to turn and slide in a browser."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup
from matplotlib.figure import Figure
from plotly.offline import get_plotlyjs

from seglab.files import write_text
from seglab.plots import COLORS, save, svg
from seglab.reporting.html import document
from seglab.views.animation import Film


@dataclass(frozen=True)
class Sheet:
    """One view: its title, the page's sections (heading and HTML), and what is saved beside the page by file name."""

    title: str
    sections: Sequence[tuple[str, Markup]]
    figures: Mapping[str, Figure] = field(default_factory=dict)
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    films: Mapping[str, Film] = field(default_factory=dict)

    def write(self, out: Path) -> Path:
        """Write surface.html, NAME.png and .svg per figure, .csv per table, .gif per film; returns surface.html."""
        out.mkdir(parents=True, exist_ok=True)
        for name, figure in self.figures.items():
            save(figure, out / f"{name}.png")
            write_text(out / f"{name}.svg", svg(figure, name))
        for name, table in self.tables.items():
            write_text(out / f"{name}.csv", table.to_csv(index=False))
        for name, film in self.films.items():
            film.write(out / f"{name}.gif")
        library = script = ""
        if any("plotly-graph-div" in html for _, html in self.sections):
            library = get_plotlyjs()
            script = f"const COLORS = {json.dumps(COLORS)};\n" + Path(__file__).with_name("interactive.js").read_text()
        return write_text(out / "surface.html", document(self.title, self.sections, library, script))


def interactive(
    figure: go.Figure,
    caption: str,
    sliders: Mapping[str, tuple[Sequence[str], str]] | None = None,
    wide: bool = False,
) -> Markup:
    """A Plotly figure as an element of the page, whose script the page holds once, with its caption.

    It takes on the page's colours, light or dark. `sliders` gives for each its stops and the one it stands at; the
    figure's frames are named by the stops of all sliders joined by "|". A `wide` figure scrolls on a phone.
    """
    figure.update_layout(
        template="plotly_white", paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", font={"size": 13}
    )
    figure.update_layout(font_family="system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', Arial, sans-serif")
    options = {"displaylogo": False, "responsive": True}
    drawn = Markup(figure.to_html(include_plotlyjs=False, full_html=False, config=options, auto_play=False))
    held = Markup('<div class="scroll"><div class="wide">{}</div></div>').format(drawn) if wide else drawn
    controls = Markup("").join(_slider(name, stops, at) for name, (stops, at) in (sliders or {}).items())
    shown = Markup('<div class="sliders">{}</div>').format(controls) if controls else ""
    return Markup("<figure>{}{}<figcaption>{}</figcaption></figure>").format(shown, held, caption)


def _slider(name: str, stops: Sequence[str], at: str) -> Markup:
    held = '<input type="range" min="0" max="{}" value="{}" data-stops="{}"><output>{}</output>'
    filled = Markup(held).format(len(stops) - 1, list(stops).index(at), json.dumps(list(stops)), at)
    return Markup("<label><span>{}</span>{}</label>").format(name, filled)
