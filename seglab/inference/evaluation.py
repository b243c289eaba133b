"""A trained run measured on any labeled images: at the resolution of its own test, or at the images' own."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from seglab.contract import ContractError, Kind, Logits, require
from seglab.data.dataset import Dataset, Facts, Item
from seglab.data.decode import convert, decode_native, encode, native_objects, raise_unless_skipped
from seglab.data.distance_maps import MAPS
from seglab.data.facts import extent, range_warnings
from seglab.data.module import DataModule
from seglab.data.prepare_data import open_data, select_items
from seglab.data.sampler import rank_and_world
from seglab.data.split import SPLITS, Splits
from seglab.engine.device import autocast
from seglab.engine.module import SegModule
from seglab.engine.per_image import Measured, Picture, pictures, predict, steps
from seglab.engine.trained_run import FOLLOWED_OPTIONS, TrainedRun
from seglab.images.labels import Seen, layers, map_layers
from seglab.images.resize import in_colors, resize
from seglab.inference.predictor import FULL, Predictor

log = logging.getLogger(__name__)

SCALES = ("run", "native")
LONGEST = 384
"""Pixels of the longer side of a picture of a whole image."""


def dataset_node(run: TrainedRun, given: dict[str, Any], named: set[str]) -> dict[str, Any]:
    """The configuration of the data to evaluate on: the run's own with changes, or another that follows the run.

    given: a data set's configuration, or changes to the run's own where it has no `_target_`. named: options that the
    user has overridden, which stay as they are.
    """
    if "_target_" not in given:
        return {**run.dataset_options, **given}
    own = run.raw_options
    more = {"bands", "crop", "window", "axis"} & own.keys() & given.keys()  # not every data set has them
    return {**given, **{key: own[key] for key in (*FOLLOWED_OPTIONS, *more) if key not in named}}


@dataclass(frozen=True)
class EvalSet:
    """The images to evaluate on: a data set, one of its splits, and the fingerprint of its files.

    split: train, val, test, or `all` that is labeled. own: whether it is a split of the run's own data.
    """

    dataset: Dataset
    split: str
    fingerprint: str
    own: bool = False

    @property
    def as_test(self) -> bool:
        """Whether all labeled images are evaluated, as one test split."""
        return self.split == "all"

    def items(self, splits: Splits) -> list[Item]:
        """The items of the split."""
        return getattr(splits, "test" if self.as_test else self.split)


def eval_set(run: TrainedRun, dataset: Dataset, split: str | None) -> EvalSet:
    """Choose the split: by default the test images of the run's own data, and all labeled images of other data."""
    require(split in (None, "all", *SPLITS), "evaluate", f"split as one of all, {', '.join(SPLITS)}", split)
    chosen, file = select_items(dataset, as_test=True), split_file(run)
    if split != "all" and select_items(dataset).fingerprint == run.facts["data"]["fingerprint"]:  # its own data
        split = split or "test"
        # As it was drawn: without the images that turned out to be damaged
        frozen = replace(chosen.dataset, split_file=str(file)) if file else chosen.dataset
        return EvalSet(frozen, split, chosen.fingerprint, own=True)
    changed = not split and replace(dataset, cache_dir=None) == run.dataset(cache_dir=None)
    remedy = "set split=test for its test images, split=all for all that there are"
    require(not changed, f"run {run.name}", "the data that it was trained on", "changed ones", remedy)
    return EvalSet(chosen.dataset, split or "all", chosen.fingerprint)


def split_file(run: TrainedRun) -> Path | None:
    """The split of a run as it was drawn; None for a folder of a hub, which has none."""
    return run.file("split.json") if "files" in run.facts else None


def seen_in_training(run: TrainedRun, items: Sequence[Item]) -> int:
    """Count the items whose ids are in the run's training or validation split."""
    file = split_file(run)
    known = json.loads(file.read_text(encoding="utf-8")) if file else {}
    return len({item.id for item in items} & {name for split in ("train", "val") for name in known.get(split, ())})


class TrainingResolution:
    """Images as the run's own test saw them: in the size, the batches and the precision of that test."""

    def __init__(self, run: TrainedRun, predictor: Predictor, images: EvalSet, workers: int = 0) -> None:
        self.module, self.run = predictor.module, run
        self.data: DataModule = run.data(images.dataset, workers)
        opened = open_data(images.dataset, images.as_test)
        # Whatever is evaluated takes the place of the test images, and is read like these
        self.data.opened = replace(opened, splits=Splits(test=images.items(opened.splits)))
        self.items, self.skipped = self.data.splits.test, opened.skipped
        self.objects = self.data.objects("test")
        facts = [opened.decoded[item.id].facts for item in self.items]
        for sentence in range_warnings(facts, images.dataset):
            log.warning("data: %s", sentence)

    def __iter__(self) -> Iterator[Measured]:
        return steps(self.module, self.data.loader("test"), partial(self.run.autocast, self.module.device.type))

    def pictures(self, numbers: Sequence[int]) -> Iterator[Picture]:
        """Image, truth, probability and what counts of some images."""
        with self.run.autocast(self.module.device.type):
            return pictures(predict(self.module, self.data.samples("test"), numbers, self.data.batch_size))


@dataclass
class NativeResolution:
    """Whole images in their own size (over `dataset.reduce`), through the map that seglab.predict makes of them.

    The map holds probabilities in steps of 1/65535; the loss is that of the logits which give them, 11.8 at most. Of
    several processes each measures every k-th image.

    Args:
        predictor: the model, and how its images are read.
        items: the images; `skipped` takes those that cannot be read and are to be left out, with the reason.
        read: decodes an image in its own size.
        unseen: nobody has looked at their range before, which is done now.
    """

    predictor: Predictor
    items: Sequence[Item]
    read: Callable[[Item], Seen]
    skipped: dict[str, str] = field(default_factory=dict)
    unseen: bool = False

    @property
    def module(self) -> SegModule:
        """The model and the loss."""
        return self.predictor.module

    @property
    def objects(self) -> dict[str, Callable[[], np.ndarray]]:
        """What numbers an image's objects, by id, where the data set distinguishes any."""
        dataset = self.predictor.dataset
        return {item.id: partial(native_objects, item, dataset) for item in self.items if item.objects}

    def __iter__(self) -> Iterator[Measured]:
        facts, dataset, (rank, world) = list[Facts](), self.predictor.dataset, rank_and_world()
        own = list(enumerate(self.items))[rank::world]
        for number, item in tqdm(own, "measure", delay=3, leave=False, disable=None):  # None: on a terminal alone
            try:
                image, mask, valid = self.read(item)
            except ContractError as error:
                if not self.unseen:  # then the images of the split are known, and rows are counted by them
                    raise
                raise_unless_skipped(error, dataset)
                self.skipped[item.id] = str(error)
                continue
            facts.append({"depth": str(image.dtype), "extent": extent(image)} if self.unseen else {})
            truth, device, task = encode(mask.astype(np.float32), dataset), self.module.device, dataset.task
            shares = truth / np.float32(255) if dataset.soft else truth  # steps of 1/255, as in training
            maps = {name: tensor(map_layers(MAPS[name], shares, task)).to(device) for name in self.module.loss.needs}
            target = tensor(shares if shares.ndim == 2 else np.moveaxis(shares, 2, 0)).to(device)
            marks = None if valid is None else tensor(valid.copy()).to(device)  # torch warns of a map of a file
            logits = to_logits(self.predictor.at_scale(image), task.kind).to(device)
            index = torch.tensor([number], device=device)
            batch = {"target": target, "valid": marks, "id": [item.id], "index": index}
            yield self.module.loss(logits, target, marks, **maps), logits, batch
        for sentence in range_warnings(facts, dataset) if self.unseen else ():
            log.warning("data: %s", sentence)

    def pictures(self, numbers: Sequence[int]) -> Iterator[Picture]:
        """Image, truth, probability and what counts of some images, reduced for display."""
        known, dataset = [item for item in self.items if item.id not in self.skipped], self.predictor.dataset
        for number in numbers:
            image, mask, valid = self.read(known[number])
            levels = self.predictor.at_scale(image)
            scale = min(1.0, LONGEST / max(mask.shape[:2]))
            small = [max(1, round(side * scale)) for side in mask.shape[:2]]
            seen = convert(np.asarray(image), replace(dataset, bits=8))  # pictures have 8 bits
            shown = resize(in_colors(seen), *small)
            truth = np.stack([resize(layer.astype(np.float32), *small) for layer in layers(mask, dataset.task)])
            maps = levels.reshape(-1, *levels.shape[-2:])
            found = np.stack([resize(one / np.float32(FULL), *small) for one in maps])
            marks = None if valid is None else resize(valid.astype(np.float32), *small) >= 0.5
            one: int | slice = 0 if dataset.task.channels == 1 else slice(None)
            yield shown.reshape(*small, -1), truth[one], found[one], marks


def native(predictor: Predictor, images: EvalSet) -> NativeResolution:
    """Whole images of a data set, decoded from their files."""
    chosen = select_items(images.dataset, images.as_test)
    items = [item for item in images.items(chosen.splits) if item.id not in chosen.skipped]
    read = partial(decode_native, dataset=images.dataset)
    return NativeResolution(predictor, items, read, chosen.skipped, unseen=True)


def of_split(module: SegModule, data: DataModule, split: str, limit: float | None, precision: str) -> NativeResolution:
    """Whole images of a split of the data that a model on patches is trained on; `limit` is as of DataModule.loader."""
    loader, opened = data.loader(split, limit), data.opened
    last = loader.dataset.source.number(loader.sampler.length - 1)  # type: ignore[attr-defined]
    items = data.splits[split][: max(last + 1, data.processes)]  # each process waits for the others' images
    enter = partial(autocast, precision, module.device.type)
    predictor = Predictor(module, opened.dataset, enter, opened.dataset.size)
    return NativeResolution(predictor, items, lambda item: opened.decoded[item.id].seen())


def tensor(array: np.ndarray) -> Tensor:
    """Make (1, 1, h, w) of (h, w), and (1, k, h, w) of (k, h, w)."""
    return torch.from_numpy(np.ascontiguousarray(array if array.ndim == 3 else array[None]))[None]


def to_logits(levels: np.ndarray, kind: Kind = "binary") -> Logits:
    """Give the logits (1, k, h, w) float32 of a map uint16 (h, w) or (k, h, w); certainty is half a step short."""
    probability = tensor(levels.astype(np.float32) / FULL)
    if kind == "multiclass":  # a softmax of logarithms gives the shares back
        return probability.clamp(min=0.5 / FULL).log()
    return torch.logit(probability, eps=0.5 / FULL)
