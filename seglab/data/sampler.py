"""The order of the samples, as a function of seed and epoch alone."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
from torch import distributed
from torch.utils.data import Sampler


class EpochSampler(Sampler[tuple[int, int]]):
    """Yield (epoch, index) pairs, so that a sample knows its epoch in whatever process it is made.

    Shuffled anew each epoch for training, in order for evaluation. With several processes each takes every k-th; while
    training the short ones begin again so that all take the same number of steps, in evaluation no image comes twice.
    """

    def __init__(self, length: int, seed: int, shuffle: bool) -> None:
        self.length, self.seed, self.shuffle, self.epoch = length, seed, shuffle, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass; Lightning calls this."""
        self.epoch = epoch if self.shuffle else 0

    def order(self) -> list[int]:
        """Give this process's indices of the present epoch."""
        rank, world = rank_and_world()
        if not self.shuffle:
            return list(range(self.length))[rank::world]
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
        return np.resize(order, -(-self.length // world) * world)[rank::world].tolist()

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter([(self.epoch, index) for index in self.order()])

    def __len__(self) -> int:
        return len(self.order())


class EvenBatches(Sampler[list[tuple[int, int]]]):
    """Cut a sampler's pairs into batches, as many in each process although one may have a pair more than another.

    A process that ran out of batches first would leave the others waiting in the next collective operation. In training
    a last batch of one joins the one before it, since a batch norm cannot learn from a single value of a channel.
    """

    def __init__(self, sampler: EpochSampler, batch_size: int) -> None:
        self.sampler, self.batch_size = sampler, batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        pairs = list(self.sampler)
        cuts = [round(k * len(pairs) / len(self)) for k in range(len(self) + 1)]
        if rank_and_world()[1] == 1:
            cuts = [*range(0, len(self) * self.batch_size, self.batch_size), len(pairs)]
        return iter([pairs[start:stop] for start, stop in pairwise(cuts)])

    def __len__(self) -> int:
        longest = -(-self.sampler.length // rank_and_world()[1])
        joined = 1 if self.sampler.shuffle and 1 < self.batch_size < longest else 0
        return -(-(longest - joined) // self.batch_size)

    def limit(self, batches: int, image_of: Callable[[int], int]) -> None:
        """Keep so many batches, and the rest of the image whose tiles the last of them begins (`image_of` an index)."""
        kept = min(batches * self.batch_size, self.sampler.length)
        while kept < self.sampler.length and image_of(kept) == image_of(kept - 1):
            kept += 1
        self.sampler.length = kept

    @property
    def joins(self) -> bool:
        """Whether the last batch has one pair more than the others."""
        return len(self) * self.batch_size < -(-self.sampler.length // rank_and_world()[1])


def rank_and_world() -> tuple[int, int]:
    return (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)
