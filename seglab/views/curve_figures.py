"""Figures of what losses do to a pixel, to an image, and over false positives and false negatives."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from plotly.subplots import make_subplots

from seglab.plots import DASHES, FAINT, INK, WIDTH, line_styles, styled, svg, two_sided
from seglab.reporting import html as markup

PLOTLY_DASHES = dict(zip(DASHES, ("solid", "dash", "dot", "dashdot"), strict=True))


def still(figure: Figure, name: str, caption: str) -> Markup:
    """A figure of matplotlib as an element of a page."""
    return markup.figure(svg(figure, name), caption)


def _legend(figure: Figure, axis: Axes, rows: int) -> None:
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(rows, 5), handlelength=2.4, columnspacing=1.6)


def _lines(axis: Axes, table: pd.DataFrame, x: str, y: str, **more: object) -> None:
    for label, style in line_styles(table["loss"].unique()).items():
        line = table[table["loss"] == label]
        axis.plot(line[x], line[y], label=label, **style | more)


def _height(axis: Axes, values: pd.Series) -> None:
    """Show the values, with a little air, and at least the line of zero."""
    low, high = min(values.min(), 0.0), max(values.max(), 0.0)
    air = 0.05 * (high - low or 1)
    axis.set_ylim(low - air, high + air)


@styled
def pixel(table: pd.DataFrame) -> Figure:
    """Loss and gradient of a single pixel: by the probability of its true class, and by the logit of each class."""
    figure = Figure(figsize=(WIDTH, 8.6), layout="constrained")
    axes = figure.subplots(3, 2)
    table = table.assign(pull=-table["by_p"])
    foreground, background = (table[table["pixel"] == side] for side in ("foreground", "background"))
    for axis, column, words in zip(axes[0], ("value", "pull"), ("Loss", "Slope, − dL/dp"), strict=True):
        _lines(axis, foreground, "p", column)
        unlike = [
            label
            for label, part in background.groupby("loss", sort=False)
            if not np.allclose(part[column], foreground.loc[foreground["loss"] == label, column], atol=1e-6)
        ]
        styles = line_styles(table["loss"].unique())
        for label in unlike:
            line = background[background["loss"] == label]
            axis.plot(line["p"], line[column], color=styles[label]["color"], lw=1.0, linestyle=(0, (1, 1.6)))
        _height(axis, table.loc[table["p"].between(0.08, 1) if column == "pull" else table["p"] > 0.004, column])
        axis.set(title=f"{words} by the probability of the true class", xlabel="p of the true class", xlim=(0, 1))
    for row, part, side in zip(axes[1:], (foreground, background), ("foreground", "background"), strict=True):
        for axis, column, words in zip(row, ("value", "by_logit"), ("Loss", "Gradient dL/dz"), strict=True):
            _lines(axis, part, "logit", column)
            axis.axvline(0, color=FAINT, lw=0.6)
            _height(axis, part[column])
            right = "right →" if side == "foreground" else "← right"
            axis.set(title=f"{words} of a {side} pixel by its logit", xlabel=f"logit z   ({right})", xlim=(-7, 7))
    _legend(figure, axes[0, 0], table["loss"].nunique())
    return figure


@styled
def image(table: pd.DataFrame, share: float, quality: float) -> Figure:
    """Loss and gradient of an image in which the pixels of one class move together."""
    figure = Figure(figsize=(WIDTH, 6.4), layout="constrained")
    axes = figure.subplots(2, 2)
    table = table.assign(pull=table["by_logit"].where(table["pixel"] == "background", -table["by_logit"]))
    for row, side, other in zip(axes, ("foreground", "background"), ("background", "foreground"), strict=True):
        part = table[table["pixel"] == side]
        for axis, column, words in zip(row, ("value", "pull"), ("Loss", "Pull on one of them, N dL/dz"), strict=True):
            _lines(axis, part, "p", column)
            _height(axis, part[column])
            axis.set(xlim=(0, 1), xlabel=f"p of the true class, all {side} pixels")
            axis.set_title(f"{words}; {other} stays at {quality:g}")
    figure.suptitle(f"{100 * share:.3g} % foreground", x=0.01, ha="left", fontsize=9, color=FAINT)
    _legend(figure, axes[0, 0], table["loss"].nunique())
    return figure


@styled
def planes(table: pd.DataFrame, size: int) -> Figure:
    """Heat maps of the losses over false positives and false negatives, each coloured up to its own largest value."""
    labels = list(table["loss"].unique())
    columns = 2 if len(labels) in (2, 4) else min(len(labels), 3)
    rows = -(-len(labels) // columns)
    figure = Figure(figsize=(min(WIDTH, 3.3 * columns + 0.9), 3.1 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axis, label in zip(axes, labels, strict=False):
        fp, fn, value = grid(table, label, size)
        relative = value / max(float(np.abs(value).max()), 1e-12)
        where = {"extent": (fp[0], fp[-1], fn[0], fn[-1]), "origin": "lower", "aspect": "auto"}
        drawn = axis.imshow(relative, cmap=two_sided(), vmin=-1, vmax=1, interpolation="bilinear", **where)
        lines = axis.contour(fp, fn, value, levels=6, colors=INK, linewidths=0.7)
        axis.clabel(lines, fontsize=6.5, fmt="%.2g")
        axis.set_title(label)
        axis.grid(visible=False)
    for axis in axes[len(labels) :]:
        axis.set_visible(False)
    for place, axis in enumerate(axes[: len(labels)]):
        lowest = place + columns >= len(labels)
        axis.tick_params(labelbottom=lowest)
        axis.set_xlabel("false positives / object" if lowest else "")
        axis.set_ylabel("share of the object missed" if place % columns == 0 else "")
    bar = figure.colorbar(
        drawn, ax=list(axes[: len(labels)]), label="loss / its largest value here", aspect=30, pad=0.02
    )
    bar.ax.set_ylim(0, 1)
    return figure


def grid(table: pd.DataFrame, label: str, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """False positives and false negatives in units of the object, and the loss (fn, fp) of one of the losses."""
    square = table[table["loss"] == label].pivot_table(index="fn", columns="fp", values="value")
    return square.columns.to_numpy() / size, square.index.to_numpy() / size, square.to_numpy()


def _traces(table: pd.DataFrame) -> list[tuple[int, int, go.Scatter]]:
    """The lines of the four panels: row, column, line."""
    table = table.assign(pull=table["by_logit"].where(table["pixel"] == "background", -table["by_logit"]))
    lines = []
    for label, style in line_styles(table["loss"].unique()).items():
        dash = {"color": style["color"], "dash": PLOTLY_DASHES[style["linestyle"]], "width": 2.2}
        for row, side in enumerate(("foreground", "background"), 1):
            part = table[(table["loss"] == label) & (table["pixel"] == side)]
            for column, y in enumerate(("value", "pull"), 1):
                shown = {"showlegend": row == column == 1, "legendgroup": label, "name": label, "line": dash}
                lines.append((row, column, go.Scatter(x=part["p"].round(4), y=part[y].round(6), **shown)))
    return lines


def slide(frames: Mapping[str, pd.DataFrame], first: str) -> go.Figure:
    """The figure of `image` for each stop of the sliders, as frames named by them; buttons choose the axis."""
    titles = [f"{what}, all {side} moves" for side in ("foreground", "background") for what in ("Loss", "Pull N dL/dz")]
    figure = make_subplots(2, 2, subplot_titles=titles, vertical_spacing=0.17, horizontal_spacing=0.09)
    for row, column, line in _traces(frames[first]):
        figure.add_trace(line, row, column)
    figure.frames = [
        go.Frame(name=name, data=[{"y": line.y} for *_, line in _traces(table)]) for name, table in frames.items()
    ]
    by_logit = [
        frames[first].loc[(frames[first]["loss"] == line.name) & (frames[first]["pixel"] == side), "logit"].tolist()
        for row, _, line in _traces(frames[first])
        for side in [("foreground", "background")[row - 1]]
    ]
    axes = ("xaxis", "xaxis2", "xaxis3", "xaxis4")
    buttons = [
        {
            "label": f"by {name}",
            "method": "update",
            "args": [{"x": xs}, {f"{axis}.title.text": name for axis in axes}],
        }
        for name, xs in (
            ("p of the true class", [list(line.x) for *_, line in _traces(frames[first])]),
            ("logit", by_logit),
        )
    ]
    menu = {"type": "buttons", "direction": "right", "x": 0, "y": 1.16, "xanchor": "left", "yanchor": "bottom"}
    figure.update_layout(
        updatemenus=[menu | {"buttons": buttons}],
        height=680,
        margin={"l": 50, "r": 15, "t": 95, "b": 40},
        legend={"orientation": "h", "y": -0.12, "x": 0},
        hovermode="x unified",
    )
    figure.update_xaxes(title_text="p of the true class", title_standoff=4)
    figure.update_annotations(font_size=13)
    return figure


def surfaces(table: pd.DataFrame, size: int) -> go.Figure:
    """The loss over false positives and false negatives as a surface; a button for each loss."""
    labels = list(table["loss"].unique())
    figure = go.Figure()
    contours = {"z": {"show": True, "usecolormap": False, "color": "rgba(255,255,255,0.6)", "width": 1}}
    for place, label in enumerate(labels):
        fp, fn, value = grid(table, label, size)
        bar = {"colorbar": {"title": {"text": "loss"}, "thickness": 12, "len": 0.7}}
        figure.add_trace(
            go.Surface(
                x=fp, y=fn, z=value, name=label, visible=place == 0, contours=contours, colorscale="Cividis", **bar
            )
        )
    buttons = [
        {"label": label, "method": "restyle", "args": [{"visible": [other == label for other in labels]}]}
        for label in labels
    ]
    menu = {"type": "dropdown", "x": 0, "y": 1.0, "xanchor": "left", "yanchor": "top", "buttons": buttons}
    axes = {"xaxis": "false positives / object", "yaxis": "object missed", "zaxis": "loss"}
    scene = {axis: {"title": {"text": words}} for axis, words in axes.items()}
    figure.update_layout(
        scene=scene | {"camera": {"eye": {"x": -1.5, "y": -1.6, "z": 0.9}}, "aspectmode": "cube"},
        updatemenus=[menu],
        height=520,
        margin={"l": 0, "r": 0, "t": 10, "b": 0},
    )
    return figure
