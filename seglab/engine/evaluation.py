"""A trained run measured on any labelled images: as its own test did, or on whole images in their own size."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from seglab.contract import ContractError, Logits, PerImage, require
from seglab.data.dataset import Dataset, Item
from seglab.data.decode import decode_native, encode, native_objects, raise_unless_skipped
from seglab.data.distance_maps import MAPS
from seglab.data.module import DataModule
from seglab.data.prepare_data import open_data, select_items
from seglab.data.resize import resize, to_bits, to_channels
from seglab.data.split import SPLITS, Splits
from seglab.engine.per_image import ImageTable, means, predict
from seglab.engine.predictor import FULL, Predictor
from seglab.engine.trained_run import TrainedRun

FOLLOWS = ("size", "fit", "reduce", "channels", "bits", "mean", "std")
"""What a data set takes over from the run: how an image comes to the model."""

SCALES = ("run", "native")
LONGEST = 384
"""Pixels of the longer side of a picture of a whole image."""

Measured = tuple[PerImage, Logits, Tensor, Sequence[str], Tensor | None]
"""Losses (b,), logits and target (b, 1, h, w), ids, and of tiles their own pixels (b, 4) of a batch."""


def dataset_node(run: TrainedRun, given: dict[str, Any], named: set[str]) -> dict[str, Any]:
    """The configuration of the data to evaluate on: the run's own with changes, or another that follows the run.

    given: a data set's configuration, or changes to the run's own where it has no `_target_`. named: values that the
    user gave by name, which stay as they are.
    """
    own = run.config["dataset"]
    if "_target_" not in given:
        return {**own, **given}
    return {**given, **{key: own[key] for key in FOLLOWS if key not in named}}


@dataclass(frozen=True)
class EvalSet:
    """The images to evaluate on: a data set, one part of it, and the fingerprint of its files.

    part: train, val or test of its split, or `all` that is labelled.
    """

    dataset: Dataset
    part: str
    mark: str

    @property
    def as_test(self) -> bool:
        return self.part == "all"

    def mine(self, splits: Splits) -> list[Item]:
        """The items of the part."""
        return getattr(splits, "test" if self.as_test else self.part)


def subject(run: TrainedRun, dataset: Dataset, part: str | None) -> EvalSet:
    """Settle the part: without one the test images of the run's own data, and all labelled images of others'."""
    require(part in (None, "all", *SPLITS), "evaluate", f"part as one of all, {', '.join(SPLITS)}", part)
    mark = select_items(dataset, as_test=True).fingerprint
    own = select_items(dataset).fingerprint if part is None else ""
    return EvalSet(dataset, part or ("test" if own == run.facts["data"]["fingerprint"] else "all"), mark)


def seen_in_training(run: TrainedRun, items: Sequence[Item]) -> int:
    """Count the items whose ids the run trained on or was tuned on."""
    file = run.folder / "split.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return len({item.id for item in items} & {name for part in ("train", "val") for name in known.get(part, ())})


def identity(settings: dict[str, Any], mark: str) -> str:
    """Six hex digits that two evaluations of a run share exactly when they would measure the same."""
    return sha256((json.dumps(settings, sort_keys=True) + mark).encode()).hexdigest()[:6]


@dataclass(frozen=True)
class Result:
    """A row per image as in per_image.csv, histograms as in histograms.npz, the metrics, and what was left out."""

    table: pd.DataFrame
    arrays: dict[str, np.ndarray]
    metrics: dict[str, float]
    skipped: dict[str, str]


class TrainingResolution:
    """Images as the run's own test saw them, square by square: in the batches and the precision of that test."""

    def __init__(self, run: TrainedRun, predictor: Predictor, subject: EvalSet, workers: int = 0) -> None:
        self.module, self.precision = predictor.module, run.facts["host"]
        self.data: DataModule = run.data(subject.dataset, workers)
        opened = open_data(subject.dataset, subject.as_test)
        self.data.opened = replace(opened, splits=Splits(test=subject.mine(opened.splits)))
        self.items, self.skipped = self.data.splits.test, opened.skipped
        self.objects = self.data.objects("test")

    def __iter__(self) -> Iterator[Measured]:
        device = self.module.device
        for batch in tqdm(self.data.loader("test"), "evaluate", delay=3, leave=False, disable=None):
            moved = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}
            with self.as_then(device.type):
                losses, logits = self.module.step(moved)
            yield losses, logits, moved["target"], batch["id"], moved.get("own")

    def as_then(self, device: str) -> AbstractContextManager[Any]:
        """The precision of the run's own test, where this device is of the same kind."""
        same = (self.precision.get("gpu") is not None) == (device == "cuda")
        kinds = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
        kind = kinds.get(self.precision["precision"]) if same else None
        return torch.autocast(device, kind) if kind else nullcontext()

    def pictures(self, numbers: Sequence[int]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Image uint8 (h, w, c), truth and probability (h, w) of some images."""
        seen = predict(self.module, self.data.samples("test"), numbers)
        return zip(seen["images"], seen["truths"], seen["probabilities"].astype(np.float32), strict=True)


class NativeResolution:
    """Whole images in their own size, less `dataset.reduce`, through the map that seglab.predict makes of them.

    The map holds probabilities in steps of 1/65535; the loss is that of the logits which give them, 11.8 at most.
    """

    def __init__(self, run: TrainedRun, predictor: Predictor, subject: EvalSet) -> None:
        self.predictor, self.module = predictor, predictor.module
        self.dataset, chosen = subject.dataset, select_items(subject.dataset, subject.as_test)
        self.skipped = chosen.skipped
        self.items = [item for item in subject.mine(chosen.splits) if item.id not in chosen.skipped]
        self.objects: dict[str, Callable[[], np.ndarray]] = {
            item.id: partial(native_objects, item, self.dataset) for item in self.items if item.objects
        }

    def __iter__(self) -> Iterator[Measured]:
        for item in tqdm(self.items, "evaluate", delay=3, leave=False, disable=None):
            try:
                image, mask = decode_native(item, self.dataset)
            except ContractError as error:
                raise_unless_skipped(error, self.dataset)
                self.skipped[item.id] = str(error)
                continue
            truth = encode(mask.astype(np.float32), self.dataset)
            device = self.module.device
            maps = {name: tensor(MAPS[name](truth)).to(device) for name in self.module.loss.needs}
            target = tensor(truth / np.float32(255) if self.dataset.soft else truth).to(device)
            logits = to_logits(self.predictor.at_scale(image)).to(device)
            yield self.module.loss(logits, target, **maps), logits, target, [item.id], None

    def pictures(self, numbers: Sequence[int]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Image uint8 (h, w, 3), truth and probability (h, w) of some images, reduced to be looked at."""
        known = [item for item in self.items if item.id not in self.skipped]
        for number in numbers:
            image, mask = decode_native(known[number], self.dataset)
            levels = self.predictor.at_scale(image)
            scale = min(1.0, LONGEST / max(mask.shape))
            small = [max(1, round(side * scale)) for side in mask.shape]
            seen = resize(to_channels(to_bits(np.asarray(image), 8), 3), *small)
            yield seen, resize(mask.astype(np.float32), *small), resize(levels / np.float32(FULL), *small)


def tensor(array: np.ndarray) -> Tensor:
    """Make (1, 1, h, w) of (h, w)."""
    return torch.from_numpy(np.ascontiguousarray(array))[None, None]


def to_logits(levels: np.ndarray) -> Logits:
    """Give the logits (1, 1, h, w) float32 of a map (h, w) uint16; certainty is half a step short of 0 and 1."""
    return torch.logit(tensor(levels.astype(np.float32) / FULL), eps=0.5 / FULL)


@torch.no_grad()
def measure(looked: TrainingResolution | NativeResolution, threshold: float, empty: str) -> Result:
    """Score every image, and all of them together, as seglab.train scores its test images."""
    require(len(looked.items) > 0, "evaluate", "labelled images in this part", "none", "set part=all, or dataset.root")
    groups = {item.id: item.group for item in looked.items}
    seen = ImageTable(groups, threshold, empty, objects=looked.objects)
    meter, places = looked.module.test_meter, {name: place for place, name in enumerate(groups)}
    for losses, logits, target, ids, own in looked:
        image = torch.tensor([places[name] for name in ids], device=target.device)
        meter.update(losses, logits, target, image=image, own=own)
        seen.take(losses, logits, target, ids, own)
    require(bool(seen.seen), "evaluate", "images that can be read", "none")
    table = seen.table()
    metrics = {name: float(value) for name, value in meter.flush().items()} | means(table)
    return Result(table, seen.arrays("test"), metrics, looked.skipped)
