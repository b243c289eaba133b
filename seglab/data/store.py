"""A folder of decoded images, memory-mapped by every process that trains on them.

`pixels.bin` holds the arrays of all items, one after another. `records.jsonl` has a line per item: what it is, its
source files, and where its arrays start. `manifest.json` holds the options that determine the pixels and, once the
folder is finished, the items in order. The first two are only appended to, by one process at a time: a killed process
leaves at most some bytes without a record and an incomplete line, and the next process resumes after them.
"""

import json
import math
import os
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from hashlib import blake2b
from pathlib import Path
from sys import intern
from typing import Any

import numpy as np
from filelock import FileLock

from seglab.contract import Task, require
from seglab.data.dataset import Dataset, Decoded, Item
from seglab.data.decode import decode_once, native_objects
from seglab.data.memo import content, each, on_disk
from seglab.files import NOT_JSON, read_json, write_json, write_text
from seglab.images.labels import Seen, with_ignored
from seglab.images.medical import one_sentence

PIXELS, RECORDS, MANIFEST, LOCK = "pixels.bin", "records.jsonl", "manifest.json", ".lock"
FORMAT = 4
ALIGN = 64  # arrays start at multiples of this number of bytes
Record = dict[str, Any]  # a line of `records.jsonl`


class Pixels:
    """The bytes of all arrays of a store, memory-mapped; pickled as the path of the file."""

    def __init__(self, path: str) -> None:
        self.path = path
        # A plain view is faster to slice than a memmap. An empty file cannot be mapped.
        self.bytes = np.memmap(path, np.uint8, "r").view(np.ndarray) if on_disk(path)[0] else np.zeros(0, np.uint8)
        self.checked = set[int]()  # offsets of arrays whose checksum was verified

    def array(self, offset: int, shape: Sequence[int], dtype: str, checksum: int | None) -> np.ndarray:
        """Return one array; only what is accessed is read, but all of it at its first use in a process (checksum)."""
        with one_sentence(f"folder {Path(self.path).parent}", f"arrays within {PIXELS}"):
            end = offset + math.prod(shape) * np.dtype(dtype).itemsize
            array = self.bytes[offset:end].view(dtype).reshape(shape)  # np.ndarray accepts any offset, and pointers
        if checksum is not None and array.size and offset not in self.checked:  # an empty one starts where another does
            who, remedy = f"folder {Path(self.path).parent}", "remove it and, unless it is a cache, prepare it again"
            require(zlib.crc32(array.data) == checksum, who, f"{PIXELS} as it was written", "changed bytes", remedy)
            self.checked.add(offset)
        return array

    def seen(self, places: dict[str, Any]) -> Seen:
        """Return the arrays of one item; `places` maps their names to where they are stored."""
        valid = self.array(*places["valid"]) if "valid" in places else None
        return Seen(self.array(*places["image"]), self.array(*places["mask"]), valid)

    def __reduce__(self) -> tuple[Any, ...]:  # a spawned worker maps the file again; pickling would copy it
        return Pixels, (self.path,)


def is_finished(folder: Path) -> bool:
    """Return True if a store has all its items."""
    return "ids" in read_json(folder / MANIFEST)


def open_store(folder: Path) -> list[Item]:
    """List the items of a finished store in order; their pixels are memory-mapped.

    Raises ContractError if the folder is not a finished store, or was made by another version.
    """
    who, remedy, manifest = f"folder {folder}", "run seglab.prepare (again)", check_format(folder)
    require("ids" in manifest, who, "a finished folder of seglab.prepare", None, remedy)
    pixels, items = Pixels(str(folder / PIXELS)), dict[str, Item]()
    options = manifest["options"].partition(" ")[2]  # without the version of the code, as in a fingerprint
    with one_sentence(who, f"{RECORDS} as seglab.prepare wrote it"):
        for record, _ in read_records(folder / RECORDS):  # one at a time: those of 200,000 images take a gigabyte
            end, size = record["end"], len(pixels.bytes)
            require(end <= size, who, f"{end} bytes in {PIXELS}", size, "remove it, and " + remedy)
            items[record["id"]] = item_of(record, pixels, options)  # the last one of each id wins
        missing = set(manifest["ids"]) - set(items)
        require(not missing, who, f"a line in {RECORDS} for every image", f"none for {len(missing)}", remedy)
        return [items[name] for name in manifest["ids"]]


def note_raw(folder: Path, node: dict[str, Any]) -> None:
    """Add the configuration of the source dataset to a finished folder; it says how the source files are read."""
    write_json(folder / MANIFEST, read_json(folder / MANIFEST) | {"raw": node})


def raw_of(folder: Path) -> dict[str, Any] | None:
    """Return what `note_raw` added; None for a folder that was made before `note_raw` was added to seglab."""
    return check_format(folder).get("raw")


def task_of(folder: Path) -> Task:
    """Return the task of the dataset from which a folder was made."""
    return read_task(folder, on_disk(folder / MANIFEST))


@lru_cache
def read_task(folder: Path, changed: tuple[int, int]) -> Task:
    """Read the task of a folder, once for each state of its manifest."""
    return Task(**check_format(folder).get("task", {}))


def check_format(folder: Path) -> dict[str, Any]:
    """Return the manifest of a folder, empty if there is none; raises ContractError if another version made it."""
    manifest = read_json(folder / MANIFEST)
    is_own = not manifest or (isinstance(manifest, dict) and isinstance(manifest.get("options"), str))
    require(is_own, f"folder {folder}", f"no {MANIFEST} of another program", "one", "choose another folder")
    version = manifest.get("format", 1) if manifest else FORMAT  # format 1 had no such key
    remedy = "remove it, and run seglab.prepare again"
    require(version == FORMAT, f"folder {folder}", f"images in format {FORMAT}", f"format {version}", remedy)
    return manifest


def item_of(record: Record, pixels: Pixels, options: str) -> Item:
    """Build the item of one record; `labels` are a hash of what it was made from and of the `options`."""
    name, group, split = (record[key] for key in ("id", "group", "split"))
    if record["fault"] or record["left_out"]:
        return Item(name, group, split=split, fault=record["fault"], left_out=record["left_out"])
    checksums = record.get("crc32", {})  # older folders have none
    # interned, or each image would have its own copies of the keys
    facts = {intern(key): value for key, value in record["facts"].items()}
    places = {intern(key): (*place, checksums.get(key)) for key, place in record["arrays"].items()}
    arrays = {key: partial(pixels.array, *place) for key, place in places.items()}
    seen, (height, width) = partial(pixels.seen, places), places["mask"][1][:2]
    classes, points = tuple(record["classes"]), arrays["points"]()
    decoded = Decoded(seen, (height, width), record["foreground"], points, facts, classes)
    sources = [(os.path.basename(file["path"]), file["sha256"]) for file in record["files"]]
    labels = blake2b(f"{options} {record['labels']} {sources}".encode(), digest_size=10).hexdigest()
    fields: dict[str, Any] = {"labels": labels, "objects": arrays.get("objects"), "decoded": decoded}
    files = (str(Path(pixels.path).with_name(RECORDS)),)  # changes when the folder is made again
    return Item(name, group, arrays["image"], partial(marked, seen), split, files, **fields)


def marked(read: Callable[[], Seen]) -> np.ndarray:
    """Return a mask as a file would hold it, with unlabeled pixels marked as ignored."""
    _, mask, valid = read()
    return mask if valid is None else with_ignored(mask, valid)


def build(items: Sequence[Item], dataset: Dataset, folder: Path, complete: bool = False) -> list[Item]:
    """Decode all items into a folder, one thread per core, except those it already has; return them as `open_store`.

    `complete` adds what is needed to use the folder without the source files: maps of the objects. Raises ContractError
    for an unreadable item unless `dataset.on_bad_item` is `skip`, and for a folder started with other options.
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
    """Writer of a store for several threads; `records` holds the last record of each id that was there before."""

    def __init__(self, folder: Path, dataset: Dataset, complete: bool, hashes: dict[str, str]) -> None:
        self.folder, self.dataset, self.complete, self.hashes = folder, dataset, complete, hashes
        self.manifest: dict[str, Any] = {"format": FORMAT, "options": dataset.reading_options()}
        self.manifest["task"] = {"kind": dataset.task.kind, "classes": list(dataset.task.classes)}
        self.lock = threading.Lock()
        existing = read_json(folder / MANIFEST)
        same, remedy = {**existing, **self.manifest} == existing, "remove it, or set another hydra.run.dir"
        require(not existing or same, f"folder {folder}", "one made with these options", "other options", remedy)
        for name in (PIXELS, RECORDS):
            (folder / name).open("ab").close()  # unlike touch, this keeps the modification time
        if not existing:
            write_json(folder / MANIFEST, self.manifest)
        records = list(read_records(folder / RECORDS))
        # After a power loss, the files may lack the end of a line, or bytes that records refer to. Those records are
        # removed: the next writes extend the pixels beyond them, and they would look complete.
        size = os.path.getsize(folder / PIXELS)
        intact = [record for record, _ in records if record["end"] <= size]
        if len(intact) < len(records) or sum(length for _, length in records) < os.path.getsize(folder / RECORDS):
            write_text(folder / RECORDS, "".join(f"{json.dumps(record)}\n" for record in intact))
        self.records: dict[str, Record] = {record["id"]: record for record in intact}

    def add(self, item: Item) -> None:
        """Decode one item and record it, or why it is left out, unless it is already stored."""
        sources = [{"path": path, "size": on_disk(path)[0], "sha256": self.hashes[path]} for path in item.files]
        hashes, previous = [file["sha256"] for file in sources], self.records.get(item.id, {})
        good = previous and not previous["fault"] and not previous["left_out"]  # others are tried again
        if good and (previous["labels"], [file["sha256"] for file in previous["files"]]) == (item.labels, hashes):
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
            with (self.folder / RECORDS).open("ab") as file:  # after the pixels, to which a record refers
                file.write(json.dumps(record).encode() + b"\n")

    def finish(self, ids: list[str]) -> None:
        """Write the manifest after everything else is on disk."""
        for name in (PIXELS, RECORDS):
            with (self.folder / name).open("rb+") as file:
                os.fsync(file.fileno())
        write_json(self.folder / MANIFEST, self.manifest | {"ids": ids})


def read_records(file: Path) -> Iterator[tuple[Record, int]]:
    """Read the complete lines of a file up to the first damaged one; also yield the length of each in bytes."""
    with file.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):  # an incomplete last line of a killed process
                return
            try:
                record = json.loads(line)
            except NOT_JSON:  # damaged: this and later items are decoded again
                return
            yield record, len(line)
