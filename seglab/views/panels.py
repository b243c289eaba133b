"""How the figures of the views are laid out: panels of curves and rows of pictures."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from seglab.plots import FAINT


def narrow(label: str) -> str:
    """A label beside a picture, a line for each of its parts: `focal gamma=3`, `bce · size=96`."""
    return "\n".join(label.replace(" · ", " ").split())


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


def picture_grid(
    rows: Sequence[str], columns: Sequence[str], size: tuple[float, float], named: int = 0
) -> tuple[Figure, np.ndarray]:
    """A figure (size in inches) of pictures still to be drawn, its columns and rows labeled; axes (rows, columns).

    The labels of the rows are left of the column `named`.
    """
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        axis.grid(visible=False)
    for axis, head in zip(axes[0], columns, strict=True):
        axis.set_title(head, color=FAINT, fontsize=8)
    for axis, label in zip(axes[:, named], rows, strict=True):
        axis.set_ylabel(narrow(label), rotation=0, ha="right", va="center", multialignment="right")
    return figure, axes


def show(axis: Axes, picture: np.ndarray, below: str = "", **options: Any) -> None:
    """Draw a picture pixel by pixel, with a few words below it; `options` as of `Axes.imshow`."""
    axis.imshow(picture, interpolation="nearest", **options)
    axis.set_xlabel(below, fontsize=7, labelpad=1)


def color_bar(figure: Figure, axes: Iterable[Axes], norm: Normalize, colors: str, label: str, **more: Any) -> Colorbar:
    """A color scale beside some pictures; `more` as of `Figure.colorbar`."""
    bar = figure.colorbar(ScalarMappable(norm, colors), ax=list(axes), pad=0.01, **more)
    bar.set_label(label, size=8)
    bar.ax.tick_params(labelsize=7)
    return bar
