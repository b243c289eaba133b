"""A data set made ready: listed, split, decoded, and what was left out on the way. Needs no torch."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from seglab.contract import ContractError, require
from seglab.data.dataset import Dataset, Decoded, Item
from seglab.data.decode import decode_item, decode_once
from seglab.data.parallel import each
from seglab.data.sources import RandomPatches, Tiles, Whole
from seglab.data.split import SPLITS, Splits, split_by_group, split_from_file
from seglab.data.store import FORMER, RECORDS, build, is_finished, on_disk, open_store


@dataclass(frozen=True)
class Opened:
    """The splits of a data set, and the decoded pixels of their items by id; `skipped` says why others are left out."""

    dataset: Dataset
    splits: Splits
    decoded: dict[str, Decoded]
    skipped: dict[str, str]
    fingerprint: str
    note: str = ""

    def images(self, split: str) -> list[Decoded]:
        """Give the decoded images of one split."""
        return [self.decoded[item.id] for item in self.splits[split]]

    def source(self, split: str) -> Whole:
        """Make samples of one split's images: whole, or as squares, drawn at random for training and else tiles."""
        kind = Whole if self.dataset.fit != "patch" else RandomPatches if split == "train" else Tiles
        return kind(self.images(split), self.dataset)

    def foreground(self, split: str) -> np.ndarray:
        """Give the fraction of foreground of each of one split's items."""
        return np.array([image.foreground for image in self.images(split)])

    def facts(self) -> dict[str, Any]:
        """Give counts per split, the training pixels' fraction of foreground, what was skipped, and the fingerprint."""
        foreground = {split: self.foreground(split) for split in SPLITS}
        return {
            "images": {split: len(foreground[split]) for split in SPLITS},
            "empty_masks": {split: int((foreground[split] == 0).sum()) for split in SPLITS},
            "foreground": float(foreground["train"].mean()) if len(foreground["train"]) else 0.0,
            "skipped": len(self.skipped),
            "skipped_why": dict(Counter(self.skipped.values()).most_common(20)),
            "fingerprint": self.fingerprint,
        }

    def warnings(self) -> list[str]:
        """Say in sentences what looks wrong about the masks and the splits, or will be slow."""
        found = [sentence for split in SPLITS for sentence in mask_warnings(split, self.foreground(split))]
        return [self.note, *found] if self.note else found


class Selection(NamedTuple):
    """The items to decode, in the order of their ids, the split they belong to, and why others are left out."""

    dataset: Dataset
    items: list[Item]
    splits: Splits
    skipped: dict[str, str]
    listed: int

    @property
    def fingerprint(self) -> str:
        """Name the decoded pixels: by the reading options, and each item's labels and source files as they are now."""
        digest = blake2b(self.dataset.reading_options().encode(), digest_size=10)
        for item in self.items:
            files = [(os.path.basename(path), *on_disk(path)) for path in item.files]
            digest.update(f"{item.id} {item.labels} {files}".encode())
        return digest.hexdigest()


def select_items(dataset: Dataset, as_test: bool = False) -> Selection:
    """List and split a data set without decoding any of it; `as_test` makes one test set of all that is labeled."""
    items = dataset.items()
    raise_on_faults([item.fault for item in items if item.fault], len(items), dataset)
    splits = Splits(test=items) if as_test else split_items(items, dataset)
    skipped = {item.id: item.fault or item.left_out for item in items if item.fault or item.left_out}
    skipped |= dict.fromkeys((item.id for item in splits.conflicting), "its group is in the test set")
    wanted = sorted((item for item in splits.all() if item.id not in skipped), key=lambda item: item.id)
    return Selection(dataset, wanted, splits, skipped, len(items))


def split_items(items: list[Item], dataset: Dataset) -> Splits:
    """Split a data set as its frozen file says, or by group where it has none."""
    if dataset.split_file:
        return split_from_file(items, dataset.split_file)
    return split_by_group(items, dataset.val_fraction, dataset.test_fraction, dataset.split_seed)


def open_data(dataset: Dataset, as_test: bool = False) -> Opened:
    """List, split and decode a data set; raises one sentence for the first thing that is not as it should be."""
    chosen = select_items(dataset, as_test)
    fingerprint = chosen.fingerprint
    items, note = decode_items(chosen.items, dataset, fingerprint)
    faults = {item.id: item.left_out for item in items if item.left_out}
    raise_on_faults(list(faults.values()), chosen.listed, dataset)
    decoded, skipped = {item.id: item.decoded for item in items if item.decoded}, chosen.skipped | faults
    return Opened(dataset, chosen.splits.without(skipped), decoded, skipped, fingerprint, note)


def decode_items(items: list[Item], dataset: Dataset, fingerprint: str) -> tuple[list[Item], str]:
    """Give each item its decoded pixels, or why it is left out; and a note where that makes every use slow.

    Pixels that are decoded already stay where they are, those without files are kept in memory, others in the cache.
    Without a cache, or where it would take too much space, images are decoded at every use.
    """
    if dataset.fit == "patch" and dataset.reduce == 1 and all(item.decoded for item in items):
        return items, ""
    in_memory, note = not any(item.files for item in items), ""
    if dataset.cache_dir is not None and not in_memory:
        folder = Path(dataset.cache_dir) / fingerprint
        need = 0 if is_finished(folder) else cache_bytes(items, dataset) / 1e9
        if need <= dataset.cache_gb:
            return cached(items, dataset, folder, int((dataset.cache_gb - need) * 1e9)), ""
        cause = f"the cache would take {need:.1f} GB, and dataset.cache_gb is {dataset.cache_gb:g}"
        note = f"every image is decoded at every use: {cause}"
    return each(partial(decode_once, dataset=dataset, in_memory=in_memory), items, "decode"), note


def cached(items: list[Item], dataset: Dataset, folder: Path, limit: int) -> list[Item]:
    """Open a folder of decoded items; one that is not finished is built, beside others of at most `limit` bytes."""
    if not is_finished(folder):
        if any((folder / name).exists() for name in FORMER):  # a cache of version 1
            shutil.rmtree(folder)
        make_room(folder, limit)
        build(items, dataset, folder)
    os.utime(folder / RECORDS)
    return open_store(folder)


def cache_bytes(items: Sequence[Item], dataset: Dataset) -> int:
    """Say how many bytes the cache of these items takes; for patches a guess from the first that can be read."""
    if dataset.fit != "patch":
        return len(items) * dataset.size**2 * (dataset.channels * dataset.bits // 8 + 1)
    for item in items:
        try:
            return len(items) * sum(array.nbytes for array in decode_item(item, dataset))
        except ContractError:
            continue
    return 0


def make_room(folder: Path, limit: int) -> None:
    """Remove the caches beside a folder that nobody has used for longest, until the rest take at most `limit` bytes."""
    caches = [cache for cache in folder.parent.glob("[0-9a-f]" * 20) if cache != folder]  # names are fingerprints
    total = 0
    for cache in sorted(caches, key=last_use, reverse=True):
        total += sum(on_disk(path)[0] for path in cache.rglob("*"))
        if total > limit:
            shutil.rmtree(cache, ignore_errors=True)


def last_use(cache: Path) -> int:
    """Say when a cache was used last, one of version 1 too, in ns."""
    return max(on_disk(cache / name)[1] for name in (RECORDS, *FORMER))


def raise_on_faults(faults: list[str], count: int, dataset: Dataset) -> None:
    """Raise for faults unless they are to be skipped: how many, and the first few."""
    require(
        not faults or dataset.on_bad_item == "skip",
        "dataset",
        "every image and mask to be usable",
        f"{len(faults)} of {count} that are not: " + " | ".join(faults[:3]),
        "dataset.on_bad_item=skip leaves them out",
    )


def mask_warnings(split: str, foreground: np.ndarray) -> list[str]:
    """Say in sentences what looks wrong about the masks of one split, from their fractions of foreground."""
    if not len(foreground):
        return [f"{split}: no images"]
    remedy = "look at what the data set calls foreground (dataset.threshold, mask_value, target, coverage)"
    full = int((foreground == 1).sum())
    if not foreground.any():
        return [f"{split}: no mask has any foreground; {remedy}"]
    return [f"{split}: {full} of {len(foreground)} masks are foreground everywhere; {remedy}"] if full else []
