"""The loss of each pixel through a training: what every run predicts for the same images at the same snapshots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from seglab.contract import Logits, require
from seglab.data.facts import spread
from seglab.data.loading import Batch, Samples
from seglab.data.module import DataModule
from seglab.engine.per_image import tile_with_most_foreground
from seglab.engine.trained_run import TrainedRun
from seglab.losses.attribution import attribution, gradients
from seglab.losses.base import Loss
from seglab.metrics.counts import counts, scores
from seglab.reporting.run_labels import label
from seglab.views.pixel_figures import ImageHistory, Inspection, page
from seglab.views.view_page import ViewPage


class Show(NamedTuple):
    """What the maps of a loss show: how they are computed, a heading, and a caption."""

    compute: Callable[..., Tensor]
    heading: str
    caption: str


SHOW = {
    "attribution": Show(
        attribution,
        "loss",
        "the attribution of the loss to each pixel (the mean over the picture is the loss of the image)",
    ),
    "gradient": Show(
        gradients, "gradient", "the size of the loss's gradient at each pixel's logit, times the number of pixels"
    ),
}


def view(
    runs: list[TrainedRun], losses: dict[str, Loss], loss: str, show: str, images: int | list[str], colors: str
) -> ViewPage:
    """Show how predictions and pixel losses of runs develop over their saved snapshots.

    Arguments as of `histories`; the `colors` of the losses are log (four decades) or linear.
    """
    found, snapshots = histories(runs, losses, loss, show, images)
    return page("Pixels through training", found, SHOW[show].heading, SHOW[show].caption, snapshots, colors)


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
    for other in runs[1:]:
        same = other.facts["data"]["fingerprint"] == runs[0].facts["data"]["fingerprint"]
        require(same, f"run {other.folder}", f"the data of {runs[0].folder}", "others", "view the two one by one")
    if loss == "own":
        rows = [(run, title, run.loss()) for run, title in zip(runs, titles(runs), strict=True)]
    else:
        frequency = [runs[0].facts["data"]["foreground"]]
        rows = [(runs[0], title, judge.with_class_frequency(frequency)) for title, judge in losses.items()]
    epochs = sorted(set.intersection(*(set(run.snapshots) for run in runs)))
    remedy = "train them with the same callbacks.snapshots"
    require(bool(epochs), "runs", "snapshots at the same epochs", "none", remedy)
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
        array(SHOW[show].compute(loss, logits, target, **maps)),
        loss(logits, target, **maps).item(),
        threshold,
        {name: float(counted[name]) for name in ("iou", "foreground_confidence", "background_confidence")},
    )


def titles(runs: Sequence[TrainedRun]) -> list[str]:
    """What sets the runs apart: their losses, the parameters that vary, then seeds, then folders."""
    facts = [{**run.facts, "choices": run.facts.get("choices", {}), "benchmark": ""} for run in runs]
    names = label(pd.DataFrame(facts)[["config", "choices", "seed", "benchmark"]])
    for more in ([f" s{run.facts['seed']}" for run in runs], [f" {run.name}" for run in runs]):
        names = [name + word if names.count(name) > 1 else name for name, word in zip(names, more, strict=True)]
    return names


def samples(run: TrainedRun, losses: Sequence[Loss], split: str) -> Samples:
    """The images of one split of the run's data, with the maps that the losses need."""
    needs = tuple(dict.fromkeys(need for loss in losses for need in loss.needs))
    return DataModule(run.dataset(), None, run.config["batch_size"], 0, run.config["seed"], needs).samples(split)


def pick_images(run: TrainedRun, losses: Sequence[Loss], images: int | Sequence[str]) -> list[Batch]:
    """Choose test images by id, or so many from the smallest object to the largest; each as a batch of one."""
    test = samples(run, losses, "test")
    if isinstance(images, int):
        require(images >= 1, "images", "at least one, or a list of ids", images)
        sizes = pd.read_csv(run.file("per_image.csv"))["foreground"]
        numbers = spread(sizes, 3)[1:2] if images == 1 else spread(sizes, images)
    else:
        wrong = [name for name in images if name not in test.ids]
        known = ", ".join(test.ids[:5])
        require(not wrong, "images", f"ids of test images, such as {known}", ", ".join(map(str, wrong)))
        numbers = [test.ids.index(name) for name in images]
    return [test[(0, tile_with_most_foreground(test, number))] for number in numbers]


@torch.no_grad()
def logits_at(run: TrainedRun, weights: Path, batches: Sequence[Batch]) -> list[Logits]:
    """The run's logits of some batches with the weights of a checkpoint, on the CPU, in the precision of the run."""
    module = run.module(weights)
    with run.autocast():
        return [module(batch["image"]).float() for batch in batches]
