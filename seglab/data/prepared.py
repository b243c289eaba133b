"""A folder of decoded images that training maps into memory: made once from a raw tree, whatever its formats.

`images/ID.npy` and `masks/ID.npy` in their own size (less `dataset.reduce`), `objects/ID.npy` where the data set tells
them apart, `records/ID.json` about each, and in the end `manifest.json` with all records. Every file appears whole or
not at all: work that was cut short goes on where it stopped, and several processes may work at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from seglab.contract import ContractError, require
from seglab.data.dataset import Dataset, decode_native, native_objects, raise_unless_skipped
from seglab.data.items import Item
from seglab.data.parallel import each

POINTS = 64
"""Foreground pixels remembered of each image, for patches to be drawn around."""

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Prepared(Dataset):
    """A folder made by `python -m seglab.prepare`; splits and numbers are those of the raw tree it was made from."""

    root: str

    def items(self) -> list[Item]:
        return items_of(Path(self.root))


def items_of(folder: Path) -> list[Item]:
    """List the items of a prepared folder, whose pixels are memory maps."""
    return [item_of(folder, record) for record in records_of(folder)]


def records_of(folder: Path) -> list[Record]:
    """Read the records of a prepared folder, in the order of the raw tree."""
    manifest = folder / "manifest.json"
    require(manifest.is_file(), "dataset prepared", "a finished prepared folder", folder, "run seglab.prepare (again)")
    return json.loads(manifest.read_text())["items"]


def item_of(folder: Path, record: Record) -> Item:
    """Make the item of one record."""
    name, group, split, why = (record[key] for key in ("id", "group", "split", "left_out"))
    if why:
        return Item(name, group, split=split, left_out=why)
    image, mask = (str(folder / kind / f"{quote(name, safe='')}.npy") for kind in ("images", "masks"))
    labels = folder / "objects" / f"{quote(name, safe='')}.npy"
    objects = partial(mapped, str(labels)) if record.get("objects") else None
    return Item(name, group, partial(mapped, image), partial(mapped, mask), split, (image, mask), objects=objects)


def mapped(path: str) -> np.ndarray:
    """Map an array on disk into memory, to be read only where it is looked at."""
    try:
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise ContractError(f"{path}: expected an array of a prepared folder, got {error}") from None


def prepare(items: Sequence[Item], dataset: Dataset, folder: Path, options: str, alone: bool = True) -> list[Record]:
    """Decode all items into a folder with a thread per core, and write its manifest; gives the records.

    `options` stands for all that decides the pixels: a folder begun with others is refused. One that is to stand
    `alone` also holds the SHA-256 of the source files, and maps of the objects where the data set tells them apart. An
    item that cannot be read raises, unless `dataset.on_bad_item` is `skip`.
    """
    begun = folder / "options.json"
    if begun.exists():
        require(json.loads(begun.read_text()) == options, f"folder {folder}", "one of these options", "one of others")
    for kind in ("images", "masks", "objects", "records"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    write(begun, json.dumps(options).encode())
    records = each(partial(one, dataset=dataset, folder=folder, alone=alone), items, "prepare")
    write(folder / "manifest.json", json.dumps({"options": options, "items": records}, indent=1).encode())
    return records


def one(item: Item, dataset: Dataset, folder: Path, alone: bool) -> Record:
    """Decode one item, unless its record says that this was done from the same labels and files as they are now."""
    name = quote(item.id, safe="")
    place = folder / "records" / f"{name}.json"
    sources = [source(path, hashes=False) for path in item.files]
    if place.exists():
        record: Record = json.loads(place.read_text())
        same = [{**known, "sha256": ""} for known in record["files"]] == sources and record["labels"] == item.labels
        if same and not record["left_out"]:
            return record

    def keep(image: np.ndarray, mask: np.ndarray) -> None:
        save(folder / "images" / f"{name}.npy", image)
        save(folder / "masks" / f"{name}.npy", mask)

    record = decoded(item, dataset, keep)
    if alone and item.objects and not record["left_out"]:
        save(folder / "objects" / f"{name}.npy", native_objects(item, dataset).astype(np.uint16))
        record["objects"] = True
    record["files"] = [source(path, alone) for path in item.files]
    write(place, json.dumps(record).encode())
    return record


def survey_scans(items: Sequence[Item], dataset: Dataset) -> list[Record]:
    """Decode all items and keep nothing but the records, for data that is neither prepared nor cached."""
    return each(partial(decoded, dataset=dataset, keep=lambda image, mask: None), items, "look through")


def decoded(item: Item, dataset: Dataset, keep: Callable[[np.ndarray, np.ndarray], None]) -> Record:
    """Decode one item, hand it to `keep(image, mask)`, and note what it is, or why it is left out."""
    record = {"id": item.id, "group": item.group, "split": item.split, "labels": item.labels}
    record["left_out"] = item.fault or item.left_out
    if record["left_out"]:
        return record
    try:
        image, mask = decode_native(item, dataset)
    except ContractError as error:
        raise_unless_skipped(error, dataset)
        return record | {"left_out": str(error)}
    keep(image, mask)
    return record | measure(item.id, image, mask)


def measure(name: str, image: np.ndarray, mask: np.ndarray) -> Record:
    """Note an image's shape, its foreground share, and some pixels of its foreground as (row, column)."""
    places = np.flatnonzero(mask >= 0.5)
    rng = np.random.default_rng(list(hashlib.sha256(name.encode()).digest()[:8]))
    chosen = rng.choice(places, min(POINTS, len(places)), replace=False) if len(places) else places
    points = np.stack(np.unravel_index(chosen, mask.shape), 1)
    return {"shape": list(image.shape[:2]), "share": float(mask.mean(dtype=np.float64)), "points": points.tolist()}


def source(path: str, hashes: bool) -> Record:
    """Describe a source file by path, size, time of change in ns, and hash if asked."""
    size, changed = on_disk(path)
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest() if hashes and changed else ""
    return {"path": path, "size": size, "mtime_ns": changed, "sha256": digest}


def on_disk(path: str | Path) -> tuple[int, int]:
    """Give a file's size in bytes and the time of its last change in ns; zeros if it is missing."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def save(path: Path, array: np.ndarray) -> None:
    """Write an array file whole."""
    beside = beside_of(path)
    with beside.open("wb") as file:
        np.save(file, array)
    beside.replace(path)


def write(path: Path, data: bytes) -> None:
    """Write a file whole."""
    beside = beside_of(path)
    beside.write_bytes(data)
    beside.replace(path)


def beside_of(path: Path) -> Path:
    """Name the file that becomes another once it is whole, for this thread alone."""
    return path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
