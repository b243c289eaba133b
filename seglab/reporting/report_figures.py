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
from seglab.reporting.ranks import cliques
from seglab.reporting.thresholds import calibration, scores_at
from seglab.reporting.verdict import Verdict

KIND_COLORS = {"better": COLORS[0], "equivalent": COLORS[2], "unknown": COLORS[7], "none": COLORS[7]}
KIND_NAMES = {"better": "better", "equivalent": "equivalent", "unknown": "cannot tell", "none": "one seed"}


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
    figure = Figure(figsize=(WIDTH, 0.8 + 0.3 * len(data.labels)), layout="constrained")
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
    """Differences between losses with their intervals: thick for the pair alone, thin for all pairs at once."""
    pairs = [verdict.pair for verdict in verdicts]
    figure = Figure(figsize=(WIDTH, 0.9 + 0.27 * len(pairs)), layout="constrained")
    axis = figure.subplots()
    delta = verdicts[0].delta
    reach = max([delta, *(min(max(abs(p.low), abs(p.high)), 4 * abs(p.difference) + 4 * delta) for p in pairs)])
    ends = np.clip([(p.low_all, p.high_all) for p in pairs], -reach, reach)
    left, right = np.nanmin([*ends[:, 0], -1.5 * delta]), np.nanmax([*ends[:, 1], 1.5 * delta])
    axis.axvspan(-delta, delta, color=COLORS[2], alpha=0.13, lw=0)
    axis.axvline(0, color=FAINT, lw=0.8)
    for y, verdict in enumerate(verdicts):
        pair, color = verdict.pair, KIND_COLORS[verdict.kind]
        for low, high, width in ((pair.low_all, pair.high_all, 1.0), (pair.low, pair.high, 3.2)):
            axis.plot(np.clip([low, high], left, right), [y] * 2, color=color, lw=width, solid_capstyle="butt")
        axis.plot(pair.difference, y, "o", color=color, markersize=7.5, markeredgecolor="#ffffff")
        axis.text(1.01, y, KIND_NAMES[verdict.kind], transform=axis.get_yaxis_transform(), va="center", color=color)
    axis.set(xlim=(1.04 * left, 1.04 * right), xlabel=f"difference in {title(metric)}; shaded: within ±{delta:g}")
    _name_rows(axis, [f"{pair.first} − {pair.second}" for pair in pairs])
    return figure


@styled
def ranks(mean_rank: pd.Series, verdicts: list[Verdict]) -> Figure:
    """Critical-difference diagram: mean rank over the test images; a bar joins losses not found to be different.

    By hand: scikit-posthocs has one, but its import takes as long as the report, and its picture is more cluttered.
    """
    order = list(mean_rank.index)
    different = {frozenset((v.pair.first, v.pair.second)) for v in verdicts if v.kind == "better"}
    bars = cliques(order, different)
    half = (len(order) + 1) // 2
    figure = Figure(figsize=(WIDTH, 0.9 + 0.16 * len(bars) + 0.24 * half), layout="constrained")
    axis = figure.subplots()
    best, worst = 1, max(len(order), 2)
    axis.set(xlim=(best - 0.6, worst + 0.6), ylim=(-1.1 - 0.5 * len(bars) - 0.75 * half, 0.9), xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    axis.grid(visible=False)
    axis.plot([best, worst], [0, 0], color=FAINT, lw=0.8)
    for tick in range(best, worst + 1):
        axis.plot([tick, tick], [0, 0.18], color=FAINT, lw=0.8)
        axis.text(tick, 0.3, str(tick), ha="center", va="bottom", color=FAINT)
    for level, (first, last) in enumerate(bars):
        height = -0.45 - 0.5 * level
        axis.plot(mean_rank.iloc[[first, last]] + [-0.03, 0.03], [height] * 2, color=INK, lw=3, solid_capstyle="butt")
    for position, (label, rank) in enumerate(mean_rank.items()):
        left = position < half
        depth = -0.9 - 0.5 * len(bars) - 0.75 * (position if left else len(order) - 1 - position)
        edge = best - 0.15 if left else worst + 0.15
        axis.plot([rank, rank, edge], [0, depth, depth], color=FAINT, lw=0.7)
        words = f"{label}  {rank:.2f}" if left else f"{rank:.2f}  {label}"
        axis.text(edge + (-0.04 if left else 0.04), depth, words, ha="right" if left else "left", va="center")
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
def reliability(tables: Mapping[str, np.ndarray]) -> Figure:
    """Reliability diagram: how often pixels of a predicted probability are foreground; on the diagonal: calibrated."""
    figure = Figure(figsize=(WIDTH * 0.55, WIDTH * 0.55), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color=FAINT, lw=0.8)
    style = line_styles(tables)
    for label, table in tables.items():
        predicted, observed, number = calibration(table, 16)
        known = number > 0
        axis.plot(predicted[known], observed[known], label=label, marker="o", markersize=2.8, **style[label])
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
