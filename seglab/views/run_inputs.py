"""What the views of finished runs share: what to call each run, which images to see, and the logits at a snapshot."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from torch import nn

from seglab.contract import Image, Logits, require
from seglab.data.facts import spread_objects
from seglab.data.loading import Batch, Samples
from seglab.data.module import DataModule
from seglab.engine.per_image import tile_with_most_foreground
from seglab.engine.trained_run import TrainedRun
from seglab.files import read_json
from seglab.losses.base import Loss
from seglab.reporting.run_labels import label

Autocast: TypeAlias = Callable[[], AbstractContextManager[Any]]
"""Enters the precision of a run, see TrainedRun.autocast; nullcontext is float32."""

SHOWN = 8  # snapshots of a run, at most


def titles(runs: Sequence[TrainedRun]) -> list[str]:
    """What sets the runs apart: their losses, the parameters that vary, then seeds, names, paths of their folders."""
    facts = [{"choices": {}, **run.facts, "benchmark": "", "used": True} for run in runs]  # one data set
    names = label(pd.DataFrame(facts))
    for more in ([f"s{run.facts['seed']}" for run in runs], [run.name for run in runs], [run.folder for run in runs]):
        names = [f"{name} {word}" if names.count(name) > 1 else name for name, word in zip(names, more, strict=True)]
    return names


def same_data(runs: Sequence[TrainedRun]) -> None:
    """Require one data set, divided in one way, of runs that are shown side by side."""
    first, *others = runs
    for run in others:  # which, on another fold, has trained on the test images of the first
        same = run.facts["data"]["fingerprint"] == first.facts["data"]["fingerprint"]
        same &= read_json(run.folder / "split.json") == read_json(first.folder / "split.json")
        require(same, f"run {run.folder}", f"the data of {first.folder}", "others", "view the two one by one")


def common_snapshots(runs: Sequence[TrainedRun]) -> list[int]:
    """The epochs of which every run kept its weights, `thinned`."""
    epochs = sorted(set.intersection(*(set(run.snapshots) for run in runs)))
    remedy = "train them with the same callbacks.snapshots"
    require(bool(epochs), "runs", "snapshots at the same epochs", "none", remedy)
    return thinned(epochs)


def thinned(epochs: Sequence[int]) -> list[int]:
    """At most SHOWN of the epochs with the first and the last, closer together at the start, where most changes."""
    if len(epochs) <= SHOWN:
        return list(epochs)
    places = np.geomspace(1, len(epochs), SHOWN).round().astype(int) - 1
    return [epochs[place] for place in dict.fromkeys(places)]  # the first ones may round to the same


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
        numbers = spread_objects(sizes, 3)[1:2] if images == 1 else spread_objects(sizes, images)  # one is the median
    else:
        wrong = [name for name in images if name not in test.ids]
        known = ", ".join(test.ids[:5])
        require(not wrong, "images", f"ids of test images, such as {known}", ", ".join(map(str, wrong)))
        numbers = [test.ids.index(name) for name in images]
    return [test[[(0, tile_with_most_foreground(test, number))]] for number in numbers]  # of epoch 0


def forward(model: nn.Module, image: Image, autocast: Autocast = nullcontext) -> Logits:
    """The logits of a batch of images in a run's precision, as float32: losses and scores compute in that."""
    with autocast():
        return model(image).float()


@torch.no_grad()
def logits_at(run: TrainedRun, weights: Path, batches: Sequence[Batch]) -> list[Logits]:
    """The run's logits of some batches with the weights of a checkpoint, on the CPU."""
    module = run.module(weights)
    return [forward(module, batch["image"], run.autocast) for batch in batches]
