"""Tables of a run: one row per epoch, one row and histogram per test image and class, and a few example images."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor

from seglab.contract import Logits, PerImage, Task, require
from seglab.data.loading import Batch, Samples
from seglab.data.memo import progress
from seglab.data.sampler import rank_and_world
from seglab.engine.module import SegModule, metrics_of_epoch
from seglab.engine.worker_pool import submit
from seglab.files import cell, csv_text, write_text
from seglab.images.resize import in_colors
from seglab.metrics.counts import Counts, confusion, count, decide, histogram, scores
from seglab.metrics.objects import shape_scores

EPOCH_TABLE_SECONDS = 2.0  # between writes of metrics.csv: a thousand rows take longer than a small epoch


class EpochTable(Checkpoint):  # called after the metrics are logged, before the checkpoints listed after it
    """Write `metrics.csv`, one row per epoch: step, learning rate, seconds, every metric of training and validation."""

    def __init__(self, file: Path) -> None:
        self.file, self.rows = file, list[dict[str, Any]]()
        self._since = self._written = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the rows, so that a resumed run keeps those of the epochs that it does not train again."""
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = list(state["rows"])

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._since = time.perf_counter()
        self._lr = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.is_global_zero:
            values = {"lr": self._lr, "seconds": round(time.perf_counter() - self._since, 3)}
            for logger in trainer.loggers:
                logger.log_metrics({**values, "epoch": trainer.current_epoch}, trainer.global_step)
            row = {"epoch": trainer.current_epoch, "step": trainer.global_step, **values}
            metrics = metrics_of_epoch(trainer)
            by_stage = sorted(metrics, key=lambda name: name.split("/")[0])  # train before val, order kept within each
            self.rows.append(row | {name: float(metrics[name]) for name in by_stage})
            if time.perf_counter() - self._written > EPOCH_TABLE_SECONDS:
                self.write(trainer)

    def on_fit_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.write(trainer)

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self.write(trainer)

    def write(self, trainer: Trainer) -> None:
        """Write all rows so far."""
        if self.rows and trainer.is_global_zero:
            write_text(self.file, csv_text(pd.DataFrame(self.rows)))
            self._written = time.perf_counter()


Measured = tuple[PerImage, Logits, Batch]
"""Losses (b,) and logits (b, k, h, w) of a batch of images, and the batch itself."""

Picture = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]
"""Image uint8 (h, w, c), truth and probability (h, w) or (k, h, w), and the valid pixels (h, w) or None."""


class Record(NamedTuple):
    """The measurements of one image: counts (k, 6), histograms (k, 2, 256) int32, the loss, `shapes` of each class."""

    id: str
    counts: np.ndarray
    histogram: np.ndarray
    loss: float
    shapes: list[dict[str, float]]


@dataclass
class ImageTable:
    """Collect one row and one histogram per image and class.

    The histogram (2 x 256 counts of truth and probability) is enough for all thresholds, the calibration and the
    precision-recall curve: the pixels are not needed again.

    Args:
        groups: the group (patient, scene) of each image, by id.
        threshold: the probability from which a pixel counts as foreground.
        empty: how an image without foreground is scored, see SegmentationMetrics.
        outlines: also measure distances and objects, which takes some milliseconds per image.
        objects: by image id, a function that returns the numbered true objects (h, w); defaults to the components.
        task: the classes.
        processes: the number of worker processes that measure shapes, see worker_pool.py.
    """

    groups: dict[str, str]
    threshold: float
    empty: str
    outlines: bool = True
    objects: dict[str, Callable[[], np.ndarray]] = field(default_factory=dict)
    task: Task = field(default_factory=Task)
    processes: int = 0

    def __post_init__(self) -> None:
        self.records: list[Record] = []
        self.confusion: Any = 0  # (k, k) of all images, for multiclass tasks
        self._waiting: deque[tuple[dict[str, float], Future[dict[str, float]]]] = deque()

    def add(
        self, losses: PerImage, logits: Logits, target: Tensor, ids: Sequence[str], valid: Tensor | None = None
    ) -> None:
        """Add a batch: losses (b,), logits, target and `valid` (b, 1, h, w) as in `decide`, and the image ids."""
        pixels, shape = decide(logits, target, self.threshold, valid, self.task.kind), (-1, self.task.channels)
        columns = torch.stack([column.double() for column in count(pixels)], 1)  # exact to 2^53; float32 to 2^24
        counts, histograms = (x.unflatten(0, shape).cpu().numpy() for x in (columns, histogram(pixels).int()))
        predicted, true = (x.unflatten(0, shape).cpu().numpy() for x in (pixels.predicted, pixels.truth))
        if self.task.kind == "multiclass":
            self.confusion = self.confusion + confusion(logits, target, valid).sum(0).cpu().numpy()
        for i, (name, loss) in enumerate(zip(ids, losses.tolist(), strict=True)):
            numbers = self.objects[name]() if self.outlines and name in self.objects else None
            shapes: list[dict[str, float]] = [{} for _ in true[i]] if self.outlines else []
            for k in self.task.scored if shapes else ():  # a background has no objects
                future = submit(self.processes, shape_scores, predicted[i, k], true[i, k], numbers)
                self._waiting.append((shapes[k], future))  # fills its record later
            self.records.append(Record(name, counts[i], histograms[i], loss, shapes))
            self._collect(max(2**24 // true[i, 0].size, 2 * self.processes))  # 64 images of 512 pixels

    def _collect(self, ahead: int) -> None:
        """Collect shape scores from the workers until at most `ahead` are pending, whose masks stay in memory."""
        while len(self._waiting) > ahead:
            row, future = self._waiting.popleft()
            row.update(future.result())

    def gather(self) -> None:
        """Gather the records of all processes, in the order of the images."""
        self._collect(0)
        world = rank_and_world()[1]
        if world > 1:
            parts: list[Any] = [None] * world
            torch.distributed.all_gather_object(parts, (self.records, self.confusion))
            in_turn = zip_longest(*(records for records, _ in parts))  # each process measures every k-th image
            self.records = [record for group in in_turn for record in group if record]
            self.confusion = sum(cells for _, cells in parts)

    def table(self) -> pd.DataFrame:
        """Return a row per image and class: id, group, class, pixels, foreground, counts, loss, scores, shapes."""
        self._collect(0)
        records, classes = self.records, self.task.classes
        columns = torch.tensor(np.concatenate([record.counts for record in records])).T
        whole = [column.long() for column in columns[:4]]  # tp, fp, fn, tn; the others are sums of probabilities
        counts = Counts(*whole, *columns[4:])
        names = [record.id for record in records for _ in classes]
        groups = [self.groups[name] for name in names]
        table: dict[str, Any] = {"id": names, "group": groups, "class": [*classes] * len(records)}
        table |= {"pixels": sum(whole), "foreground": counts.tp + counts.fn, **counts._asdict()}
        table["loss"] = [record.loss for record in records for _ in classes]
        shapes = pd.DataFrame([row for record in records for row in record.shapes])
        return pd.concat([pd.DataFrame(table | scores(counts, self.empty)), shapes], axis=1)

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """Return this pass's arrays of histograms.npz: `<prefix>` (n, classes, 2, 256) and `<prefix>_ids` (n,).

        For multiclass tasks also `<prefix>_confusion` (k, k), with true classes in rows.
        """
        tables = np.stack([record.histogram for record in self.records])
        # Ids as in per_image.csv, where an id such as =A1 is escaped
        arrays = {prefix: tables, f"{prefix}_ids": np.array([cell(record.id) for record in self.records])}
        return arrays | ({f"{prefix}_confusion": self.confusion} if self.task.kind == "multiclass" else {})


def means(table: pd.DataFrame, task: Task) -> dict[str, float]:
    """Return the mean over images of every score in the table, and the fraction of true objects found.

    For several classes, return the mean over the scored classes, and each class's own values (`iou/cup`).
    """
    by_class = {}
    for name, rows in table.groupby("class", sort=False):
        values = {score: float(rows[score].mean()) for score in table.columns[table.columns.get_loc("loss") :]}
        if "objects" in rows and rows["objects"].any():
            values["object_recall"] = float(rows["objects_found"].sum() / rows["objects"].sum())
        if task.classes.index(name) not in task.scored:  # a background has no shape scores
            values = {score: value for score, value in values.items() if np.isfinite(value)}
        by_class[name] = values
    overall = pd.DataFrame([by_class[task.classes[k]] for k in task.scored]).mean()
    own = {f"{score}/{name}": v for name, values in by_class.items() for score, v in values.items() if score != "loss"}
    return {str(score): float(value) for score, value in overall.items()} | (own if task.channels > 1 else {})


@torch.no_grad()
def score(module: SegModule, measured: Iterable[Measured], records: ImageTable) -> dict[str, float]:
    """Measure images one by one, in `records`, and all together; each of several processes measures its own images.

    Returns the metrics of `module.test_meter`, and the means over the rows of all images.
    """
    for losses, logits, batch in measured:
        target, valid = batch["target"], batch.get("valid")
        module.check_finite(losses, batch["id"])
        module.test_meter.update(losses, logits, target, image=batch["index"], valid=valid)
        records.add(losses, logits, target, batch["id"], valid)
    module.raise_if_not_finite()
    records.gather()
    require(bool(records.records), "data", "at least one readable image", "none")
    metrics = {name: float(value) for name, value in module.test_meter.flush().items()}
    return metrics | means(records.table(), records.task)


def steps(
    module: SegModule, loader: Iterable[Batch], autocast: Callable[[], AbstractContextManager[Any]]
) -> Iterator[Measured]:
    """Yield losses, logits and batch for each batch of a loader, computed on the module's device under `autocast`."""
    for batch in progress(loader, "measure"):
        on_device = {key: x.to(module.device) if isinstance(x, Tensor) else x for key, x in batch.items()}
        with autocast():
            yield *module.step(on_device), on_device


@torch.no_grad()
def predict(module: SegModule, samples: Samples, numbers: Iterable[int], size: int) -> dict[str, np.ndarray]:
    """Predict some images of a split without augmentation; of a tiled image, the tile with the most foreground.

    size: images per batch. Returns `ids` (n,), `images` (n, h, w, c) uint8, `truths` and float16 `probabilities`
    (n, h, w), or (n, k, h, w) for several classes, and `valid` (n, h, w) if not all pixels count.
    """
    module.eval()
    samples = replace(samples, needs=())  # only losses need maps
    tiles = [(0, tile_with_most_foreground(samples, number)) for number in numbers]
    batches = [samples[tiles[k : k + size]] for k in range(0, len(tiles), size)]
    maps = torch.cat([module.probability(module(batch["image"].to(module.device)).float()).cpu() for batch in batches])
    images, truths = (torch.cat([batch[key] for batch in batches]) for key in ("image", "target"))
    if module.task.kind == "multiclass":
        truths = (truths == torch.arange(module.task.channels).view(-1, 1, 1)).byte()
    channels = 0 if module.task.channels == 1 else slice(None)
    arrays = {
        "ids": np.array([cell(name) for batch in batches for name in batch["id"]]),
        "images": in_colors(images.to(torch.uint8).permute(0, 2, 3, 1).numpy()),
        "truths": truths[:, channels].numpy(),
        "probabilities": maps[:, channels].numpy().astype(np.float16),
    }
    if any("valid" in batch for batch in batches):
        marks = [batch.get("valid", torch.ones_like(batch["target"][:, :1], dtype=torch.bool)) for batch in batches]
        arrays["valid"] = torch.cat(marks)[:, 0].numpy()
    return arrays


def pictures(shown: Mapping[str, np.ndarray]) -> Iterator[Picture]:
    """Return an iterator over the result of `predict`, one `Picture` per image."""
    valid = shown["valid"] if "valid" in shown else [None] * len(shown["ids"])
    return zip(shown["images"], shown["truths"], shown["probabilities"].astype(np.float32), valid, strict=True)


def tile_with_most_foreground(samples: Samples, number: int) -> int:
    """Return the index of the sample that shows the most foreground of an image of the split."""

    def foreground(index: int) -> float:
        target = samples[[(0, index)]]["target"]
        return float(target.clamp(max=1).sum())  # class ids (3 is not more foreground than 1) or fractions

    tiles = [index for index in range(len(samples)) if samples.source.number(index) == number]
    return tiles[0] if len(tiles) == 1 else max(tiles, key=foreground)


def extremes(scores: pd.Series, count: int = 3) -> dict[int, str]:
    """Label the indices of the best, median and worst scores; undefined scores are left out."""
    order = [int(index) for index in scores.dropna().sort_values(ascending=False, kind="stable").index]
    count = max(1, min(count, len(order) // 3))  # or, of few scores, the best would be among the worst
    middle, worst = max(0, (len(order) - count) // 2), dict.fromkeys(order[-count:], "worst")
    labels = dict.fromkeys(order[middle:][:count], "median") | dict.fromkeys(order[:count], "best") | worst
    return {index: labels[index] for index in order if index in labels}


def captions(rows: pd.DataFrame) -> dict[int, str]:
    """Return the captions of the best, median and worst images with foreground, by row number."""
    labels = extremes(rows["iou"].where(rows["foreground"] > 0)) or {0: "empty"}
    return {k: f"{word}\n{rows['id'][k]}\nIoU {rows['iou'][k]:.3f}" for k, word in labels.items()}
