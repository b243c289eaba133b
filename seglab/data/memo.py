"""Work on many source files: a thread per core, and what earlier starts have found out: hashes, what takes decoding.

Path, size and time of change are a shortcut alone, by which a file is recognized: what names data is their content.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock
from tqdm.contrib.concurrent import thread_map

from seglab.files import sha256

T = TypeVar("T")
R = TypeVar("R")

MAX_THREADS = 16  # beyond, a disk gives no more, and whole scans in work fill the memory
FRESH = 2 * 10**9  # nanoseconds after a change: the file may change again without a later time, and is not remembered
_known: dict[str, dict[str, Any]] = {}  # by file of the memo, so that a process reads each once


def each(work: Callable[[T], R], items: Sequence[T], what: str) -> list[R]:
    """Give `work` of every item, in order, on a terminal with a bar called `what` if it takes more than a few seconds.

    The first error is raised, and what has not begun by then is not done.
    """
    workers = min(os.cpu_count() or 1, MAX_THREADS)
    return thread_map(work, items, max_workers=workers, desc=what, delay=3, leave=False, disable=None)


def remembered(
    what: str, folder: str | None, paths: Sequence[Sequence[str]], work: Callable[[int], Any], names: Sequence[str]
) -> list[Any]:
    """Give `work(k)` for every k, as plain data; done once for each name and the files `paths[k]` as they are now.

    folder: where `<what>.jsonl` is kept; None keeps it in memory.
    """
    file = Path(folder, f"{what}.jsonl").expanduser().absolute() if folder else None
    known = _known.setdefault(str(file or what), {})
    if file and file.exists() and not known:
        for line in file.read_bytes().splitlines():
            with suppress(ValueError, TypeError):  # half a line that a kill left, and what was written behind it
                known.update([json.loads(line)])
    facts = [[(path, *on_disk(path)) for path in some] for some in paths]
    keys = [json.dumps([name, *some]) for name, some in zip(names, facts, strict=True)]
    new = [k for k, key in enumerate(keys) if key not in known]
    found = dict(zip(new, each(work, new, what), strict=True)) if new else {}
    settled = time.time_ns() - FRESH
    lasting = [k for k in new if facts[k] and all(changed < settled for _, _, changed in facts[k])]
    known |= {keys[k]: found[k] for k in lasting}  # nothing would tell that others have changed
    if file and lasting:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"), file.open("a", encoding="utf-8") as opened:
            opened.write("".join(json.dumps([keys[k], found[k]]) + "\n" for k in lasting))
    return [found[k] if k in found else known[key] for k, key in enumerate(keys)]


def content(paths: Sequence[str], folder: str | None) -> dict[str, str]:
    """Give the SHA-256 of each file by its path, "" for what is no regular file."""
    paths = list(dict.fromkeys(paths))

    def read(k: int) -> str:
        try:
            return sha256(Path(paths[k])) if os.path.isfile(paths[k]) else ""  # a pipe has no end
        except OSError:  # said when it is decoded
            return ""

    hashes = remembered("hashes", folder, [[path] for path in paths], read, [""] * len(paths))
    return dict(zip(paths, hashes, strict=True))


def on_disk(path: str | Path) -> tuple[int, int]:
    """Give a file's size in bytes and the time of its last change in ns; zeros if it is missing."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns
