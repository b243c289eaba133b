"""The same work on many items, with a thread per core: decoding releases Python's lock."""

import os
from collections.abc import Callable, Sequence
from typing import TypeVar

from tqdm.contrib.concurrent import thread_map

T = TypeVar("T")
R = TypeVar("R")

MAX_THREADS = 16
"""Beyond, a disk gives no more, and whole scans in work fill the memory."""


def each(work: Callable[[T], R], items: Sequence[T], what: str) -> list[R]:
    """Give `work` of every item, in order, with a progress bar called `what` if it takes more than a few seconds.

    The first error is raised, and what has not begun by then is not done.
    """
    return thread_map(work, items, max_workers=min(os.cpu_count() or 1, MAX_THREADS), desc=what, delay=3, leave=False)
