"""The splits of a dataset as data loaders."""

from collections.abc import Callable
from functools import cached_property, partial

import numpy as np
import torch
from torch.utils.data import DataLoader

from seglab.contract import require
from seglab.data.augment import Augment
from seglab.data.dataset import Dataset
from seglab.data.decode import objects_of
from seglab.data.distance_maps import MAPS
from seglab.data.loading import Batch, Samples, hold, one_thread
from seglab.data.prepare_data import Opened, open_computed, open_data
from seglab.data.sampler import EpochBatches
from seglab.data.split import Splits


class DataModule:
    """The three splits of a dataset as data loaders, and the facts about them.

    `store` is `disk` (a memory map if the dataset has a cache), or `memory` or `device`, where all images of a split
    are held as one tensor and batches are built. `auto` is `device` on a GPU if they fill at most a quarter of its free
    memory, else `disk`. `device` is the training device. Batches depend on neither, up to rounding. `needs` names the
    maps that the loss needs (see distance_maps.py); `processes` is the number of processes that share an epoch.
    """

    def __init__(
        self,
        dataset: Dataset,
        augment: Augment | None = None,
        batch_size: int = 8,
        workers: int = 0,
        seed: int = 1,
        needs: tuple[str, ...] = (),
        store: str = "disk",
        device: torch.device | None = None,
        processes: int = 1,
    ) -> None:
        unknown = [name for name in needs if name not in MAPS]
        require(not unknown, "data", f"needs among {', '.join(MAPS)}", unknown)
        self.dataset, self.augment = dataset, None if type(augment) is Augment else augment  # the base changes nothing
        self.batch_size, self.workers, self.seed, self.needs = batch_size, workers, seed, tuple(needs)
        patches = dataset.fit == "patch" and store in ("device", "memory")
        require(not patches, "store", "disk with dataset.fit=patch, as its images differ in size", store)
        self.store, self.device, self.processes = store, device or torch.device("cpu"), processes

    @cached_property
    def opened(self) -> Opened:
        """The dataset, listed, split and decoded at first use."""
        shared = self.dataset.computed and self.dataset.split_file is None  # a split file may change
        return (open_computed if shared else open_data)(self.dataset)

    @property
    def splits(self) -> Splits:
        """The items of each split."""
        return self.opened.splits

    def objects(self, split: str) -> dict[str, Callable[[], np.ndarray]]:
        """Return, by id, functions that number an image's objects as scored, if the dataset distinguishes objects."""
        items = [item for item in self.splits[split] if item.objects]
        return {item.id: partial(objects_of, item, self.dataset) for item in items}

    def samples(self, split: str) -> Samples:
        """Return the samples of one split; only training images are augmented."""
        augment = self.augment if split == "train" else None
        ids = [item.id for item in self.splits[split]]
        return Samples(self.opened.source(split), ids, augment, self.needs, self.seed)

    def loader(self, split: str, limit: float | None = None) -> DataLoader[Batch]:
        """Return the data loader of one split, shuffled for training; batches do not depend on the number of workers.

        limit: number (int) or fraction (float) of batches to keep; in evaluation the first ones, up to the end of an
        image, whereas Lightning would stop between the tiles of an image and score only a part of it. In training,
        Lightning applies the limit itself, to other samples in each epoch. Raises ContractError if no batch is left.
        """
        samples, holder = self.samples(split), self.held_on(split)
        if holder is not None:
            samples = hold(samples, self.opened.fingerprint, split, holder)
        workers = 0 if holder is not None else self.workers
        expected, count = f"at most as many processes as images to evaluate ({len(samples.ids)})", len(samples.ids)
        require(split == "train" or not 0 < count < self.processes, "trainer.devices", expected, self.processes)
        batches = EpochBatches(len(samples), self.seed, split == "train", self.batch_size, self.processes)
        if limit is not None:
            count = limit if isinstance(limit, int) else int(limit * len(batches))  # 1 is one batch, 1.0 is all of them
            expected_batches, option = f"at least one of the {len(batches)} batches", f"trainer.limit_{split}_batches"
            require(count > 0, option, expected_batches, limit, f"set {option}=1")
            if split != "train":
                batches.limit(count, samples.source.number)
        return DataLoader(
            samples,
            batch_size=None,  # the sampler yields whole batches
            sampler=batches,
            num_workers=workers,
            pin_memory=torch.cuda.is_available() and (holder is None or holder.type == "cpu"),  # not for CUDA tensors
            worker_init_fn=one_thread,
            persistent_workers=workers > 0,  # otherwise they would restart in each epoch
            # otherwise each iterator would draw from the generator that dropout uses
            generator=torch.Generator().manual_seed(0),
        )

    def held_on(self, split: str) -> torch.device | None:
        """Return the device that holds all images of a split during training; None if they are read each time."""
        if self.store in ("memory", "device"):
            return self.device if self.store == "device" else torch.device("cpu")
        if self.store == "disk" or self.device.type != "cuda" or self.dataset.fit == "patch":
            return None
        item = self.samples(split).read([(0, 0)]) if self.splits[split] else ()
        need = len(self.splits[split]) * sum(x.nbytes for x in item if x is not None)
        return self.device if need < torch.cuda.mem_get_info(self.device)[0] / 4 else None
