"""A data set as Lightning wants it."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from seglab.contract import require
from seglab.data.augment import Augment
from seglab.data.base import Dataset
from seglab.data.facts import Foreground, doubts, foreground
from seglab.data.loading import Batch, Samples, loader
from seglab.data.maps import MAPS
from seglab.data.split import PARTS, Splits, from_file, split
from seglab.data.store import Store, in_memory


class DataModule(pl.LightningDataModule):
    """The three parts of a data set as batches, and the facts about them.

    `needs` names the maps that the loss wants (see maps.py). `start_method` chooses how workers start (fork, spawn,
    forkserver; None is the platform's own); no batch depends on it, nor on `workers`.
    """

    splits: Splits
    store: Store

    def __init__(
        self,
        dataset: Dataset,
        augment: Augment | None = None,
        batch_size: int = 8,
        workers: int = 0,
        seed: int = 1,
        needs: tuple[str, ...] = (),
        start_method: str | None = None,
    ) -> None:
        super().__init__()
        require(batch_size >= 1, "data", "batch_size of at least 1", batch_size)
        require(workers >= 0, "data", "workers of at least 0", workers)
        unknown = [name for name in needs if name not in MAPS]
        require(not unknown, "data", f"needs among {', '.join(MAPS)}", unknown)
        self.dataset = dataset
        self.augment = augment if augment and augment.transforms() else None
        self.batch_size = batch_size
        self.workers = workers
        self.seed = seed
        self.needs = tuple(needs)
        self.start_method = start_method
        self.measured: dict[str, Foreground] = {}

    def setup(self, stage: str | None = None) -> None:
        """List, split and decode; a second call does nothing."""
        if self.measured:
            return
        data = self.dataset
        items = data.items()
        self.splits = (
            from_file(items, data.split_file)
            if data.split_file
            else split(items, data.val_fraction, data.test_fraction, data.split_seed)
        )
        self.store = in_memory([item for part in PARTS for item in getattr(self.splits, part)], data)
        self.measured = {part: foreground(self.store, self.rows(part)) for part in PARTS}

    def rows(self, part: str) -> list[int]:
        """Give the numbers of one part's images in the store: train comes first, then val, then test."""
        lengths = [len(getattr(self.splits, name)) for name in PARTS]
        start = sum(lengths[: PARTS.index(part)])
        return list(range(start, start + lengths[PARTS.index(part)]))

    def facts(self) -> dict[str, Any]:
        """Give the counts of images and of empty masks per part, and the foreground share of the training pixels."""
        return {
            "images": {part: measured.count for part, measured in self.measured.items()},
            "empty_masks": {part: measured.empty for part, measured in self.measured.items()},
            "foreground": self.measured["train"].mean,
        }

    def warnings(self) -> list[str]:
        """Say in sentences what looks wrong about the masks."""
        return [sentence for part, measured in self.measured.items() for sentence in doubts(part, measured)]

    def samples(self, part: str) -> Samples:
        """Make one part's samples; only training images are changed at random."""
        augment = self.augment if part == "train" else None
        ids = [item.id for item in getattr(self.splits, part)]
        return Samples(self.store, self.rows(part), ids, augment, self.needs, self.seed)

    def loader(self, part: str) -> DataLoader[Batch]:
        """Make one part's loader, in random order for training."""
        return loader(self.samples(part), self.batch_size, self.workers, part == "train", self.start_method)

    def train_dataloader(self) -> DataLoader[Batch]:
        return self.loader("train")

    def val_dataloader(self) -> DataLoader[Batch]:
        return self.loader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        return self.loader("test")
