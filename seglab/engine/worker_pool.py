"""Worker processes that score test images and draw pictures while the main process trains on a GPU.

They are spawned, since a process with threads or a GPU must not be forked, and they do not import torch.
"""

import functools
import logging
import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent import futures
from typing import Any

from seglab.engine.sweep import end_with_parent

_warn_once = functools.cache(logging.getLogger(__name__).warning)  # warns only once for each message
DIED = "evaluation_processes: a worker died (out of memory?); this process computes the remaining scores and pictures"

_pools: dict[int, futures.ProcessPoolExecutor] = {}


def submit(processes: int, function: Callable[..., Any], *args: Any) -> futures.Future[Any]:
    """Compute `function(*args)` in one of `processes` workers; in this process if there are none or one has died."""
    result: futures.Future[Any] = futures.Future()

    def set_result(computed: futures.Future[Any] | None = None) -> None:
        try:
            result.set_result(computed.result() if computed else function(*args))
        except futures.BrokenExecutor:  # raised for the call in a worker that died, and all calls after it
            _warn_once(DIED)
            set_result()
        except Exception as error:
            result.set_exception(error)

    if processes and processes not in _pools:
        spawn = multiprocessing.get_context("spawn")
        _pools[processes] = futures.ProcessPoolExecutor(processes, spawn, _prepare, (os.getpid(),))
    try:
        _pools[processes].submit(function, *args).add_done_callback(set_result) if processes else set_result()
    except futures.BrokenExecutor:
        _warn_once(DIED)
        set_result()
    return result


def finish() -> None:
    """Wait for all submitted calls, and end the workers."""
    while _pools:
        _pools.popitem()[1].shutdown()


def _prepare(parent: int) -> None:
    """Initialize a worker: it leaves Ctrl-C and SIGHUP to its parent, and ends with it, even if that is killed."""
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    end_with_parent(parent, signal.SIGKILL)
    cv2.setNumThreads(1)  # there is one worker per free core, see threads.py
