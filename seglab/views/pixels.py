"""The loss of each pixel through a training: what every run predicts for the same images at the same snapshots."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from seglab.contract import Logits, require
from seglab.data.loading import Batch
from seglab.engine.trained_run import TrainedRun
from seglab.losses.attribution import attribution, gradients
from seglab.losses.base import Loss
from seglab.metrics.counts import counts, scores
from seglab.views.pixel_figures import ImageHistory, Inspection, page
from seglab.views.run_inputs import common_snapshots, fitted, logits_at, pick_images, same_data, titles
from seglab.views.view_page import ViewPage

ATTRIBUTION = "the attribution of the loss to each pixel (the mean over the picture is the loss of the image)"
GRADIENT = "the size of the loss's gradient at each pixel's logit, times the number of pixels"
SHOW = {"attribution": (attribution, "loss", ATTRIBUTION), "gradient": (gradients, "gradient", GRADIENT)}
"""What the maps of a loss may show: how they are computed, a heading, and a caption."""


def view(
    runs: list[TrainedRun], losses: dict[str, Loss], loss: str, show: str, images: int | list[str], colors: str
) -> ViewPage:
    """Show how predictions and pixel losses of runs develop over their saved snapshots.

    Arguments as of `histories`; the `colors` of the losses are log (four decades) or linear.
    """
    found, snapshots = histories(runs, losses, loss, show, images)
    return page("Pixels through training", found, *SHOW[show][1:], snapshots, colors)


def histories(
    runs: list[TrainedRun], losses: dict[str, Loss], loss: str, show: str, images: int | list[str]
) -> tuple[list[ImageHistory], pd.Series]:
    """Inspect test images with the weights of every common snapshot.

    Args:
        loss: `own` takes each run's own loss, `listed` the `losses` on the predictions of the one run.
        show: what the maps show, see `SHOW`.
        images: how many test images, or their ids.

    Returns:
        A history per image, and the epochs of its columns by their names.
    """
    require(show in SHOW, "pixels", f"show as one of {', '.join(SHOW)}", show)
    require(loss in ("own", "listed"), "pixels", "loss as one of own, listed", loss)
    single = loss == "own" or len(runs) == 1
    require(single, "pixels", "one run to be judged by the listed losses", len(runs), "set pixels.loss=own")
    same_data(runs)
    if loss == "own":
        rows = [(run, title, run.loss()) for run, title in zip(runs, titles(runs), strict=True)]
    else:
        rows = [(runs[0], title, judge) for title, judge in fitted(losses, runs[0]).items()]
    epochs = common_snapshots(runs)
    batches = pick_images(runs[0], [judge for _, _, judge in rows], images)
    logits = {
        run.folder: [logits_at(run, run.snapshots[epoch], batches) for epoch in epochs]
        for run in tqdm(runs, "pixels", unit="run", disable=None)
    }
    names = [f"epoch {epoch}" for epoch in epochs]
    found = []
    for place, batch in enumerate(batches):
        inspected = {
            title: [inspect(at[place], batch, judge, show, run.config["threshold"]) for at in logits[run.folder]]
            for run, title, judge in rows
        }
        image = batch["image"][0].to(torch.uint8).permute(1, 2, 0).numpy()
        found.append(ImageHistory(batch["id"][0], image, batch["target"][0, 0].numpy(), names, inspected))
    return found, pd.Series(epochs, names, name="epoch")


def inspect(logits: Logits, batch: Batch, loss: Loss, show: str, threshold: float) -> Inspection:
    """Probability, confidence and pixel losses of one prediction (1, 1, h, w), its loss and its scores."""
    target = batch["target"]
    maps = {name: batch[name] for name in loss.needs}
    p = logits.sigmoid()

    def array(x: Tensor) -> np.ndarray:
        return x[0, 0].detach().float().numpy()

    counted = scores(counts(logits, target, threshold))
    return Inspection(
        array(p),
        array(torch.where(target >= 0.5, p, 1 - p)),
        array(SHOW[show][0](loss, logits, target, **maps)),
        loss(logits, target, **maps).item(),
        threshold,
        {name: float(counted[name]) for name in ("iou", "foreground_confidence", "background_confidence")},
    )
