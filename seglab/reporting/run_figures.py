"""The pictures of one run: its learning curves, and test images with their errors in color."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from seglab import plots
from seglab.contract import Task, require

PANELS = {
    "loss": "Loss",
    "iou": "IoU",
    "accuracy": "Pixel accuracy",
    "foreground_confidence": "Foreground confidence",
    "background_confidence": "Background confidence",
}
SPLITS = {"train": ("#e69f00", "--"), "val": ("#0072b2", "-")}


class Example(NamedTuple):
    """One test image as a row of `examples`; `truth` and `probability` are (h, w) in [0, 1], or (k, h, w).

    `valid` (h, w) are the pixels that count, None where all do.
    """

    caption: str
    image: np.ndarray
    truth: np.ndarray
    probability: np.ndarray
    valid: np.ndarray | None = None


def curves(metrics_csv: Path, out: Path, title: str = "") -> Path:
    """Draw a run's loss, IoU, accuracy and confidences over its epochs.

    `metrics_csv` has one row per epoch and columns such as `epoch`, `train/iou` and `val/iou`; a column that is absent
    or empty leaves its line out. Parameters of the loss that follow a schedule (`loss/NAME`) have a panel of their own,
    and where one loss replaced another (`loss/stage` rises) a dotted line runs through all panels. `title` names
    the run above them.
    """
    history = pd.read_csv(metrics_csv)
    require("epoch" in history, f"curves: {metrics_csv}", "a column named epoch", list(history.columns))
    history["epoch"] += 1  # the log and the snapshots count the epochs that are done
    moving = [column for column in map(str, history) if column.startswith("loss/") and column != "loss/stage"]
    with mpl.rc_context(plots.STYLE):
        panels = len(PANELS) + bool(moving)
        width = 2.43 * panels
        figure = Figure(figsize=(width, 2.7))  # margins by hand: to find them takes longer than to draw the rest
        figure.suptitle(title, x=0.005, ha="left", fontsize=9.5)
        axes = figure.subplots(1, panels)
        for axis in axes:
            axis.xaxis.get_major_locator().set_params(integer=True)
        figure.subplots_adjust(0.5 / width, 0.17, 1 - 0.1 / width, 0.81, wspace=0.21)
        for axis, (key, name) in zip(axes, PANELS.items(), strict=False):  # a last one is of the loss's parameters
            axis.set(title=name, xlabel="epoch")
            for split, (color, style) in SPLITS.items():
                line = history.reindex(columns=["epoch", f"{split}/{key}"]).dropna().to_numpy()
                if len(line):
                    alone = "o" if len(line) == 1 else ""  # one epoch has no line to draw
                    axis.plot(*line.T, style, marker=alone, color=color, label=split)
        for axis in axes[1 : len(PANELS)]:
            axis.set_ylim(-0.02, 1.02)
        for column in moving:
            axes[-1].plot(history["epoch"], history[column], label=column.removeprefix("loss/"))
            axes[-1].set(title="Parameters of the loss", xlabel="epoch")
            axes[-1].legend(loc="best", handlelength=1.4)
        stages = history.get("loss/stage", pd.Series(1.0, history.index))
        for k, epoch in enumerate(history["epoch"][stages.diff() > 0]):
            for axis in axes:
                axis.axvline(epoch, color=plots.INK, linewidth=1, linestyle=":", label="" if k else "next loss")
        shown = axes[0].get_legend_handles_labels()  # handed on, as legend() warns where there are none
        axes[0].legend(*shown, loc="best", handlelength=1.4)
        return plots.save(figure, out)


def examples(
    rows: Iterable[Example], out: Path, threshold: float = 0.5, title: str = "", task: Task | None = None
) -> Path:
    """Draw test images one a row: the image, the truth, the probability, and the errors in color.

    A row is an `Example` (or a tuple of the same): a caption of one or more lines such as "best\\nIoU 0.93", the
    image uint8 (h, w, c), the truth and the probability (h, w). `title` names the run above them. Of several classes
    (k, h, w) each has its color.
    """
    task = task or Task()
    rows = [Example(*row) for row in rows]
    require(bool(rows), "examples", "at least one image to draw", 0)
    height, width = rows[0].truth.shape[-2:]
    longest = max(len(line) for row in rows for line in row.caption.splitlines())
    columns, gap, left, top = 1.75, 0.06, 0.2 + 0.075 * longest, 0.25 + 0.2 * bool(title)  # all in inches
    tall = columns * height / width
    size = left + 4 * (columns + gap), top + len(rows) * (tall + gap) + 0.3
    with mpl.rc_context({**plots.STYLE, "axes.grid": False, "image.interpolation": "nearest"}):
        figure = Figure(figsize=size)
        page = figure.add_axes((0, 0, 1, 1))  # one for all: each more takes longer than all the pictures
        page.set_axis_off()
        page.text(0.05, 0.2, title, fontsize=9.5)
        third = "probability" if task.channels == 1 else "prediction"
        for k, name in enumerate(("image and true outline", "truth", third, "errors")):
            page.text(left + k * (columns + gap), top - 0.07, name, color=plots.FAINT, fontsize=9)
        for line, row in enumerate(rows):
            y = top + line * (tall + gap)
            page.text(left - gap, y + tall / 2, row.caption, ha="right", va="center", multialignment="right")
            for k, picture in enumerate(plots.four_pictures(*row[1:], threshold=threshold, kind=task.kind)):
                x = left + k * (columns + gap)
                page.imshow(picture, cmap="gray", vmin=0, vmax=1, extent=(x, x + columns, y + tall, y))
        page.set(xlim=(0, size[0]), ylim=(size[1], 0))
        handles, errors = plots.class_legend(task), ("true positive", "false positive", "false negative")
        for name, color in zip(errors, (plots.TRUE_POSITIVE, plots.FALSE_POSITIVE, plots.FALSE_NEGATIVE), strict=True):
            handles.append(Patch(facecolor=color, edgecolor=plots.FAINT, linewidth=0.5, label=name))
        figure.legend(handles=handles, loc="lower right", ncols=8, handlelength=1, fontsize=8, borderaxespad=0.2)
        return plots.save(figure, out)
