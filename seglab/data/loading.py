"""From numbers of samples to a batch: the part that runs in the data workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from seglab.contract import Task
from seglab.data.augment import Augment
from seglab.data.distance_maps import MAPS
from seglab.data.sources import Whole
from seglab.images.labels import map_layers
from seglab.images.resize import to_units

Batch = dict[str, Any]
BINARY = Task()


@dataclass(frozen=True)
class Samples(Dataset):
    """One split: how its samples are made of its images, and the images' ids."""

    source: Whole
    ids: list[str]
    augment: Augment | None
    needs: tuple[str, ...]
    seed: int
    soft: bool = False
    task: Task = BINARY

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, pair: tuple[int, int]) -> Batch:
        return self.__getitems__([pair])

    def __getitems__(self, pairs: Sequence[tuple[int, int]]) -> Batch:
        """Make a batch at once: image (b,c,h,w), target (b,k,h,w), id, index int64 (b,), and what is needed.

        The image is uint8, or float32 in the same units (0 to 255) where the data set keeps 16 bits; the target uint8,
        or float32 where it is soft; of classes that exclude each other their numbers (b,1,h,w). `index` is the image's
        number in the split: patches of one image share it and `id`. `valid` (b,1,h,w) bool, absent where all pixels
        count, leaves out those without a label or data, padding, and of tiles those that an earlier tile has.
        """
        image, target, valid = self.read(pairs)
        if self.augment is not None:
            image, target, valid = self.augment(image, target, valid, self.seed, pairs)
        indices = [index for _, index in pairs]
        numbers = [self.source.number(index) for index in indices]
        batch: Batch = {
            "image": image,
            "target": target.float() / 255 if self.soft else target,
            "id": [self.ids[number] for number in numbers],
            "index": torch.tensor(numbers, dtype=torch.int64),
        }
        if valid is not None:
            batch["valid"] = valid
        masks = target.cpu().numpy() if self.needs else ()
        for name in self.needs:
            maps = [
                map_layers(MAPS[name], mask[0] if len(mask) == 1 else mask.transpose(1, 2, 0), self.task)
                for mask in masks
            ]
            batch[name] = torch.from_numpy(np.stack(maps)).to(target.device)
        return batch

    def read(self, pairs: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Give the image, target (uint8) and valid mask of some samples, before anything is changed."""
        images, masks, valid = self.source.batch(pairs, self.seed)
        image = torch.from_numpy(to_units(images)).permute(0, 3, 1, 2)
        target = torch.from_numpy(masks)
        target = target[:, None] if target.dim() == 3 else target.permute(0, 3, 1, 2).contiguous()
        return image, target, None if valid is None else torch.from_numpy(valid)[:, None]


def one_thread(worker: int) -> None:
    """Keep a data worker to one thread: the cores are shared out among the workers already."""
    import cv2

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
