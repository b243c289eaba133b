"""Loaders of the first batches of a split (`trainer.limit_val_batches` and its siblings), of whole images."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader

from seglab.contract import require
from seglab.data.module import DataModule


def limited_loader(data: DataModule, split: str, limit: float | None) -> DataLoader[Any]:
    """The batches of a split up to a number (int) or a fraction (float) of them; None gives all.

    Lightning would stop in the middle of a scan whose tiles fill several batches, and its row would describe a part of
    it. Of training all are given: Lightning takes so many of them, in each epoch others. A ContractError where the
    fraction leaves none.
    """
    loader = data.loader(split)
    batches: Any = loader.batch_sampler
    if limit is not None:
        count = limit if isinstance(limit, int) else int(limit * len(batches))
        some = f"at least one of the {len(batches)} batches"
        require(count > 0, f"trainer.limit_{split}_batches", some, limit, f"set trainer.limit_{split}_batches=1")
        if split != "train":
            batches.limit(count, data.samples(split).source.number)
    return loader
