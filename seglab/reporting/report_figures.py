"""The figures of a report: learning curves, differences, precision and recall, calibration.

Margins are computed in inches from the lengths of the labels. A layout engine of matplotlib would place all text twice
before drawing anything, which took a quarter of the time of a figure.
"""

from collections.abc import Collection, Iterable, Mapping
from math import ceil
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from seglab.plots import COLORS, FAINT, GRID, INK, WIDTH, line_styles, styled
from seglab.reporting.cube import Cube, finite_mean
from seglab.reporting.metrics_table import title
from seglab.reporting.thresholds import calibration, scores_at
from seglab.reporting.verdict import Verdict

PHONE = 0.6 * WIDTH  # width in inches of a figure that remains legible when shrunk to the width of a phone
LETTER = 0.075  # inches per letter
KIND_COLORS = {"better": COLORS[0], "equivalent": COLORS[2]} | dict.fromkeys(("not best", "unknown", "none"), COLORS[7])


def _with_legend(width: float, height: float, styles: Mapping[str, Any], side: int = 1) -> tuple[Figure, NDArray]:
    """Return a figure of `side` x `side` axes, `width` x `height` inches plus the legend of line styles below."""
    names = list(styles)
    columns = max(1, min(5, int(width / (0.5 + LETTER * max(map(len, names))))))  # a line, its name and a gap
    legend_height = 0.15 + 0.17 * ceil(len(names) / columns)
    total = height + legend_height
    figure = Figure(figsize=(width, total))
    axes = figure.subplots(side, side, squeeze=False).ravel()
    left, bottom, right, top = 0.7 / width, (0.42 + legend_height) / total, 1 - 0.1 / width, 1 - 0.25 / total
    figure.subplots_adjust(left, bottom, right, top, wspace=0.2, hspace=0.45)
    lines = [Line2D([], [], **style) for style in styles.values()]
    figure.legend(lines, names, loc="lower center", ncols=columns, handlelength=2, columnspacing=1.4)
    return figure, axes


def _styles(labels: Iterable[str], drawn: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return the line styles of the labels that are drawn; they do not depend on which others are drawn."""
    return {label: style for label, style in line_styles(labels).items() if label in drawn}


@styled
def learning(histories: pd.DataFrame, labels: list[str]) -> Figure:
    """Draw learning curves on validation data: the mean over runs, with a band from the lowest to the highest.

    `histories` holds the rows of metrics.csv of all runs, each with the `label` of its run. The IoU is pooled over all
    pixels, since with many empty images the mean over images is high for a model that finds nothing.
    """
    styles = _styles(labels, set(histories["label"]))
    figure, axes = _with_legend(WIDTH, 4.6, styles, side=2)
    keys = {
        "val/iou_pooled": "IoU over all pixels",
        "val/accuracy": "Accuracy",
        "val/foreground_confidence": "Foreground confidence",
        "val/background_confidence": "Background confidence",
    }
    by_epoch = histories.reindex(columns=["label", "epoch", *keys]).groupby(["label", "epoch"])
    parts = [by_epoch.mean(), by_epoch.min(), by_epoch.max()]
    curves = {label: [part.loc[label] for part in parts] for label in styles}
    for axis, (column, name) in zip(axes, keys.items(), strict=True):
        bands = []
        for label, style in styles.items():
            middle, low, high = (part[column].dropna() for part in curves[label])
            epochs = middle.index.to_numpy() + 1  # completed epochs, as in the log
            axis.plot(epochs, middle, marker="o" if len(epochs) == 1 else "", **style)  # a single point has no line
            bands.append(np.c_[np.r_[epochs, epochs[::-1]], np.r_[low, high[::-1]]])
        colors = [style["color"] for style in styles.values()]
        axis.add_collection(PolyCollection(bands, facecolors=colors, alpha=0.15, lw=0))  # faster than one by one
        axis.set(title=name, xlabel="epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
    return figure


@styled
def seeds(data: Cube, metric: str) -> Figure:
    """Draw the mean of the metric of each seed, over its folds, as a dot, and the mean over runs as a bar, by loss."""
    figure, axis = _figure_of_rows(data.labels)
    means = np.array([[finite_mean(run) for run in loss] for loss in data.values])
    for y, ((label, style), row) in enumerate(zip(line_styles(data.labels).items(), means, strict=True)):
        axis.plot(row, np.full(len(row), y), "o", color=style["color"], alpha=0.65, markeredgewidth=0, markersize=6)
        axis.plot([data.means[label]] * 2, [y - 0.3, y + 0.3], color=style["color"], lw=2.5, solid_capstyle="butt")
    axis.set_xlabel(f"{title(metric)}, one dot per seed")
    return figure


def _figure_of_rows(names: list[str], right: list[str] | None = None) -> tuple[Figure, Axes]:
    """Return a figure whose rows, from the top down, have names on the left, with room for the texts `right`."""
    left_margin = 0.15 + LETTER * max(map(len, names))
    right_margin = 0.15 + LETTER * max(map(len, right or [""]))
    width, height = max(PHONE, left_margin + right_margin + 3), 0.6 + 0.28 * len(names)
    figure = Figure(figsize=(width, height))
    axis = figure.subplots()
    figure.subplots_adjust(left_margin / width, 0.45 / height, 1 - right_margin / width, 1 - 0.1 / height)
    axis.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.4, -0.6))  # the first row on top
    axis.tick_params(axis="y", length=0, labelcolor=INK)
    axis.grid(axis="y", visible=False)
    return figure, axis


@styled
def forest(verdicts: list[Verdict], metric: str) -> Figure:
    """Draw differences with simultaneous intervals: how far losses are behind the best, or the differences of pairs."""
    best, delta = verdicts[0].best, verdicts[0].delta
    names = [each.pair.second if best else f"{each.pair.first} ahead of {each.pair.second}" for each in verdicts]
    row_names = [verdicts[0].pair.first, *names] if best else names
    figure, axis = _figure_of_rows(row_names, [each.name for each in verdicts])
    reach = 4 * (delta + max(abs(each.gap) for each in verdicts))  # two seeds may give a very wide interval
    ends = np.clip([(each.low, each.high) for each in verdicts], -reach, reach)
    left, right = min(ends[:, 0].min(), -1.5 * delta), max(ends[:, 1].max(), 1.5 * delta)
    axis.axvspan(-delta, delta, color=COLORS[2], alpha=0.13, lw=0)
    axis.axvline(0, color=FAINT, lw=0.8)
    if best:
        axis.plot(0, 0, "o", color=INK, markersize=7.5, markeredgecolor="#ffffff")
    for y, (each, (low, high)) in enumerate(zip(verdicts, ends, strict=True), start=1 if best else 0):
        color = KIND_COLORS[each.kind]
        axis.plot([low, high], [y] * 2, color=color, lw=2.2, solid_capstyle="butt")
        axis.plot(each.gap, y, "o", color=color, markersize=7.5, markeredgecolor="#ffffff")
        axis.text(1.01, y, each.name, transform=axis.get_yaxis_transform(), va="center", color=color)
    quantity = f"behind the best in {title(metric)}" if best else f"ahead in {title(metric)}"
    axis.set(xlim=(1.04 * left, 1.04 * right), xlabel=f"{quantity}; shaded: within ±{delta:g}")
    return figure


@styled
def precision_recall(metrics: pd.DataFrame, tables: Mapping[str, np.ndarray], labels: list[str]) -> Figure:
    """Draw precision against recall: curves over thresholds (pooled pixels), and the threshold of each run as a dot."""
    styles = _styles(labels, tables)
    figure, (axis,) = _with_legend(WIDTH * 0.55, WIDTH * 0.52, styles)
    keys = ["recall_pooled", "precision_pooled"] if "recall_pooled" in metrics else ["recall", "precision"]
    points = metrics[keys].to_numpy()
    low = np.floor(10 * (np.nanmin(points) - 0.08).clip(0, 0.9)) / 10 if np.isfinite(points).any() else 0
    recall = np.linspace(0.01, 1, 200)
    for dice in (0.5, 0.6, 0.7, 0.8, 0.9):  # the curve on which 2 precision recall / (precision + recall) equals `dice`
        with np.errstate(divide="ignore"):
            precision = np.where(2 * recall > dice, dice * recall / (2 * recall - dice), np.nan)
        axis.plot(recall, np.where(precision <= 1, precision, np.nan), color=GRID, lw=0.8)
        if dice > low + 0.03:
            axis.text(dice, dice, f"Dice {dice:g}", color=FAINT, fontsize=7, rotation=-45, ha="center", va="center")
    for label, style in styles.items():
        at, runs = scores_at(tables[label]), metrics[metrics["label"] == label]
        axis.plot(at["recall"], at["precision"], lw=1.1, **style)
        axis.plot(*runs[keys].to_numpy().T, "o", color=style["color"], markersize=4.5, markeredgewidth=0)
    axis.grid(visible=False)
    axis.set(xlabel="recall", ylabel="precision", xlim=(low, 1.005), ylim=(low, 1.005))
    return figure


@styled
def reliability(tables: Mapping[str, np.ndarray], scaled: Mapping[str, np.ndarray], labels: list[str]) -> Figure:
    """Draw a reliability diagram: the fraction of foreground by predicted probability, calibrated on the diagonal.

    Thin lines show the same after temperature scaling.
    """
    styles = _styles(labels, tables)
    figure, (axis,) = _with_legend(WIDTH * 0.55, WIDTH * 0.52, styles)
    axis.plot([0, 1], [0, 1], color=FAINT, lw=0.8)
    for label, style in styles.items():
        for histogram, options in ((tables[label], {"marker": "o"}), (scaled[label], {"lw": 0.6, "alpha": 0.8})):
            predicted, observed, pixels = calibration(histogram)
            filled = pixels > 0
            axis.plot(predicted[filled], observed[filled], markersize=2.8, **style | options)
    axis.set(xlabel="predicted probability", ylabel="fraction of foreground", xlim=(0, 1), ylim=(0, 1))
    return figure
