"""What is known of source files from earlier starts: their hashes, and what took decoding to find out.

A file is recognized by its path, size and time of change, which serve as a shortcut alone: what names data is their
content.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from seglab.data.dataset import Dataset, Item
from seglab.data.parallel import each
from seglab.files import sha256

FRESH = 2 * 10**9
"""Nanoseconds after a change in which a file may change again without a later time: not remembered before."""

_known: dict[str, dict[str, Any]] = {}
"""By file of the memo, so that one process reads each once."""


def remembered(what: str, items: Sequence[Item], dataset: Dataset, work: Callable[[int], Any]) -> list[Any]:
    """Give `work(k)` of every item, as plain data; done once for the same files and reading options."""
    names = [f"{item.id} {item.labels} {dataset.reading_options()}" for item in items]
    return recall(what, dataset.cache_dir, names, [item.files for item in items], work)


def recall(
    what: str, folder: str | None, names: Sequence[str], paths: Sequence[Sequence[str]], work: Callable[[int], Any]
) -> list[Any]:
    """Give `work(k)` for every k, done once for each name and the state of its files `paths[k]`.

    folder: where `<what>.jsonl` is kept; None keeps it in memory.
    """
    file = Path(folder, f"{what}.jsonl").expanduser().absolute() if folder else None
    known = _known.setdefault(str(file or what), {})
    if file and not known:
        known |= dict(read(file))
    facts = [[(path, *on_disk(path)) for path in some] for some in paths]
    keys = [json.dumps([name, *some]) for name, some in zip(names, facts, strict=True)]
    new = [k for k, key in enumerate(keys) if key not in known]
    found = dict(zip(new, each(work, new, what), strict=True)) if new else {}
    settled = time.time_ns() - FRESH
    lasting = {k: facts[k] and all(changed < settled for _, _, changed in facts[k]) for k in new}
    fresh = {keys[k]: found[k] for k in new if lasting[k]}
    known |= fresh
    if file and fresh:
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(entry) + "\n" for entry in fresh.items())
        with FileLock(f"{file}.lock"), file.open("a", encoding="utf-8") as opened:
            opened.write(lines)
    return [found[k] if k in found else known[key] for k, key in enumerate(keys)]


def read(file: Path) -> list[tuple[str, Any]]:
    """Read the whole lines of a memo; a killed process may have left half a line."""
    entries = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            key, value = json.loads(line)
        except ValueError:
            continue
        entries.append((key, value))
    return entries


def content(paths: Sequence[str], folder: str | None) -> dict[str, str]:
    """Give the SHA-256 of each file by its path, "" for what is no file."""
    paths = list(dict.fromkeys(paths))
    hashes = recall("hashes", folder, [""] * len(paths), [[path] for path in paths], lambda k: hash_of(paths[k]))
    return dict(zip(paths, hashes, strict=True))


def hash_of(path: str) -> str:
    """Give the SHA-256 of a regular file; a pipe would never end."""
    try:
        return sha256(Path(path)) if stat.S_ISREG(os.stat(path).st_mode) else ""
    except OSError:
        return ""


def on_disk(path: str | Path) -> tuple[int, int]:
    """Give a file's size in bytes and the time of its last change in ns; zeros if it is missing."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns
