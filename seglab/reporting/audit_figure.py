"""The figure of a data audit: some images and their masks, as stored and as the model sees them."""

from collections.abc import Sequence
from math import ceil
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from seglab.contract import Task
from seglab.files import atomic
from seglab.plots import class_colors

COLUMNS = 4  # samples per row, each shown as three pictures


def overview(
    samples: Sequence[tuple[str, NDArray, NDArray, NDArray, NDArray]], title: str, file: Path, task: Task
) -> None:
    """Draw samples and write the figure as a PNG atomically.

    Each sample is a tuple: its name, its image and its mask as stored, both uint8 (h, w, 3), and then its image and its
    mask (h, w) as the model sees them. The last mask is drawn as an outline.
    """
    rows = max(ceil(len(samples) / COLUMNS), 1)
    figure = Figure(figsize=(16, 1.6 * rows + 0.6), layout="constrained")
    grid = figure.add_gridspec(rows, 3 * COLUMNS)
    for k, (name, image, mask, seen, seen_mask) in enumerate(samples):
        row, column = divmod(k, COLUMNS)
        shown = ((name[-24:], image), ("mask", mask), (f"model input, {100 * seen_mask.mean():.2g} %", seen))
        for place, (words, array) in enumerate(shown):
            axes = figure.add_subplot(grid[row, 3 * column + place])
            axes.imshow(array, cmap="gray")
            axes.set_title(words, fontsize=7, parse_math=False)  # a file name may contain dollar signs
            axes.axis("off")
        if seen_mask.any() and not seen_mask.all():  # otherwise there is no contour and matplotlib warns
            axes.contour(seen_mask, [0.5], colors="lime", linewidths=0.8)  # drawn on the last of the three pictures
    figure.suptitle(title)
    if classes := [Patch(facecolor=color, label=name) for name, color in class_colors(task)]:
        figure.legend(handles=classes, loc="upper right", ncols=len(classes), fontsize=8)
    with atomic(file) as partial:
        figure.savefig(partial, dpi=80)
