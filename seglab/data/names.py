"""Match masks to images by what their names have in common, or by a CSV table that names both."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from os.path import basename, commonprefix
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seglab.contract import ContractError, require
from seglab.images.medical import one_sentence

if TYPE_CHECKING:
    import pandas as pd

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
    sample, separate = sorted(masks)[:200], set(images) != set(masks)  # 200 names are enough
    extended = [(image, mask) for mask in sample for image in images if mask.startswith(image) and mask != image]
    # Reversed: the shortest prefix wins (in one folder 1_mask is an image, too); none before a digit, such as 1 of 12.
    extended = [(image, mask) for image, mask in sorted(extended, reverse=True) if not mask[len(image)].isdigit()]
    endings = {mask: mask[len(image) :] for image, mask in extended}
    distinct = sorted(Counter(endings.values()))
    if distinct and len(distinct) <= 5 and len(endings) >= len(sample) / (2 if separate else 3):
        subject = "every mask name ends" if len(endings) == len(sample) and len(distinct) == 1 else "mask names end"
        return f"{subject} in {' or '.join(distinct)}: set {option('mask_suffix', *distinct)}"
    named = {"image": images, "mask": masks}
    for kind, step in (("suffix", 1), ("prefix", -1)) if separate else ():  # a prefix is a suffix of the reversed names
        firsts = {word: basename(min(names))[::step] for word, names in named.items()}
        core = re.sub(r"[\W_]+$", "", commonprefix(list(firsts.values())))  # noqa: RUF071, characters are meant
        ends = {word: first[len(core) :] for word, first in firsts.items() if first != core}
        fits = all(basename(name)[::step].endswith(end) for word, end in ends.items() for name in named[word])
        if core and ends and fits:
            relation = "ends in" if step == 1 else "begins with"
            description = " and ".join(f"every {word} name {relation} {end[::step]}" for word, end in ends.items())
            return f"{description}: set {' '.join(option(f'{word}_{kind}', end[::step]) for word, end in ends.items())}"
    return ""


def read_text(file: Path) -> str:
    """Read a UTF-8 text, with or without a byte order mark; raises ContractError for another encoding."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        kind = "CSV UTF-8" if file.suffix == ".csv" else "UTF-8"  # as Excel calls it
        raise ContractError(f"{file}: expected a text file in UTF-8, got another encoding; save it as {kind}") from None


def separator(text: str) -> str:
    """Return what separates the columns of a table; spreadsheets use ; where a comma separates decimals."""
    return max(",;\t", key=text.partition("\n")[0].count)


def read_csv(path: Path) -> pd.DataFrame:
    """Read a table with all cells as text, as pandas would parse ids as numbers and N/A as missing.

    An empty file has no columns. Raises ContractError for another encoding and for rows that are longer than the first.
    """
    import pandas as pd

    text = read_text(path)
    try:
        options: Any = {"dtype": str, "keep_default_na": False, "sep": separator(text.lstrip())}
        return pd.read_csv(io.StringIO(text), **options) if text.strip() else pd.DataFrame()
    except pd.errors.ParserError as error:
        got = str(error).strip().rpartition(": ")[2]
        raise ContractError(f"{path}: expected as many cells in each row as columns, got: {got}") from None


def option(name: str, *values: str) -> str:
    """Format an option with one value, or with a list, for use in a shell."""
    text = f"dataset.{name}={values[0] if len(values) == 1 else '[' + ','.join(values) + ']'}"
    return text if re.fullmatch(r"[\w.+=-]*", text) else f"'{text}'"


def read_rows(table: Path, root: Path) -> list[tuple[Path, list[Path], str, str]]:
    """Read the rows of a table with the columns `image` and `mask` and, optionally, `split` and `group`.

    Paths are absolute or relative to `root`. An empty cell means no mask; a missing split or group is "". Raises
    ContractError for a table without rows or columns, an image named twice, or an unknown split.
    """
    require(table.is_file(), "dataset.table", "a CSV file that exists", table)
    text = read_text(table).lstrip()
    reader = csv.DictReader(io.StringIO(text), delimiter=separator(text))
    with one_sentence(str(table), "a CSV file"):  # such as a quotation mark that is never closed
        names = [str(name).strip() for name in reader.fieldnames or ()]
        reader.fieldnames = names
        columns = "the columns image and mask, and optionally split and group"
        require({"image", "mask"} <= set(names), str(table), columns, ", ".join(names) or "none")
        rows = [{name: (row.get(name) or "").strip() for name in COLUMNS} for row in reader]
    rows = [row for row in rows if any(row.values())]  # spreadsheets write empty rows as `,,,`
    require(bool(rows), str(table), "a row for each image", "none")
    images = Counter(row["image"] for row in rows)
    duplicates = sorted(image or "an empty cell" for image, count in images.items() if count > 1 or not image)
    require(not duplicates, str(table), "a different image in each row", ", ".join(duplicates[:3]))
    others = sorted({row["split"] or "an empty cell" for row in rows} - {"train", "val", "test"})
    all_or_none = not others or not any(row["split"] for row in rows)
    require(all_or_none, str(table), "train, val or test in each cell of split, or all empty", ", ".join(others[:3]))
    masks = [[root / row["mask"]] if row["mask"] else [] for row in rows]
    return [(root / row["image"], mask, row["split"], row["group"]) for row, mask in zip(rows, masks, strict=True)]
