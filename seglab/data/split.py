"""Split a dataset into images to train on, to choose the checkpoint by, and to test on only at the end."""

import json
import os
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import combinations
from pathlib import Path, PurePath
from unicodedata import normalize

from seglab.contract import require
from seglab.data.dataset import Item
from seglab.data.names import read_text
from seglab.files import NOT_JSON
from seglab.images.image_io import without_suffix

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Splits:
    """The three splits of a dataset, also accessible by name: `splits["val"]`."""

    train: list[Item] = field(default_factory=list)
    val: list[Item] = field(default_factory=list)
    test: list[Item] = field(default_factory=list)
    conflicting: list[Item] = field(default_factory=list)
    """Images left out because the dataset puts them outside its test set although their group is in it."""

    def __getitem__(self, split: str) -> list[Item]:
        return {"train": self.train, "val": self.val, "test": self.test}[split]

    def all(self) -> list[Item]:
        """Return the items of all three splits."""
        return [*self.train, *self.val, *self.test]

    def without(self, ids: Container[str]) -> "Splits":
        """Return the same splits without some items."""
        return replace(self, **{split: [item for item in self[split] if item.id not in ids] for split in SPLITS})

    def ids(self) -> dict[str, list[str]]:
        """Return the ids of each split's images by its name, as plain data: the content of a `split_file`."""
        return {split: [item.id for item in self[split]] for split in SPLITS}


def split_by_group(
    items: Sequence[Item],
    val_fraction: float,
    test_fraction: float,
    split_seed: int,
    foreground: Container[str] | None = None,
) -> Splits:
    """Split items by group, keeping the splits that the dataset itself names.

    A split without images of its own is drawn from the training images, the test set first. Groups are ranked by a hash
    of seed and name, so that images added later do not reshuffle the others. If a dataset's own test set shares a group
    with its other images, the test set is kept and those images are `conflicting`.
    foreground: ids of images with foreground; groups with and without foreground are then drawn separately.
    """
    test = [item for item in items if item.split == "test"]
    val = [item for item in items if item.split == "val"]
    train = [item for item in items if item.split in ("", "train")]
    if not test:
        test, train = draw(train, test_fraction, f"test {split_seed}", foreground)
    kept_apart = groups_of(test)  # a drawn test set has whole groups; a dataset's own may share some
    conflicting = [item for item in [*train, *val] if item.group in kept_apart]
    train, val = ([item for item in part if item.group not in kept_apart] for part in (train, val))
    if not val:
        val, train = draw(train, val_fraction, f"val {split_seed}", foreground)
    return checked(Splits(train, val, test, conflicting))


def draw(
    items: list[Item], fraction: float, salt: str, foreground: Container[str] | None = None
) -> tuple[list[Item], list[Item]]:
    """Draw whole groups until they hold `fraction` of the items, at least one but never the last; return (drawn, rest).

    With `foreground` (ids of images), groups with and without foreground are drawn separately.
    """
    if foreground is not None:
        with_any = groups_of(item for item in items if item.id in foreground)
        parts = ([item for item in items if (item.group in with_any) == has_any] for has_any in (True, False))
        drawn = {item.id for part in parts for item in draw(part, fraction, salt)[0]}
        return [item for item in items if item.id in drawn], [item for item in items if item.id not in drawn]
    sizes = Counter(item.group for item in items)
    ranked = sorted(sizes, key=lambda group: blake2b(f"{salt} {group}".encode(), digest_size=8).digest())
    chosen: set[str] = set()
    count, target = 0, max(round(fraction * len(items)), 1) if fraction > 0 else 0
    for group in ranked[:-1]:  # never the last, or nothing would be left to train on
        if count >= target:
            break
        chosen.add(group)
        count += sizes[group]
    return [item for item in items if item.group in chosen], [item for item in items if item.group not in chosen]


def split_by_fold(
    items: Sequence[Item],
    folds: int,
    fold: int,
    val_fraction: float,
    split_seed: int,
    foreground: Container[str] = (),
) -> Splits:
    """Divide items into `folds` test sets, ignoring the dataset's own splits, so that each item is tested in one fold.

    Groups with an image in `foreground` (ids) are dealt first, then the others, in the order of a hash of seed and
    name, each to the fold with the fewest items of that kind; validation is drawn from the other folds.
    """
    sizes = Counter(item.group for item in items)
    with_foreground = groups_of(item for item in items if item.id in foreground)
    require(len(sizes) >= folds, "dataset.folds", f"at most as many folds as groups ({len(sizes)})", folds)
    ranked = sorted(sizes, key=lambda group: blake2b(f"fold {split_seed} {group}".encode(), digest_size=8).digest())
    dealt: list[set[str]] = [set() for _ in range(folds)]
    for kind in (with_foreground, sizes.keys() - with_foreground):  # each kind is dealt evenly
        fold_sizes = [sum(sizes[group] for group in groups) for groups in dealt]
        counts = [0] * folds
        for group in (group for group in ranked if group in kind):
            chosen = min(range(folds), key=lambda k: (counts[k], fold_sizes[k]))  # ties go to the smaller fold
            dealt[chosen].add(group)
            counts[chosen] += sizes[group]
    rest = [item for item in items if item.group not in dealt[fold]]
    val, train = draw(rest, val_fraction, f"val {split_seed} {fold}", foreground)
    return checked(Splits(train, val, [item for item in items if item.group in dealt[fold]]))


def split_from_file(items: Sequence[Item], path: str) -> Splits:
    """Divide items by a fixed split file; items that it does not name are left out.

    path: a JSON object of train, val and test, or the lists train.txt, val.txt and test.txt, given by their folder or
    by one of them; each holds ids or names of image files.
    """
    listed, by_id = read_split(Path(os.path.expanduser(path))), {item.id: item for item in items}
    ids = {split: [find(name, by_id) for name in names] for split, names in listed.items()}
    unknown = [name for split in SPLITS for name, id in zip(listed[split], ids[split], strict=True) if not id]
    got = f"{len(unknown)} unknown, the first: {', '.join(unknown[:3])}"
    require(not unknown, f"split {path}", "ids of this dataset", got)
    return checked(Splits(*([by_id[id] for id in ids[split]] for split in SPLITS)))


def read_split(path: Path) -> dict[str, list[str]]:
    """Read the names in each split."""
    require(path.exists(), "dataset.split_file", "a file or folder that exists", path)
    who = f"split {path}"
    if path.is_dir() or path.suffix == ".txt":
        files = {split: (path if path.is_dir() else path.parent) / f"{split}.txt" for split in SPLITS}
        missing = [file.name for file in files.values() if not file.is_file()]
        fits = not missing and (path.is_dir() or path.stem in SPLITS)
        got = f"no {' and no '.join(missing)}" if missing else path.name
        require(fits, who, "the lists train.txt, val.txt and test.txt", got)
        texts = {split: read_text(file).splitlines() for split, file in files.items()}
        return {split: [line.strip() for line in lines if line.strip()] for split, lines in texts.items()}
    text = read_text(path)
    try:
        content = json.loads(text)
    except NOT_JSON:
        content = None
    keys = list(content) if isinstance(content, dict) else []
    lists = set(keys) == set(SPLITS) and all(isinstance(names, list) for names in content.values())
    fits = lists and all(isinstance(name, str) for names in content.values() for name in names)
    got = f"an object with the keys {', '.join(keys)}" if keys else "other content"
    require(fits, who, "a JSON object of train, val and test, each a list of names", got)
    return content


def find(name: str, known: Container[str]) -> str:
    """Return the id for a listed name, "" if none: the longest matching end of its path, with or without suffix."""
    parts = PurePath(normalize("NFC", name)).parts
    for k in range(len(parts)):
        tail = PurePath(*parts[k:])
        for candidate in (tail.as_posix(), without_suffix(tail)):  # the whole name first: an id may have a dot
            if candidate in known:
                return candidate
    return ""


def checked(splits: Splits) -> Splits:
    """Return the splits; raises ContractError if an id occurs twice or a group is in two splits."""
    groups, counts = [groups_of(splits[split]) for split in SPLITS], Counter(item.id for item in splits.all())
    faults = {
        "every id to occur once": [name for name, count in counts.items() if count > 1],
        "each group to be in one split": sorted(set().union(*(a & b for a, b in combinations(groups, 2)))),
    }
    for expected, names in faults.items():
        require(not names, "dataset", expected, f"{len(names)} in two places: {', '.join(names[:3])}")
    return splits


def groups_of(items: Iterable[Item]) -> set[str]:
    """Return the set of groups of the items."""
    return {item.group for item in items}
