"""Open a dataset: list, split and decode it, and record what is left out. Does not import torch."""

import math
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from seglab.contract import ContractError, require
from seglab.data.dataset import IDENTITY, VERSION, Dataset, Decoded, Item
from seglab.data.decode import decode_item, decode_once
from seglab.data.facts import data_warnings
from seglab.data.memo import content, each, on_disk, remembered
from seglab.data.ranges import FOUND, find_normalization, find_range
from seglab.data.sources import RandomPatches, Tiles, Whole
from seglab.data.split import SPLITS, Splits, split_by_fold, split_by_group, split_from_file
from seglab.data.store import LOCK, RECORDS, build, is_finished, open_store
from seglab.images.labels import has_foreground


@dataclass(frozen=True)
class Opened:
    """The splits of a dataset, the decoded pixels of their items by id, and in `skipped` why others are left out.

    `dataset` has its range and normalization resolved. `notes` are warnings besides `data_warnings`.
    """

    dataset: Dataset
    splits: Splits
    decoded: dict[str, Decoded]
    skipped: dict[str, str]
    fingerprint: str
    notes: Sequence[str] = ()

    def images(self, split: str) -> list[Decoded]:
        """Return the decoded images of one split."""
        return [self.decoded[item.id] for item in self.splits[split]]

    def source(self, split: str) -> Whole:
        """Return the samples of one split: whole images or, for patches, random squares in training and else tiles."""
        squares = RandomPatches if split == "train" else Tiles
        kind = squares if self.dataset.fit == "patch" else Whole
        return kind(self.images(split), self.dataset)

    def facts(self) -> dict[str, Any]:
        """Return counts per split, the mean foreground fraction in training, skipped items, and the fingerprint."""
        foreground = {split: np.array([image.foreground for image in self.images(split)]) for split in SPLITS}
        resolved = {name: getattr(self.dataset, name) for name in FOUND}
        return {
            "images": {split: len(foreground[split]) for split in SPLITS},
            "empty_masks": {split: int((foreground[split] == 0).sum()) for split in SPLITS},
            "foreground": float(foreground["train"].mean()) if len(foreground["train"]) else 0.0,
            "task": {"kind": self.dataset.task.kind, "classes": list(self.dataset.task.classes)},
            "class_frequency": np.mean([image.classes for image in self.images("train")] or [(0.0,)], axis=0).tolist(),
            "skipped": len(self.skipped),
            "skipped_why": dict(Counter(self.skipped.values()).most_common(20)),
            **{name: value if isinstance(value, str) else list(value) for name, value in resolved.items()},
            **({"raw": self.dataset.raw} if self.dataset.raw else {}),
            "fingerprint": self.fingerprint,
        }

    def warnings(self) -> list[str]:
        """Return at most five warnings about images, masks, splits, and what will be slow."""
        facts = {split: [image.facts for image in self.images(split)] for split in SPLITS}
        lines = [*self.notes, *data_warnings(facts, self.dataset)]
        rest = f"and {len(lines) - 4} more: python -m seglab.prepare mode=audit lists all"
        return lines if len(lines) <= 5 else [*lines[:4], rest]


class Selection(NamedTuple):
    """All items of a dataset, the splits of those to decode, and why others are left out.

    `dataset` has its range resolved; `hashes` are those of the source files, by path.
    """

    dataset: Dataset
    listed: list[Item]
    splits: Splits
    skipped: dict[str, str]
    hashes: dict[str, str]
    notes: list[str]

    @property
    def items(self) -> list[Item]:
        """The items to decode, sorted by id."""
        return sorted(self.splits.all(), key=lambda item: item.id)

    @property
    def fingerprint(self) -> str:
        """The hash that identifies the data: reading options, and each item's labels and the content of its files."""
        digest = blake2b(self.dataset.reading_options(IDENTITY).encode(), digest_size=10)
        for item in self.items:
            # Only base names, so that moved data keep their fingerprint. Items of a prepared folder are identified by
            # their labels, since its file also contains paths and an order.
            files = [(os.path.basename(path), self.hashes[path]) for path in item.files if not item.decoded]
            digest.update(f"{item.id} {item.labels} {files}".encode())
        return digest.hexdigest()


def select_items(dataset: Dataset, as_test: bool = False) -> Selection:
    """List and split a dataset without decoding it; `as_test` makes one test set of all labeled images.

    Exceptions: an `auto` range decodes images of more than 8 bits, and `stratify` and `folds` decode masks.
    """
    items = dataset.items()
    faults = {item.id: item.fault for item in items if item.fault}
    raise_on_faults(list(faults.values()), len(items), dataset)
    hashes = content([path for item in items for path in item.files], dataset.cache_dir)
    splits, skipped = divide(items, faults, hashes, dataset, as_test)
    limits, notes = find_range(dataset, splits)
    notes = [*dataset.file_warnings(items), *notes]
    return Selection(replace(dataset, range=limits), items, splits, skipped, hashes, notes)


def divide(
    items: list[Item], faults: dict[str, str], hashes: Mapping[str, str], dataset: Dataset, as_test: bool
) -> tuple[Splits, dict[str, str]]:
    """Split the items that can be used; also return why others are left out, by id."""
    usable, val, seed = [item for item in items if item.id not in faults], dataset.val_fraction, dataset.split_seed
    if as_test:
        splits = Splits(test=usable)
    elif dataset.split_file:
        splits = split_from_file(items, dataset.split_file).without(faults)  # the file may name items with faults
    elif dataset.folds > 1:
        splits = split_by_fold(usable, dataset.folds, dataset.fold, val, seed, foreground_ids(usable, dataset))
    else:
        with_foreground = foreground_ids(usable, dataset) if dataset.stratify else None
        splits = split_by_group(usable, val, dataset.test_fraction, seed, with_foreground)
    copies = {} if as_test else copies_across(splits, hashes)
    raise_on_faults(list(copies.values()), len(items), dataset)
    skipped = faults | {item.id: item.left_out for item in items if item.left_out} | copies
    skipped |= dict.fromkeys((item.id for item in splits.conflicting), "its group is in the test set")
    return splits.without(skipped), skipped


def foreground_ids(items: Sequence[Item], dataset: Dataset) -> set[str]:
    """Return the ids of images whose masks have foreground, or cannot be read; decoding reports the latter."""

    def any_foreground(k: int) -> bool:
        try:
            return has_foreground(items[k].mask())
        except ContractError:
            return True

    options = dataset.reading_options()
    names = [f"{item.id} {item.labels} {options}" for item in items]  # all that determines the masks
    flags = remembered("masks", dataset.cache_dir, [item.files for item in items], any_foreground, names)
    return {item.id for item, flag in zip(items, flags, strict=True) if flag}


def copies_across(splits: Splits, hashes: Mapping[str, str]) -> dict[str, str]:
    """Return an error, by id, for each training and validation image whose file is also in another split."""
    first: dict[str, tuple[str, str]] = {}
    copies = {}
    for split in reversed(SPLITS):  # test first, so that its images stay in it
        for item in splits[split]:
            stored = hashes[item.files[0]] if item.files else ""
            digest = item.decoded.facts["source"] if item.decoded else stored
            if not digest:  # computed, or unreadable
                continue
            first_split, first_id = first.setdefault(digest, (split, item.id))
            if first_split != split:
                got = f"its file in {split} and in {first_split} (as {first_id})"
                copies[item.id] = f"{item.id}: expected in one split, got {got}"
    return copies


def open_data(dataset: Dataset, as_test: bool = False) -> Opened:
    """List, split and decode a dataset; raises ContractError for the first problem.

    If damaged images are skipped, the split is drawn again without them.
    """
    selection = select_items(dataset, as_test)
    splits, skipped, count = selection.splits, selection.skipped, len(selection.listed)
    items, note = decode_items(selection.items, selection.dataset, selection.fingerprint)
    damaged = {item.id: item.fault for item in items if item.fault}
    if damaged:
        raise_on_faults(list(damaged.values()), count, dataset)
        faults = damaged | {item.id: item.fault for item in selection.listed if item.fault}
        splits, also_skipped = divide(selection.listed, faults, selection.hashes, dataset, as_test)
        splits, skipped = splits.without(skipped), skipped | also_skipped  # items left out before have not been decoded
    not_used = [item for item in selection.listed if item.id in skipped]
    unusable = [skipped[item.id] for item in not_used if skipped[item.id] != item.left_out]
    summary = f"{len(unusable)} of {count} images are left out; the first: {unusable[0]}" if unusable else ""
    decoded = {item.id: item.decoded for item in items if item.decoded}
    notes = [sentence for sentence in (summary, note, *selection.notes) if sentence]
    images = [decoded[item.id] for item in splits.train or splits.all()]  # a test set alone has no training images
    resolved = find_normalization(selection.dataset, images)
    return Opened(resolved, splits, decoded, skipped, selection.fingerprint, notes)


open_computed = lru_cache(maxsize=1)(open_data)  # for datasets computed in memory; shared by the runs of a sweep


def decode_items(items: list[Item], dataset: Dataset, fingerprint: str) -> tuple[list[Item], str]:
    """Return each item with its decoded pixels or why it is left out, and a note if that makes every use slow.

    Pixels that are already decoded stay where they are, items without files are kept in memory, others in the cache.
    Without a cache, or if it would take too much space, images are decoded at every use.
    """
    if dataset.fit == "patch" and dataset.reduce == 1 and all(item.decoded for item in items):  # a prepared folder
        return items, ""
    in_memory, note = not any(item.files for item in items), ""
    if dataset.cache_dir is not None and not in_memory:
        folder = Path(os.path.expanduser(dataset.cache_dir)) / cache_name(fingerprint)
        gigabytes = 0 if is_finished(folder) else cache_bytes(items, dataset) / 1e9
        if gigabytes <= dataset.cache_gb:
            return cached(items, dataset, folder, int((dataset.cache_gb - gigabytes) * 1e9)), ""
        cause = f"the cache would take {gigabytes:.1f} GB, but dataset.cache_gb is {dataset.cache_gb:g}"
        remedy = f"dataset.cache_gb={math.ceil(gigabytes)} keeps them"
        note = f"images are decoded at each start and each time they are used: {cause}; {remedy}"
    return each(partial(decode_once, dataset=dataset, in_memory=in_memory), items, "decode"), note


def cache_name(fingerprint: str) -> str:
    """Return the name of the folder of decoded data; a new version of the decoder uses another one."""
    return blake2b(f"{VERSION} {fingerprint}".encode(), digest_size=10).hexdigest()


def cached(items: list[Item], dataset: Dataset, folder: Path, limit: int) -> list[Item]:
    """Open a folder of decoded items, or build it if unfinished, deleting other caches beyond `limit` bytes."""
    if is_finished(folder):
        try:
            stored = open_store(folder)
            with suppress(OSError):  # a read-only cache
                os.utime(folder / RECORDS)  # its time tells which cache was used least recently
            return stored
        except (ContractError, OSError):  # a part of it was removed
            shutil.rmtree(folder)
    marks = [mark for name in (RECORDS, "cache.json") for mark in folder.parent.glob(f"{'[0-9a-f]' * 20}/{name}")]
    caches, total = [mark.parent for mark in marks if mark.parent != folder], 0  # cache.json: of version 1
    for cache in sorted(caches, key=lambda cache: on_disk(cache / RECORDS)[1], reverse=True):
        total += sum(on_disk(path)[0] for path in cache.rglob("*"))
        if total > limit:  # delete the least recently used ones, except one that another process builds
            with suppress(Timeout, OSError), FileLock(cache / LOCK, timeout=0):
                shutil.rmtree(cache, ignore_errors=True)
    return build(items, dataset, folder)


def cache_bytes(items: Sequence[Item], dataset: Dataset) -> int:
    """Return the size in bytes of the cache of these items; for patches, an estimate from the first readable one."""
    if dataset.fit != "patch":
        masks = dataset.task.channels if dataset.task.kind == "multilabel" else 1
        return len(items) * dataset.size**2 * (dataset.channels * dataset.bits // 8 + masks + 1)  # 1: the valid mask
    for item in items:
        try:
            return len(items) * sum(array.nbytes for array in decode_item(item, dataset) if array is not None)
        except ContractError:
            continue
    return 0


def raise_on_faults(faults: list[str], count: int, dataset: Dataset) -> None:
    """Raise ContractError with the number of faults and the first few, unless faulty items are to be skipped."""
    ok, remedy = not faults or dataset.on_bad_item == "skip", "dataset.on_bad_item=skip leaves them out"
    got = f"{len(faults)} of {count} that are not: {' | '.join(faults[:3])}"
    require(ok, "dataset", "every image and mask to be usable", got, remedy)
