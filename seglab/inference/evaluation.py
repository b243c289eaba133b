"""Evaluate a trained run on labeled images, at the resolution of its own test or at the images' own resolution."""

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

from seglab.contract import ContractError, Kind, Logits, require
from seglab.data.dataset import Dataset, Facts, Item
from seglab.data.decode import convert, decode_native, encode, native_objects, raise_unless_skipped
from seglab.data.distance_maps import MAPS
from seglab.data.facts import extent, range_warnings
from seglab.data.memo import progress
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
"""The longer side of the picture of a whole image, in pixels."""


def dataset_node(run: TrainedRun, given: dict[str, Any], named: set[str]) -> dict[str, Any]:
    """Return the configuration of the data to evaluate on: the run's own with changes, or other data read like them.

    given: the configuration of a dataset or, without `_target_`, changes to the run's own. named: options that the
    user has overridden, which are kept.
    """
    if "_target_" not in given:
        return {**run.dataset_options, **given}
    own = run.raw_options
    shared = {"bands", "crop", "window", "axis"} & own.keys() & given.keys()  # not every dataset has them
    return {**given, **{key: own[key] for key in (*FOLLOWED_OPTIONS, *shared) if key not in named}}


@dataclass(frozen=True)
class EvalSet:
    """The images to evaluate on: a dataset, a split of it, and the fingerprint of its files.

    split: train, val, test, or `all` for every labeled image. own: whether it is a split of the run's own data.
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
        """Return the items of the split."""
        return getattr(splits, "test" if self.as_test else self.split)


def eval_set(run: TrainedRun, dataset: Dataset, split: str | None) -> EvalSet:
    """Choose the split: by default the test images of the run's own data, or all labeled images of other data."""
    require(split in (None, "all", *SPLITS), "evaluate", f"split as one of all, {', '.join(SPLITS)}", split)
    selection, file = select_items(dataset, as_test=True), split_file(run)
    if split != "all" and select_items(dataset).fingerprint == run.facts["data"]["fingerprint"]:  # its own data
        split = split or "test"
        # The recorded split, which lacks the images that turned out to be damaged
        recorded = replace(selection.dataset, split_file=str(file)) if file else selection.dataset
        return EvalSet(recorded, split, selection.fingerprint, own=True)
    changed = not split and replace(dataset, cache_dir=None) == run.dataset(cache_dir=None)
    remedy = "set split=test to evaluate its test images, or split=all to evaluate all labeled images"
    require(not changed, f"run {run.name}", "the data that it was trained on", "changed data", remedy)
    return EvalSet(selection.dataset, split or "all", selection.fingerprint)


def split_file(run: TrainedRun) -> Path | None:
    """Return the file of a run's recorded split; None for a hub folder, which has none."""
    return run.file("split.json") if "files" in run.facts else None


def seen_in_training(run: TrainedRun, items: Sequence[Item]) -> int:
    """Count the items whose ids are in the run's training or validation split."""
    file = split_file(run)
    splits = json.loads(file.read_text(encoding="utf-8")) if file else {}
    return len({item.id for item in items} & {name for split in ("train", "val") for name in splits.get(split, ())})


class TrainingResolution:
    """Images at the size, batch size and precision of the run's own test."""

    def __init__(self, run: TrainedRun, predictor: Predictor, images: EvalSet, workers: int = 0) -> None:
        self.module, self.run = predictor.module, run
        self.data: DataModule = run.data(images.dataset, workers)
        opened = open_data(images.dataset, images.as_test)
        # The evaluated images replace the test images, and are read like them
        self.data.opened = replace(opened, splits=Splits(test=images.items(opened.splits)))
        self.items, self.skipped = self.data.splits.test, opened.skipped
        self.objects = self.data.objects("test")
        facts = [opened.decoded[item.id].facts for item in self.items]
        for sentence in range_warnings(facts, images.dataset):
            log.warning("data: %s", sentence)

    def __iter__(self) -> Iterator[Measured]:
        return steps(self.module, self.data.loader("test"), partial(self.run.autocast, self.module.device.type))

    def pictures(self, numbers: Sequence[int]) -> Iterator[Picture]:
        """Yield image, truth, probability and valid pixels of the images with these numbers."""
        with self.run.autocast(self.module.device.type):
            return pictures(predict(self.module, self.data.samples("test"), numbers, self.data.batch_size))


@dataclass
class NativeResolution:
    """Whole images at their own size (divided by `dataset.reduce`), measured on the maps that seglab.predict makes.

    A map holds probabilities in steps of 1/65535. The loss is computed from the corresponding logits, which are at
    most 11.8 in magnitude. Each of k processes measures every k-th image.

    Args:
        predictor: the model and the preprocessing of its images.
        items: the images; `skipped` collects those that are left out because they cannot be read, with the reason.
        read: decodes an image at its own size.
        unseen: whether the value range of the images has not been checked before; it is then checked here.
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
        """Functions that number the objects of an image, by image id, for images whose objects the dataset knows."""
        dataset = self.predictor.dataset
        return {item.id: partial(native_objects, item, dataset) for item in self.items if item.objects}

    def __iter__(self) -> Iterator[Measured]:
        facts, dataset, (rank, world) = list[Facts](), self.predictor.dataset, rank_and_world()
        numbered = list(enumerate(self.items))[rank::world]
        for number, item in progress(numbered, "measure"):
            try:
                image, mask, valid = self.read(item)
            except ContractError as error:
                if not self.unseen:  # a missing row would shift those of the known images
                    raise
                raise_unless_skipped(error, dataset)
                self.skipped[item.id] = str(error)
                continue
            facts.append({"depth": str(image.dtype), "extent": extent(image)} if self.unseen else {})
            truth, device, task = encode(mask.astype(np.float32), dataset), self.module.device, dataset.task
            shares = truth / np.float32(255) if dataset.soft else truth  # steps of 1/255, as in training
            maps = {name: tensor(map_layers(MAPS[name], shares, task)).to(device) for name in self.module.loss.needs}
            target = tensor(shares if shares.ndim == 2 else np.moveaxis(shares, 2, 0)).to(device)
            valid_pixels = None if valid is None else tensor(valid.copy()).to(device)  # torch warns about memory maps
            logits = to_logits(self.predictor.at_scale(image), task.kind).to(device)
            index = torch.tensor([number], device=device)
            batch = {"target": target, "valid": valid_pixels, "id": [item.id], "index": index}
            yield self.module.loss(logits, target, valid_pixels, **maps), logits, batch
        for sentence in range_warnings(facts, dataset) if self.unseen else ():
            log.warning("data: %s", sentence)

    def pictures(self, numbers: Sequence[int]) -> Iterator[Picture]:
        """Yield image, truth, probability and valid pixels of the images with these numbers, reduced for display."""
        measured, dataset = [item for item in self.items if item.id not in self.skipped], self.predictor.dataset
        channels: int | slice = 0 if dataset.task.channels == 1 else slice(None)
        for number in numbers:
            image, mask, valid = self.read(measured[number])
            levels = self.predictor.at_scale(image)
            scale = min(1.0, LONGEST / max(mask.shape[:2]))
            small = [max(1, round(side * scale)) for side in mask.shape[:2]]
            converted = convert(np.asarray(image), replace(dataset, bits=8))  # pictures have 8 bits
            shown = resize(in_colors(converted), *small)
            truth = np.stack([resize(layer.astype(np.float32), *small) for layer in layers(mask, dataset.task)])
            maps = levels.reshape(-1, *levels.shape[-2:])
            probability = np.stack([resize(map_ / np.float32(FULL), *small) for map_ in maps])
            valid_pixels = None if valid is None else resize(valid.astype(np.float32), *small) >= 0.5
            yield shown.reshape(*small, -1), truth[channels], probability[channels], valid_pixels


def native(predictor: Predictor, images: EvalSet) -> NativeResolution:
    """Return the whole images of a dataset, to be decoded from their files."""
    selection = select_items(images.dataset, images.as_test)
    items = [item for item in images.items(selection.splits) if item.id not in selection.skipped]
    read = partial(decode_native, dataset=images.dataset)
    return NativeResolution(predictor, items, read, selection.skipped, unseen=True)


def of_split(module: SegModule, data: DataModule, split: str, limit: float | None, precision: str) -> NativeResolution:
    """Return the whole images of a split, for a model trained on patches; `limit` is that of DataModule.loader."""
    loader, opened = data.loader(split, limit), data.opened
    last = loader.dataset.source.number(loader.sampler.length - 1)  # type: ignore[attr-defined]
    items = data.splits[split][: max(last + 1, data.processes)]  # at least one per process, as they wait for each other
    enter = partial(autocast, precision, module.device.type)
    predictor = Predictor(module, opened.dataset, enter, opened.dataset.size)
    return NativeResolution(predictor, items, lambda item: opened.decoded[item.id].seen())


def tensor(array: np.ndarray) -> Tensor:
    """Convert (h, w) to (1, 1, h, w), and (k, h, w) to (1, k, h, w)."""
    return torch.from_numpy(np.ascontiguousarray(array if array.ndim == 3 else array[None]))[None]


def to_logits(levels: np.ndarray, kind: Kind = "binary") -> Logits:
    """Convert a uint16 map (h, w) or (k, h, w) to float32 logits (1, k, h, w), clamped half a step from certainty."""
    probability = tensor(levels.astype(np.float32) / FULL)
    if kind == "multiclass":  # the softmax of log-probabilities returns the probabilities
        return probability.clamp(min=0.5 / FULL).log()
    return torch.logit(probability, eps=0.5 / FULL)
