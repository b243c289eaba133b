"""A sweep that survives its jobs: it runs in a child process, and what dies there is written down and passed over.

The parent loads neither torch nor Lightning. It and the jobs share a journal, a text file with the folder of every job
that came by; its path travels in the environment, so that jobs in other processes and on other machines find it too.
Where several jobs work at once and die together, none is blamed: each of them is tried again while no other works.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock

from seglab.contract import require
from seglab.engine.run import Run, rank
from seglab.files import write_json

JOURNAL = "SEGLAB_SWEEP"


def journal() -> str | None:
    """The journal of the sweep that this process works for; None outside of a sweep."""
    return os.environ.get(JOURNAL)


def sign(folder: Path, on_fail: str = "continue") -> None:
    """Enter a job's folder in the journal, unless the sweep is to stop at the failure of another."""
    require(on_fail in ("continue", "stop"), "on_fail", "continue or stop", on_fail)
    if book := journal():
        broken = [facts["name"] for facts in visited(Path(book)) if on_fail == "stop" and failed_in(facts, book)]
        require(not broken, "sweep", "no failed run before this one", ", ".join(broken), "on_fail=continue goes on")
        with FileLock(f"{book}.lock"), Path(book).open("a", encoding="utf-8") as lines:  # NFS appends do not queue up
            lines.write(f"{folder.resolve()}\n")


@contextmanager
def turn() -> Iterator[None]:
    """Work while other jobs do; but one at a time as long as there are suspects of a death, which then die alone."""
    book = journal()
    waits = book and rank() == 0 and suspects(Path(book))
    with FileLock(f"{book}.turn") if waits else nullcontext():
        yield


def suspects(book: Path) -> list[Path]:
    """The folders of the jobs that died together and have not ended since; one of them brought the others down."""
    file = _beside(book)
    folders = map(Path, file.read_text(encoding="utf-8").splitlines()) if file.exists() else []
    return [folder for folder in folders if Run(folder).known().get("status") not in ("finished", "failed")]


def _beside(book: Path) -> Path:
    return book.with_name(f"{book.name}.suspects")


def failed_in(facts: dict[str, Any], book: str | None) -> bool:
    """Whether a run failed in this very sweep, which then does not try it a second time."""
    return book is not None and facts.get("status") == "failed" and facts.get("sweep") == book


def visited(book: Path) -> list[dict[str, Any]]:
    """The facts of all runs in the journal, each once, in the order of their coming."""
    folders = dict.fromkeys(book.read_text(encoding="utf-8").splitlines() if book.exists() else [])
    return [Run(Path(folder)).known() | {"folder": folder, "name": Path(folder).name} for folder in folders]


def supervise(module: str) -> int:
    """Run this command's sweep in a child until every job has had its turn; returns the exit code.

    A child that dies in the middle of a job (a crash, the kernel's out-of-memory killer) is started again: the dead
    job is written down as failed, finished jobs are skipped. Ctrl-C and SIGTERM reach the child and end the sweep.
    Jobs that outlive the child, as those of a cluster do, are waited for.
    """
    book = (Path("outputs") / ".sweeps" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}").resolve()
    book.parent.mkdir(parents=True, exist_ok=True)
    started = time.time()
    again = True
    while again:
        code, told = _child([sys.executable, "-m", module, *sys.argv[1:]], {**os.environ, JOURNAL: str(book)})
        while not told and any(Run(Path(facts["folder"])).held() for facts in _running(book)):
            time.sleep(1)
        again = bool(_bury(book, code, told)) and not told
    print(summary(visited(book), str(book), time.time() - started, "plan=true" in sys.argv), file=sys.stderr)
    return code


def _child(command: list[str], environment: dict[str, str]) -> tuple[int, bool]:
    """Run a command to its end; gives its exit code, and whether somebody told it to stop.

    Ctrl-C reaches the child by itself, since the terminal sends it to both; SIGTERM is passed on.
    """
    told = []

    def stop(number: int, frame: object) -> None:
        told.append(number)
        if number == signal.SIGTERM:
            process.terminate()

    process = subprocess.Popen(command, env=environment)
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return process.wait(), bool(told)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _running(book: Path) -> list[dict[str, Any]]:
    """The facts of this sweep's runs that have not said how they ended: they are at work, or died."""
    return [facts for facts in visited(book) if facts.get("status") == "running" and facts.get("sweep") == str(book)]


def _bury(book: Path, code: int, told: bool) -> list[str]:
    """Write down every run of this sweep whose process died in the middle of it; gives their names.

    One is failed, unless the sweep was told to stop. Several are interrupted, and each is suspected: a pool ends all
    its processes when one dies, and does not say which it was.
    """
    dead = [facts for facts in _running(book) if not Run(Path(facts["folder"])).held()]
    cause = f" with signal {-code} ({signal.Signals(-code).name})" if code < 0 else ""
    said = {"kind": "Died", "message": f"the process died{cause}", "traceback": None}
    status = "failed" if len(dead) == 1 and not told else "interrupted"
    for facts in dead:
        kept = {key: value for key, value in facts.items() if key != "folder"} | {"status": status, "error": said}
        write_json(Path(facts["folder"]) / "run.json", kept)
    if len(dead) > 1 and not told:
        with _beside(book).open("a", encoding="utf-8") as lines:
            lines.writelines(f"{facts['folder']}\n" for facts in dead)
    return [facts["name"] for facts in dead]


def summary(runs: list[dict[str, Any]], book: str, seconds: float, plan: bool) -> str:
    """Say in a few lines what a sweep did: how many runs are finished, which failed and why, what is left."""
    states = [facts.get("status", "waiting") for facts in runs]
    order = ("finished", "failed", "interrupted", "running", "waiting")
    counts = ", ".join(f"{states.count(state)} {state}" for state in order if state in states)
    lines = [f"sweep: {len(runs)} runs: {counts or 'none'}; {seconds:.0f} s"]
    lines += [
        f"  failed: {facts['name']}: {facts['error']['message']}" for facts in runs if facts.get("status") == "failed"
    ]
    known = [facts["seconds"] for facts in runs if facts.get("status") == "finished"]
    left = len(runs) - len(known)
    if plan or left:
        time_left = f", about {left * sum(known) / len(known) / 60:.0f} min" if known else ""
        lines.append(f"  left: {left}{time_left}; the same command goes on with them")
    folders = sorted({str(Path(facts["folder"]).parent) for facts in runs})
    lines += [f"  report: python -m seglab.report {os.path.relpath(folder)}" for folder in folders]
    return "\n".join(lines)
