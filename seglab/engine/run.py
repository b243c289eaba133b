"""The folder of a run and its `run.json`: who may work in it, what is known about it, whether it is finished."""

import csv
import datetime
import functools
import importlib.metadata
import logging
import os
import platform
import shutil
import signal
import subprocess
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from seglab.contract import ContractError, require, sentence
from seglab.engine.domains import better
from seglab.files import LOCK, archive_is_intact, file_facts, mistyped, of_version_1, read_json, whole_file, write_json

log = logging.getLogger(__name__)

PACKAGES = ["numpy", "torch", "pytorch-lightning", "torchmetrics", "hydra-core"]
PACKAGES += ["segmentation-models-pytorch", "albumentations"]

ARRAYS = ("histograms.npz", "decisions.npz", "examples.npz")
RESULTS = ("metrics.csv", "per_image.csv", *ARRAYS, "split.json", "checkpoints/best.ckpt")
"""Files of a finished run whose sizes and checksums are recorded in run.json."""

PICTURES = ("curves.png", "examples.png")
FOLDERS = ("checkpoints", "snapshots")

OF_FINISHED = {"config", "choices", "data", "monitor", "threshold", "seconds", "finished"}
"""Keys that other code reads from the run.json of a finished run."""

JOURNAL = "SEGLAB_SWEEP"
"""The environment variable with the path of the sweep's journal, see sweep.py."""


RANKS = ("RANK", "NODE_RANK", "LOCAL_RANK", "SLURM_PROCID")
"""The variables set by torchrun, by hand on each node, by Lightning for its child processes, and by srun."""


def current_sweep() -> str | None:
    """Return the path of the journal of this process's sweep; None outside a sweep."""
    return os.environ.get(JOURNAL)


def rank() -> int:
    """Return 0 in the first process of a run (the only one that writes), another number in its other processes."""
    return next(filter(None, (int(os.environ.get(name, 0)) for name in RANKS)), 0)


def be_first() -> None:
    """Make this process of a run of one process the first one, although `srun -n4` or a shell may have numbered it."""
    if rank():
        for name in RANKS:
            os.environ.pop(name, None)


class Run:
    """A run folder that one process at a time may hold; used in a `with` statement, it records how the run ended.

    The folder is locked by the operating system, which releases the lock when the process ends for any reason. If a run
    has several processes, the first one holds the lock for all, and the others write nothing.

    Args:
        folder: the run's folder; created if absent.
        wait: wait while another process holds the folder, instead of raising ContractError.

    Attributes:
        replaces: the run starts over; until training begins, earlier files are kept and nothing is written.
        mirrors: functions that are called with the folder and its facts when the run has ended for any reason.
    """

    def __init__(self, folder: Path, wait: bool = False) -> None:
        self.folder, self.file = Path(folder), Path(folder) / "run.json"
        self.facts: dict[str, Any] = {}
        self.earlier: dict[str, Any] = {}
        self.is_main = rank() == 0
        self.replaces = False
        self.mirrors: list[Callable[[Path, dict[str, Any]], None]] = []
        self._lock = FileLock(self.folder / LOCK, timeout=-1 if wait else 0)

    def __str__(self) -> str:
        return os.path.relpath(self.folder)

    def known(self) -> dict[str, Any]:
        """Return the facts in run.json; empty if there is none or, with a warning, if it is damaged."""
        content = read_json(self.file)
        facts = content if isinstance(content, dict) else {"": content}
        missing = {"status", *(OF_FINISHED if facts.get("status") == "finished" else ())} - facts.keys()
        missing |= mistyped(facts)
        if not facts or not missing or of_version_1(facts):
            return facts
        log.warning("%s is damaged (no %s)", self.file, ", ".join(sorted(missing)))
        return {}

    @property
    def last(self) -> Path | None:
        """The checkpoint from which an interrupted run resumes; None if there is none."""
        file = self.folder / "checkpoints" / "last.ckpt"
        return file if file.exists() and not self.replaces else None

    def replace(self) -> bool:
        """Start over (set `replaces`); return False if there is nothing to replace, or if this sweep made the run."""
        record, sweep = self.known(), current_sweep()
        of_this_sweep = sweep is not None and record.get("sweep") == sweep  # restarted, since another job has died
        self.replaces = not of_this_sweep and bool(record or self.last)
        return self.replaces

    def begin(self, splits: dict[str, list[str]]) -> None:
        """Begin training on these splits; without a checkpoint to resume from, remove the files of an earlier run."""
        if self.is_main and not self.last:
            self.forget()
            self.replaces = False
            self.note()
        self.write("split.json", splits)

    def forget(self) -> None:
        """Remove the files of an earlier run; if this is killed halfway, that run is still finished or starts over."""
        # last.ckpt first: a finished run does not need it; without run.json, the next start would resume from it
        for file in ("checkpoints/last.ckpt", "run.json", *RESULTS, *PICTURES):
            (self.folder / file).unlink(missing_ok=True)
        for folder in FOLDERS:
            shutil.rmtree(self.folder / folder, ignore_errors=True)

    def paused_value(self, epochs: int | None) -> float | None:
        """Return the best monitored value of the first `epochs` epochs; None if they are still to be trained."""
        record, file = self.known(), self.folder / "metrics.csv"
        if not epochs or not file.exists():
            return None
        monitor = record["config"]["monitor"]
        try:
            with file.open(encoding="utf-8", newline="") as opened:
                rows = list(csv.DictReader(opened))
            values = [float(row[monitor]) for row in rows[:epochs] if row.get(monitor)]
        except (ValueError, csv.Error):  # damaged: the run resumes and rewrites it from its checkpoint
            return None
        done = len(rows) >= epochs or record.get("paused", 0) >= epochs  # early stopping leaves fewer rows
        if not done or not values:
            return None
        return max(values) if better(monitor) == "max" else min(values)

    def pause(self, epochs: int) -> float:
        """End the run after `epochs` epochs, without measuring it; return their best monitored value, or NaN."""
        self.note(paused=epochs)
        value = self.paused_value(epochs)
        return float("nan") if value is None else value

    def clean_up(self) -> None:
        """Remove all checkpoints if one of them is damaged."""
        from seglab.engine.checkpoints import refers_to_best

        if not self.last:
            return
        for file in (self.last, self.last.with_name("best.ckpt")):
            before_validation = not file.exists() and not refers_to_best(self.last)  # no best.ckpt yet
            if not archive_is_intact(file) and not before_validation:
                log.warning("%s is damaged: the run starts over, with the same results", os.path.relpath(file))
                shutil.rmtree(file.parent)
                return

    def outcome(
        self, identity: str, data_now: Callable[[], str], stop_after: int | None = None, root: str | None = None
    ) -> float | None:
        """Return the monitored value if this experiment is finished here; None if it is still to be trained.

        With `stop_after`, that many of its epochs are enough, and the value is the best of these.

        `data_now()` returns the fingerprint of the data now on disk, in `root`. Raises a ContractError if the folder
        belongs to another experiment, results are damaged, data or initial weights have changed since, or the run has
        already failed in this sweep (it is not tried twice). The folder of a run that ended before its first checkpoint
        is free for any experiment.
        """
        record = self.known()
        finished = record.get("status") == "finished"
        free = not (finished or self.last)
        start = f" (init_from={self} starts from its weights)" if finished else ""
        remedy = f"choose another hydra.run.dir{start}, or set rerun=true to replace the run"
        same = record.get("identity", identity) == identity
        outdated = of_version_1(record)
        require(free or not outdated, f"run {self}", "one made by seglab 2", f"one {outdated}")
        require(same or free, f"run {self}", "a folder of this experiment", "one of another experiment", remedy)
        has_begun = same and record.get("data") and not finished  # without data it failed before reading them
        paused = self.paused_value(stop_after) if has_begun else None
        done = finished or paused is not None
        if done or (has_begun and self.last):  # before resuming, so that run.json is unchanged if the run is refused
            self._require_unchanged(record, data_now, root, done)
        if done:
            return float(record["monitor"]["value"]) if paused is None else paused
        failed = failed_in(record, current_sweep())
        require(not failed, f"run {self}", "a run that has not failed in this sweep", "one that has")
        return None

    def _require_unchanged(
        self, record: dict[str, Any], data_now: Callable[[], str], root: str | None, done: bool
    ) -> None:
        """Raise a ContractError if the data or, for a `done` run, its results or initial weights have changed."""
        remedy = "set rerun=true to train it again, or study=NAME to keep both"
        for name in record.get("files", {}) if done else ():
            whole_file(self.folder, record, name, hashed=not name.endswith(".ckpt"))  # a checkpoint may have gigabytes
        same = record["data"]["fingerprint"] == data_now()
        require(same, f"run {self}", "the data that it was trained on", other_data(record, root), remedy)
        initial = record.get("initial") if done else None
        if initial and Path(initial["file"]).is_file():  # a missing file cannot have changed
            same = file_facts(Path(initial["file"]))["sha256"] == initial["sha256"]
            require(same, f"run {self}", "its initial weights", "a file that has changed since", remedy)

    def start(self, **facts: Any) -> None:
        """Record that the run begins; `facts` are its config, choices, seed and so on, in plain JSON types."""
        self._clock = time.perf_counter()
        self.earlier = self.known()
        kept = ("data", "initial") if self.last else ()  # in case this start fails
        of_checkpoint = {key: value for key, value in self.earlier.items() if key in kept}
        self.facts = {"name": self.folder.name, "sweep": current_sweep(), **of_checkpoint, **facts}
        self.note(status="running", started=_now(), versions=versions(), git=commit(), error=None)

    def note(self, **facts: Any) -> None:
        """Add facts and write run.json."""
        self.facts.update(facts)
        self.write(self.file.name, self.facts)

    def write(self, name: str, data: Any) -> None:
        """Write plain data as a JSON file in the folder, atomically."""
        if self.is_main and not self.replaces:
            write_json(self.folder / name, data)

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.is_main:
            return self
        self._require_own()
        try:
            self._lock.acquire()
        except Timeout:
            got, remedy = "one in which another process is training", "wait for it, then run the same command again"
            require(False, f"run {self}", "a free folder", got, remedy)
        except OSError:
            if os.access(self.folder, os.W_OK) or self.known().get("status") != "finished":
                raise
            root = logging.getLogger()  # read-only, but finished: nothing is written, not even train.log
            root.handlers = [handler for handler in root.handlers if not isinstance(handler, logging.FileHandler)]
        return self

    def _require_own(self) -> None:
        """Raise a ContractError if the folder has files of other programs that a run would replace."""
        names = (self.file.name, *RESULTS, *PICTURES, *FOLDERS, "tensorboard")
        others = [] if (self.folder / LOCK).exists() else [name for name in names if (self.folder / name).exists()]
        is_own, got = not others or bool(self.known()), f"one with {', '.join(others)} of another program"
        require(is_own, f"run {self}", "a new folder or that of a run", got, "choose another hydra.run.dir")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if self.facts:
                self._end(error)
                for mirror in self.mirrors:
                    mirror(self.folder, self.facts)
        finally:
            self._lock.release()

    def _end(self, error: BaseException | None) -> None:
        times = {"finished": _now(), "seconds": round(time.perf_counter() - self._clock, 2)}
        if error is None:
            files = [name for name in RESULTS if (self.folder / name).is_file()] if self.is_main else []
            status = "paused" if "paused" in self.facts else "finished"
            self.note(status=status, files={name: file_facts(self.folder / name) for name in files}, **times)
            return
        is_sentence = isinstance(error, ContractError) and not error.__cause__  # not caused by third-party code
        trace = None if is_sentence else "".join(traceback.format_exception(error))
        stopped = stopped_by(error)
        message = f"stopped by {stopped.name.replace('SIGINT', 'Ctrl-C')}" if stopped else sentence(error)
        if not self.is_main and not stopped:
            with (self.folder / f"train_ddp_process_{rank()}.log").open("a", encoding="utf-8") as file:
                file.write(f"{trace or message}\n")
        details = {"kind": type(error).__name__, "message": message, "traceback": trace}
        self.note(status="interrupted" if stopped else "failed", error=details, **times)


def stopped_by(error: BaseException) -> signal.Signals | None:
    """Return the signal that stopped the run on purpose, None if it failed; a KeyboardInterrupt without one is Ctrl-C.

    On SLURM, also return SIGINT if the time limit was reached: submitit requeues the job and exits with code -1.
    """
    if type(error).__name__ == "SIGTERMException":  # Lightning's, which is not imported here
        return signal.SIGTERM
    interrupts = [cause for cause in (error, error.__context__) if isinstance(cause, KeyboardInterrupt)]
    signals = [arg for interrupt in interrupts for arg in interrupt.args if isinstance(arg, signal.Signals)]
    queued = isinstance(error, SystemExit) and error.code == -1 and "SUBMITIT_FOLDER" in os.environ
    return next(iter(signals), signal.SIGINT) if interrupts or queued else None  # Lightning turns it into SystemExit


def stop_signals() -> list[signal.Signals]:
    """Return the signals that ask a command to end: SIGINT, SIGTERM, and SIGHUP unless that is ignored (nohup)."""
    hang_up = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGINT, signal.SIGTERM, *hang_up]


def other_data(facts: dict[str, Any], root: str | None) -> str:
    """Describe data that differ from those of a run: in another folder, or changed in the same one."""
    before = facts["config"]["dataset"].get("root")
    return "different or changed data" if root == before else f"data in {root} instead of {before}"


def failed_in(facts: dict[str, Any], sweep: str | None) -> bool:
    """Whether a run failed in this very sweep, which then does not try it a second time."""
    return sweep is not None and facts.get("status") == "failed" and facts.get("sweep") == sweep


def versions() -> dict[str, str]:
    """Return the versions that a result depends on; for seglab in a checkout, also the commit."""
    packages = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), "seglab": own_version(), **packages}


@functools.cache
def own_version() -> str:
    """Return this package's version, and the commit of a checkout: 2.0.0 (a1b2c3d4e5 with uncommitted changes)."""
    try:
        version = importlib.metadata.version("seglab")
    except importlib.metadata.PackageNotFoundError:  # on the path, but not installed
        version = "not installed"
    file = Path(__file__)
    source = commit(file.parent, file.name)
    changed = " with uncommitted changes" if source and source["dirty"] else ""
    return f"{version} ({source['commit'][:10]}{changed})" if source else version


def commit(folder: Path = Path(), file: str | None = None) -> dict[str, Any] | None:
    """Return a folder's commit and whether it has uncommitted changes; None outside git or if `file` is untracked."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        if file:
            git("ls-files", "--error-unmatch", file)
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):  # no git, no repository, or a disk that does not respond
        return None


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
