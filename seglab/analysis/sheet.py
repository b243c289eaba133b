"""What a view leaves: its figures as PNG and SVG, its numbers as CSV, and one page to turn and slide in a browser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from matplotlib.figure import Figure
from plotly.offline import get_plotlyjs

from seglab.analysis.figures import save, svg
from seglab.analysis.page import document, section
from seglab.analysis.write import write_whole


@dataclass(frozen=True)
class Sheet:
    """One view: its title, the page's sections (heading and HTML), and what is saved beside the page by file name."""

    title: str
    sections: Sequence[tuple[str, str]]
    figures: Mapping[str, Figure] = field(default_factory=dict)
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    def write(self, out: Path) -> Path:
        """Write surface.html, NAME.png and NAME.svg per figure, NAME.csv per table; returns surface.html."""
        out.mkdir(parents=True, exist_ok=True)
        for name, figure in self.figures.items():
            save(figure, out / f"{name}.png")
            write_whole(out / f"{name}.svg", svg(figure, name))
        for name, table in self.tables.items():
            write_whole(out / f"{name}.csv", table.to_csv(index=False))
        body = f"<header><h1>{self.title}</h1></header>" + "".join(
            section(f"s{place}", heading, html) for place, (heading, html) in enumerate(self.sections)
        )
        head = f"<script>{get_plotlyjs()}</script>" if "plotly-graph-div" in body else ""
        return write_whole(out / "surface.html", document(self.title, body, head))


def interactive(figure: go.Figure, caption: str) -> str:
    """A Plotly figure as an element of the page, whose script the page holds once, with its caption."""
    figure.update_layout(template="plotly_white", paper_bgcolor="rgba(0,0,0,0)", font={"size": 13})
    drawn = figure.to_html(include_plotlyjs=False, full_html=False, config={"displaylogo": False, "responsive": True})
    return f"<figure>{drawn}<figcaption>{caption}</figcaption></figure>"
