"""The figures of a sweep: learning curves, differences, ranks, errors, and how well probabilities are calibrated."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from seglab.plots import COLORS, FAINT, GRID, INK, WIDTH, line_styles, styled, two_sided
from seglab.reporting.cube import Cube, finite_mean
from seglab.reporting.metrics_table import QUARTERS, size_strata, title
from seglab.reporting.thresholds import calibration, scores_at
from seglab.reporting.verdict import Verdict

PHONE = 0.6 * WIDTH
"""Inches of a figure that stays legible when it is shrunk to the width of a phone."""

KIND_COLORS = {"better": COLORS[0], "equivalent": COLORS[2]} | dict.fromkeys(("not best", "unknown", "none"), COLORS[7])


def _legend(figure: Figure, axis: Axes) -> None:
    """A legend below the axes, in as many columns as the figure is wide enough for."""
    handles, labels = axis.get_legend_handles_labels()
    if handles:
        inches = 0.5 + 0.075 * max(map(len, labels))  # of a line, its label and the gap
        columns = max(1, min(5, int(figure.get_figwidth() / inches)))
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, handlelength=2, columnspacing=1.4)


@styled
def learning(histories: Mapping[str, list[pd.DataFrame]]) -> Figure:
    """Learning curves on validation: the mean over seeds, and a band from the lowest to the highest seed.

    The IoU is that over all pixels: the mean over the images is high for a net that finds nothing if many are empty.
    """
    figure = Figure(figsize=(WIDTH, 5.0), layout="constrained")
    axes = figure.subplots(2, 2).ravel()
    style = line_styles(histories)
    keys = {
        "iou_pooled": "IoU over all pixels",
        "accuracy": "Accuracy",
        "foreground_confidence": "Foreground confidence",
        "background_confidence": "Background confidence",
    }
    for label, runs in histories.items():
        by_epoch = pd.concat(runs).groupby("epoch")
        middle, low, high = by_epoch.mean(), by_epoch.min(), by_epoch.max()
        for axis, column in zip(axes, (f"val/{key}" for key in keys), strict=True):
            if column in middle:
                marker = "o" if len(middle) == 1 else ""
                axis.plot(middle.index, middle[column], label=label, marker=marker, **style[label])
                color = style[label]["color"]
                axis.fill_between(middle.index, low[column], high[column], color=color, alpha=0.15, lw=0)
    for axis, name in zip(axes, keys.values(), strict=True):
        axis.set(title=name, xlabel="epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
    _legend(figure, axes[0])
    return figure


@styled
def seeds(data: Cube, metric: str) -> Figure:
    """Every run as a dot: the mean of the metric over the test images by loss; the bar is the mean over seeds."""
    figure = Figure(figsize=(PHONE, 0.8 + 0.3 * len(data.labels)), layout="constrained")
    axis = figure.subplots()
    means = np.array([[finite_mean(run) for run in loss] for loss in data.values])
    for y, (label, row) in enumerate(zip(data.labels, means, strict=True)):
        color = line_styles(data.labels)[label]["color"]
        axis.plot(row, np.full(len(row), y), "o", color=color, alpha=0.65, markeredgewidth=0, markersize=6)
        axis.plot([finite_mean(row)] * 2, [y - 0.3, y + 0.3], color=color, lw=2.5, solid_capstyle="butt")
    axis.set_xlabel(f"{title(metric)}, one dot per seed")
    _name_rows(axis, data.labels)
    return figure


def _name_rows(axis: Axes, names: list[str]) -> None:
    """Rows from the top down, each with its name on the left."""
    axis.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.4, -0.6))
    axis.tick_params(axis="y", length=0, labelcolor=INK)
    axis.grid(axis="y", visible=False)


@styled
def forest(verdicts: list[Verdict], metric: str) -> Figure:
    """Differences with the intervals that hold together: how far losses are behind the best, or of pairs."""
    best = verdicts[0].best
    figure = Figure(figsize=(PHONE, 0.9 + 0.27 * (len(verdicts) + best)), layout="constrained")
    axis = figure.subplots()
    delta = verdicts[0].delta
    reach = 4 * (delta + max(abs(found.gap) for found in verdicts))  # two seeds may give intervals far beyond
    ends = np.clip([(found.low, found.high) for found in verdicts], -reach, reach)
    left, right = min(ends[:, 0].min(), -1.5 * delta), max(ends[:, 1].max(), 1.5 * delta)
    axis.axvspan(-delta, delta, color=COLORS[2], alpha=0.13, lw=0)
    axis.axvline(0, color=FAINT, lw=0.8)
    if best:
        axis.plot(0, 0, "o", color=INK, markersize=7.5, markeredgecolor="#ffffff")
    for y, (found, (low, high)) in enumerate(zip(verdicts, ends, strict=True), best):
        color = KIND_COLORS[found.kind]
        axis.plot([low, high], [y] * 2, color=color, lw=2.2, solid_capstyle="butt")
        axis.plot(found.gap, y, "o", color=color, markersize=7.5, markeredgecolor="#ffffff")
        axis.text(1.01, y, found.name, transform=axis.get_yaxis_transform(), va="center", color=color)
    what = f"behind the best in {title(metric)}" if best else f"difference in {title(metric)}"
    axis.set(xlim=(1.04 * left, 1.04 * right), xlabel=f"{what}; shaded: within ±{delta:g}")
    names = [found.pair.second if best else f"{found.pair.first} − {found.pair.second}" for found in verdicts]
    _name_rows(axis, [verdicts[0].pair.first, *names] if best else names)
    return figure


@styled
def precision_recall(metrics: pd.DataFrame, tables: Mapping[str, np.ndarray]) -> Figure:
    """Precision against recall: curves over all thresholds (all pixels pooled), dots the runs at threshold 0.5."""
    figure = Figure(figsize=(WIDTH * 0.55, WIDTH * 0.55), layout="constrained")
    axis = figure.subplots()
    style = line_styles(tables)
    keys = ["recall_pooled", "precision_pooled"] if "recall_pooled" in metrics else ["recall", "precision"]
    seen = metrics[keys].to_numpy()
    low = np.floor(10 * (np.nanmin(seen) - 0.08).clip(0, 0.9)) / 10 if np.isfinite(seen).any() else 0
    recall = np.linspace(0.01, 1, 200)
    for dice in (0.5, 0.6, 0.7, 0.8, 0.9):
        with np.errstate(divide="ignore"):
            precision = np.where(2 * recall > dice, dice * recall / (2 * recall - dice), np.nan)
        axis.plot(recall, np.where(precision <= 1, precision, np.nan), color=GRID, lw=0.8)
        if dice > low + 0.03:
            axis.text(dice, dice, f"Dice {dice:g}", color=FAINT, fontsize=7, rotation=-45, ha="center", va="center")
    for label, table in tables.items():
        at, runs = scores_at(table), metrics[metrics["label"] == label]
        axis.plot(at["recall"], at["precision"], lw=1.1, label=label, **style[label])
        axis.plot(*runs[keys].to_numpy().T, "o", color=style[label]["color"], markersize=4.5, markeredgewidth=0)
    axis.grid(visible=False)
    axis.set(xlabel="recall", ylabel="precision", xlim=(low, 1.005), ylim=(low, 1.005))
    _legend(figure, axis)
    return figure


@styled
def reliability(tables: Mapping[str, np.ndarray], scaled: Mapping[str, np.ndarray]) -> Figure:
    """Reliability diagram: how often pixels of a predicted probability are foreground; on the diagonal: calibrated.

    Thin lines are the same after temperature scaling.
    """
    figure = Figure(figsize=(WIDTH * 0.55, WIDTH * 0.55), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color=FAINT, lw=0.8)
    style = line_styles(tables)
    for label, table in tables.items():
        for part, look in ((table, {"label": label, "marker": "o"}), (scaled[label], {"lw": 0.6, "alpha": 0.8})):
            predicted, observed, number = calibration(part, 16)
            known = number > 0
            axis.plot(predicted[known], observed[known], markersize=2.8, **style[label] | look)
    axis.set(xlabel="predicted probability", ylabel="fraction that is foreground", xlim=(0, 1), ylim=(0, 1))
    _legend(figure, axis)
    return figure


def win_shares(
    images: pd.DataFrame, labels: list[str], metric: str, lower_is_better: bool = False
) -> dict[str, np.ndarray]:
    """By quarter of object size, the fraction of images on which the row's loss beats the column's; ties count half."""
    stratum = size_strata(images)
    shares = {}
    for quarter in QUARTERS:
        part = images[stratum == quarter]
        if part.empty:
            continue
        table = part.pivot_table(index="id", columns="label", values=metric, aggfunc="mean").reindex(columns=labels)
        values = table.to_numpy() * (-1 if lower_is_better else 1)
        shares[quarter] = np.full((len(labels),) * 2, np.nan)
        for row, column in combinations(range(len(labels)), 2):
            gap = values[:, row] - values[:, column]
            gap = gap[np.isfinite(gap)]
            share = np.mean((gap > 0) + 0.5 * (gap == 0)) if gap.size else np.nan
            shares[quarter][row, column], shares[quarter][column, row] = share, 1 - share
    return shares


@styled
def wins(shares: Mapping[str, np.ndarray], labels: list[str]) -> Figure:
    """Win matrix by object size: in how many images of each quarter the row's loss does better than the column's."""
    letters = max(map(len, labels))
    side = (WIDTH - 0.08 * letters) / max(len(shares), 3)
    figure = Figure(figsize=(WIDTH, 0.5 + side + 0.075 * letters), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(shares), sharey=True))
    for axis, (quarter, share) in zip(axes, shares.items(), strict=True):
        axis.imshow(share, cmap=two_sided(), vmin=0, vmax=1)
        for row, column in np.argwhere(np.isfinite(share)) if len(labels) <= 7 else ():
            text = f"{100 * share[row, column]:.0f}"
            axis.text(column, row, text, ha="center", va="center", fontsize=7.5)
        axis.set(title=quarter, xticks=range(len(labels)), yticks=range(len(labels)), yticklabels=labels)
        axis.set_xticklabels(labels, rotation=90)
        axis.tick_params(length=0, labelcolor=INK)
        axis.spines[:].set_visible(False)
        axis.grid(visible=False)
    return figure
