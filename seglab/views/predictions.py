"""What the views of finished runs share: what to call each run, the images to look at, and the logits at a moment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from seglab.analysis.labels import label
from seglab.contract import Logits, require
from seglab.data.loading import Batch, Samples
from seglab.data.module import DataModule
from seglab.engine.records import spread, telling
from seglab.engine.saved import Saved
from seglab.losses.base import Loss


def titles(runs: Sequence[Saved]) -> list[str]:
    """What sets the runs apart: their losses, the parameters that vary, then seeds, then folders."""
    facts = [{**run.facts, "choices": run.facts.get("choices", {}), "board": ""} for run in runs]
    names = label(pd.DataFrame(facts)[["config", "choices", "seed", "board"]])
    for more in ([f" s{run.facts['seed']}" for run in runs], [f" {run.name}" for run in runs]):
        names = [name + word if names.count(name) > 1 else name for name, word in zip(names, more, strict=True)]
    return names


def same_data(runs: Sequence[Saved]) -> None:
    """Hold runs that are looked at side by side to one data set."""
    first, *others = runs
    for run in others:
        same = run.facts["data"]["fingerprint"] == first.facts["data"]["fingerprint"]
        require(same, f"run {run.folder}", f"the data of {first.folder}", "others", "look at the two one by one")


def common_moments(runs: Sequence[Saved]) -> list[int]:
    """The epochs of which every run kept its weights."""
    epochs = sorted(set.intersection(*(set(run.moments) for run in runs)))
    require(bool(epochs), "runs", "moments at the same epochs", "none", "train them with the same callbacks.moments")
    return epochs


def fitted(losses: dict[str, Loss], run: Saved) -> dict[str, Loss]:
    """The losses with each `auto` parameter as it is for the training masks of the run."""
    return {name: loss.with_class_frequency([run.facts["data"]["foreground"]]) for name, loss in losses.items()}


def samples(run: Saved, losses: Sequence[Loss], part: str) -> Samples:
    """The images of one part of the run's data, with whatever maps the losses want."""
    needs = tuple(dict.fromkeys(need for loss in losses for need in loss.needs))
    return DataModule(run.dataset(), None, run.config["batch_size"], 0, run.config["seed"], needs).samples(part)


def scenes(run: Saved, losses: Sequence[Loss], images: int | Sequence[str]) -> list[Batch]:
    """Choose test images by id, or so many from the smallest object to the largest; each as a batch of one."""
    test = samples(run, losses, "test")
    if isinstance(images, int):
        require(images >= 1, "images", "at least one, or a list of ids", images)
        file = run.folder / "per_image.csv"
        require(file.is_file(), f"run {run.folder}", "per_image.csv, which tells sizes", "none", "name images by id")
        sizes = pd.read_csv(file)["foreground"]
        numbers = spread(sizes, 3)[1:2] if images == 1 else spread(sizes, images)
    else:
        wrong = [name for name in images if name not in test.ids]
        known = ", ".join(test.ids[:5])
        require(not wrong, "images", f"ids of test images, such as {known}", ", ".join(map(str, wrong)))
        numbers = [test.ids.index(name) for name in images]
    return [test[(0, telling(test, number))] for number in numbers]


@torch.no_grad()
def logits_at(run: Saved, weights: Path, batches: Sequence[Batch]) -> list[Logits]:
    """The run's logits of some batches with the weights of a checkpoint, in float32 on the CPU."""
    module = run.module(weights)
    return [module(batch["image"]).float() for batch in batches]
