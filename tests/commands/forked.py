"""Commands in processes of their own that have most imported already, since starting Python and torch takes seconds."""

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

Begun = tuple[BaseProcess, int]
"""A process, and a descriptor of it."""

PRELOADED = ["hydra", "seglab.engine.results", "seglab.inference.evaluation", "seglab.inference.prediction_writer"]
PRELOADED += [
    "torch.onnx",
    "onnxscript",
    "seglab.inference.export",
    "seglab.data.audit",
    "seglab.reporting.write_report",
    __name__,
]


def speak_into(file: str) -> None:
    """Send what this process says to a file."""
    with open(file, "w") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)


def command_line(command: str, words: list[str], out: Path, environment: Mapping[str, str] | None = None) -> None:
    """Run a command as from a terminal, in a folder in which said.txt gets what it says."""
    os.chdir(out)
    os.environ |= environment or {}
    speak_into("said.txt")
    sys.argv = [command, *words]
    module = import_module(f"seglab.{command}")  # before, signals do what Python does
    Path("began").touch()
    module.main()


def begin(target: Callable[..., None], *arguments: Any) -> Begun:
    """Call a function of a test module in a process of its own, in which most is imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=target, args=arguments)
    process.start()
    assert process.pid
    return process, os.pidfd_open(process.pid)


def end(begun: Begun, moment: float | None = None, number: int = signal.SIGKILL) -> int | None:
    """Wait for the end of a command, for which a signal asks after a moment; gives the exit code."""
    process, descriptor = begun
    process.join(moment)
    with contextlib.suppress(ProcessLookupError):  # a number of a process may be another's by now, a descriptor not
        signal.pidfd_send_signal(descriptor, number)
    process.join()
    os.close(descriptor)
    return process.exitcode
