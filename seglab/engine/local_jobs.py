"""Run several jobs of a sweep at once on one machine: a forked process for each, and a log line when one ends."""

import logging
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from seglab.engine.run import Run, current_sweep, stop_signals, stopped_by
from seglab.engine.sweep import by_signal, duration, end_with_parent, facts_in, record_death, refuse
from seglab.files import run_status

log = logging.getLogger(__name__)


def run_in_processes(
    work: Callable[[int], float], count: int, at_once: int, ended: Callable[[int, int], None]
) -> list[float]:
    """Call `work(k)` for each k below `count`, each in its own process; return the values in order.

    A process that dies gives NaN and does not stop the others. `ended(k, exit_code)` is called when a process ends; a
    negative code is the number of the signal that killed it. Any exception here, such as Ctrl-C, ends all processes.
    """
    context = multiprocessing.get_context("fork")  # inherits imports and configurations: nothing is pickled
    values, waiting = [float("nan")] * count, deque(range(count))
    running: dict[Any, tuple[int, BaseProcess, Connection]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                k = waiting.popleft()
                receiver, sender = context.Pipe(duplex=False)
                deliver = _hold_signals()  # until the child is in `running`
                try:
                    process = context.Process(target=_call, args=(work, k, sender, deliver, os.getpid()))
                    process.start()
                    running[process.sentinel] = (k, process, receiver)
                finally:
                    deliver()
                sender.close()  # the child has its own copy; every later child would inherit this one
            for sentinel in wait(list(running)):
                k, ended_process, receiver = running.pop(sentinel)
                ended_process.join()
                if ended_process.exitcode == 0:  # a process that died may have sent nothing
                    values[k] = receiver.recv()
                receiver.close()
                ended(k, ended_process.exitcode or 0)
        return values
    finally:
        for _, remaining, _ in running.values():
            remaining.terminate()
        for _, remaining, _ in running.values():
            remaining.join()


def _hold_signals() -> Callable[[], None]:
    """Hold back stop signals, as a fork would lose their handlers' exceptions; return a function that delivers them.

    They are also blocked, because a starting child drops signals that it receives; other threads may still get them.
    """
    held, mask = list[int](), signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals())
    handlers = {number: signal.signal(number, lambda number, _: held.append(number)) for number in stop_signals()}

    def deliver() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for received in held:
            signal.raise_signal(received)

    return deliver


def _call(work: Callable[[int], float], k: int, pipe: Connection, deliver: Callable[[], None], parent: int) -> None:
    """Send the value of `work(k)` through the pipe, in a child process; if stopped, exit without a traceback."""
    try:
        deliver()
        for number in (signal.SIGINT, signal.SIGHUP):  # a terminal also signals the parent, which ends its children
            signal.signal(number, signal.SIG_IGN)
        end_with_parent(parent)
        pipe.send(work(k))
    except KeyboardInterrupt as error:
        raise SystemExit(128 + (stopped_by(error) or signal.SIGINT)) from None


class Progress:
    """Log after each run of a sweep which one it was, how it ended, and about how long the others will take."""

    def __init__(self, folders: list[Path], at_once: int) -> None:
        self.folders, self.at_once = folders, at_once
        self.done, self.seconds = 0, list[float]()
        self.started = dict.fromkeys(range(min(at_once, len(folders))), time.time())  # start times of running jobs

    def ended(self, k: int, exit_code: int = 0) -> None:
        """Log a line for the run in the k-th folder; record it as failed if its process died."""
        run = Run(self.folders[k])
        journal, record = current_sweep(), run.known()
        if record.get("status") == "running" and record.get("sweep") == journal:
            record_death(run, exit_code)
        elif exit_code < 0:  # it died before its run began
            refuse(run.folder, RuntimeError(), f"the process died{by_signal(exit_code)}")
        facts = facts_in(Path(journal) if journal else None, run.folder)
        trained = facts.get("sweep") == journal
        self.done += 1
        self.started.pop(k, None)
        if (following := self.done + self.at_once - 1) < len(self.folders):
            self.started[following] = time.time()
        skipped = facts.get("status") == "finished" and not trained
        state = "was already finished" if skipped else run_status(run.folder, {"status": "did not begin"} | facts)
        words = [f"run {self.done} of {len(self.folders)}: {run} {state}"]
        if facts.get("status") == "finished":
            seconds = "" if skipped else f" in {facts['seconds']:.0f} s"
            words.append(f"{facts['monitor']['name']} {facts['monitor']['value']:.4f}{seconds}")
        elif (error := facts.get("error")) and (error.get("traceback") or error.get("kind") == "Died"):
            words.append(str(error["message"]))  # cli.py has just reported any other
        if trained and "seconds" in facts:
            self.seconds.append(facts["seconds"])
        left = len(self.folders) - self.done
        if left and self.seconds:
            words.append(f"about {duration(self.time_left(left))} left")
        log.info("%s", "; ".join(words))

    def time_left(self, left: int) -> float:
        """Estimate the seconds until `left` runs, some of them at work, are done: at least those of the longest."""
        mean = sum(self.seconds) / len(self.seconds)
        remaining = [max(0.0, mean - (time.time() - start)) for start in self.started.values()]
        remaining += [mean] * (left - len(remaining))
        return max(*remaining, sum(remaining) / self.at_once)
