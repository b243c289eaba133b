"""Figures of what losses do to a pixel, to an image, and over false positives and false negatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from plotly.subplots import make_subplots

from seglab.plots import DASHES, FAINT, INK, WIDTH, line_styles, styled, two_sided
from seglab.views.panels import legend_below, panels
from seglab.views.view_page import ViewPage, interactive, note, static

SIDES = ("foreground", "background")
OBJECT = 100
"""Pixels of the object in the plane of false positives and false negatives."""
PANELS = ("", 2, 3, 4)
"""What Plotly numbers the axes of four panels with."""
PLOTLY_DASHES: dict[Any, str] = dict(zip(DASHES, ("solid", "dash", "dot", "dashdot"), strict=True))


def page(
    losses: Sequence[str],
    pixel: pd.DataFrame | None,
    images: Mapping[tuple[float, float], pd.DataFrame],
    plane: pd.DataFrame | None,
    start: tuple[float, float],
    size: int,
    confidence: float,
) -> ViewPage:
    """The page of the tables that curve.py makes; `start` is the key of `images` that is shown first."""
    sections: list[tuple[str, Markup]] = []
    figures: dict[str, Figure] = {}
    tables: dict[str, pd.DataFrame] = {}
    alone = [] if pixel is None else list(pixel["loss"].unique())
    if pixel is not None:
        tables["pixel"] = pixel
        figures["pixel"] = draw_pixel(pixel)
        caption = "Solid: a foreground pixel. Thin and dotted: a background pixel, where it differs."
        others = ", ".join(label for label in losses if label not in alone)
        without = note(f"{others}: no value of a single pixel; see the next figure.") if others else ""
        sections.append(("One pixel", static(figures["pixel"], "pixel", caption) + without))
    tables["image"] = images[start]
    figures["image"] = draw_image(images[start], *start)
    sections.append(("In an image", sliding(images, start, size)))
    counted = [] if plane is None else list(plane["loss"].unique())
    if plane is not None:
        tables["plane"] = plane
        figures["plane"] = draw_plane(plane)
        caption = (
            f"An object of {OBJECT} pixels in an image of which it is {percent(start[0])}; every pixel is predicted as "
            f"foreground or background with probability {confidence:g}. Bottom left nothing is wrong; to the right "
            "there are false positives beside the object, upwards false negatives in it. Numbers on the lines are the "
            "loss; colors go up to its largest value."
        )
        sections.append(("False positives and false negatives", static(figures["plane"], "plane", caption)))
    placed = ", ".join(label for label in losses if label not in [*alone, *counted])
    reasons = {
        "each false pixel costs the same whatever the others do, so the surface is a plain slope.": ", ".join(alone),
        "it matters where the false pixels lie, not only how many they are.": placed,
    }
    words = " ".join(f"{names}: {reason}" for reason, names in reasons.items() if names)
    if words:
        sections.append(("Not in the plane", note(words)))
    return ViewPage("Loss and gradient: " + ", ".join(losses), sections, figures, tables)


def percent(fraction: float) -> str:
    return f"{100 * fraction:.3g} %"


def _lines(axis: Axes, table: pd.DataFrame, x: str, y: str) -> None:
    """A line per loss, on an axis that shows all values with a little air, and at least zero."""
    styles: dict[str, Any] = line_styles(table["loss"].unique())
    for label, style in styles.items():
        line = table[table["loss"] == label]
        axis.plot(line[x], line[y], label=label, **style)
    _fit_height(axis, table[y])


def _fit_height(axis: Axes, values: pd.Series) -> None:
    low, high = min(values.min(), 0.0), max(values.max(), 0.0)
    air = 0.05 * (high - low or 1)
    axis.set_ylim(low - air, high + air)


@styled
def draw_pixel(table: pd.DataFrame) -> Figure:
    """Loss and gradient of a single pixel: by the probability of its true class, and by the logit of each class."""
    figure, axes = panels(6, 2, WIDTH / 2, 2.9)
    table = table.assign(slope=-table["by_p"])
    sides = {side: table[table["pixel"] == side] for side in SIDES}
    styles: dict[str, Any] = line_styles(table["loss"].unique())
    for axis, column, words in zip(axes[:2], ("value", "slope"), ("Loss", "Slope, − dL/dp"), strict=True):
        _lines(axis, sides["foreground"], "p", column)
        for label, style in styles.items():
            front, back = (part[part["loss"] == label] for part in sides.values())
            if not np.allclose(front[column], back[column], atol=1e-6):
                axis.plot(back["p"], back[column], color=style["color"], lw=1.0, linestyle=(0, (1, 1.6)))
        _fit_height(axis, table.loc[table["p"].between(0.08, 1) if column == "slope" else table["p"] > 0.004, column])
        axis.set(title=f"{words} by the probability of the true class", xlabel="p of the true class", xlim=(0, 1))
    for row, (side, part) in enumerate(sides.items(), 1):
        for axis, column, words in zip(
            axes[2 * row :], ("value", "by_logit"), ("Loss", "Gradient dL/dz"), strict=False
        ):
            _lines(axis, part, "logit", column)
            axis.axvline(0, color=FAINT, lw=0.6)
            right = "right →" if side == "foreground" else "← right"
            axis.set(title=f"{words} of a {side} pixel by its logit", xlabel=f"logit z   ({right})", xlim=(-7, 7))
    legend_below(figure, axes[0])
    return figure


def towards_truth(table: pd.DataFrame) -> pd.Series:
    """The gradient by the logit, positive where a step of descent brings the pixel closer to its true class."""
    return table["by_logit"].where(table["pixel"] == "background", -table["by_logit"])


@styled
def draw_image(table: pd.DataFrame, foreground: float, quality: float) -> Figure:
    """Loss and gradient of an image in which the pixels of one class move together."""
    figure, axes = panels(4, 2, WIDTH / 2, 3.2)
    table = table.assign(gradient=towards_truth(table))
    for row, (side, other) in enumerate((SIDES, SIDES[::-1])):
        part = table[table["pixel"] == side]
        for axis, column, words in zip(
            axes[2 * row :], ("value", "gradient"), ("Loss", "Gradient of one of them, N dL/dz"), strict=False
        ):
            _lines(axis, part, "p", column)
            axis.set(xlim=(0, 1), xlabel=f"p of the true class, all {side} pixels")
            axis.set_title(f"{words}; {other} stays at {quality:g}")
    figure.suptitle(f"{percent(foreground)} foreground", x=0.01, ha="left", fontsize=9, color=FAINT)
    legend_below(figure, axes[0])
    return figure


@styled
def draw_plane(table: pd.DataFrame) -> Figure:
    """Heat maps of the losses over false positives and false negatives, each colored up to its own largest value."""
    labels = list(table["loss"].unique())
    columns = 2 if len(labels) == 4 else 3
    figure, axes = panels(len(labels), columns, 3.2, 3.1, sharex=True, sharey=True)
    for place, (axis, label) in enumerate(zip(axes, labels, strict=True)):
        fp, fn, value = square(table, label)
        relative = value / max(float(np.abs(value).max()), 1e-12)
        where: dict[str, Any] = {"extent": (fp[0], fp[-1], fn[0], fn[-1]), "origin": "lower", "aspect": "auto"}
        drawn = axis.imshow(relative, cmap=two_sided(), vmin=-1, vmax=1, interpolation="bilinear", **where)
        lines = axis.contour(fp, fn, value, levels=6, colors=INK, linewidths=0.7)
        axis.clabel(lines, fontsize=6.5, fmt="%.2g")
        axis.set_title(label)
        axis.grid(visible=False)
        axis.set_xlabel("false positives / object" if place + columns >= len(labels) else "")
        axis.set_ylabel("false negatives / object" if place % columns == 0 else "")
    bar = figure.colorbar(drawn, ax=axes, label="loss / its largest value here", aspect=30, pad=0.02)
    bar.ax.set_ylim(0, 1)
    return figure


def square(table: pd.DataFrame, label: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """False positives and false negatives in units of the object, and the loss (fn, fp) of one of the losses."""
    values = table[table["loss"] == label].pivot_table(index="fn", columns="fp", values="value")
    return values.columns.to_numpy() / OBJECT, values.index.to_numpy() / OBJECT, values.to_numpy()


def sliding(images: Mapping[tuple[float, float], pd.DataFrame], start: tuple[float, float], size: int) -> Markup:
    """The curves of an image with sliders for its foreground fraction and the pixels that stay."""
    caption = (
        f"An image of {size} x {size} pixels with two discs of foreground. Above, all foreground pixels have the "
        "probability on the axis, and all background pixels the set probability of being taken for background; below, "
        "the other way round. The gradient is that of one of the pixels that move, towards the truth, times the number "
        "of pixels in the image, so that it compares with a single pixel's. Move the sliders to change the foreground "
        "fraction and the pixels that stay."
    )
    frames = {f"{percent(a)}|{b:g}": table for (a, b), table in images.items()}
    first = f"{percent(start[0])}|{start[1]:g}"
    fractions, qualities = (
        list(dict.fromkeys(stops)) for stops in zip(*(key.split("|") for key in frames), strict=True)
    )
    stays = "probability of the true class of the pixels that stay"
    sliders = {"foreground fraction": (fractions, percent(start[0])), stays: (qualities, f"{start[1]:g}")}
    return interactive(image_frames(frames, first), caption, sliders, wide=True)


def image_frames(frames: Mapping[str, pd.DataFrame], first: str) -> go.Figure:
    """The figure of `draw_image` for each stop of the sliders, as frames named by them; buttons choose the axis."""
    titles = [f"{what}, all {side} moves" for side in SIDES for what in ("Loss", "Gradient N dL/dz")]
    figure = make_subplots(2, 2, subplot_titles=titles, vertical_spacing=0.17, horizontal_spacing=0.09)
    traces = _traces(frames[first])
    for row, column, line, _ in traces:
        figure.add_trace(line, row, column)
    figure.frames = [
        go.Frame(name=name, data=[{"y": line.y} for _, _, line, _ in _traces(table)]) for name, table in frames.items()
    ]
    axes = {"p of the true class": [list(line.x) for _, _, line, _ in traces], "logit": [z for *_, z in traces]}
    buttons = [
        {"label": f"by {name}", "method": "update", "args": [{"x": xs}, {f"xaxis{k}.title.text": name for k in PANELS}]}
        for name, xs in axes.items()
    ]
    menu = {"type": "buttons", "direction": "right", "x": 0, "y": 1.16, "xanchor": "left", "yanchor": "bottom"}
    figure.update_xaxes(title_text="p of the true class", title_standoff=4)
    figure.update_annotations(font_size=13)
    return figure.update_layout(
        updatemenus=[menu | {"buttons": buttons}],
        height=680,
        margin={"l": 50, "r": 15, "t": 95, "b": 40},
        legend={"orientation": "h", "y": -0.12, "x": 0},
        hovermode="x unified",
    )


def _traces(table: pd.DataFrame) -> list[tuple[int, int, go.Scatter, list[float]]]:
    """The lines of the four panels: row, column, line by the probability, and the logits of its points."""
    table = table.assign(gradient=towards_truth(table))
    styles: dict[str, Any] = line_styles(table["loss"].unique())
    lines = []
    for label, style in styles.items():
        dash = {"color": style["color"], "dash": PLOTLY_DASHES[style["linestyle"]], "width": 2.2}
        for row, side in enumerate(SIDES, 1):
            part = table[(table["loss"] == label) & (table["pixel"] == side)]
            for column, y in enumerate(("value", "gradient"), 1):
                shown = {"showlegend": row == column == 1, "legendgroup": label, "name": label, "line": dash}
                line = go.Scatter(x=part["p"].round(4), y=part[y].round(6), **shown)
                lines.append((row, column, line, part["logit"].tolist()))
    return lines
