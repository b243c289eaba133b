"""Loss and gradient as curves: of a single pixel, if the loss is a mean over pixels, and of a whole image."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from seglab.contract import Logits, PerImage, Target, require
from seglab.losses.base import Loss
from seglab.plots import FAINT, WIDTH, line_styles, styled
from seglab.reporting.html import note
from seglab.views.gradients import loss_and_gradient, maps_of
from seglab.views.view_page import Section, ViewPage, legend_below, panels

SIDES = ("foreground", "background")


def two_discs(fraction: float, size: int) -> Target:
    """Return the mask (1, 1, size, size), uint8, of an example image: two discs side by side.

    Their foreground fraction is `fraction`, rounded to at least one pixel and at most all but one.
    """
    rows, columns = np.indices((size, size)) + 0.5
    away = [np.hypot(rows - 0.5 * size, columns - x * size) for x in (0.25, 0.75)]
    nearest = np.minimum(*away).ravel()
    mask = np.zeros(size**2, np.uint8)
    count = min(max(round(fraction * mask.size), 1), mask.size - 1)
    mask[np.argsort(nearest, kind="stable")[:count]] = 1  # by rank, since many pixels have equal distances
    return torch.from_numpy(mask.reshape(1, 1, size, size))


def view(losses: Mapping[str, Loss], foreground: float, quality: float, size: int, points: int) -> ViewPage:
    """Return the curves of some losses.

    Args:
        foreground: foreground fraction of the example image, also used as class frequency.
        quality: probability of the true class of those pixels of that image that do not move.
        size: side of that image in pixels.
        points: number of points of an image's curve; a pixel's curve has four times as many.
    """
    for name, value in (("foreground", foreground), ("quality", quality)):
        require(0 < value < 1, "curve", f"{name} between 0 and 1", value)
    require(size >= 8, "curve", "a size of at least 8 pixels", size)
    require(points >= 3, "curve", "at least 3 points", points)
    fitted = {label: loss.with_class_frequency([foreground]) for label, loss in losses.items()}  # as in training
    additive = {label: loss for label, loss in fitted.items() if is_additive(loss)}
    tables = {"pixel": pixel_curves(additive, 4 * points)} if additive else {}
    tables["image"] = image_curves(fitted, foreground, quality, size, points)
    styles, sections = line_styles(losses), []
    if additive:
        caption = "Solid lines: a foreground pixel. Thin dotted lines: a background pixel, if it differs."
        excluded = ", ".join(label for label in losses if label not in additive)
        remark = note(f"{excluded}: not defined for a single pixel; see the next figure.") if excluded else Markup()
        sections.append(Section("A single pixel", remark, draw_pixel(tables["pixel"], styles), "pixel", caption))
    caption = (
        f"An image of {size} x {size} pixels with two discs of foreground. Top: all foreground pixels have the "
        f"probability on the axis, and all background pixels a probability of {quality:g} of being background. Bottom: "
        "foreground and background exchanged. The gradient is that of one varied pixel, towards its true class, times "
        "the number of pixels in the image, so that it can be compared with that of a single pixel."
    )
    image_figure = draw_image(tables["image"], foreground, quality, styles)
    sections.append(Section("A whole image", figure=image_figure, name="image", caption=caption))
    return ViewPage("Loss and gradient: " + ", ".join(losses), sections, tables)


def is_additive(loss: Loss) -> bool:
    """Whether the loss of an image is the mean of the losses of its pixels alone, so that a pixel has its own value."""
    if loss.needs:  # the value of a map at a pixel depends on other pixels
        return False
    z = torch.tensor([-2.0, -0.3, 0.4, 1.7, 2.5, -1.1], dtype=torch.float64)
    t = torch.tensor([1, 0, 1, 0, 0, 0], dtype=torch.uint8)
    image_loss = loss(z.view(1, 1, 2, 3), t.view(1, 1, 2, 3))  # one image of six pixels, then six images of one pixel
    pixel_losses = one_by_one(loss, z.view(-1, 1, 1, 1), t.view(-1, 1, 1, 1), {})[0]
    return bool(torch.allclose(image_loss, pixel_losses.mean(), rtol=1e-9, atol=1e-12))


def one_by_one(loss: Loss, logits: Logits, target: Target, maps: Mapping[str, Tensor]) -> tuple[PerImage, Tensor]:
    """Return loss (n,) and gradient (n, 1, h, w) of images passed one by one, since a loss may pool its batch."""
    targets = target.expand_as(logits)
    results = [loss_and_gradient(loss, logits[k : k + 1], targets[k : k + 1], maps) for k in range(len(logits))]
    return torch.cat([value for value, _ in results]), torch.cat([gradient for _, gradient in results])


def curve(loss: Loss, target: Target, side: str, margin: Tensor, quality: float = 0.5) -> dict[str, np.ndarray]:
    """Return a loss of an image in which all pixels of the class `side` move along `margin`, from wrong to right.

    The other pixels keep the probability `quality` of their true class. Returns p (of the true class), logit, value,
    and by_logit: the gradient of one moving pixel times the number of pixels in the image, so that it is on the scale
    of a single pixel's gradient for any image size.
    """
    moving, sign = target == (side == "foreground"), 1 if side == "foreground" else -1
    truth = 2.0 * target.double() - 1  # +1 and -1: the margin is the logit on foreground, minus the logit on background
    z = torch.where(moving, margin.view(-1, 1, 1, 1), math.log(quality / (1 - quality))) * truth
    value, gradient = one_by_one(loss, z, target, maps_of(loss, target))
    slope = (gradient * moving).sum((1, 2, 3)) / moving.sum()
    columns = {"p": torch.sigmoid(margin), "logit": sign * margin, "value": value, "by_logit": target.numel() * slope}
    return {name: x.numpy() for name, x in columns.items()}


def pixel_curves(losses: Mapping[str, Loss], points: int) -> pd.DataFrame:
    """Return loss and gradient of single pixels, one row per loss, side and point.

    The columns are those of `curve`, and by_p: the gradient with respect to p.
    """
    margin = torch.linspace(-7, 7, points, dtype=torch.float64)
    q, rows = torch.sigmoid(-margin).numpy(), []
    for label, loss in losses.items():
        for side, truth, sign in zip(SIDES, (1, 0), (1, -1), strict=True):
            columns = curve(loss, torch.tensor(truth, dtype=torch.uint8).view(1, 1, 1, 1), side, margin)
            columns["by_p"] = sign * columns["by_logit"] / (columns["p"] * q)  # dp = p q dz
            rows.append(pd.DataFrame({"loss": label, "pixel": side} | columns))
    return pd.concat(rows, ignore_index=True)


def image_curves(losses: Mapping[str, Loss], foreground: float, quality: float, size: int, points: int) -> pd.DataFrame:
    """Return the curves of each loss in an image of two discs, one row per loss, side and point; see `curve`."""
    target, margin = two_discs(foreground, size), torch.linspace(-5, 5, points, dtype=torch.float64)
    rows = [
        pd.DataFrame({"loss": label, "pixel": side} | curve(loss, target, side, margin, quality))
        for label, loss in losses.items()
        for side in SIDES
    ]
    return pd.concat(rows, ignore_index=True)


def _draw_lines(axis: Axes, table: pd.DataFrame, x: str, y: str, styles: Mapping[Any, dict[str, Any]]) -> None:
    """Draw one line per loss, on an axis that shows all values."""
    for label, line in table.groupby("loss", sort=False):
        axis.plot(line[x], line[y], label=label, **styles[label])
    _fit_height(axis, table[y])


def _fit_height(axis: Axes, values: pd.Series) -> None:
    """Set the y limits to include these values and zero, with a small margin."""
    low, high = min(values.min(), 0.0), max(values.max(), 0.0)
    margin = 0.05 * (high - low or 1)
    axis.set_ylim(low - margin, high + margin)


@styled
def draw_pixel(table: pd.DataFrame, styles: Mapping[Any, dict[str, Any]]) -> Figure:
    """Draw loss and gradient of a single pixel by the probability of its true class, and by the logit of each class."""
    figure, axes = panels(6, 2, WIDTH / 2, 2.9)
    table = table.assign(slope=-table["by_p"])
    sides = {side: table[table["pixel"] == side] for side in SIDES}
    for axis, column, words in zip(axes[:2], ("value", "slope"), ("Loss", "Slope, − dL/dp"), strict=True):
        _draw_lines(axis, sides["foreground"], "p", column, styles)
        for label in table["loss"].unique():
            front, back = (part[part["loss"] == label] for part in sides.values())
            if not np.allclose(front[column], back[column], atol=1e-6):  # otherwise the lines coincide
                axis.plot(back["p"], back[column], color=styles[label]["color"], lw=1.0, linestyle=(0, (1, 1.6)))
        fitting = table["p"] > (0.08 if column == "slope" else 0.004)  # near p = 0 some diverge
        _fit_height(axis, table.loc[fitting, column])
        axis.set(title=f"{words} by the probability of the true class", xlabel="p of the true class", xlim=(0, 1))
    for row, (side, part) in enumerate(sides.items(), 1):
        columns = {"value": "Loss", "by_logit": "Gradient dL/dz"}
        for axis, (column, words) in zip(axes[2 * row :], columns.items(), strict=False):
            _draw_lines(axis, part, "logit", column, styles)
            axis.axvline(0, color=FAINT, lw=0.6)
            right = "correct →" if side == "foreground" else "← correct"
            axis.set(title=f"{words} of a {side} pixel by its logit", xlabel=f"logit z   ({right})", xlim=(-7, 7))
    legend_below(figure, axes[0])
    return figure


@styled
def draw_image(table: pd.DataFrame, foreground: float, quality: float, styles: Mapping[Any, dict[str, Any]]) -> Figure:
    """Draw loss and gradient of an image in which the pixels of one class move together."""
    figure, axes = panels(4, 2, WIDTH / 2, 3.2)
    # positive if gradient descent moves the pixel towards its true class
    gradient = table["by_logit"].where(table["pixel"] == "background", -table["by_logit"])
    table = table.assign(gradient=gradient)
    columns = {"value": "Loss", "gradient": "Gradient of one pixel, N dL/dz"}
    for row, (side, other) in enumerate((SIDES, SIDES[::-1])):
        part = table[table["pixel"] == side]
        for axis, (column, words) in zip(axes[2 * row :], columns.items(), strict=False):
            _draw_lines(axis, part, "p", column, styles)
            axis.set(xlim=(0, 1), xlabel=f"p of the true class, all {side} pixels")
            axis.set_title(f"{words}; {other} at {quality:g}")
    figure.suptitle(f"{100 * foreground:.3g} % foreground", x=0.01, ha="left", fontsize=9, color=FAINT)
    legend_below(figure, axes[0])
    return figure
