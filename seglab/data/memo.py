"""Process many source files with a thread per core, and remember what earlier runs found: hashes, results of decoding.

Path, size and modification time only recognize a file here; data are identified by the hash of their content.
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

MAX_THREADS = 16  # more do not read faster from a disk, and whole scans in progress fill the memory
FRESH = 2 * 10**9  # ns: a file changed more recently may change again at the same time, and is not remembered
_known: dict[str, dict[str, Any]] = {}  # by file, so that a process reads each one only once


def each(work: Callable[[T], R], items: Sequence[T], what: str) -> list[R]:
    """Return `work` of every item, in order; a terminal shows a progress bar `what` after a few seconds.

    Raises the first error; work that has not started by then is not done.
    """
    workers = min(os.cpu_count() or 1, MAX_THREADS)
    return thread_map(work, items, max_workers=workers, desc=what, delay=3, leave=False, disable=None)


def remembered(
    what: str, folder: str | None, paths: Sequence[Sequence[str]], work: Callable[[int], Any], names: Sequence[str]
) -> list[Any]:
    """Return `work(k)` for every k, as plain data; computed once per name and current state of the files `paths[k]`.

    folder: folder of `<what>.jsonl`; None keeps the results in memory only.
    """
    file = Path(folder, f"{what}.jsonl").expanduser().absolute() if folder else None
    results = _known.setdefault(str(file or what), {})
    if file and file.exists() and not results:
        for line in file.read_bytes().splitlines():
            with suppress(ValueError, TypeError):  # an incomplete line of a killed process, and what was appended
                results.update([json.loads(line)])
    states = [[(path, *on_disk(path)) for path in group] for group in paths]
    keys = [json.dumps([name, *group_states]) for name, group_states in zip(names, states, strict=True)]
    new = [k for k, key in enumerate(keys) if key not in results]
    computed = dict(zip(new, each(work, new, what), strict=True)) if new else {}
    latest = time.time_ns() - FRESH
    stable = [k for k in new if states[k] and all(changed < latest for _, _, changed in states[k])]
    results |= {keys[k]: computed[k] for k in stable}  # changes of the others could not be detected
    if file and stable:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"), file.open("a", encoding="utf-8") as opened:
            opened.write("".join(json.dumps([keys[k], computed[k]]) + "\n" for k in stable))
    return [computed[k] if k in computed else results[key] for k, key in enumerate(keys)]


def content(paths: Sequence[str], folder: str | None) -> dict[str, str]:
    """Return the SHA-256 of each file by path; "" for anything that is not a regular file or cannot be read."""
    paths = list(dict.fromkeys(paths))

    def read(k: int) -> str:
        try:
            return sha256(Path(paths[k])) if os.path.isfile(paths[k]) else ""  # reading a pipe may never end
        except OSError:  # reported when it is decoded
            return ""

    hashes = remembered("hashes", folder, [[path] for path in paths], read, [""] * len(paths))
    return dict(zip(paths, hashes, strict=True))


def on_disk(path: str | Path) -> tuple[int, int]:
    """Return the size of a file in bytes and its modification time in ns; zeros if it does not exist."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns
