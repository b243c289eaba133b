"""Losses over a plane of weights, as contours for papers and as surfaces to turn."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from plotly.subplots import make_subplots

from seglab.plots import COLORS, styled, svg
from seglab.reporting.html import figure, note, number, table, text
from seglab.views.animation import Film
from seglab.views.view_page import Sheet, interactive

SCORE = "IoU"
"""The one surface that is to be high; the others are losses."""

CUT = 1000
"""Nothing is told apart above this many times the lowest value of a loss."""

SCENES = 12
"""Surfaces to turn in one page, of which browsers allow 16; further planes are shown as contours."""


SPACING = {"horizontal_spacing": 0.01, "vertical_spacing": 0.06}


class Surface(NamedTuple):
    """Values (second, first) by loss over the places `first` and `second` of a plane, and what is marked on it.

    `here` holds the values at the centre.
    """

    title: str
    note: str
    first: np.ndarray
    second: np.ndarray
    values: Mapping[str, np.ndarray]
    marks: Mapping[str, tuple[float, float]]
    paths: Mapping[str, Sequence[tuple[float, float]]]
    here: Mapping[str, float]


def sheet(surfaces: Sequence[Surface], words: str, curvature: pd.DataFrame, moving: bool = False) -> Sheet:
    """Make the sheet of some planes: contours, surfaces, where each loss is lowest, and how sharply it curves.

    `moving` makes a film of the planes, on one scale for each loss, and turns only the last of them.
    """
    sections, figures, films = [], {}, {}
    if moving:
        reach = {name: np.stack([one.values[name] for one in surfaces]) for name in surfaces[0].values}
        films["landscape"] = Film({one.title: contours(one, reach) for one in surfaces})
        caption = f"Drag the slider through the snapshots. Plane: {surfaces[0].note}. {words}"
        sections.append(("Through training", films["landscape"].html(caption)))
    for place, surface in enumerate(surfaces[-1:] if moving else surfaces):
        key = f"landscape_{re.sub(r'[^0-9A-Za-z]+', '-', surface.title)}"
        figures[key] = contours(surface, surface.values)
        caption = (
            f"Plane: {surface.note}. {words} A loss that spans more than a factor of 20 is logarithmic, and cut at "
            f"{CUT} times its lowest."
        )
        if (place + 1) * len(surface.values) <= SCENES:
            shown = interactive(relief(surface), f"Turn each surface with the mouse. {caption}")
        else:
            shown = figure(svg(figures[key], key), caption)
        sections.append((surface.title, shown))
    lowest = pd.concat([lowest_places(surface) for surface in surfaces], ignore_index=True)
    if len(curvature):
        lowest = lowest.merge(curvature, how="left", on=["plane", "loss"])
    sections.append(("Where each loss is lowest", told(lowest)))
    rows = pd.concat([flat(surface) for surface in surfaces], ignore_index=True)
    return Sheet("Landscapes", sections, figures, {"landscape": rows, "lowest": lowest}, films)


def lowest_places(surface: Surface) -> pd.DataFrame:
    """For each loss its value at the centre, its lowest place on the plane, and the IoU there, beside the best IoU."""
    rows = []
    best = float(surface.values[SCORE].max())
    for name, values in surface.values.items():
        if name == SCORE:
            continue
        row, column = np.unravel_index(values.argmin(), values.shape)
        place = {"first": surface.first[column], "second": surface.second[row]}
        there = {
            "IoU there": surface.values[SCORE][row, column],
            "IoU at centre": surface.here[SCORE],
            "best IoU": best,
        }
        rows.append(
            {"plane": surface.title, "loss": name, "at centre": surface.here[name], "lowest": values.min()}
            | place
            | there
        )
    return pd.DataFrame(rows)


def told(lowest: pd.DataFrame) -> Markup:
    """The table of lowest places as HTML."""
    names = [name for name in lowest if name not in ("plane", "loss")]
    several = lowest["plane"].nunique() > 1
    who = [f"{row['plane']}: {row['loss']}" if several else row["loss"] for _, row in lowest.iterrows()]
    values = lowest[names].to_numpy(float)
    rows = [[text(name), *(number(x, 4) for x in row)] for name, row in zip(who, values, strict=True)]
    words = "first and second are places on the plane's axes."
    if "largest eigenvalue" in names:
        words += (
            " The largest eigenvalue is that of the loss's Hessian at the centre, by power iteration; losses of other "
            "units curve in other units."
        )
    return table(["plane: loss" if several else "loss", *map(str, names)], rows) + note(words)


def flat(surface: Surface) -> pd.DataFrame:
    """A row per place."""
    first, second = np.meshgrid(surface.first, surface.second)
    places = {"plane": surface.title, "first": first.ravel(), "second": second.ravel()}
    return pd.DataFrame(places | {name: values.ravel() for name, values in surface.values.items()})


def steep(name: str, values: np.ndarray) -> bool:
    """Whether a logarithm is needed to see the valley of a loss."""
    return bool(name != SCORE and values.min() > 0 and values.max() > 20 * values.min())


def levels_of(name: str, values: np.ndarray) -> np.ndarray:
    """Where contours are drawn: over the whole range, or from the lowest value to CUT times it."""
    low, high = float(values.min()), float(values.max())
    if steep(name, values):
        return np.geomspace(low, min(high, CUT * low), 16)
    return np.linspace(low, high if high > low else low + 1e-6, 16)


@styled
def contours(surface: Surface, reach: Mapping[str, np.ndarray]) -> Figure:
    """Draw each loss and the IoU as contours of one plane, with the lowest place, what is marked, and the paths.

    `reach` holds for each of them all values that the scale is to cover.
    """
    across = min(3, len(surface.values))
    down = -(-len(surface.values) // across)
    figure = Figure(figsize=(3.5 * across, 0.5 + 3.0 * down), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for axis in axes[len(surface.values) :]:
        axis.set_visible(False)
    for axis, (name, values) in zip(axes, surface.values.items(), strict=False):
        levels, log = levels_of(name, reach[name]), steep(name, reach[name])
        looks = {"levels": levels, "norm": "log" if log else "linear"}
        looks["extend"] = "max" if values.max() > levels[-1] else "neither"
        drawn = axis.contourf(surface.first, surface.second, values, cmap="viridis", **looks)
        axis.contour(surface.first, surface.second, values, colors="#ffffff", linewidths=0.3, **looks)
        bar = figure.colorbar(drawn, ax=axis, shrink=0.9, format="%.3g")
        bar.ax.tick_params(labelsize=6.5)
        bar.ax.minorticks_off()
        bar.set_ticks(levels[::3])
        mark(axis, surface, values if name != SCORE else -values)
        axis.set(xlabel="first", ylabel="second", title=name + (", logarithmic" if log else ""))
        axis.grid(False)
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=6.5, loc="outside lower center", ncols=3 * across)
    words = fill(f"{surface.title}: {surface.note}", 50 * across)
    figure.suptitle(words, fontsize=8.5, x=0.01, ha="left")
    return figure


def mark(axis: Axes, surface: Surface, values: np.ndarray) -> None:
    """Mark the centre, the lowest measured place, the solutions and the paths."""
    for place, (name, path) in enumerate(surface.paths.items()):
        colour = COLORS[(place + 1) % len(COLORS)]
        axis.plot(*zip(*path, strict=True), "-o", color=colour, ms=3, lw=1.2, label=f"{name}, start to end")
        axis.plot(*path[0], "s", color=colour, ms=5)
    for place, (name, at) in enumerate(surface.marks.items()):
        axis.plot(*at, "o", color=COLORS[(place + 1) % len(COLORS)], ms=6, markeredgecolor="#ffffff", label=name)
    if not surface.marks and not surface.paths:
        axis.plot(0, 0, "o", color=COLORS[1], ms=5, markeredgecolor="#ffffff", label="the run")
    row, column = np.unravel_index(values.argmin(), values.shape)
    axis.plot(
        surface.first[column], surface.second[row], "x", color="#d6006c", ms=7, mew=1.8, label="best on the plane"
    )


def relief(surface: Surface) -> go.Figure:
    """The losses and the IoU as surfaces to turn, with marks and paths on them."""
    across = min(3, len(surface.values))
    down = -(-len(surface.values) // across)
    kinds = [[{"type": "surface"}] * across] * down
    figure = make_subplots(down, across, specs=kinds, subplot_titles=list(surface.values), **SPACING)
    for place, (loss, whole) in enumerate(surface.values.items()):
        values, log = whole.clip(max=levels_of(loss, whole)[-1]), steep(loss, whole)
        at = {"row": 1 + place // across, "col": 1 + place % across}
        tint = np.log(values) if log else values
        drawn = {"z": values, "surfacecolor": tint, "showscale": False, "colorscale": "Viridis"}
        figure.add_trace(go.Surface(x=surface.first, y=surface.second, **drawn), **at)
        marks = surface.marks or ({} if surface.paths else {"the run": (0.0, 0.0)})
        for spot, (name, path) in enumerate([*surface.paths.items(), *((k, [p]) for k, p in marks.items())]):
            x, y = zip(*path, strict=True)
            z = [height(surface, values, *p) for p in path]
            colour = COLORS[(spot + 1) % len(COLORS)]
            looks = {"line": {"color": colour, "width": 6}, "marker": {"color": colour, "size": 4}}
            line = go.Scatter3d(x=x, y=y, z=z, mode="lines+markers", name=name, showlegend=place == 0, **looks)
            figure.add_trace(line, **at)
        axis = {"type": "log", "tickvals": list(decades(values))} if log else {"nticks": 5}
        scene = "scene" if place == 0 else f"scene{place + 1}"
        eye = {"eye": {"x": 1.6, "y": -1.6, "z": 1.2}, "center": {"x": 0, "y": 0, "z": -0.15}}
        titles = {"xaxis": {"title": "first"}, "yaxis": {"title": "second"}, "zaxis": {"title": "", **axis}}
        figure.update_layout({scene: {**titles, "camera": eye, "aspectmode": "cube"}})
    return figure.update_layout(
        height=60 + 330 * down, margin={"l": 0, "r": 0, "t": 30, "b": 0}, legend={"orientation": "h"}
    )


def decades(values: np.ndarray) -> np.ndarray:
    """Marks of a logarithmic axis: the powers of ten, with halves and fifths between where there are few."""
    powers = 10.0 ** np.arange(np.floor(np.log10(values.min())), np.ceil(np.log10(values.max())) + 1)
    between = powers if len(powers) > 3 else np.outer([1, 2, 5], powers).ravel()
    return between[(between >= values.min()) & (between <= values.max())]


def height(surface: Surface, values: np.ndarray, a: float, b: float) -> float:
    """The value at any place of the plane, linear between the places measured."""
    rows = [np.interp(a, surface.first, row) for row in values]
    return float(np.interp(b, surface.second, rows))
