"""Build batches from the numbers of samples: the part that runs in the data workers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from seglab.contract import require
from seglab.data.augment import Augment
from seglab.data.distance_maps import MAPS
from seglab.data.sources import Whole
from seglab.images.labels import map_layers
from seglab.images.resize import to_units

Batch = dict[str, Any]
Held = tuple[Tensor, Tensor, Tensor | None]  # of a split: images (n, h, w, c), targets (n, k, h, w), valid (n, 1, h, w)
_held: dict[str, tuple[tuple[str, str, list[str]], Held]] = {}  # latest dataset, by split: its identity and its tensors


@dataclass(frozen=True)
class Samples(Dataset):
    """The samples of one split: how they are made from its images, and the ids of the images."""

    source: Whole
    ids: list[str]
    augment: Augment | None
    needs: tuple[str, ...]
    seed: int
    held: Held | None = None

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, pairs: Sequence[tuple[int, int]]) -> Batch:
        """Build a whole batch: image (b,c,h,w), target (b,k,h,w), id, index int64 (b,), and the maps in `needs`.

        The image is uint8, or float32 in the same units (0 to 255) if the dataset keeps 16 bits. The target is uint8,
        or float32 if it is soft; for mutually exclusive classes it is their numbers (b,1,h,w). `index` is the image's
        number in the split: patches of one image share it and `id`. `valid` (b,1,h,w) bool, absent if all pixels are
        valid, excludes pixels without label or data, padding, and pixels of a tile that an earlier tile covers.
        """
        image, target, valid = self.read(pairs)
        if self.augment is not None:
            image, target, valid = self.augment(image, target, valid, self.seed, pairs)
        numbers, dataset = [self.source.number(index) for _, index in pairs], self.source.dataset
        batch: Batch = {
            "image": image,
            "target": target.float() / 255 if dataset.soft else target,
            "id": [self.ids[number] for number in numbers],
            "index": torch.tensor(numbers, dtype=torch.int64),
        }
        if valid is not None:
            batch["valid"] = valid
        for name in self.needs:
            masks = batch["target"].permute(0, 2, 3, 1).cpu().numpy()
            masks = masks[..., 0] if masks.shape[3] == 1 else masks
            maps = [map_layers(MAPS[name], mask, dataset.task) for mask in masks]
            batch[name] = torch.from_numpy(np.stack(maps)).to(target.device)
        return in_shared_memory(batch) if get_worker_info() else batch

    def read(self, pairs: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the image, target (uint8) and valid mask of some samples, before any augmentation."""
        if self.held is not None:
            image, target, held_valid = self.held
            rows = torch.tensor([index for _, index in pairs]).to(image.device, non_blocking=True)
            return image[rows].permute(0, 3, 1, 2), target[rows], None if held_valid is None else held_valid[rows]
        images, masks, valid = self.source.batch(pairs, self.seed)
        image = torch.from_numpy(to_units(images)).permute(0, 3, 1, 2)
        target = torch.from_numpy(masks if masks.ndim == 4 else masks[..., None]).permute(0, 3, 1, 2).contiguous()
        return image, target, None if valid is None else torch.from_numpy(valid)[:, None]


def in_shared_memory(batch: Batch) -> Batch:
    """Move the tensors of a data worker's batch to shared memory; raises ContractError if it is full.

    The thread of the worker that sends batches would do it, too, but print an error and drop the batch, for which the
    training process would wait forever.
    """
    try:
        for tensor in filter(torch.is_tensor, batch.values()):
            tensor.share_memory_()
    except RuntimeError as error:
        remedy = "set workers=0, or enlarge /dev/shm (docker run --shm-size=2g)"
        require(False, "workers", "room for batches in shared memory", str(error).splitlines()[0], remedy)
    return batch


def hold(samples: Samples, fingerprint: str, split: str, device: torch.device) -> Samples:
    """Return samples of whole images held on a device, copied there once for all runs of a sweep in a process."""
    key = (fingerprint, str(device), samples.ids)  # another seed or fold of the split gives other images
    if split not in _held or _held[split][0] != key:
        for name, (held_key, _) in list(_held.items()):
            if name == split or held_key[:2] != key[:2]:  # other splits of the same dataset stay
                del _held[name]
        image, target, valid = samples.read([(0, index) for index in range(len(samples))])
        image = image.permute(0, 2, 3, 1)  # channels last: indexing rows keeps it without a copy
        _held[split] = key, (image.to(device), target.to(device), None if valid is None else valid.to(device))
    return replace(samples, held=_held[split][1])


def one_thread(worker: int) -> None:
    """Limit a data worker to one thread, because the cores are already divided among the workers."""
    cv2.setNumThreads(0)  # OpenCV runs in the calling thread
    torch.set_num_threads(1)
