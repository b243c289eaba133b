"""The loss of each pixel through a training: what every run saw in the same images at the same moments."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from seglab.analysis.pictures import Look, Scene, sheet
from seglab.analysis.sheet import Sheet
from seglab.contract import Logits, require
from seglab.data.loading import Batch
from seglab.engine.saved import Saved
from seglab.losses.attribution import attribution, gradients
from seglab.losses.base import Loss
from seglab.metrics.counts import counts, scores
from seglab.views.predictions import common_moments, fitted, logits_at, same_data, scenes, titles

SHOW: dict[str, tuple[Callable, str]] = {
    "share": (attribution, "share of each pixel in the loss (the mean over the picture is the loss of the image)"),
    "gradient": (gradients, "size of the loss's gradient at each pixel's logit, times the number of pixels"),
}
"""What a map may show, and its words."""


def view(
    runs: list[Saved], losses: dict[str, Loss], loss: str, show: str, images: int | list[str], colours: str
) -> Sheet:
    """Show how predictions and pixel losses of runs came about at their saved moments.

    Arguments as of `looks`; `colours` of the losses are log (four decades) or linear.
    """
    made, moments = looks(runs, losses, loss, show, images)
    return sheet("Pixels through training", made, SHOW[show][1], moments, colours)


def looks(
    runs: list[Saved], losses: dict[str, Loss], loss: str, show: str, images: int | list[str]
) -> tuple[list[Scene], pd.Series]:
    """Look at test images with the weights of every common moment: a scene per image, and the epochs by their names.

    loss: `own` takes each run's own loss, `listed` the `losses` on the predictions of the one run. show: see `SHOW`.
    images: how many test images, or their ids.
    """
    require(show in SHOW, "pixels", f"show as one of {', '.join(SHOW)}", show)
    require(loss in ("own", "listed"), "pixels", "loss as one of own, listed", loss)
    one = loss == "own" or len(runs) == 1
    require(one, "pixels", "one run to be judged by the listed losses", len(runs), "take pixels.loss=own")
    same_data(runs)
    if loss == "own":
        rows = [(run, title, run.loss()) for run, title in zip(runs, titles(runs), strict=True)]
    else:
        rows = [(runs[0], title, judge) for title, judge in fitted(losses, runs[0]).items()]
    epochs = common_moments(runs)
    batches = scenes(runs[0], [judge for _, _, judge in rows], images)
    seen = {}
    for run in tqdm(runs, "pixels", unit="run", disable=None):
        seen[run.folder] = [logits_at(run, run.moments[epoch], batches) for epoch in epochs]
    names = [f"epoch {epoch}" for epoch in epochs]
    made = []
    for place, batch in enumerate(batches):
        found = {
            title: [look(at[place], batch, judge, show, threshold(run)) for at in seen[run.folder]]
            for run, title, judge in rows
        }
        made.append(Scene(batch["id"][0], picture(batch), batch["target"][0, 0].numpy(), names, found))
    return made, pd.Series(epochs, names, name="epoch")


def threshold(run: Saved) -> float:
    """The probability from which the run calls a pixel foreground."""
    return run.config["threshold"]


def picture(batch: Batch) -> np.ndarray:
    """The image of a batch of one as uint8 (h, w, c)."""
    return batch["image"][0].to(torch.uint8).permute(1, 2, 0).numpy()


def look(logits: Logits, batch: Batch, loss: Loss, show: str, threshold: float) -> Look:
    """What there is to see of one prediction (1, 1, h, w): probability, confidence, pixel losses, and their means."""
    target = batch["target"]
    maps = {name: batch[name] for name in loss.needs}
    p = logits.sigmoid()
    confidence = torch.where(target >= 0.5, p, 1 - p)
    counted = scores(counts(logits, target, threshold))
    means = {name: float(counted[name]) for name in ("iou", "white_confidence", "black_confidence")}
    split = SHOW[show][0](loss, logits, target, **maps)
    value = loss(logits, target, **maps).item()
    arrays = (x[0, 0].detach().float().numpy() for x in (p, confidence, split))
    return Look(*arrays, value, threshold, means)
