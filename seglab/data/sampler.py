"""The order of the samples, determined by seed and epoch only, and its division into batches."""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
from torch import distributed
from torch.utils.data import Sampler


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """A sampler of batches of (epoch, index) pairs, so that a sample knows its epoch in any worker process.

    The order is shuffled each epoch for training, and fixed for evaluation.

    With several processes, each takes every k-th sample; those with fewer start over in training, while evaluation
    repeats no image. All have the same number of batches, even if one has a sample more: a process that finished early
    would leave the others waiting in the next collective operation.

    In training, a last batch of one joins the one before it, since batch norm cannot learn from a single value per
    channel. In evaluation, a batch may exceed `batch_size` by one so that no process has an empty one.

    Args:
        processes: number of processes; torch.distributed only knows it once they have started.
    """

    def __init__(self, length: int, seed: int, shuffle: bool, batch_size: int, processes: int = 1) -> None:
        self.length, self.seed, self.shuffle, self.batch_size, self.epoch = length, seed, shuffle, batch_size, 0
        self.processes = processes

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next pass; called by Lightning."""
        self.epoch = epoch if self.shuffle else 0

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rank, world, order = rank_and_world()[0], self.processes, np.arange(self.length)
        if self.shuffle:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
            order = np.resize(order, self.most * world)  # wraps around if it is too short
        pairs, count = [(self.epoch, index) for index in order[rank::world].tolist()], len(self)
        if world == 1:
            cuts = [*range(0, count * self.batch_size, self.batch_size), len(pairs)]
        else:  # evenly: with full batches, the last one of a process with fewer samples may be empty
            cuts = [round(k * len(pairs) / count) for k in range(count + 1)]
        return iter([pairs[start:stop] for start, stop in pairwise(cuts)])

    @property
    def most(self) -> int:
        """The largest number of samples of any process."""
        return math.ceil(self.length / self.processes)

    def __len__(self) -> int:
        joined = 1 if self.shuffle and 1 < self.batch_size < self.most else 0
        count = math.ceil((self.most - joined) / self.batch_size)
        # a process with fewer samples than batches would have an empty one
        return count if self.shuffle else min(count, self.length // self.processes)

    def limit(self, batches: int, image_of: Callable[[int], int]) -> None:
        """Keep this many batches per process, and the remaining tiles of the image in which the last of them ends.

        image_of: maps an index to the number of its image.
        """
        length = min(batches * self.batch_size * self.processes, self.length)
        while length < self.length and image_of(length) == image_of(length - 1):
            length += 1
        self.length = length

    @property
    def joins(self) -> bool:
        """Whether some batch has more than `batch_size` samples."""
        return len(self) * self.batch_size < self.most


def rank_and_world() -> tuple[int, int]:
    """Return the rank of this process and the number of processes."""
    return (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)
