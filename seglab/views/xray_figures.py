"""Figures, tables and words of an X-ray: where the gradient of each loss falls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from seglab.plots import FAINT, INK, WIDTH, line_styles, paint_errors, styled, two_sided
from seglab.reporting.html import note, number, table, text
from seglab.views.curve_figures import still
from seglab.views.view_page import Sheet


class Picture(NamedTuple):
    """One image at one stage: uint8 (h, w, c), truth and probability (h, w), and each loss's pull over its mean."""

    stage: str
    image: np.ndarray
    truth: np.ndarray
    probability: np.ndarray
    maps: Mapping[str, np.ndarray]


def percent(share: float) -> str:
    """A share in percent, short enough for a cell."""
    if not np.isfinite(share):
        return "–"
    if 0 < share < 5e-5:
        return "<0.01"
    return f"{100 * share:.2g}" if share < 0.0995 else f"{100 * share:.0f}"


def terminal(
    shares: pd.DataFrame, norms: pd.DataFrame, empty: pd.DataFrame, rates: pd.DataFrame, said: Sequence[str]
) -> str:
    """Everything as text: percent of the gradient by region, empty images, gradients of the weights, warnings."""
    parts = []
    for stage, part in shares.groupby("stage", sort=False):
        wide = part.pivot_table(index="loss", columns="region", values="gradient", sort=False, dropna=False)
        held = part.drop_duplicates("region").set_index("region")["pixels"]
        lines = pd.concat([held.to_frame("of the pixels").T, wide]).map(percent)
        carry = norms[norms["stage"] == stage].set_index("loss")["carry"].map(percent)
        lines["90 % on"] = ["", *carry.reindex(wide.index)]
        parts.append(f"{stage}: % of |dL/dlogit|\n{lines.to_string()}")
    parts.append("an empty image: loss without and with a false alarm, and the pull on it (bce 0.9)")
    parts.append(empty.set_index("loss").map("{:.3g}".format).to_string())
    parts.append("gradient of the weights, untrained, and learning rates to try")
    parts.append(rates.set_index("loss").map("{:.2g}".format).to_string())
    return "\n\n".join(parts) + "\n\n" + "\n".join(f"! {sentence}" for sentence in said)


def sheet(
    shares: pd.DataFrame,
    norms: pd.DataFrame,
    tops: pd.DataFrame,
    empty: pd.DataFrame,
    rates: pd.DataFrame,
    said: Sequence[str],
    pictures: Sequence[Picture],
    qualities: Mapping[str, float],
    edge: int,
    optimizer: str,
) -> Sheet:
    """The page of an X-ray with its figures and tables."""
    figures = {"shares": regions(shares), "concentration": concentration(tops), "pictures": gallery(pictures)}
    stages = "; ".join(f"{name} {value:.2g}" for name, value in qualities.items())
    captions = {
        "shares": (
            "In each cell the percentage of |dL/dlogit|, summed over all images, that falls on the column's pixels; the"
            " first row says how many percent of the pixels they are. Blue: more than their number, orange: less."
            f" The edge is {edge} pixels wide on both sides of the outline; hard pixels have a probability of their"
            " true class under 0.5, easy ones of at least 0.9; small objects are those up to the median size. Soft IoU"
            f" of the predictions: {stages}; but for the untrained and the trained they are made from the truth."
        ),
        "concentration": (
            "How much of the gradient the most pulled pixels have together. A line far up on the left trains on a few"
            " pixels; the dotted line would pull all pixels alike."
        ),
        "pictures": (
            "One image, its errors (white found, orange false alarm, blue missed), and the pull |dL/dlogit| of each"
            " loss on each of its pixels, over the mean of the image: one logarithmic scale for all."
        ),
    }
    drawn = {name: still(figure, name, captions[name]) for name, figure in figures.items()}
    warned = Markup("").join(Markup("<li>{}</li>").format(sentence) for sentence in said)
    sections = [
        ("Warnings", Markup("<ul>{}</ul>").format(warned) if said else note("None.")),
        ("Where the gradient falls", drawn["shares"]),
        ("How few pixels it falls on", drawn["concentration"]),
        ("On one image", drawn["pictures"]),
        ("Empty images", _empty(empty)),
        ("Learning rates to try", _rates(rates, optimizer)),
    ]
    tables = {"shares": shares, "norms": norms, "concentration": tops, "empty": empty, "learning_rates": rates}
    return Sheet("Gradient X-ray", sections, figures, tables)


@styled
def regions(shares: pd.DataFrame) -> Figure:
    """A table for each stage: the share of the gradient in each region, coloured by its ratio to that of the pixels."""
    stages, labels = list(shares["stage"].unique()), list(shares["loss"].unique())
    names = list(shares["region"].unique())
    letters = max(map(len, labels))
    columns = 2 if len(stages) > 1 else 1
    rows = -(-len(stages) // columns)
    figure = Figure(figsize=(WIDTH, rows * (0.85 + 0.24 * (len(labels) + 1))), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axis, stage in zip(axes, stages, strict=False):
        part = shares[shares["stage"] == stage]
        gradient = part.pivot_table(index="loss", columns="region", values="gradient", sort=False, dropna=False)
        held = part.drop_duplicates("region").set_index("region")["pixels"].reindex(names)
        _cells(axis, held, gradient.reindex(labels)[names])
        axis.set_title(stage[:1].upper() + stage[1:])
        axis.set_yticks(range(len(labels) + 1), ["% of the pixels", *labels])
    for axis in axes[len(stages) :]:
        axis.set_visible(False)
    figure.get_layout_engine().set(wspace=0.02 if letters < 20 else 0.0)
    return figure


def _cells(axis: Axes, held: pd.Series, gradient: pd.DataFrame) -> None:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log10(gradient.to_numpy() / held.to_numpy()).clip(-1.5, 1.5)
    shown = np.vstack([np.full(len(held), np.nan), ratio])
    axis.imshow(shown, cmap=two_sided(), vmin=-1.5, vmax=1.5, aspect="auto")
    for row, values in enumerate([held.to_numpy(), *gradient.to_numpy()]):
        for column, value in enumerate(values):
            colour = FAINT if row == 0 else INK
            axis.text(column, row, percent(value), ha="center", va="center", fontsize=7.5, color=colour)
    axis.set_xticks(
        range(len(held)), [name.replace(" ", "\n").replace("kg", "k-\ng").replace("eg", "e-\ng") for name in held.index]
    )
    axis.xaxis.tick_top()
    axis.tick_params(length=0, labelcolor=INK)
    axis.axhline(0.5, color=FAINT, lw=0.8)
    axis.spines[:].set_visible(False)
    axis.grid(visible=False)


@styled
def concentration(tops: pd.DataFrame) -> Figure:
    """The share of the gradient on the most pulled pixels, by their share of all pixels."""
    stages = list(tops["stage"].unique())
    columns = 2 if len(stages) > 1 else 1
    rows = -(-len(stages) // columns)
    figure = Figure(figsize=(WIDTH, 2.7 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axis, stage in zip(axes, stages, strict=False):
        part = tops[tops["stage"] == stage]
        for label, style in line_styles(part["loss"].unique()).items():
            line = part[part["loss"] == label]
            axis.plot(100 * line["pixels"], 100 * line["gradient"], label=label, **style)
        alike = np.logspace(-3, 2, 60)
        axis.plot(alike, alike, color=FAINT, lw=0.9, linestyle=(0, (1, 2)))
        axis.set(xscale="log", xlim=(1e-2, 100), ylim=(0, 102), ylabel="% of the gradient")
        axis.set(title=stage[:1].upper() + stage[1:], xlabel="% of the pixels, the most pulled first")
        axis.xaxis.set_major_formatter("{x:g}")
    for axis in axes[len(stages) :]:
        axis.set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 5), handlelength=2.4)
    return figure


@styled
def gallery(pictures: Sequence[Picture]) -> Figure:
    """A row for each stage: the image with its errors, and the pull of every loss on its pixels."""
    labels = list(pictures[0].maps)
    wide = min(1.45, 14.0 / (len(labels) + 1))
    figure = Figure(figsize=(0.9 + wide * (len(labels) + 1), 0.4 + (wide + 0.1) * len(pictures)), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    grid = figure.subplots(len(pictures), len(labels) + 1, squeeze=False)
    for axes, picture in zip(grid, pictures, strict=True):
        axes[0].imshow(paint_errors(picture.image, picture.truth, picture.probability), interpolation="nearest")
        axes[0].set_ylabel(picture.stage, color=INK)
        for axis, label in zip(axes[1:], labels, strict=True):
            pull = np.maximum(picture.maps[label], 1e-9)
            drawn = axis.imshow(pull, cmap="inferno", norm=LogNorm(1e-2, 1e2), interpolation="nearest")
    for axis in grid.ravel():
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        axis.grid(visible=False)
    for axis, words in zip(grid[0], ["errors", *labels], strict=True):
        axis.set_title(words.replace(" ", "\n", 1), fontsize=8)
    figure.colorbar(drawn, ax=grid, label="pull over the image's mean", aspect=40, pad=0.01, extend="both")
    return figure


def _empty(empty: pd.DataFrame) -> str:
    head = ["loss", "loss, nothing found", "loss, false alarm", "pull on the false alarm"]
    rows = [
        [text(r["loss"]), *(number(r[key], 4) for key in ("clean", "alarm", "pull"))] for r in empty.to_dict("records")
    ]
    words = (
        "A mask without foreground, on which the model finds nothing (probability 0.02 everywhere), and on which it"
        " finds an object that is not there (probability 0.9). The pull is the gradient of one falsely alarmed pixel"
        " times the number of pixels: how strongly the loss unlearns false alarms; cross-entropy's is 0.9."
    )
    return note(words) + table(head, rows)


def _rates(rates: pd.DataFrame, optimizer: str) -> str:
    head = ["loss", "norm of the gradient", "relative", "of a typical weight", "low", "middle", "high"]
    keys = ("norm", "relative", "rms", "low", "middle", "high")
    rows = [
        [text(r["loss"]), *(number(r[key])._replace(shown=f"{r[key]:.2g}") for key in keys)]
        for r in rates.to_dict("records")
    ]
    name = optimizer.rsplit(".", 1)[-1]
    words = (
        f"The gradient of the untrained model's weights on one batch. With {name} the steps "
        + (
            "do not depend on the scale of a loss, since it divides each gradient by its own running size: all losses"
            " get the same three rates. That does not make one rate right for all; "
            if rates["middle"].nunique() == 1
            else "are as long as the gradient: the three rates are the configured one, and one on either side, divided"
            " by the norm relative to the reference's (bce, or the first loss). That holds for the first steps, and"
            " norms part later; "
        )
        + "let validation decide: python -m seglab.train -m loss=... 'tune.lr=[low,middle,high]'."
    )
    return note(words) + table(head, rows)
