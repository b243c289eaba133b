"""Which images train, which choose the checkpoint, and which are never seen before the end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import combinations
from pathlib import Path

from seglab.contract import require
from seglab.data.dataset import Item

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Splits:
    """The three splits of a data set, also by name: `splits["val"]`."""

    train: list[Item] = field(default_factory=list)
    val: list[Item] = field(default_factory=list)
    test: list[Item] = field(default_factory=list)
    conflicting: list[Item] = field(default_factory=list)
    """Images that the data set itself puts outside the test set although their group is in it: left out."""

    def __getitem__(self, split: str) -> list[Item]:
        return {"train": self.train, "val": self.val, "test": self.test}[split]

    def all(self) -> list[Item]:
        """Give the items of all three splits."""
        return [*self.train, *self.val, *self.test]

    def without(self, ids: Container[str]) -> Splits:
        """Give the same splits less some items."""
        return replace(self, **{split: [item for item in self[split] if item.id not in ids] for split in SPLITS})

    def ids(self) -> dict[str, list[str]]:
        """Give the split as plain data: its names to the ids of their images; what a `split_file` holds."""
        return {split: [item.id for item in self[split]] for split in SPLITS}


def split_by_group(items: Sequence[Item], val_fraction: float, test_fraction: float, split_seed: int) -> Splits:
    """Divide items by group, keeping the splits that the data set itself names.

    A split without images of its own is drawn: test from all, validation from the training images. Groups are ranked
    by a hash of seed and name, so that an image added later moves none of the others across by chance alone. Where a
    data set's own test set holds a group that it trains on as well, the test set is kept, the rest is `conflicting`.
    """
    test = [item for item in items if item.split == "test"]
    val = [item for item in items if item.split == "val"]
    train = [item for item in items if item.split in ("", "train")]
    if not test:
        test, train = draw(train, test_fraction, f"test {split_seed}")
    kept_apart = groups_of(test)
    conflicting = [item for item in [*train, *val] if item.group in kept_apart]
    train, val = ([item for item in some if item.group not in kept_apart] for some in (train, val))
    if not val:
        val, train = draw(train, val_fraction, f"val {split_seed}")
    return checked(Splits(train, val, test, conflicting))


def draw(items: list[Item], fraction: float, salt: str) -> tuple[list[Item], list[Item]]:
    """Take whole groups until `fraction` of the items is taken, at least one, but never the last; (taken, left)."""
    sizes = Counter(item.group for item in items)
    ranked = sorted(sizes, key=lambda group: blake2b(f"{salt} {group}".encode(), digest_size=8).digest())
    taken: set[str] = set()
    count, wanted = 0, max(round(fraction * len(items)), fraction > 0)
    for group in ranked[:-1]:
        if count >= wanted:
            break
        taken.add(group)
        count += sizes[group]
    return [item for item in items if item.group in taken], [item for item in items if item.group not in taken]


def split_from_file(items: Sequence[Item], path: str) -> Splits:
    """Divide items as a frozen split says; items that it does not name are left out."""
    require(Path(path).is_file(), "dataset.split_file", "a file that exists", path)
    known = {item.id: item for item in items}
    named = json.loads(Path(path).read_text())
    whole = isinstance(named, dict) and set(named) == set(SPLITS)
    require(whole, f"split file {path}", "a JSON object of train, val and test")
    absent = [name for split in SPLITS for name in named[split] if name not in known]
    require(not absent, f"split file {path}", "ids of this data set", f"{len(absent)} unknown ones, first {absent[:3]}")
    return checked(Splits(*([known[name] for name in named[split]] for split in SPLITS)))


def checked(splits: Splits) -> Splits:
    """Give the splits back, or raise where an id occurs twice or a group lies in two of them."""
    groups = [groups_of(splits[split]) for split in SPLITS]
    faults = {
        "every id once": [name for name, count in Counter(item.id for item in splits.all()).items() if count > 1],
        "each group in one split": sorted(set().union(*(a & b for a, b in combinations(groups, 2)))),
    }
    for expected, found in faults.items():
        require(not found, "dataset", expected, f"{len(found)} in two places, first {found[:3]}")
    return splits


def groups_of(items: Iterable[Item]) -> set[str]:
    """Give the set of groups among the items."""
    return {item.group for item in items}
