"""The same work on many items, with a thread per core: decoding releases Python's lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
R = TypeVar("R")

MAX_THREADS = 16
"""Beyond, a disk gives no more, and whole scans in work fill the memory."""


def each(work: Callable[[T], R], items: Sequence[T], what: str) -> list[R]:
    """Give `work` of every item, in order, with a progress bar called `what` if it takes more than a few seconds.

    The first error is raised at once, and what has not begun by then is not done.
    """
    pool = ThreadPoolExecutor(min(os.cpu_count() or 1, MAX_THREADS))
    try:
        return list(tqdm(pool.map(work, items), what, len(items), delay=3, leave=False))
    finally:
        pool.shutdown(cancel_futures=True)
