"""Which pixels a loss acts on during training: errors and gradients of the same images at snapshots of runs."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from tqdm import tqdm

from seglab.contract import Logits
from seglab.data.loading import Batch
from seglab.engine.trained_run import TrainedRun
from seglab.losses.base import Loss
from seglab.metrics.counts import counts, scores
from seglab.plots import FAINT, outlined, paint_errors, styled
from seglab.views.gradients import loss_and_gradient
from seglab.views.run_inputs import common_snapshots, logits_at, pick_images, same_data, titles
from seglab.views.view_page import Section, ViewPage

DECADES = 4  # decades of the color scale; smaller gradients have the color of the lowest
CAPTION = (
    "Errors and gradients at the snapshots of each run. Errors: true positives white, false positives orange, false"
    " negatives blue. Gradient: the absolute derivative of the run's own loss with respect to the logit of each pixel,"
    " times the number of valid pixels. All runs, snapshots and images share one logarithmic scale."
)


class Cell(NamedTuple):
    """The prediction for one image: its errors (h, w, 3), |gradient| (h, w), and numbers by name."""

    errors: np.ndarray
    gradient: np.ndarray
    numbers: dict[str, float]


def view(runs: list[TrainedRun], images: int | list[str]) -> ViewPage:
    """Show errors and gradients at the snapshots that all runs share; `images`: number or ids of test images."""
    same_data(runs)
    epochs = common_snapshots(runs)
    losses = {title: run.loss() for title, run in zip(titles(runs), runs, strict=True)}
    batches = pick_images(runs[0], list(losses.values()), images)
    outlines = {batch["id"][0]: outlined(*raw(batch)) for batch in batches}
    threshold, empty, cells = runs[0].config["threshold"], runs[0].config["empty"], {}
    for title, run in zip(losses, tqdm(runs, "pixels", unit="run", disable=None), strict=True):
        for epoch in epochs:
            for batch, logits in zip(batches, logits_at(run, run.snapshots[epoch], batches), strict=True):
                cells[batch["id"][0], title, epoch] = inspect(logits, batch, losses[title], threshold, empty)
    index = pd.MultiIndex.from_product([[*outlines], [*losses], epochs], names=["image", "run", "epoch"])
    table = pd.DataFrame([cells[key].numbers for key in index], index).reset_index()
    figure = draw(outlines, list(losses), epochs, cells)
    section = Section("Errors and gradients", figure=figure, name="pixels", caption=CAPTION)
    return ViewPage("Pixels during training", [section], {"pixels": table})


def raw(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Return the image uint8 (h, w, c) and the mask (h, w) of a batch of one."""
    return batch["image"][0].byte().permute(1, 2, 0).numpy(), batch["target"][0, 0].numpy()


def inspect(logits: Logits, batch: Batch, loss: Loss, threshold: float, empty: str = "correct") -> Cell:
    """Compute the errors, gradient, loss and scores of one prediction (1, 1, h, w)."""
    image, truth = raw(batch)
    target, valid, maps = batch["target"], batch.get("valid"), {name: batch[name] for name in loss.needs}
    value, slope = loss_and_gradient(loss, logits, target, maps, valid)
    pixels = slope.numel() if valid is None else int(valid.sum())
    gradient = slope[0, 0].abs().numpy() * pixels  # independent of the image size
    counted = scores(counts(logits, target, threshold, valid), empty)
    on_foreground = gradient[truth >= 0.5].sum() / gradient.sum() if gradient.any() else np.nan  # no 0 / 0
    numbers = {"loss": value.item(), "on_foreground": float(on_foreground), "highest_pixel": float(gradient.max())}
    numbers |= {name: float(counted[name]) for name in ("iou", "foreground_confidence", "background_confidence")}
    marks = None if valid is None else valid[0, 0].numpy()
    errors = paint_errors(image, truth, logits[0, 0].sigmoid().numpy(), threshold, valid=marks)
    return Cell(errors, gradient, numbers)


def color_scale(gradients: Sequence[np.ndarray]) -> LogNorm:
    """Return one color scale for all gradients; 1 in 1000 pixels exceeds its upper end."""
    high = max(float(np.quantile(np.concatenate([each.ravel() for each in gradients]), 0.999)), 1e-12)  # no log of 0
    return LogNorm(high * 10**-DECADES, high, clip=True)


@styled
def draw(
    images: dict[str, np.ndarray], runs: Sequence[str], epochs: Sequence[int], found: dict[tuple[str, str, int], Cell]
) -> Figure:
    """Draw two rows for each image and run, errors and gradient, with one column per snapshot after the image."""
    rows = [(name, run) for name in images for run in runs]
    height, width = next(iter(images.values())).shape[:2]
    size = (2.4 + 1.4 * (1 + len(epochs)), 0.5 + 2 * len(rows) * (1.4 * height / width + 0.24))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(2 * len(rows), 1 + len(epochs), squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        axis.grid(visible=False)
    norm = color_scale([cell.gradient for cell in found.values()])
    for head, axis in zip(["image and true outline", *(f"epoch {epoch}" for epoch in epochs)], axes[0], strict=True):
        axis.set_title(head, color=FAINT, fontsize=8)
    for (name, run), above, below in zip(rows, axes[::2], axes[1::2], strict=True):  # errors above, gradients below
        above[0].imshow(images[name], interpolation="nearest")
        above[0].set_xlabel(name, fontsize=7, labelpad=1)
        for axis, words in ((above[1], "errors"), (below[1], "gradient")):
            label = "\n".join([*re.split(r" · | ", run), words])  # one word per line, since the margin is narrow
            axis.set_ylabel(label, rotation=0, ha="right", va="center", multialignment="right")
        for upper, lower, epoch in zip(above[1:], below[1:], epochs, strict=True):
            cell = found[name, run, epoch]
            upper.imshow(cell.errors, interpolation="nearest")
            upper.set_xlabel(f"IoU {cell.numbers['iou']:.3f}", fontsize=7, labelpad=1)
            lower.imshow(cell.gradient, interpolation="nearest", cmap="inferno", norm=norm)
            lower.set_xlabel(f"loss {cell.numbers['loss']:.4g}", fontsize=7, labelpad=1)
    bar = figure.colorbar(ScalarMappable(norm, "inferno"), ax=axes, pad=0.01, shrink=0.6, aspect=30, extend="both")
    bar.set_label("|dL/dlogit| times number of pixels", size=8)
    bar.ax.tick_params(labelsize=7)
    return figure
