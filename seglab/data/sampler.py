"""The order of the samples, as a function of seed and epoch alone, and how batches are cut from it."""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
from torch import distributed
from torch.utils.data import Sampler


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Yield batches of (epoch, index) pairs, so that a sample knows its epoch in whatever process it is made.

    Shuffled anew each epoch for training, in order for evaluation. With several processes each takes every k-th sample;
    while training the short ones begin again, in evaluation no image comes twice. All have as many batches, although
    one may have a sample more than another: one that ran out first would leave the others waiting in the next
    collective operation. In training a last batch of one joins the one before it, since a batch norm cannot learn from
    a single value of a channel. In evaluation a batch has one more than asked for where another process had none else.

    processes: how many there will be; torch.distributed knows it only once they have started.
    """

    def __init__(self, length: int, seed: int, shuffle: bool, batch_size: int, processes: int = 1) -> None:
        self.length, self.seed, self.shuffle, self.batch_size, self.epoch = length, seed, shuffle, batch_size, 0
        self.processes = processes

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass; Lightning calls this."""
        self.epoch = epoch if self.shuffle else 0

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rank, world, order = rank_and_world()[0], self.processes, np.arange(self.length)
        if self.shuffle:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
            order = np.resize(order, self.most * world)  # begins again where it is short
        pairs, count = [(self.epoch, index) for index in order[rank::world].tolist()], len(self)
        if world == 1:
            cuts = [*range(0, count * self.batch_size, self.batch_size), len(pairs)]
        else:  # evenly: of full batches the last one of a process with fewer samples may be empty
            cuts = [round(k * len(pairs) / count) for k in range(count + 1)]
        return iter([pairs[start:stop] for start, stop in pairwise(cuts)])

    @property
    def most(self) -> int:
        """The number of samples of a process that has not one less than others."""
        return math.ceil(self.length / self.processes)

    def __len__(self) -> int:
        joined = 1 if self.shuffle and 1 < self.batch_size < self.most else 0
        count = math.ceil((self.most - joined) / self.batch_size)
        # a process with fewer samples than batches would have an empty one
        return count if self.shuffle else min(count, self.length // self.processes)

    def limit(self, batches: int, image_of: Callable[[int], int]) -> None:
        """Keep so many batches of each process, and the rest of the image whose tiles the last of them begins.

        image_of: gives the image of an index.
        """
        kept = min(batches * self.batch_size * self.processes, self.length)
        while kept < self.length and image_of(kept) == image_of(kept - 1):
            kept += 1
        self.length = kept

    @property
    def joins(self) -> bool:
        """Whether the last batch has one pair more than the others."""
        return len(self) * self.batch_size < self.most


def rank_and_world() -> tuple[int, int]:
    """Give this process's rank and the number of processes."""
    return (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)
