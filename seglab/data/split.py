"""Which images train, which choose the checkpoint, and which are never seen before the end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from seglab.contract import require
from seglab.data.items import Item

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Splits:
    """The three parts of a data set."""

    train: list[Item] = field(default_factory=list)
    val: list[Item] = field(default_factory=list)
    test: list[Item] = field(default_factory=list)
    conflicting: list[Item] = field(default_factory=list)
    """Images that the data set itself puts outside the test set although their group is in it: left out."""

    def all(self) -> list[Item]:
        """Give the items of all three parts."""
        return [*self.train, *self.val, *self.test]

    def without(self, ids: Container[str]) -> Splits:
        """Give the same parts less some items."""
        return Splits(
            *([item for item in getattr(self, part) if item.id not in ids] for part in SPLITS), self.conflicting
        )

    def ids(self) -> dict[str, list[str]]:
        """Give the split as plain data: part to the ids of its images; what a `split_file` holds."""
        return {part: [item.id for item in getattr(self, part)] for part in SPLITS}


def split(items: Sequence[Item], val_fraction: float, test_fraction: float, split_seed: int) -> Splits:
    """Divide items by group, keeping the parts that the data set itself names.

    A part without images of its own is drawn: test from all, validation from the training images. Groups are ranked
    by a hash of seed and name, so that an image added later moves none of the others across by chance alone. Where a
    data set's own test part holds a group that it trains on as well, the test part is kept, the rest is `conflicting`.
    """
    test = [item for item in items if item.split == "test"]
    val = [item for item in items if item.split == "val"]
    train = [item for item in items if item.split in ("", "train")]
    if not test:
        test, train = draw(train, test_fraction, f"test {split_seed}")
    kept_apart = groups_of(test)
    conflicting = [item for item in [*train, *val] if item.group in kept_apart]
    train, val = ([item for item in part if item.group not in kept_apart] for part in (train, val))
    if not val:
        val, train = draw(train, val_fraction, f"val {split_seed}")
    parts = Splits(train, val, test, conflicting)
    check(parts)
    return parts


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


def from_file(items: Sequence[Item], path: str) -> Splits:
    """Divide items as a frozen split says; items that it does not name are left out."""
    require(Path(path).is_file(), "dataset.split_file", "a file that exists", path)
    known = {item.id: item for item in items}
    named = json.loads(Path(path).read_text())
    whole = isinstance(named, dict) and set(named) == set(SPLITS)
    require(whole, f"split file {path}", "a JSON object of train, val and test")
    absent = [name for part in SPLITS for name in named[part] if name not in known]
    require(not absent, f"split file {path}", "ids of this data set", f"{len(absent)} unknown ones, first {absent[:3]}")
    parts = Splits(**{part: [known[name] for name in named[part]] for part in SPLITS})
    check(parts)
    return parts


def check(parts: Splits) -> None:
    """Raise where an id occurs twice or a group lies in two parts."""
    counts = Counter(item.id for part in SPLITS for item in getattr(parts, part))
    twice = [name for name, count in counts.items() if count > 1]
    require(not twice, "dataset", "every id once", f"{len(twice)} repeated ones, first {twice[:3]}")
    conflicting = leaks(parts)
    require(
        not conflicting,
        "dataset",
        "each group in one part of the split",
        f"{len(conflicting)} conflicting ones, first {conflicting[:3]}",
    )


def leaks(parts: Splits) -> list[str]:
    """List the groups that lie in more than one part."""
    groups = [groups_of(getattr(parts, part)) for part in SPLITS]
    return sorted((groups[0] & groups[1]) | (groups[0] & groups[2]) | (groups[1] & groups[2]))


def groups_of(items: Iterable[Item]) -> set[str]:
    """Give the set of groups among the items."""
    return {item.group for item in items}
