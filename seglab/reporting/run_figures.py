"""The figures of one run: its learning curves, and test images with errors in color."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw, ImageFont

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
    """One test image, a row of `examples`; `truth` and `probability` are (h, w) or (k, h, w), in [0, 1].

    `valid` (h, w) marks the pixels that count; None means that all do.
    """

    caption: str
    image: np.ndarray
    truth: np.ndarray
    probability: np.ndarray
    valid: np.ndarray | None = None


def curves(metrics_csv: Path, out: Path, title: str = "") -> Path:
    """Draw a run's loss, IoU, accuracy and confidences over its epochs.

    `metrics_csv` has one row per epoch and columns such as `epoch`, `train/iou` and `val/iou`; absent or empty columns
    are left out. Loss parameters that follow a schedule (`loss/NAME`) are drawn in an extra panel. A dotted line
    through all panels marks where one loss replaced another (`loss/stage` rises). `title` is printed above the panels.
    """
    history = pd.read_csv(metrics_csv)
    require("epoch" in history, f"curves: {metrics_csv}", "a column named epoch", list(history.columns))
    history["epoch"] += 1  # count completed epochs, as the log and the snapshots do
    scheduled = [column for column in map(str, history) if column.startswith("loss/") and column != "loss/stage"]
    with mpl.rc_context({**plots.STYLE, "axes.titley": 1}):  # by default each title searches for room
        panels = len(PANELS) + bool(scheduled)
        width = 2.43 * panels
        figure = Figure(figsize=(width, 2.7))  # fixed margins: computing them takes longer than drawing the rest
        figure.suptitle(title, x=0.005, ha="left", fontsize=9.5)
        axes = figure.subplots(1, panels)
        for axis in axes:  # few ticks, since one tick takes longer than a line
            axis.xaxis.set_major_locator(MaxNLocator(3, integer=True))
            axis.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        figure.subplots_adjust(0.5 / width, 0.17, 1 - 0.1 / width, 0.81, wspace=0.21)
        for axis, (key, name) in zip(axes, PANELS.items(), strict=False):  # an extra panel holds loss parameters
            axis.set(title=name, xlabel="epoch")
            for split, (color, style) in SPLITS.items():
                line = history.reindex(columns=["epoch", f"{split}/{key}"]).dropna().to_numpy()
                if len(line):
                    marker = "o" if len(line) == 1 else ""  # a single epoch has no line to draw
                    axis.plot(*line.T, style, marker=marker, color=color, label=split)
        for axis in axes[1 : len(PANELS)]:
            axis.set(ylim=(-0.02, 1.02), yticks=(0, 0.5, 1))
        for column in scheduled:
            axes[-1].plot(history["epoch"], history[column], label=column.removeprefix("loss/"))
            axes[-1].set(title="Parameters of the loss", xlabel="epoch")
            axes[-1].legend(loc="best", handlelength=1.4)
        stages = history.get("loss/stage", pd.Series(1.0, history.index))
        for k, epoch in enumerate(history["epoch"][stages.diff() > 0]):
            for axis in axes:
                axis.axvline(epoch, color=plots.INK, linewidth=1, linestyle=":", label="" if k else "next loss")
        handles = axes[0].get_legend_handles_labels()  # passed explicitly, since legend() warns if there are none
        axes[0].legend(*handles, loc="best", handlelength=1.4)
        return plots.save(figure, out)


def examples(
    rows: Iterable[Example], out: Path, threshold: float = 0.5, title: str = "", task: Task | None = None
) -> Path:
    """Draw test images, one per row: the image, the truth, the probability, and the errors in color.

    Each row is an `Example` or an equivalent tuple: a caption of one or more lines such as "best\\nIoU 0.93", the image
    uint8 (h, w, c), and truth and probability (h, w), or (k, h, w) for several classes, each class in its own color.
    `title` is printed above the rows.
    """
    task = task or Task()
    rows = [Example(*row) for row in rows]
    require(bool(rows), "examples", "at least one image to draw", 0)
    font, (height, width) = ImageFont.truetype(findfont("DejaVu Sans"), 17), rows[0].truth.shape[-2:]
    longest = max(font.getlength(line) for row in rows for line in row.caption.splitlines())
    columns, gap, left, top = 252, 9, round(longest) + 30, 36 + 29 * bool(title)  # all in pixels
    tall = round(columns * height / width)
    size = left + 4 * (columns + gap), top + len(rows) * (tall + gap) + 43
    page = Image.new("RGB", size, "white")  # drawn by Pillow: a single picture takes matplotlib longer
    write = ImageDraw.Draw(page).text
    write((7, 29), title, plots.INK, font, "ls")
    third = "probability" if task.channels == 1 else "prediction"
    for k, name in enumerate(("image and true outline", "truth", third, "errors")):
        write((left + k * (columns + gap), top - 10), name, plots.FAINT, font, "ls")
    for line, row in enumerate(rows):
        y = top + line * (tall + gap)
        write((left - gap, y + tall / 2), row.caption, plots.INK, font, "rm", align="right")
        for k, picture in enumerate(plots.four_pictures(*row[1:], threshold=threshold, kind=task.kind)):
            shown = plots.as_image(picture).resize((columns, tall), Image.Resampling.NEAREST)
            page.paste(shown, (left + k * (columns + gap), y))
    names = ("true positive", plots.TRUE_POSITIVE), ("false positive", plots.FALSE_POSITIVE)
    x, y = size[0] - gap, size[1] - 20
    for name, color in reversed((*plots.class_colors(task), *names, ("false negative", plots.FALSE_NEGATIVE))):
        x -= round(font.getlength(name))
        write((x, y), name, plots.INK, font, "lm")
        ImageDraw.Draw(page).rectangle((x - 27, y - 6, x - 11, y + 5), color, plots.FAINT)
        x -= 54
    return plots.write_png(np.asarray(page), out)
