"""What the views of finished runs share: the titles of runs, the choice of images, and the logits at a snapshot."""

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
"""Function that returns a context manager for a run's precision, see TrainedRun.autocast; nullcontext is float32."""

SHOWN = 8  # maximum number of snapshots shown per run


def titles(runs: Sequence[TrainedRun]) -> list[str]:
    """Return titles that distinguish the runs: losses and their varying parameters, then seeds, names, folder paths."""
    facts = [{"choices": {}, **run.facts, "benchmark": "", "used": True} for run in runs]  # all on one dataset
    names = label(pd.DataFrame(facts))
    for words in ([f"s{run.facts['seed']}" for run in runs], [run.name for run in runs], [run.folder for run in runs]):
        names = [f"{name} {word}" if names.count(name) > 1 else name for name, word in zip(names, words, strict=True)]
    return names


def same_data(runs: Sequence[TrainedRun]) -> None:
    """Raise ContractError unless all runs, which are shown side by side, have the same data and the same split."""
    first, *others = runs
    for run in others:  # on another fold, a run has trained on test images of the first run
        same = run.facts["data"]["fingerprint"] == first.facts["data"]["fingerprint"]
        same &= read_json(run.folder / "split.json") == read_json(first.folder / "split.json")
        require(same, f"run {run.folder}", f"the data of {first.folder}", "other data or splits", "view each by itself")


def common_snapshots(runs: Sequence[TrainedRun]) -> list[int]:
    """Return the epochs of which every run kept its weights, `thinned`; raise ContractError if there are none."""
    epochs = sorted(set.intersection(*(set(run.snapshots) for run in runs)))
    remedy = "train them with the same callbacks.snapshots"
    require(bool(epochs), "runs", "snapshots at the same epochs", "none", remedy)
    return thinned(epochs)


def thinned(epochs: Sequence[int]) -> list[int]:
    """Return at most SHOWN epochs, with the first and the last, denser at the start, where most changes happen."""
    if len(epochs) <= SHOWN:
        return list(epochs)
    places = np.geomspace(1, len(epochs), SHOWN).round().astype(int) - 1
    return [epochs[place] for place in dict.fromkeys(places)]  # the first indices may coincide after rounding


def samples(run: TrainedRun, losses: Sequence[Loss], split: str) -> Samples:
    """Return the samples of one split of the run's data, with the maps that the losses need."""
    needs = tuple(dict.fromkeys(need for loss in losses for need in loss.needs))
    return DataModule(run.dataset(), None, run.config["batch_size"], 0, run.config["seed"], needs).samples(split)


def pick_images(run: TrainedRun, losses: Sequence[Loss], images: int | Sequence[str]) -> list[Batch]:
    """Choose test images by id, or a number of them from the smallest object to the largest; each is a batch of one."""
    test = samples(run, losses, "test")
    if isinstance(images, int):
        require(images >= 1, "images", "at least one, or a list of ids", images)
        sizes = pd.read_csv(run.file("per_image.csv"))["foreground"]
        numbers = spread_objects(sizes, 3)[1:2] if images == 1 else spread_objects(sizes, images)  # one is the median
    else:
        unknown = [name for name in images if name not in test.ids]
        examples = ", ".join(test.ids[:5])
        require(not unknown, "images", f"ids of test images, such as {examples}", ", ".join(map(str, unknown)))
        numbers = [test.ids.index(name) for name in images]
    return [test[[(0, tile_with_most_foreground(test, number))]] for number in numbers]  # of epoch 0


def forward(model: nn.Module, image: Image, autocast: Autocast = nullcontext) -> Logits:
    """Return the logits of a batch of images in a run's precision, cast to float32 for losses and scores."""
    with autocast():
        return model(image).float()


@torch.no_grad()
def logits_at(run: TrainedRun, weights: Path, batches: Sequence[Batch]) -> list[Logits]:
    """Return the run's logits for some batches, with the weights of a checkpoint, on the CPU."""
    module = run.module(weights)
    return [forward(module, batch["image"], run.autocast) for batch in batches]
