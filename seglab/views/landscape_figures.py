"""Losses over a plane of weights, as contours for papers and as surfaces to turn."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from plotly.subplots import make_subplots
from scipy.interpolate import interpn

from seglab.plots import COLORS, styled
from seglab.views.panels import legend_below, panels
from seglab.views.view_page import ViewPage, interactive, note, number_table, static

SCORE = "IoU"
"""The one surface that is to be high; the others are losses."""

CUT = 1000
"""The scale of a loss ends at this many times its lowest value."""

SCENES = 12
"""Surfaces to turn in one page, of which browsers allow 16; further planes are shown as contours."""


class Surface(NamedTuple):
    """Values (second, first) by loss over the places `first` and `second` of a plane, and what is marked on it.

    `center` holds the values at the center.
    """

    title: str
    note: str
    first: np.ndarray
    second: np.ndarray
    values: Mapping[str, np.ndarray]
    marks: Mapping[str, tuple[float, float]]
    paths: Mapping[str, Sequence[tuple[float, float]]]
    center: Mapping[str, float]


def page(surfaces: Sequence[Surface], words: str) -> ViewPage:
    """The page of some planes: contours, surfaces, and where each loss is lowest."""
    sections, figures = [], {}
    for place, surface in enumerate(surfaces):
        key = f"landscape_{re.sub(r'[^0-9A-Za-z]+', '-', surface.title)}"
        figures[key] = contours(surface)
        caption = (
            f"Plane: {surface.note}. {words} A loss that spans more than a factor of 20 is logarithmic, and cut at "
            f"{CUT} times its lowest."
        )
        if (place + 1) * len(surface.values) <= SCENES:
            shown = interactive(relief(surface), f"Turn each surface with the mouse. {caption}")
        else:
            shown = static(figures[key], key, caption)
        sections.append((surface.title, shown))
    lowest = pd.concat([lowest_places(surface) for surface in surfaces], ignore_index=True)
    named = lowest.assign(loss=lowest["plane"] + ": " + lowest["loss"]).drop(columns="plane")
    sections.append(
        ("Where each loss is lowest", number_table(named) + note("first and second are places on the plane's axes."))
    )
    rows = pd.concat([places_table(surface) for surface in surfaces], ignore_index=True)
    return ViewPage("Landscapes", sections, figures, {"landscape": rows, "lowest": lowest})


def lowest_places(surface: Surface) -> pd.DataFrame:
    """For each loss its value at the center, its lowest place on the plane, and the IoU there, beside the best IoU."""
    places, iou = (
        places_table(surface),
        {"IoU at center": surface.center[SCORE], "best IoU": surface.values[SCORE].max()},
    )
    rows = []
    for name in [name for name in surface.values if name != SCORE]:
        lowest = places.iloc[surface.values[name].argmin()]
        row = {"plane": surface.title, "loss": name, "at center": surface.center[name], "lowest": lowest[name]}
        rows.append(row | {"first": lowest["first"], "second": lowest["second"], "IoU there": lowest[SCORE], **iou})
    return pd.DataFrame(rows)


def places_table(surface: Surface) -> pd.DataFrame:
    """A row per place."""
    first, second = np.meshgrid(surface.first, surface.second)
    places = {"plane": surface.title, "first": first.ravel(), "second": second.ravel()}
    return pd.DataFrame(places | {name: values.ravel() for name, values in surface.values.items()})


def is_steep(name: str, values: np.ndarray) -> bool:
    """Whether a logarithm is needed to see the valley of a loss."""
    return bool(name != SCORE and values.min() > 0 and values.max() > 20 * values.min())


def levels_of(name: str, values: np.ndarray) -> np.ndarray:
    """Where contours are drawn: over the whole range, or from the lowest value to CUT times it."""
    low, high = float(values.min()), float(values.max())
    if is_steep(name, values):
        return np.geomspace(low, min(high, CUT * low), 16)
    return np.linspace(low, high if high > low else low + 1e-6, 16)


@styled
def contours(surface: Surface) -> Figure:
    """Draw each loss and the IoU as contours of one plane, with the lowest place, what is marked, and the paths."""
    figure, axes = panels(len(surface.values), 3, 3.5, 3.3)
    for axis, (name, values) in zip(axes, surface.values.items(), strict=True):
        levels, log = levels_of(name, values), is_steep(name, values)
        options: dict[str, Any] = {"levels": levels, "norm": "log" if log else "linear"}
        options["extend"] = "max" if values.max() > levels[-1] else "neither"
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
    figure.suptitle(fill(f"{surface.title}: {surface.note}", 50 * across), fontsize=8.5, x=0.01, ha="left")
    return figure


def mark(axis: Axes, surface: Surface, values: np.ndarray) -> None:
    """Mark the center, the lowest measured place, the solutions and the paths."""
    for name, path, color in marked(surface):
        if len(path) > 1:
            axis.plot(*zip(*path, strict=True), "-o", color=color, ms=3, lw=1.2, label=f"{name}, start to end")
            axis.plot(*path[0], "s", color=color, ms=5)
        else:
            axis.plot(*path[0], "o", color=color, ms=6, markeredgecolor="#ffffff", label=name)
    row, column = np.unravel_index(values.argmin(), values.shape)
    lowest = surface.first[column], surface.second[row]
    axis.plot(*lowest, "x", color="#d6006c", ms=7, mew=1.8, label="best on the plane")


def marked(surface: Surface) -> list[tuple[str, Sequence[tuple[float, float]], str]]:
    """What is drawn on a plane: names, places and colors of the paths and of single places, at least the center."""
    single = surface.marks or ({} if surface.paths else {"the run": (0.0, 0.0)})
    places = {**surface.paths, **{name: [place] for name, place in single.items()}}
    return [(name, path, COLORS[(k + 1) % len(COLORS)]) for k, (name, path) in enumerate(places.items())]


def relief(surface: Surface) -> go.Figure:
    """The losses and the IoU as surfaces to turn, with marks and paths on them."""
    across, titles = min(3, len(surface.values)), list(surface.values)
    down = -(-len(titles) // across)
    kinds = [[{"type": "surface"}] * across] * down
    figure = make_subplots(down, across, specs=kinds, subplot_titles=titles, horizontal_spacing=0.01)
    panes = [{"row": 1 + k // across, "col": 1 + k % across} for k in range(len(titles))]
    for pane, (name, whole) in zip(panes, surface.values.items(), strict=True):
        values, log = whole.clip(max=levels_of(name, whole)[-1]), is_steep(name, whole)
        options = {"surfacecolor": np.log(values) if log else values, "showscale": False, "colorscale": "Viridis"}
        figure.add_trace(go.Surface(x=surface.first, y=surface.second, z=values, **options), **pane)
        for title, path, color in marked(surface):
            x, y = np.transpose(path)
            axes = (surface.second, surface.first)
            z = interpn(axes, values, np.stack([y, x], 1), bounds_error=False, fill_value=None)
            options = {"line": {"color": color, "width": 6}, "marker": {"color": color, "size": 4}}
            line = go.Scatter3d(x=x, y=y, z=z, mode="lines+markers", name=title, showlegend=pane is panes[0], **options)
            figure.add_trace(line, **pane)
        figure.update_scenes(
            xaxis_title="first",
            yaxis_title="second",
            zaxis={"title": ""} | ({"type": "log", "tickvals": list(decades(values))} if log else {"nticks": 5}),
            camera={"eye": {"x": 1.6, "y": -1.6, "z": 1.2}, "center": {"x": 0, "y": 0, "z": -0.15}},
            aspectmode="cube",
            **pane,
        )
    return figure.update_layout(
        height=60 + 330 * panes[-1]["row"], margin={"l": 0, "r": 0, "t": 30, "b": 0}, legend={"orientation": "h"}
    )


def decades(values: np.ndarray) -> np.ndarray:
    """Marks of a logarithmic axis: the powers of ten, with halves and fifths between where there are few."""
    powers = 10.0 ** np.arange(np.floor(np.log10(values.min())), np.ceil(np.log10(values.max())) + 1)
    between = powers if len(powers) > 3 else np.outer([1, 2, 5], powers).ravel()
    return between[(between >= values.min()) & (between <= values.max())]
