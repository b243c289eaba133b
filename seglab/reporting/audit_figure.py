"""The picture of an audit: some images, their masks, what the model sees of them, and how much foreground there is."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from seglab.contract import Task
from seglab.plots import class_legend

COLUMNS = 4
"""Samples in a row, three pictures each."""


def overview(
    samples: Sequence[tuple[str, NDArray, NDArray, NDArray, NDArray]],
    foreground: NDArray,
    areas: NDArray,
    title: str,
    file: Path,
    task: Task,
) -> None:
    """Draw samples beside two histograms, as a PNG.

    A sample is its name, image and mask (h, w, 3) uint8 as they are stored, and both as the model sees them, the mask
    (h, w) drawn as an outline. `foreground` are the images' fractions of foreground in [0, 1], `areas` the objects'
    pixels.
    """
    rows = -(-len(samples) // COLUMNS)
    figure = Figure(figsize=(16, 1.6 * rows + 3), layout="constrained")
    grid = figure.add_gridspec(rows + 1, 3 * COLUMNS, height_ratios=[1.6] * rows + [3])
    for k, (name, image, mask, seen, seen_mask) in enumerate(samples):
        row, column = divmod(k, COLUMNS)
        shown = (("image", image), ("mask", mask), (f"seen, {100 * seen_mask.mean():.2g} %", seen))
        for place, (words, array) in enumerate(shown):
            axes = figure.add_subplot(grid[row, 3 * column + place])
            axes.imshow(array, cmap="gray")
            axes.set_title(name[-24:] if place == 0 else words, fontsize=7, parse_math=False)
            axes.axis("off")
        if seen_mask.any() and not seen_mask.all():
            axes.contour(seen_mask, [0.5], colors="lime", linewidths=0.8)
    half = 3 * COLUMNS // 2
    left, right = figure.add_subplot(grid[rows, :half]), figure.add_subplot(grid[rows, half:])
    empty = int((foreground == 0).sum())
    bars(left, foreground, f"fraction of foreground of an image ({empty} of {len(foreground)} have none)")
    bars(right, areas, f"pixels of an object ({len(areas)} objects)")
    figure.suptitle(title)
    if classes := class_legend(task):
        figure.legend(handles=classes, loc="upper right", ncols=len(classes), fontsize=8)
    figure.savefig(file, dpi=80)


def bars(axes: Axes, values: NDArray, label: str) -> None:
    """Draw a histogram of the values above 0 over a logarithmic axis."""
    values = values[values > 0]
    if len(values):
        low, high = float(values.min()), float(values.max())
        axes.hist(values, list(np.geomspace(low / 1.05, high * 1.05, 31)), color="steelblue")
        axes.set_xscale("log")
    axes.set_xlabel(label)
    axes.set_ylabel("count")
