"""Decoded images in a folder, mapped into memory by every process that trains on them.

`pixels.bin` holds the arrays of all items one after the other. `records.jsonl` has a line per item: what it is, the
files it was decoded from, and where its arrays begin. `manifest.json` names the options that decided the pixels, and in
the end the items in their order. The first two only grow, by one process at a time: one that is killed leaves at most
some bytes that no record names and half a line, and the next resumes behind them.
"""

import json
import os
import threading
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from seglab.contract import Task, require
from seglab.data.dataset import Dataset, Decoded, Item
from seglab.data.decode import decode_once, native_objects
from seglab.data.memo import content, each, on_disk
from seglab.files import read_json, write_json, write_text
from seglab.images.labels import Seen, with_ignored

PIXELS, RECORDS, MANIFEST, LOCK = "pixels.bin", "records.jsonl", "manifest.json", ".lock"
FORMAT = 4
ALIGN = 64  # bytes to whose multiples arrays begin
Record = dict[str, Any]  # a line of `records.jsonl`


class Pixels:
    """The bytes of all arrays of a store, mapped into memory; pickled as the path of the file."""

    def __init__(self, path: str) -> None:
        self.path = path
        # A plain view, of which slices are made faster than of a memmap. An empty file cannot be mapped.
        self.bytes = np.memmap(path, np.uint8, "r").view(np.ndarray) if on_disk(path)[0] else np.zeros(0, np.uint8)
        self.checked = set[int]()  # where arrays begin that are as they were written

    def array(self, offset: int, shape: Sequence[int], dtype: str, checksum: int | None) -> np.ndarray:
        """Give one array, which is read only where it is looked at, but whole for the first time in a process."""
        array = np.ndarray(shape, dtype, self.bytes, offset)
        if checksum is not None and array.size and offset not in self.checked:  # an empty one begins where another does
            who, remedy = f"folder {Path(self.path).parent}", "remove it, and unless it is a cache prepare it again"
            require(zlib.crc32(array.data) == checksum, who, f"{PIXELS} as it was written", "changed bytes", remedy)
            self.checked.add(offset)
        return array

    def seen(self, places: dict[str, Any]) -> Seen:
        """Give the arrays of one item, of which `places` says by name where they are."""
        valid = self.array(*places["valid"]) if "valid" in places else None
        return Seen(self.array(*places["image"]), self.array(*places["mask"]), valid)

    def __reduce__(self) -> tuple[Any, ...]:  # a spawned worker maps the file again: pickled would be all its bytes
        return Pixels, (self.path,)


def is_finished(folder: Path) -> bool:
    """Say whether a store has all its items."""
    return "ids" in read_json(folder / MANIFEST)


def open_store(folder: Path) -> list[Item]:
    """List the items of a finished store in their order; their pixels are memory maps.

    Raises a ContractError if the folder is no finished store, or one of another version.
    """
    who, remedy, manifest = f"folder {folder}", "run seglab.prepare (again)", check_format(folder)
    require("ids" in manifest, who, "a finished folder of seglab.prepare", None, remedy)
    records = {record["id"]: record for record in read_records(folder / RECORDS)[0]}  # the last of each id holds
    lost = set(manifest["ids"]) - set(records)
    require(not lost, who, f"a line in {RECORDS} for every image", f"none for {len(lost)}", remedy)
    pixels, end = Pixels(str(folder / PIXELS)), max((record["end"] for record in records.values()), default=0)
    require(end <= len(pixels.bytes), who, f"{end} bytes in {PIXELS}", len(pixels.bytes), "remove it, and " + remedy)
    options = manifest["options"].partition(" ")[2]  # without the version of the code, as in a fingerprint
    return [item_of(records[name], pixels, options) for name in manifest["ids"]]


def note_raw(folder: Path, node: dict[str, Any]) -> None:
    """Add to a finished folder how the files that it was made from are read: the configuration of their data set."""
    write_json(folder / MANIFEST, read_json(folder / MANIFEST) | {"raw": node})


def raw_of(folder: Path) -> dict[str, Any] | None:
    """Give what `note_raw` has added; None of a folder of before."""
    return check_format(folder).get("raw")


def task_of(folder: Path) -> Task:
    """Give the task of the data set that a folder was made from."""
    return read_task(folder, on_disk(folder / MANIFEST))


@lru_cache
def read_task(folder: Path, changed: tuple[int, int]) -> Task:
    """Read the task of a folder once for each state of its manifest."""
    return Task(**check_format(folder).get("task", {}))


def check_format(folder: Path) -> dict[str, Any]:
    """Give the manifest of a folder, empty where there is none; raises where it was made by another version."""
    manifest = read_json(folder / MANIFEST)
    found = manifest.get("format", 1) if manifest else FORMAT  # version 1 wrote none
    remedy = "remove it, and run seglab.prepare again"
    require(found == FORMAT, f"folder {folder}", f"images in format {FORMAT}", f"format {found}", remedy)
    return manifest


def item_of(record: Record, pixels: Pixels, options: str) -> Item:
    """Make the item of one record; `labels` say what it was made from, and the `options` by which."""
    name, group, split = (record[key] for key in ("id", "group", "split"))
    if record["fault"] or record["left_out"]:
        return Item(name, group, split=split, fault=record["fault"], left_out=record["left_out"])
    sums = record.get("crc32", {})  # a folder of before has none
    places = {key: (*place, sums.get(key)) for key, place in record["arrays"].items()}
    arrays = {key: partial(pixels.array, *place) for key, place in places.items()}
    seen, (height, width) = partial(pixels.seen, places), places["mask"][1][:2]
    classes, points = tuple(record["classes"]), arrays["points"]()
    decoded = Decoded(seen, (height, width), record["foreground"], points, record["facts"], classes)
    sources = [(os.path.basename(file["path"]), file["sha256"]) for file in record["files"]]
    labels = blake2b(f"{options} {record['labels']} {sources}".encode(), digest_size=10).hexdigest()
    made: dict[str, Any] = {"labels": labels, "objects": arrays.get("objects"), "decoded": decoded}
    files = (str(Path(pixels.path).with_name(RECORDS)),)  # changes when the folder is made again
    return Item(name, group, arrays["image"], partial(marked, seen), split, files, **made)


def marked(read: Callable[[], Seen]) -> np.ndarray:
    """Give a mask as a file would have it: with its pixels marked that have no label."""
    _, mask, valid = read()
    return mask if valid is None else with_ignored(mask, valid)


def build(items: Sequence[Item], dataset: Dataset, folder: Path, complete: bool = False) -> list[Item]:
    """Decode all items into a folder with a thread per core, but for those that it has; gives them as `open_store` has.

    `complete` adds what a folder needs that is used without the source files: maps of the objects. An item that cannot
    be read raises, unless `dataset.on_bad_item` is `skip`; a folder that was begun with other options is refused.
    """
    check_format(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / LOCK):
        hashes = content([path for item in items for path in item.files], dataset.cache_dir)
        writer = Writer(folder, dataset, complete, hashes)
        each(writer.add, items, "decode")
        writer.finish([item.id for item in items])
    return open_store(folder)


class Writer:
    """A store that is being filled by threads; `records` are the last ones of each id that were there before."""

    def __init__(self, folder: Path, dataset: Dataset, complete: bool, hashes: dict[str, str]) -> None:
        self.folder, self.dataset, self.complete, self.hashes = folder, dataset, complete, hashes
        self.manifest: dict[str, Any] = {"format": FORMAT, "options": dataset.reading_options()}
        self.manifest["task"] = {"kind": dataset.task.kind, "classes": list(dataset.task.classes)}
        self.lock = threading.Lock()
        begun = read_json(folder / MANIFEST)
        same, remedy = {**begun, **self.manifest} == begun, "remove it, or set another hydra.run.dir"
        require(not begun or same, f"folder {folder}", "one of these options", "one of others", remedy)
        for name in (PIXELS, RECORDS):
            (folder / name).open("ab").close()  # unlike touch, this keeps the time of the last change
        if not begun:
            write_json(folder / MANIFEST, self.manifest)
        records, end = read_records(folder / RECORDS)
        # After a loss of power the files may lack the end of a line, or bytes that records name. Those records go: what
        # is written next grows the pixels beyond them, and they would look whole.
        size = os.path.getsize(folder / PIXELS)
        whole = [one for one in records if one["end"] <= size]
        if len(whole) < len(records) or end < os.path.getsize(folder / RECORDS):
            write_text(folder / RECORDS, "".join(f"{json.dumps(one)}\n" for one in whole))
        self.records: dict[str, Record] = {one["id"]: one for one in whole}

    def add(self, item: Item) -> None:
        """Decode one item and record it, or why it is left out, unless this was done before."""
        sources = [{"path": path, "size": on_disk(path)[0], "sha256": self.hashes[path]} for path in item.files]
        hashes, known = [file["sha256"] for file in sources], self.records.get(item.id, {})
        good = known and not known["fault"] and not known["left_out"]  # others are tried again
        if good and (known["labels"], [file["sha256"] for file in known["files"]]) == (item.labels, hashes):
            return
        record: Record = {"id": item.id, "group": item.group, "split": item.split, "labels": item.labels}
        ready = item if item.fault or item.left_out else decode_once(item, self.dataset)
        record |= {"fault": ready.fault, "left_out": ready.left_out, "files": sources, "arrays": {}, "crc32": {}}
        arrays = {}
        if ready.decoded:
            record |= {"foreground": ready.decoded.foreground, "classes": ready.decoded.classes}
            record["facts"] = ready.decoded.facts | {"source": hashes[0] if hashes else ""}
            image, mask, valid = ready.decoded.seen()
            arrays = {"image": image, "mask": mask, "points": ready.decoded.points}
            arrays |= {} if valid is None else {"valid": valid}
            if self.complete and item.objects:
                arrays["objects"] = native_objects(item, self.dataset).astype(np.uint16)
        with self.lock:  # decoded by many threads, written by one at a time
            with (self.folder / PIXELS).open("ab") as file:
                for name, array in arrays.items():
                    file.write(bytes(-file.tell() % ALIGN))
                    record["arrays"][name] = (file.tell(), array.shape, array.dtype.str)
                    record["crc32"][name] = zlib.crc32(written := array.tobytes())
                    file.write(written)
                record["end"] = file.tell()
            with (self.folder / RECORDS).open("ab") as file:  # after the pixels: a record promises them
                file.write(json.dumps(record).encode() + b"\n")

    def finish(self, ids: list[str]) -> None:
        """Write the manifest, after all else is on the disk."""
        for name in (PIXELS, RECORDS):
            with (self.folder / name).open("rb+") as file:
                os.fsync(file.fileno())
        write_json(self.folder / MANIFEST, self.manifest | {"ids": ids})


def read_records(file: Path) -> tuple[list[Record], int]:
    """Read the whole lines of a file, up to one that is not; gives also where they end."""
    records, end = [], 0
    for line in file.read_bytes().split(b"\n")[:-1]:  # without what a killed process left of its last line
        try:
            records.append(json.loads(line))
        except ValueError:  # damaged: what is behind it is made again
            break
        end += len(line) + 1
    return records, end
