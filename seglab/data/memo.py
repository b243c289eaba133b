"""Process many source files with a thread per core, and remember what earlier runs found: hashes, results of decoding.

Path, size and modification time only recognize a file here; data are identified by the hash of their content.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock
from tqdm import tqdm

from seglab.files import NOT_JSON, sha256

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

LINE_SECONDS = 30.0  # seconds between progress lines where there is no terminal
MAX_THREADS = 16  # more do not read faster from a disk, and whole scans in progress fill the memory
FRESH = 2 * 10**9  # ns: a file changed later than this ago may change again at the same time, so it is not remembered
_known: dict[str, dict[str, Any]] = {}  # by file, so that a process reads each one only once


def each(work: Callable[[T], R], items: Sequence[T], what: str) -> list[R]:
    """Return `work` of every item, in order; work that takes long shows its `progress`.

    Raises the first error; work that has not started by then is not done.
    """
    with ThreadPoolExecutor(min(os.cpu_count() or 1, MAX_THREADS)) as pool:
        return list(progress(pool.map(work, items), what, len(items)))


def progress(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Iterate with a bar after some seconds, or with a line each half minute where there is no terminal."""
    bar, since = tqdm(items, what, total, delay=3, leave=False, disable=None), time.monotonic()
    for done, item in enumerate(bar):
        if bar.disable and time.monotonic() - since > LINE_SECONDS:
            log.info("%s: %d%s", what, done, f" of {bar.total}" if bar.total else "")
            since = time.monotonic()
        yield item


def remembered(
    what: str, folder: str | None, paths: Sequence[Sequence[str]], work: Callable[[int], Any], names: Sequence[str]
) -> list[Any]:
    """Return `work(k)`, plain data, for every k; it is computed once for each name and state of the files `paths[k]`.

    folder: folder of `<what>.jsonl`; None keeps the results in memory only.
    """
    file = Path(os.path.expanduser(folder), f"{what}.jsonl").absolute() if folder else None
    results = _known.setdefault(str(file or what), {})
    if file and file.exists() and not results:
        with file.open("rb") as lines:
            for line in lines:
                # skips a line that was cut off when a process was killed, with what was appended to it
                with suppress(TypeError, *NOT_JSON):
                    key, value = json.loads(line)
                    results[key if len(key) == 32 else short(key)] = value  # earlier versions wrote longer keys
    states = [[(path, *on_disk(path)) for path in group] for group in paths]
    keys = [short(json.dumps([name, *group_states])) for name, group_states in zip(names, states, strict=True)]
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


def short(key: str) -> str:
    """Hash a key: names contain all reading options, and every start reads the whole file of results."""
    return blake2b(key.encode(), digest_size=16).hexdigest()


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
