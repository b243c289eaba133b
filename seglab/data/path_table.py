"""A CSV table that names the files of each image, for data that lie in no folders of their own."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import NamedTuple

from seglab.contract import ContractError, require

COLUMNS = ("image", "mask", "split", "group")
"""The first two must be there; others are ignored."""


class Row(NamedTuple):
    """The files of one image; no mask, split or group is an empty text there, None here for the mask."""

    image: Path
    mask: Path | None
    split: str
    group: str


def read_rows(table: Path, root: Path) -> list[Row]:
    """Read the rows of a table with the columns `image`, `mask`, and, if they are there, `split` and `group`.

    Paths are absolute or below `root`. Raises a ContractError for a table without rows or columns, an image named
    twice, or an unknown split.
    """
    require(table.is_file(), "dataset.table", "a CSV file", table)
    try:
        content = table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ContractError(f"{table}: expected a text in UTF-8, got another encoding; save it as CSV UTF-8") from None
    rows = csv.DictReader(io.StringIO(content))
    names = [str(name).strip() for name in rows.fieldnames or ()]
    rows.fieldnames = names
    wanted = ", ".join(COLUMNS)
    require({"image", "mask"} <= set(names), str(table), f"columns of {wanted}", ", ".join(names) or "none")
    texts = [{name: (row.get(name) or "").strip() for name in COLUMNS} for row in rows]
    require(bool(texts), str(table), "a row for each image", "none")
    images = [text["image"] for text in texts]
    twice = sorted({image or "an empty cell" for image in images if images.count(image) > 1 or not image})
    require(not twice, str(table), "an image in each row, each once", ", ".join(twice[:3]))
    others = sorted({text["split"] or "an empty cell" for text in texts} - {"train", "val", "test"})
    all_or_none = not others or not any(text["split"] for text in texts)
    require(all_or_none, str(table), "train, val or test in each cell of split, or no splits", ", ".join(others[:3]))
    return [
        Row(root / text["image"], root / text["mask"] if text["mask"] else None, text["split"], text["group"])
        for text in texts
    ]
