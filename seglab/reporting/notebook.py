"""What a notebook shows of a run, a study or a verdict: HTML without styles of its own, pictures inside."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from markupsafe import Markup, escape
from matplotlib.figure import Figure

from seglab.plots import save


def notebook_page(title: str, lines: Sequence[str], tables: Iterable[str] = (), pictures: Iterable[str] = ()) -> str:
    """A heading, sentences, tables (HTML, as pandas writes it) and pictures (data URLs)."""
    parts = [Markup("<b>{}</b>").format(title), *(Markup("<div>{}</div>").format(line) for line in lines)]
    parts += [Markup(table) for table in tables]
    parts += [Markup('<div><img src="{}" style="max-width:100%"></div>').format(picture) for picture in pictures]
    return str(escape("").join(parts))


def picture_url(picture: Path | Figure) -> str:
    """A PNG file or a figure as a data URL."""
    if isinstance(picture, Path):
        return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
    with tempfile.TemporaryDirectory() as place:
        return picture_url(save(picture, Path(place, "figure.png")))
