"""Losses over a plane of weights as contours, and where each is lowest."""

import re
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from seglab.plots import COLORS, styled
from seglab.reporting.html import note
from seglab.views.view_page import ViewPage, legend_below, number_table, panels, static
from seglab.views.weight_planes import Plane

SCORE = "IoU"
"""The one surface that is to be high; the others are losses."""

CUT = 1000
"""The scale of a loss ends at this many times its lowest value."""


class Surface(NamedTuple):
    """Values (second, first) by loss over the places `first` and `second` of a plane, and those at its center."""

    plane: Plane
    first: np.ndarray
    second: np.ndarray
    values: Mapping[str, np.ndarray]
    center: Mapping[str, float]


def page(surfaces: Sequence[Surface], words: str) -> ViewPage:
    """The page of some planes: contours, and where each loss is lowest."""
    sections, figures = [], {}
    for surface in surfaces:
        key = f"landscape_{re.sub(r'[^0-9A-Za-z]+', '-', surface.plane.title)}"
        figures[key] = contours(surface)
        caption = (
            f"Plane: {surface.plane.note}. {words} A loss that spans more than a factor of 20 is logarithmic, and cut "
            f"at {CUT} times its lowest."
        )
        sections.append((surface.plane.title, static(figures[key], key, caption)))
    lowest = pd.concat([lowest_places(surface) for surface in surfaces], ignore_index=True)
    named = lowest.assign(loss=lowest["plane"] + ": " + lowest["loss"]).drop(columns="plane")
    sections.append(
        ("Where each loss is lowest", number_table(named) + note("first and second are places on the plane's axes."))
    )
    rows = pd.concat([places_table(surface) for surface in surfaces], ignore_index=True)
    return ViewPage("Landscapes", sections, figures, {"landscape": rows, "lowest": lowest})


def lowest_places(surface: Surface) -> pd.DataFrame:
    """For each loss its value at the center, its lowest place on the plane, and the IoU there, beside the best IoU."""
    places, rows = places_table(surface), []
    iou = {"IoU at center": surface.center[SCORE], "best IoU": surface.values[SCORE].max()}
    for name in [name for name in surface.values if name != SCORE]:
        lowest = places.iloc[surface.values[name].argmin()]
        row = {"plane": surface.plane.title, "loss": name, "at center": surface.center[name], "lowest": lowest[name]}
        rows.append(row | {"first": lowest["first"], "second": lowest["second"], "IoU there": lowest[SCORE], **iou})
    return pd.DataFrame(rows)


def places_table(surface: Surface) -> pd.DataFrame:
    """A row per place."""
    first, second = np.meshgrid(surface.first, surface.second)
    places = {"plane": surface.plane.title, "first": first.ravel(), "second": second.ravel()}
    return pd.DataFrame(places | {name: values.ravel() for name, values in surface.values.items()})


@styled
def contours(surface: Surface) -> Figure:
    """Draw each loss and the IoU as contours of one plane, with the lowest place, what is marked, and the paths."""
    figure, axes = panels(len(surface.values), 3, 3.5, 3.3)
    for axis, (name, values) in zip(axes, surface.values.items(), strict=True):
        low, high = float(values.min()), float(values.max())
        log = name != SCORE and 0 < 20 * low < high  # else nothing is to be seen of its valley
        levels = np.geomspace(low, min(high, CUT * low), 16) if log else np.linspace(low, max(high, low + 1e-6), 16)
        options: dict[str, Any] = {"levels": levels, "norm": "log" if log else "linear"}
        options["extend"] = "max" if high > levels[-1] else "neither"
        drawn = axis.contourf(surface.first, surface.second, values, cmap="viridis", **options)
        axis.contour(surface.first, surface.second, values, colors="#ffffff", linewidths=0.3, **options)
        bar = figure.colorbar(drawn, ax=axis, shrink=0.9, format="%.3g")
        bar.ax.tick_params(labelsize=6.5)
        bar.ax.minorticks_off()
        bar.set_ticks(levels[::3].tolist())
        mark(axis, surface, values if name != SCORE else -values)
        axis.set(xlabel="first", ylabel="second", title=name + (", logarithmic" if log else ""))
        axis.grid(False)
    across = min(3, len(axes))
    legend_below(figure, axes[0], 3 * across, fontsize=6.5)
    figure.suptitle(fill(f"{surface.plane.title}: {surface.plane.note}", 50 * across), fontsize=8.5, x=0.01, ha="left")
    return figure


def mark(axis: Axes, surface: Surface, values: np.ndarray) -> None:
    """Mark the paths and solutions, or the center, and the lowest measured place."""
    plane = surface.plane
    single = plane.marks or ({} if plane.paths else {"the run": (0.0, 0.0)})
    places = {**plane.paths, **{name: [place] for name, place in single.items()}}
    for k, (name, path) in enumerate(places.items(), 1):
        color = COLORS[k % len(COLORS)]
        if len(path) > 1:
            axis.plot(*zip(*path, strict=True), "-o", color=color, ms=3, lw=1.2, label=f"{name}, start to end")
            axis.plot(*path[0], "s", color=color, ms=5)
        else:
            axis.plot(*path[0], "o", color=color, ms=6, markeredgecolor="#ffffff", label=name)
    row, column = np.unravel_index(values.argmin(), values.shape)
    lowest = surface.first[column], surface.second[row]
    axis.plot(*lowest, "x", color="#d6006c", ms=7, mew=1.8, label="best on the plane")
