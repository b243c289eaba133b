"""A sweep that survives its jobs: it runs in a child process, and a job that dies is recorded and passed over.

The parent loads neither torch nor Lightning. It and the jobs share a journal, a text file with the folder of every job
that has started; its path is in the environment, so that jobs in other processes and on other machines find it too.
Where several jobs work at once and die together, none is blamed: each of them is tried again while no other works.
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
    """A job is not begun because another one has failed; it waits for the next start."""


def register(folder: Path, on_fail: str = "continue") -> None:
    """Enter a job's folder in the journal, unless the sweep is to stop because another job has failed."""
    if journal := current_sweep():
        known = registered_runs(Path(journal)) if on_fail == "stop" else []
        refused = [run for run in known if run.get("status") == "refused" and not is_held(Path(run["folder"]))]
        if failed := ", ".join(run["name"] for run in known if failed_in(run, journal) or run in refused):
            remedy = "on_fail=continue passes over it"
            raise SweepStopped(f"sweep: expected no failed run before this one, got {failed}; {remedy}")
        announce([folder])


def announce(folders: list[Path], at_once: int = 1) -> None:
    """Enter folders in the journal, those of jobs that have not begun too, and how many of them work at once."""
    if not (journal := current_sweep()):
        return
    with FileLock(f"{journal}.lock"), Path(journal).open("a", encoding="utf-8") as lines:  # appends race on NFS
        lines.writelines(f"{folder.resolve()}\n" for folder in folders)
    if at_once > 1:
        Path(journal).with_suffix(".at_once").write_text(str(at_once))


def refuse(folder: Path, error: Exception, sentence: str) -> None:
    """Enter in the journal that an error ended a job before its run began: run.json is not there, or older."""
    journal = current_sweep()
    began = Run(folder).known().get("sweep") == journal
    if not journal or began or isinstance(error, SweepStopped):  # which leaves the job to the next start
        return
    file = Path(journal).with_suffix(".refused")  # a full disk, of which it lacks the line, has been said
    with suppress(OSError), FileLock(f"{journal}.lock"), file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps([str(folder.resolve()), sentence]) + "\n")


@contextmanager
def exclusive_slot() -> Iterator[None]:
    """Work while other jobs do; but one at a time after several died together: the one at fault then dies alone."""
    journal = current_sweep()
    exclusive = journal and rank() == 0 and died_together(Path(journal))
    with FileLock(f"{journal}.turn") if exclusive else nullcontext():
        yield


def died_together(journal: Path) -> list[Path]:
    """The folders of the jobs that died together and have not ended since; one of them brought the others down."""
    file = journal.with_suffix(".died")
    folders = map(Path, file.read_text(encoding="utf-8").splitlines()) if file.exists() else []
    return [folder for folder in folders if Run(folder).known().get("status") not in ("finished", "paused", "failed")]


def facts_in(journal: Path | None, folder: Path) -> dict[str, Any]:
    """The facts of a run as the sweep left it: those of run.json, or that the job was refused before the run began."""
    facts = Run(folder).known()
    if journal is None or facts.get("sweep") == str(journal):
        return facts  # also of a job that was refused, and tried once more after the child had died
    file = journal.with_suffix(".refused")
    refused = dict(map(json.loads, file.read_text(encoding="utf-8").splitlines())) if file.exists() else {}
    sentence = refused.get(str(folder.resolve()))
    return {"status": "refused", "error": {"message": sentence}} if sentence else facts


def registered_runs(journal: Path) -> list[dict[str, Any]]:
    """The facts of all runs in the journal, each once, in the order in which they started."""
    folders = dict.fromkeys(journal.read_text(encoding="utf-8").splitlines() if journal.exists() else [])
    found = [facts_in(journal, Path(folder)) | {"folder": folder, "name": Path(folder).name} for folder in folders]
    return [run | {"skipped": run.get("status") == "finished" and run.get("sweep") != str(journal)} for run in found]


def supervise(module: str) -> int:
    """Run this command's sweep in a child until every job has been tried; returns the exit code.

    A child that dies in the middle of a job (a crash, the kernel's out-of-memory killer) is started again: the dead
    job is recorded as failed, finished jobs are skipped. Ctrl-C, SIGTERM and SIGHUP reach the child and end the sweep.
    Jobs that outlive the child, as those of a cluster do, are waited for.
    """
    words = {word.lower() for word in sys.argv}  # True is as good as true
    plan, started, again, signals = "plan=true" in words, time.time(), True, list[int]()
    with _journal(plan and not any("hydra/launcher=" in word for word in words)) as journal:
        environment = {**os.environ, JOURNAL: str(journal)}
        while again:  # to an end, as a job that died alone is failed, and not tried again
            code = _run_child([sys.executable, "-m", module, *sys.argv[1:]], environment, signals)
            while not signals and any(is_held(Path(run["folder"])) for run in _running(journal)):
                time.sleep(1)
            again = bool(_mark_crashed(journal, code, bool(signals))) and not signals
        runs, file = registered_runs(journal), journal.with_suffix(".at_once")
        at_once = int(file.read_text()) if file.exists() else 1
    if plan and "rerun=true" in words:
        runs = [run | {"status": "waiting"} for run in runs]
    with suppress(OSError):  # of a terminal that was closed
        if runs:
            print(summary(runs, time.time() - started, plan, at_once), file=sys.stderr)
    return code or int(not plan and any(run.get("status") not in ("finished", "paused") for run in runs))


@contextmanager
def _journal(passing: bool) -> Iterator[Path]:
    """A journal in outputs/.sweeps, which other machines see; `passing`, or where none can be, a temporary one."""
    place = Path("outputs") / ".sweeps"
    with suppress(OSError):
        if not passing:
            place.mkdir(parents=True, exist_ok=True)
    kept = not passing and os.access(place, os.W_OK)
    with nullcontext(str(place)) if kept else TemporaryDirectory() as folder:
        started = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"  # two containers may have one number
        yield Path(folder, f"{started}-{os.urandom(3).hex()}").resolve()


def _run_child(command: list[str], environment: dict[str, str], signals: list[int]) -> int:
    """Run a command to its end; gives its exit code, and enters in `signals` what asked for the end.

    These signals are passed on. A terminal sends Ctrl-C to the child, too, which takes two in one second for one.
    """

    def stop(number: int, frame: object) -> None:
        signals.append(number)
        process.send_signal(number)

    process = subprocess.Popen(command, env=environment)  # first, as `stop` needs it
    for number in stop_signals():
        signal.signal(number, stop)  # to the end of this process: no signal stops the summary
    code = process.wait()
    return 128 - code if code < 0 else code  # as a shell gives it


def end_with_parent(parent: int, number: signal.Signals = signal.SIGTERM) -> None:
    """Send this process a signal within a second after its parent is gone, which may have been killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), number)

    threading.Thread(target=watch, daemon=True).start()


def _running(journal: Path) -> list[dict[str, Any]]:
    """The facts of this sweep's runs that have not recorded how they ended: they are at work, or died."""
    runs = registered_runs(journal)
    return [run for run in runs if run.get("status") == "running" and run.get("sweep") == str(journal)]


def _mark_crashed(journal: Path, code: int, stopped: bool) -> list[str]:
    """Record in run.json every run of this sweep whose process died in the middle of it; gives their names.

    One is failed, unless the sweep was asked to stop. Several are interrupted, since any may be at fault: a pool ends
    all its processes when one dies, and does not say which it was.
    """
    dead = [run for run in _running(journal) if not is_held(Path(run["folder"]))]
    failed = len(dead) == 1 and not stopped
    dead = [run for run in dead if record_death(Run(Path(run["folder"])), code, failed)]
    if len(dead) > 1 and not stopped:
        with journal.with_suffix(".died").open("a", encoding="utf-8") as lines:  # see exclusive_slot
            lines.writelines(f"{run['folder']}\n" for run in dead)
    return [run["name"] for run in dead]


def record_death(run: Run, code: int, failed: bool = True) -> bool:
    """Record in run.json that the process of a run died, by its exit code: -9, or 137 as a shell gives it.

    Not where another process works there by now, nor where the disk is full, as the run has said: gives whether.
    """
    said = f"the process died{by_signal(code) or ', or could not write how the run ended'}"
    error = {"kind": "Died", "message": said, "traceback": None}
    with suppress(OSError):
        if not is_held(run.folder):
            write_json(run.file, run.known() | {"status": "failed" if failed else "interrupted", "error": error})
            return True
    return False


def by_signal(code: int) -> str:
    """What an exit code says of a signal, ` with signal 9 (SIGKILL)`; nothing of a code of 1 to 127, which is none."""
    known = {number.value: f" with signal {number.value} ({number.name})" for number in signal.Signals}
    return known.get(-code if code < 0 else code - 128, "")


def duration(seconds: float) -> str:
    """A length of time to read: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def summary(runs: list[dict[str, Any]], seconds: float, plan: bool, at_once: int = 1) -> str:
    """Describe a sweep in a few lines: how many runs are finished, which failed and why, what is left."""
    states = [
        "finished already" if run.get("skipped") and not plan else run_status(Path(run["folder"]), run) for run in runs
    ]
    order = ("finished", "finished already", "paused", "failed", "refused", "interrupted", "running", "waiting")
    counts = ", ".join(f"{states.count(state)} {state}" for state in order if state in states)
    lines = [f"sweep: {len(runs)} runs: {counts or 'none'}; {seconds:.0f} s"]
    stopped = [run for run in runs if run.get("status") in ("failed", "refused")]
    lines += [f"  {run['status']}: {run['name']}: {run['error']['message']}" for run in stopped]
    finished, took = [run["seconds"] for run in runs if run.get("status") == "finished"], ""
    left = len(runs) - len(finished) - states.count("paused") - states.count("refused")  # again would be in vain
    folders = {Path(run["folder"]).parent for run in runs}
    if not finished:  # then by other runs of the study
        there = [Run(file.parent).known() for folder in folders for file in folder.glob("*/run.json")]
        finished = [run["seconds"] for run in there if "identity" in run and run.get("status") == "finished"]
        took = f" by the {len(finished)} finished in the study"
    if plan or left:
        seconds = ceil(left / at_once) * sum(finished) / max(1, len(finished))
        time_left = f", about {duration(seconds)}{took}" if finished else ""
        several = f", {at_once} at once" if at_once > 1 else ""
        remedy = "without plan=true the same command trains them" if plan else "the same command resumes them"
        lines.append(f"  left: {f'{left}{time_left}{several}; {remedy}' if left else 'nothing'}")
    studies = sorted(str(folder) for folder in folders if not folder.name.startswith("."))  # no trials of a search
    lines += [f"  report: python -m seglab.report {shlex.quote(os.path.relpath(study))}" for study in studies]
    return "\n".join(lines)
