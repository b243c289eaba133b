"""Supervise a sweep: it runs in a child process, and a job that dies is recorded and skipped.

The parent imports neither torch nor Lightning. It shares a journal with the jobs: a text file with the folders of its
jobs. Its path is in an environment variable, so that jobs in other processes and on other machines find it too.
If several parallel jobs die together, none is marked as failed: each is tried again while no other job runs.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock

from seglab.contract import ContractError
from seglab.engine.run import JOURNAL, Run, current_sweep, failed_in, rank, stop_signals
from seglab.files import is_held, run_status, write_json


class SweepStopped(ContractError):
    """Raised when a job does not begin because another one has failed; it can run at the next start."""


def register(folder: Path, on_fail: str = "continue") -> None:
    """Enter a job's folder in the journal; raise SweepStopped if `on_fail` is "stop" and another job has failed."""
    if journal := current_sweep():
        runs = registered_runs(Path(journal)) if on_fail == "stop" else []
        refused = [run for run in runs if run.get("status") == "refused" and not is_held(Path(run["folder"]))]
        if failed := ", ".join(run["name"] for run in runs if failed_in(run, journal) or run in refused):
            remedy = "set on_fail=continue to continue after it"
            raise SweepStopped(f"sweep: expected no failed run before this one, got {failed}; {remedy}")
        announce([folder])


def announce(folders: list[Path], at_once: int = 1) -> None:
    """Enter the folders of jobs in the journal, whether or not they have begun, and how many jobs run at once."""
    if not (journal := current_sweep()):
        return
    with FileLock(f"{journal}.lock"), Path(journal).open("a", encoding="utf-8") as lines:  # appends race on NFS
        lines.writelines(f"{folder.resolve()}\n" for folder in folders)
    if at_once > 1:
        Path(journal).with_suffix(".at_once").write_text(str(at_once))


def refuse(folder: Path, error: Exception, sentence: str) -> None:
    """Record for the sweep that an error ended a job before its run began, so that run.json is missing or older."""
    journal = current_sweep()
    has_begun = Run(folder).known().get("sweep") == journal
    if not journal or has_begun or isinstance(error, SweepStopped):  # leaves the job to the next start
        return
    file = Path(journal).with_suffix(".refused")  # if the disk is full the line is missing, but that was reported
    with suppress(OSError), FileLock(f"{journal}.lock"), file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps([str(folder.resolve()), sentence]) + "\n")


@contextmanager
def exclusive_slot() -> Iterator[None]:
    """Run jobs in parallel, but one at a time after several died together, so that the one at fault dies alone."""
    journal = current_sweep()
    exclusive = journal and rank() == 0 and died_together(Path(journal))
    with FileLock(f"{journal}.turn") if exclusive else nullcontext():
        yield


def died_together(journal: Path) -> list[Path]:
    """Return the folders of jobs that died together and have not ended since; one of them caused the others to die."""
    file = journal.with_suffix(".died")
    folders = map(Path, file.read_text(encoding="utf-8").splitlines()) if file.exists() else []
    return [folder for folder in folders if Run(folder).known().get("status") not in ("finished", "paused", "failed")]


def facts_in(journal: Path | None, folder: Path) -> dict[str, Any]:
    """Return a run's facts as the sweep left it: run.json, or status "refused" if its job ended before it began."""
    facts = Run(folder).known()
    if journal is None or facts.get("sweep") == str(journal):
        return facts  # also of a job that was refused, and tried again after the child died
    file = journal.with_suffix(".refused")
    refused = dict(map(json.loads, file.read_text(encoding="utf-8").splitlines())) if file.exists() else {}
    sentence = refused.get(str(folder.resolve()))
    return {"status": "refused", "error": {"message": sentence}} if sentence else facts


def registered_runs(journal: Path) -> list[dict[str, Any]]:
    """Return the facts of all runs in the journal, each once, in the order in which they were entered."""
    folders = dict.fromkeys(journal.read_text(encoding="utf-8").splitlines() if journal.exists() else [])
    runs = [facts_in(journal, Path(folder)) | {"folder": folder, "name": Path(folder).name} for folder in folders]
    return [run | {"skipped": run.get("status") == "finished" and run.get("sweep") != str(journal)} for run in runs]


def supervise(module: str) -> int:
    """Run this command's sweep in a child process until every job has been tried; return the exit code.

    A child that dies during a job (a crash, the kernel's out-of-memory killer) is restarted: the dead job is recorded
    as failed, and finished jobs are skipped. Ctrl-C, SIGTERM and SIGHUP are passed on to the child and end the sweep.
    Jobs that outlive the child, such as those of a cluster, are waited for.
    """
    words = {word.lower() for word in sys.argv}  # True is valid, too
    plan, started, again, signals = "plan=true" in words, time.time(), True, list[int]()
    with _journal(plan and not any("hydra/launcher=" in word for word in words)) as journal:
        environment = {**os.environ, JOURNAL: str(journal)}
        while again:  # ends, because a job that died alone is failed and not tried again
            code = _run_child([sys.executable, "-m", module, *sys.argv[1:]], environment, signals)
            while not signals and any(is_held(Path(run["folder"])) for run in _running(journal)):
                time.sleep(1)
            again = bool(_mark_crashed(journal, code, bool(signals))) and not signals
        runs, file = registered_runs(journal), journal.with_suffix(".at_once")
        at_once = int(file.read_text()) if file.exists() else 1
    if plan and "rerun=true" in words:
        runs = [run | {"status": "waiting"} for run in runs]
    with suppress(OSError):  # the terminal may be closed
        if runs:
            print(summary(runs, time.time() - started, plan, at_once), file=sys.stderr)
        elif code > 128 and not signals:
            print(f"sweep: the process died{by_signal(code)} before its first run", file=sys.stderr)
    return code or int(not plan and any(run.get("status") not in ("finished", "paused") for run in runs))


@contextmanager
def _journal(temporary: bool) -> Iterator[Path]:
    """Yield a journal path in outputs/.sweeps, which other machines see; a temporary one if asked or read-only."""
    sweeps = Path("outputs") / ".sweeps"
    with suppress(OSError):
        if not temporary:
            sweeps.mkdir(parents=True, exist_ok=True)
    shared = not temporary and os.access(sweeps, os.W_OK)
    with nullcontext(str(sweeps)) if shared else TemporaryDirectory() as folder:
        started = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"  # two containers may share this name
        yield Path(folder, f"{started}-{os.urandom(3).hex()}").resolve()


def _run_child(command: list[str], environment: dict[str, str], signals: list[int]) -> int:
    """Run a command to its end; return its exit code, and append the stop signals received meanwhile to `signals`.

    The signals are passed on. A terminal also sends Ctrl-C to the child, which counts two within a second as one.
    """

    def stop(number: int, frame: object) -> None:
        signals.append(number)
        process.send_signal(number)

    process = subprocess.Popen(command, env=environment)  # first, since `stop` needs it
    for number in stop_signals():
        signal.signal(number, stop)  # not restored, so that no signal stops the summary
    code = process.wait()
    return 128 - code if code < 0 else code  # as a shell reports it


def end_with_parent(parent: int, number: signal.Signals = signal.SIGTERM) -> None:
    """Send this process a signal within a second after its parent has ended, even if the parent was killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), number)

    threading.Thread(target=watch, daemon=True).start()


def _running(journal: Path) -> list[dict[str, Any]]:
    """Return the facts of this sweep's runs that have not recorded how they ended: they are running, or died."""
    runs = registered_runs(journal)
    return [run for run in runs if run.get("status") == "running" and run.get("sweep") == str(journal)]


def _mark_crashed(journal: Path, code: int, stopped: bool) -> list[str]:
    """Record in run.json every run of this sweep whose process died during the run; return their names.

    A single run is failed, unless the sweep was asked to stop. Several are interrupted, since any may be at fault: a
    process pool ends all its processes when one dies, and does not report which one.
    """
    dead = [run for run in _running(journal) if not is_held(Path(run["folder"]))]
    failed = len(dead) == 1 and not stopped
    dead = [run for run in dead if record_death(Run(Path(run["folder"])), code, failed)]
    if len(dead) > 1 and not stopped:
        with journal.with_suffix(".died").open("a", encoding="utf-8") as lines:  # see exclusive_slot
            lines.writelines(f"{run['folder']}\n" for run in dead)
    return [run["name"] for run in dead]


def record_death(run: Run, code: int, failed: bool = True) -> bool:
    """Record in run.json that a run's process died, from its exit code: -9, or 137 as a shell reports it.

    Return False, without recording, if another process now works in the folder or the disk is full.
    """
    message = f"the process died{by_signal(code) or ', or could not write how the run ended'}"
    error = {"kind": "Died", "message": message, "traceback": None}
    with suppress(OSError):
        if not is_held(run.folder):
            write_json(run.file, run.known() | {"status": "failed" if failed else "interrupted", "error": error})
            return True
    return False


def by_signal(code: int) -> str:
    """Return the signal of an exit code as ` with signal 9 (SIGKILL)`; "" if the code is not that of a signal."""
    texts = {number.value: f" with signal {number.value} ({number.name})" for number in signal.Signals}
    return texts.get(-code if code < 0 else code - 128, "")


def duration(seconds: float) -> str:
    """Format a duration in seconds: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def summary(runs: list[dict[str, Any]], seconds: float, plan: bool, at_once: int = 1) -> str:
    """Describe a sweep in a few lines: how many runs are finished, which failed and why, what is left."""
    states = [
        "already finished" if run.get("skipped") and not plan else run_status(Path(run["folder"]), run) for run in runs
    ]
    order = ("finished", "already finished", "paused", "failed", "refused", "interrupted", "running", "waiting")
    counts = ", ".join(f"{states.count(state)} {state}" for state in order if state in states)
    lines = [f"sweep: {len(runs)} runs: {counts or 'none'}; {seconds:.0f} s"]
    failed = [run for run in runs if run.get("status") in ("failed", "refused")]
    lines += [f"  {run['status']}: {run['name']}: {run['error']['message']}" for run in failed]
    finished, source = [run["seconds"] for run in runs if run.get("status") == "finished"], ""
    left = len(runs) - len(finished) - states.count("paused") - states.count("refused")  # would be refused again
    folders = {Path(run["folder"]).parent for run in runs}
    if not finished:  # estimate from other runs of the study
        others = [Run(file.parent).known() for folder in folders for file in folder.glob("*/run.json")]
        finished = [run["seconds"] for run in others if "identity" in run and run.get("status") == "finished"]
        source = f" (estimated from finished runs of the study: {len(finished)})"
    if plan or left:
        seconds = ceil(left / at_once) * sum(finished) / max(1, len(finished))
        time_left = f", about {duration(seconds)}{source}" if finished else ""
        several = f", {at_once} at once" if at_once > 1 else ""
        remedy = "without plan=true to train them" if plan else "again to resume them"
        lines.append(f"  left: {f'{left}{time_left}{several}; run the same command {remedy}' if left else 'nothing'}")
    studies = sorted(str(folder) for folder in folders if not folder.name.startswith("."))  # without a search's trials
    lines += [f"  report: python -m seglab.report {shlex.quote(os.path.relpath(study))}" for study in studies]
    return "\n".join(lines)
