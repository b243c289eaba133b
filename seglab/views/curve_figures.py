"""Figures of what losses do to a pixel, to an image, and over false positives and false negatives."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from seglab.plots import FAINT, INK, WIDTH, line_styles, styled, two_sided
from seglab.reporting.html import note
from seglab.views.view_page import Animation, ViewPage, legend_below, panels, static

SIDES = ("foreground", "background")
OBJECT = 100
"""Pixels of the object in the plane of false positives and false negatives."""


def page(
    losses: Sequence[str],
    pixel: pd.DataFrame | None,
    images: Mapping[float, pd.DataFrame],
    plane: pd.DataFrame | None,
    options: Mapping[str, Any],
) -> ViewPage:
    """The page of the tables that curve.py makes, those of an image by its foreground fraction."""
    sections: list[tuple[str, Markup]] = []
    figures: dict[str, Figure] = {}
    foreground, quality = options["foreground"], options["quality"]
    tables = {"pixel": pixel, "image": images[foreground], "plane": plane}
    alone, counted = ([] if table is None else list(table["loss"].unique()) for table in (pixel, plane))
    if pixel is not None:
        figures["pixel"] = draw_pixel(pixel)
        caption = "Solid: a foreground pixel. Thin and dotted: a background pixel, where it differs."
        others = ", ".join(label for label in losses if label not in alone)
        without = note(f"{others}: no value of a single pixel; see the next figure.") if others else ""
        sections.append(("One pixel", static(figures["pixel"], "pixel", caption) + without))
    frames = {percent(fraction): draw_image(table, fraction, quality) for fraction, table in images.items()}
    figures["image"], moving = frames[percent(foreground)], Animation(frames)
    caption = (
        f"An image of {options['size']} x {options['size']} pixels with two discs of foreground, whose fraction the "
        "slider sets. Above, all foreground pixels have the probability on the axis, and all background pixels a "
        f"probability of {quality:g} of being taken for background; below, the other way round. The gradient is that "
        "of one of the pixels that move, towards the truth, times the number of pixels in the image, so that it "
        "compares with a single pixel's."
    )
    sections.append(("In an image", moving.html(caption, percent(foreground))))
    if plane is not None:
        figures["plane"] = draw_plane(plane)
        caption = (
            f"An object of {OBJECT} pixels in an image of which it is {percent(foreground)}; every pixel is predicted "
            f"as foreground or background with probability {options['confidence']:g}. Bottom left nothing is wrong; to "
            "the right there are false positives beside the object, upwards false negatives in it. Numbers on the "
            "lines are the loss; colors go up to its largest value."
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
    known = {name: table for name, table in tables.items() if table is not None}
    return ViewPage("Loss and gradient: " + ", ".join(losses), sections, figures, known, {"image": moving})


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
        columns = (("value", "Loss"), ("by_logit", "Gradient dL/dz"))
        for axis, (column, words) in zip(axes[2 * row :], columns, strict=False):
            _lines(axis, part, "logit", column)
            axis.axvline(0, color=FAINT, lw=0.6)
            right = "right →" if side == "foreground" else "← right"
            axis.set(title=f"{words} of a {side} pixel by its logit", xlabel=f"logit z   ({right})", xlim=(-7, 7))
    legend_below(figure, axes[0])
    return figure


@styled
def draw_image(table: pd.DataFrame, foreground: float, quality: float) -> Figure:
    """Loss and gradient of an image in which the pixels of one class move together."""
    figure, axes = panels(4, 2, WIDTH / 2, 3.2)
    # positive where a step of descent brings the pixel closer to its true class
    gradient = table["by_logit"].where(table["pixel"] == "background", -table["by_logit"])
    table = table.assign(gradient=gradient)
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
        value = table[table["loss"] == label].pivot_table(index="fn", columns="fp", values="value")
        fp, fn = value.columns / OBJECT, value.index / OBJECT
        relative = value / max(float(value.abs().to_numpy().max()), 1e-12)
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
