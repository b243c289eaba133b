"""Decoded images on disk, mapped into memory by every process that trains on them.

A folder per fingerprint holds images.npy (n, s, s, c), masks.npy (n, s, s) and cache.json. It is built under another
name and renamed when whole, so that a killed or a second build does no harm; the oldest used go when space is short.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import fields
from hashlib import blake2b
from pathlib import Path

import numpy as np

from seglab.contract import ContractError
from seglab.data.dataset import Dataset, decode_native
from seglab.data.items import Item
from seglab.data.prepared import Prepared, Record, on_disk, prepare, records_of
from seglab.data.store import Arrays, Survey, fill

VERSION = 1
"""Of the code that decodes: a change that moves pixels must raise it."""

NOT_READING = {"root", "mean", "std", "val_fraction", "test_fraction", "split_seed", "split_file", "on_bad_item"}
NOT_READING |= {"cache_dir", "cache_gb", "positive_fraction", "patches_per_image"}
"""Fields of a data set that change no pixel."""

AFTER_CUTTING = {"size", "fit", "channels", "bits"}
"""Fields that change no pixel of what patches are cut from."""


def reading(dataset: Dataset, cut: bool) -> str:
    """Write down all that decides the pixels: the version, the kind of data set, and its reading options.

    With `cut`, of the images that patches are cut from; else of those that the model sees.
    """
    ignored = NOT_READING | (AFTER_CUTTING if cut else set())
    options = {f.name: getattr(dataset, f.name) for f in fields(dataset) if f.name not in ignored}
    return f"{VERSION} {type(dataset).__name__} {sorted(options.items())}"


def fingerprint(items: Sequence[Item], dataset: Dataset) -> str:
    """Name the decoded pixels: by the reading options, and each item's labels and source files with size and time."""
    digest = blake2b(reading(dataset, dataset.fit == "patch").encode(), digest_size=10)
    for item in items:
        files = [(os.path.basename(path), *on_disk(path)) for path in item.files]
        digest.update(f"{item.id} {item.labels} {files}".encode())
    return digest.hexdigest()


def affordable(items: Sequence[Item], dataset: Dataset, mark: str) -> str:
    """Say why these items cannot be cached, where the data set wants that; "" if they can or already are."""
    if dataset.cache_dir is None or (Path(dataset.cache_dir) / mark / "cache.json").exists():
        return ""
    if dataset.fit == "patch" and isinstance(dataset, Prepared) and dataset.reduce == 1:
        return ""
    gigabytes = needed(items, dataset) / 1e9
    cause = f"the cache would take {gigabytes:.1f} GB, and dataset.cache_gb is {dataset.cache_gb:g}"
    return "" if gigabytes <= dataset.cache_gb else f"every image is decoded at every use: {cause}"


def needed(items: Sequence[Item], dataset: Dataset) -> int:
    """Say how many bytes the cache of these items takes; for patches a guess from the first that can be read."""
    if dataset.fit != "patch":
        return len(items) * dataset.size**2 * (dataset.channels * dataset.bits // 8 + 1)
    for item in items:
        try:
            return len(items) * sum(array.nbytes for array in decode_native(item, dataset))
        except ContractError:
            continue
    return 0


def cached(items: Sequence[Item], dataset: Dataset, folder: Path) -> tuple[Arrays, Survey]:
    """Map the decoded items into memory, building the folder where it is missing."""
    if not (folder / "cache.json").exists():
        build(items, dataset, folder)
    os.utime(folder / "cache.json")
    known = json.loads((folder / "cache.json").read_text())
    return Arrays.mapped(str(folder)), Survey(np.array(known["shares"]), known["faults"])


def build(items: Sequence[Item], dataset: Dataset, folder: Path) -> None:
    """Decode everything into a new folder, then give it its name."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    make_room(folder.parent, int(dataset.cache_gb * 1e9) - needed(items, dataset))
    new = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
    try:
        shape = (len(items), dataset.size, dataset.size)
        images = np.lib.format.open_memmap(new / "images.npy", "w+", f"uint{dataset.bits}", (*shape, dataset.channels))
        masks = np.lib.format.open_memmap(new / "masks.npy", "w+", np.uint8, shape)
        survey = fill(images, masks, items, dataset)
        images.flush()
        masks.flush()
        known = {"ids": [item.id for item in items], "shares": survey.shares.tolist(), "faults": survey.faults}
        (new / "cache.json").write_text(json.dumps(known))
        if not folder.exists():
            new.rename(folder)
    except OSError:
        if not folder.exists():  # else another process was first: its folder is as good
            raise
    finally:
        shutil.rmtree(new, ignore_errors=True)


def cached_scans(items: Sequence[Item], dataset: Dataset, folder: Path) -> list[Record]:
    """Make the folder, in which patches find whole images as memory maps, where it is missing; gives its records."""
    if not (folder / "manifest.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        make_room(folder.parent, int(dataset.cache_gb * 1e9) - needed(items, dataset))
        (folder / "cache.json").touch()  # from now on it counts, finished or not
        prepare(items, dataset, folder, reading(dataset, cut=True), alone=False)
    os.utime(folder / "cache.json")
    return records_of(folder)


def make_room(root: Path, limit: int) -> None:
    """Remove the caches that nobody has used for longest until the rest take at most `limit` bytes."""
    for stale in root.glob(".new-*"):
        if time.time() - on_disk(stale)[1] / 1e9 > 86400:  # a build that was killed
            shutil.rmtree(stale, ignore_errors=True)
    total = 0
    for mark in sorted(root.glob("*/cache.json"), key=lambda path: on_disk(path)[1], reverse=True):
        total += sum(on_disk(path)[0] for path in mark.parent.rglob("*"))
        if total > limit:
            shutil.rmtree(mark.parent, ignore_errors=True)
