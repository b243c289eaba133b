"""A data set made ready: listed, split, decoded into a store, and what was left out on the way. Needs no torch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from seglab.contract import require
from seglab.data.cache import affordable, cached, cached_scans, fingerprint
from seglab.data.dataset import Dataset
from seglab.data.items import Item
from seglab.data.patches import Drawn, Scans, Tiled
from seglab.data.prepared import Prepared, items_of, records_of, survey_scans
from seglab.data.split import SPLITS, Splits, from_file, split
from seglab.data.store import Files, Store, Survey, Whole, decode, in_memory


@dataclass(frozen=True)
class Opened:
    """The parts of a data set, the store of their pixels, and the row of each id in it.

    `shares` are the foreground shares by row; `skipped` says of each id that is left out why.
    """

    splits: Splits
    store: Store | Scans
    rows: dict[str, int]
    shares: np.ndarray
    skipped: dict[str, str]
    fingerprint: str
    note: str = ""

    def rows_of(self, part: str) -> list[int]:
        """Give the rows in the store of one part's items."""
        return [self.rows[item.id] for item in getattr(self.splits, part)]

    def source(self, part: str) -> Whole | Drawn | Tiled:
        """Cut one part's images into samples: whole, or at random for training and side by side for the rest."""
        if not isinstance(self.store, Scans):
            return Whole(self.store, self.rows_of(part))
        return (Drawn if part == "train" else Tiled)(self.store, self.rows_of(part))

    def shares_of(self, part: str) -> np.ndarray:
        """Give the foreground share of each of one part's items."""
        return self.shares[self.rows_of(part)]

    def facts(self) -> dict[str, Any]:
        """Give counts per part, the foreground share of the training pixels, what was skipped, and the fingerprint."""
        shares = {part: self.shares_of(part) for part in SPLITS}
        return {
            "images": {part: len(shares[part]) for part in SPLITS},
            "empty_masks": {part: int((shares[part] == 0).sum()) for part in SPLITS},
            "foreground": float(shares["train"].mean()) if len(shares["train"]) else 0.0,
            "skipped": len(self.skipped),
            "skipped_why": dict(Counter(self.skipped.values()).most_common(20)),
            "fingerprint": self.fingerprint,
        }

    def warnings(self) -> list[str]:
        """Say in sentences what looks wrong about the masks and the parts, or will be slow."""
        found = [sentence for part in SPLITS for sentence in mask_warnings(part, self.shares_of(part))]
        return [self.note, *found] if self.note else found


class Chosen(NamedTuple):
    """The items to decode, in the order of their ids, the split they belong to, and why others are left out."""

    items: list[Item]
    splits: Splits
    skipped: dict[str, str]
    listed: int


def select_items(dataset: Dataset, as_test: bool = False) -> Chosen:
    """List and split a data set without decoding any of it; `as_test` makes one test set of all that is labelled."""
    items = dataset.items()
    raise_on_faults([item.fault for item in items if item.fault], len(items), dataset)
    whole = Splits(test=items) if as_test else divide(items, dataset)
    skipped = {item.id: item.fault or item.left_out for item in items if item.fault or item.left_out}
    skipped |= dict.fromkeys((item.id for item in whole.conflicting), "its group is in the test set")
    wanted = sorted((item for item in whole.all() if item.id not in skipped), key=lambda item: item.id)
    return Chosen(wanted, whole, skipped, len(items))


def dataset_fingerprint(dataset: Dataset) -> str:
    """The fingerprint of the data as it lies on disk now."""
    return fingerprint(select_items(dataset).items, dataset)


def open_data(dataset: Dataset, as_test: bool = False) -> Opened:
    """List, split and decode a data set; raises one sentence for the first thing that is not as it should be."""
    wanted, whole, skipped, listed = select_items(dataset, as_test)
    mark = fingerprint(wanted, dataset)
    note = affordable(wanted, dataset, mark)
    store, survey = open_store(wanted, replace(dataset, cache_dir=None) if note else dataset, mark)
    raise_on_faults(list(survey.faults.values()), listed, dataset)
    skipped |= survey.faults
    splits = whole.without(skipped)
    return Opened(splits, store, {item.id: row for row, item in enumerate(wanted)}, survey.shares, skipped, mark, note)


def divide(items: list[Item], dataset: Dataset) -> Splits:
    """Split a data set as its frozen file says, or by group where it has none."""
    if dataset.split_file:
        return from_file(items, dataset.split_file)
    return split(items, dataset.val_fraction, dataset.test_fraction, dataset.split_seed)


def open_store(items: list[Item], dataset: Dataset, mark: str) -> tuple[Store | Scans, Survey]:
    """Choose memory for what has no files, the cache where there is one, and the files otherwise."""
    if dataset.fit == "patch":
        return open_scans(items, dataset, mark)
    if not any(item.files for item in items):
        return in_memory(items, dataset)
    if dataset.cache_dir is not None:
        return cached(items, dataset, Path(dataset.cache_dir) / mark)
    return Files(items, dataset), decode(items, dataset, lambda row, image, mask: None)


def open_scans(items: list[Item], dataset: Dataset, mark: str) -> tuple[Scans, Survey]:
    """Choose a folder of memory maps, made in the cache unless the data set is one, or the files where neither is."""
    if isinstance(dataset, Prepared) and dataset.reduce == 1:
        records = records_of(Path(dataset.root))
    elif dataset.cache_dir is not None:
        records = cached_scans(items, dataset, Path(dataset.cache_dir) / mark)
        readers = {item.id: item for item in items_of(Path(dataset.cache_dir) / mark)}
        items, dataset = [readers[item.id] for item in items], replace(dataset, reduce=1)
    else:
        records = survey_scans(items, dataset)
    known = {record["id"]: record for record in records}
    rows = [known[item.id] for item in items]
    shapes = np.array([row.get("shape", (1, 1)) for row in rows], np.int64).reshape(-1, 2)
    points = [np.array(row.get("points", ()), np.int64).reshape(-1, 2) for row in rows]
    shares = np.array([row.get("share", 0.0) for row in rows])
    return Scans(items, dataset, shapes, points), Survey(
        shares, {r["id"]: r["left_out"] for r in rows if r["left_out"]}
    )


def raise_on_faults(faults: list[str], count: int, dataset: Dataset) -> None:
    """Raise for faults unless they are to be skipped: how many, and the first few."""
    require(
        not faults or dataset.on_bad_item == "skip",
        "dataset",
        "every image and mask to be usable",
        f"{len(faults)} of {count} that are not: " + " | ".join(faults[:3]),
        "dataset.on_bad_item=skip leaves them out",
    )


def mask_warnings(part: str, shares: np.ndarray) -> list[str]:
    """Say in sentences what looks wrong about the masks of one part, from their foreground shares."""
    if not len(shares):
        return [f"{part}: no images"]
    remedy = "look at what the data set calls foreground (dataset.threshold, mask_value, target, coverage)"
    full = int((shares == 1).sum())
    if not shares.any():
        return [f"{part}: no mask has any foreground; {remedy}"]
    return [f"{part}: {full} of {len(shares)} masks are foreground everywhere; {remedy}"] if full else []
