"""Match masks to images by what their names have in common, or by a CSV table that names both."""

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from os.path import basename, commonprefix
from pathlib import Path

from seglab.contract import ContractError, require

COLUMNS = ("image", "mask", "split", "group")  # of a table; the first two are required, and any others are ignored


def affix(prefix: str, suffixes: Sequence[str]) -> re.Pattern[str]:
    """Return a pattern for names of the form folder, prefix, core and suffix, with the groups `folder` and `core`.

    If several suffixes match, the longest one is taken.
    """
    ends = "|".join(map(re.escape, suffixes))
    return re.compile(rf"(?P<folder>(?:[^/]*/)*){re.escape(prefix)}(?P<core>[^/]+?)(?:{ends})")


def proposal(images: Sequence[str], masks: Sequence[str]) -> str:
    """Suggest options that make masks match images, from their names without suffixes; "" if no rule is found.

    Both are the same names if images and masks share a folder.
    """
    some, apart = sorted(masks)[:200], set(images) != set(masks)  # a sample of many names is enough
    longer = [(image, mask) for mask in some for image in images if mask.startswith(image) and mask != image]
    # Reversed: the shortest prefix wins (in one folder 1_mask is an image, too); none before a digit, such as 1 of 12.
    rests = {mask: mask[len(image) :] for image, mask in sorted(longer, reverse=True) if not mask[len(image)].isdigit()}
    kinds = sorted(Counter(rests.values()))
    if kinds and len(kinds) <= 5 and len(rests) >= len(some) / (2 if apart else 3):
        words = "every mask name ends" if len(rests) == len(some) and len(kinds) == 1 else "mask names end"
        return f"{words} in {' or '.join(kinds)}: set {option('mask_suffix', *kinds)}"
    named = {"image": images, "mask": masks}
    for kind, step in (("suffix", 1), ("prefix", -1)) if apart else ():  # a prefix is a suffix of the reversed names
        firsts = {word: basename(min(names))[::step] for word, names in named.items()}
        core = re.sub(r"[\W_]+$", "", commonprefix(list(firsts.values())))  # noqa: RUF071, characters are meant
        ends = {word: first[len(core) :] for word, first in firsts.items() if first != core}
        fits = all(basename(name)[::step].endswith(end) for word, end in ends.items() for name in named[word])
        if core and ends and fits:
            way = "ends in" if step == 1 else "begins with"
            seen = " and ".join(f"every {word} name {way} {end[::step]}" for word, end in ends.items())
            return f"{seen}: set {' '.join(option(f'{word}_{kind}', end[::step]) for word, end in ends.items())}"
    return ""


def read_text(file: Path) -> str:
    """Read a UTF-8 text, with or without a byte order mark; raises ContractError for another encoding."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        kind = "CSV UTF-8" if file.suffix == ".csv" else "UTF-8"  # as Excel calls it
        raise ContractError(f"{file}: expected a text file in UTF-8, got another encoding; save it as {kind}") from None


def option(name: str, *values: str) -> str:
    """Format an option with one value, or with a list, for use in a shell."""
    word = f"dataset.{name}={values[0] if len(values) == 1 else '[' + ','.join(values) + ']'}"
    return word if re.fullmatch(r"[\w.+=-]*", word) else f"'{word}'"


def read_rows(table: Path, root: Path) -> list[tuple[Path, list[Path], str, str]]:
    """Read the rows of a table with the columns `image` and `mask` and, optionally, `split` and `group`.

    Paths are absolute or relative to `root`. An empty cell means no mask; a missing split or group is "". Raises
    ContractError for a table without rows or columns, an image named twice, or an unknown split.
    """
    require(table.is_file(), "dataset.table", "a CSV file that exists", table)
    text = read_text(table)
    separator = max(",;\t", key=text.partition("\n")[0].count)  # spreadsheets use ; where a comma separates decimals
    rows = csv.DictReader(io.StringIO(text), delimiter=separator)
    names = [str(name).strip() for name in rows.fieldnames or ()]
    rows.fieldnames = names
    columns = "columns image and mask, and optionally split and group"
    require({"image", "mask"} <= set(names), str(table), columns, ", ".join(names) or "none")
    texts = [{name: (row.get(name) or "").strip() for name in COLUMNS} for row in rows]
    require(bool(texts), str(table), "a row for each image", "none")
    images = Counter(text["image"] for text in texts)
    twice = sorted(image or "an empty cell" for image, count in images.items() if count > 1 or not image)
    require(not twice, str(table), "a different image in each row", ", ".join(twice[:3]))
    others = sorted({text["split"] or "an empty cell" for text in texts} - {"train", "val", "test"})
    all_or_none = not others or not any(text["split"] for text in texts)
    require(all_or_none, str(table), "train, val or test in each cell of split, or all empty", ", ".join(others[:3]))
    return [(root / t["image"], [root / t["mask"]] if t["mask"] else [], t["split"], t["group"]) for t in texts]
