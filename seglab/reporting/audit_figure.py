"""The picture of an audit: some images with their outlines, and how much foreground there is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

COLUMNS = 8


def overview(
    samples: Sequence[tuple[str, NDArray, NDArray]], foreground: NDArray, areas: NDArray, title: str, file: Path
) -> None:
    """Draw samples (name, image (h,w,3) uint8, mask (h,w)) with the mask's outline, and two histograms, as a PNG.

    `foreground` are the images' fractions of foreground in [0, 1], `areas` the objects' sizes in pixels.
    """
    rows = -(-len(samples) // COLUMNS)
    figure = Figure(figsize=(2 * COLUMNS, 2.2 * rows + 3), layout="constrained")
    grid = figure.add_gridspec(rows + 1, COLUMNS, height_ratios=[2.2] * rows + [3])
    for k, (name, image, mask) in enumerate(samples):
        axes = figure.add_subplot(grid[k // COLUMNS, k % COLUMNS])
        axes.imshow(image)
        if mask.any() and not mask.all():
            axes.contour(mask, [0.5], colors="lime", linewidths=0.8)
        axes.set_title(f"{name[-24:]}\n{100 * mask.mean():.2g} %", fontsize=7)
        axes.axis("off")
    half = COLUMNS // 2
    left, right = figure.add_subplot(grid[rows, :half]), figure.add_subplot(grid[rows, half:])
    empty = int((foreground == 0).sum())
    bars(left, foreground, f"fraction of foreground of an image ({empty} of {len(foreground)} have none)")
    bars(right, areas, f"pixels of an object ({len(areas)} objects)")
    figure.suptitle(title)
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
