"""Grid artefacts as pictures: maps, a corner of them enlarged, and their spectra with the grid's frequencies marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from seglab.plots import FAINT, svg
from seglab.reporting import html as markup
from seglab.views.pixel_figures import BARE, narrow
from seglab.views.view_page import Sheet

NEAR = 32
"""Side in pixels of the enlarged middle of a map."""


class Grid(NamedTuple):
    """One net: maps, spectra (shares of the energy) and mean grid energy of its `output` and `gradient`, by kind.

    `counted` marks the frequencies of the grid; spectra have frequency zero in the middle.
    """

    name: str
    maps: Mapping[str, np.ndarray]
    spectra: Mapping[str, np.ndarray]
    counted: np.ndarray
    energy: Mapping[str, float]


def sheet(image: str, grids: Sequence[Grid], stride: int) -> Sheet:
    """Make the sheet: a row of pictures for each net, and a table of the measure."""
    drawn = rows(image, grids)
    caption = (
        f"Left the logits of {image} and their middle enlarged, right the size of the gradient of their sum to "
        "the image. Spectra show the share of the map's energy at each frequency (zero in the middle) on one "
        f"logarithmic scale; in the marked squares lie the frequencies of a grid of {stride} pixels. The numbers are "
        "their share of the energy, the mean over all images."
    )
    numbers = pd.DataFrame([{"net": grid.name, **grid.energy} for grid in grids])
    cells = [
        [markup.text(row["net"]), *(markup.number(100 * row[k], 2) for k in ("output", "gradient"))]
        for _, row in numbers.iterrows()
    ]
    table = markup.table(["net", "output %", "gradient %"], cells)
    sections = [
        ("Pictures and spectra", markup.figure(svg(drawn, "grid"), caption)),
        ("Energy at the grid's frequencies", table),
    ]
    return Sheet("Checkerboards", sections, {"checkerboard": drawn}, {"checkerboard": numbers})


def rows(image: str, grids: Sequence[Grid]) -> Figure:
    """Draw map, enlarged middle and spectrum of output and gradient, a row per net."""
    heads = [f"{kind}{what}" for kind in ("output", "gradient") for what in ("", ", its middle", ", spectrum")]
    top = max(float(spectrum.max()) for grid in grids for spectrum in grid.spectra.values())
    norm = LogNorm(max(top, 1e-30) * 1e-7, max(top, 1e-30))
    with mpl.rc_context(BARE):
        figure = Figure(figsize=(11.5, 0.6 + 1.85 * len(grids)), layout="constrained")
        axes = figure.subplots(len(grids), len(heads), squeeze=False)
        for line, grid in zip(axes, grids, strict=True):
            for place, kind in enumerate(("output", "gradient")):
                draw(line[3 * place : 3 * place + 3], grid, kind, norm)
            line[0].set_ylabel(narrow(grid.name), rotation=0, ha="right", va="center")
        for axis, head in zip(axes[0], heads, strict=True):
            axis.set_title(head, color=FAINT, fontsize=8)
        figure.colorbar(
            ScalarMappable(norm, "magma"), ax=axes, shrink=0.6, aspect=30, pad=0.01, label="share of the energy"
        )
        figure.suptitle(image, fontsize=9, x=0.01, ha="left")
    return figure


def draw(axes: Sequence[Axes], grid: Grid, kind: str, norm: LogNorm) -> None:
    """Draw the three pictures of one kind of map."""
    values, spectrum = grid.maps[kind], grid.spectra[kind]
    top, left = ((n - NEAR) // 2 if n > NEAR else 0 for n in values.shape)
    axes[0].imshow(values, cmap="gray")
    axes[1].imshow(values[top : top + NEAR, left : left + NEAR], cmap="gray")
    axes[2].imshow(spectrum.clip(norm.vmin), cmap="magma", norm=norm)
    axes[2].contour(grid.counted, [0.5], colors="#56b4e9", linewidths=0.7)
    axes[2].set_xlabel(f"grid {100 * grid.energy[kind]:.2f} %", fontsize=7, labelpad=1)
    for axis in axes:
        axis.set(xticks=[], yticks=[])
