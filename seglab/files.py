"""Files: written atomically, checked for damage, and weights read from checkpoints."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import os
import platform
import re
import threading
import time
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from seglab.contract import ContractError, require

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from torch import Tensor


log = logging.getLogger(__name__)

LOCK = ".lock"
"""The file of a run folder that its process locks; the operating system gives the lock back when that process ends."""

_tidying = threading.Lock()  # or a thread could begin a file that another, still tidying, takes for a leftover


@cache
def tidy(folder: Path) -> None:
    """Remove what killed processes left of their `atomic` writes in a folder; a process does so once for each."""
    for partial in folder.glob(".*.partial*"):
        writer = re.search(r"\.([0-9a-f]{6})-(\d+)-\d+\.partial", partial.name)  # see `atomic`
        with suppress(OSError):  # it is another user's, or gone
            old = time.time() - partial.stat().st_mtime > 86400
            if writer and (old if writer[1] != _host() else not _is_at_work(int(writer[2]))):
                partial.unlink()


@cache
def _host() -> str:
    """Six hex digits for where numbers of processes are those that this one knows: this machine, or a container."""
    space = Path("/proc/self/ns/pid")
    return hashlib.sha256(f"{platform.node()} {os.readlink(space) if space.exists() else ''}".encode()).hexdigest()[:6]


def _is_at_work(process: int) -> bool:
    """Whether another process of this number lives; this one has not begun to write where it tidies."""
    try:
        os.kill(process, 0)  # signal 0 is never delivered: it only asks
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        return True
    return process != os.getpid()


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary file beside `path` to write into; it replaces `path` when the block ends without an error.

    It bears the suffix of `path`, by which writers choose a format, and is hidden. Its bytes are on the disk before
    the rename, so that a crash leaves the old file or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _tidying:
        tidy(path.parent.absolute())
    start = path.stem[:40]  # with all of a long name this one would exceed the file system's 255 bytes
    writer = f"{_host()}-{os.getpid()}-{threading.get_ident()}"
    partial = path.with_name(f".{start}.{writer}.partial{path.suffix}")
    try:
        yield partial
        with partial.open("rb+") as written:
            os.fsync(written.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        fault = error if isinstance(error, OSError) else error.__context__  # torch.save raises another after it
        if not isinstance(fault, OSError):
            raise
        if fault.errno:  # or its message becomes "[Errno None] None"
            fault.filename = str(path)  # a full disk comes without a name, others with that of the temporary file
        raise fault from None
    finally:
        with suppress(OSError):  # of a disk that is read only the error is on its way
            partial.unlink()


def write_bytes(path: Path, data: bytes) -> Path:
    """Write a file atomically; returns it."""
    with atomic(path) as partial:
        partial.write_bytes(data)
    return path


def write_text(path: Path, text: str) -> Path:
    """Write a UTF-8 file atomically; returns it."""
    return write_bytes(path, text.encode())


def write_json(path: Path, data: Any) -> Path:
    """Write plain data as an indented JSON file, atomically; what JSON does not know is written as its string.

    A number that is not finite, which JSON does not have, is written as null.
    """
    return write_text(path, json.dumps(_finite(data), indent=2, default=str, allow_nan=False) + "\n")


def _finite(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def as_numbers(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """Metrics of a JSON file, where an undefined one is null, as numbers: NaN."""
    return {key: math.nan if value is None else value for key, value in metrics.items()}


def read_json(path: Path) -> Any:
    """Read a JSON file; an absent one is an empty dict, with a warning one that is damaged or cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        said = f"cannot be read ({error.strerror})" if isinstance(error, OSError) else f"is damaged ({error})"
        log.warning("%s %s", path, said)
        return {}


def is_held(folder: Path) -> bool:
    """Whether a living process is working in a run folder."""
    if not (folder / LOCK).exists():  # of a copy, or none has begun
        return False
    try:
        with FileLock(folder / LOCK, timeout=0):
            return False
    except OSError:  # Timeout is one; of somebody else's run, whose lock may not be tried, believe what it says
        return True


def run_status(folder: Path, facts: Mapping[str, Any]) -> str:
    """How a run stands: what its run.json (`facts`) says, but interrupted if its process died while it was running."""
    status = str(facts.get("status", "waiting"))
    return "interrupted" if status == "running" and not is_held(folder) else status


def of_version_1(facts: Mapping[str, Any]) -> str:
    """What to say of a run that version 1 made, which recorded neither itself nor its command; empty for all others."""
    old = "versions" in facts and "seglab" not in facts["versions"] and "overrides" not in facts
    remedy = "init_from=RUN/checkpoints/best.ckpt takes its weights"
    return f"made by seglab 1, whose runs this version does not open; {remedy}" if old else ""


def cell(value: Any) -> Any:
    """A text as a cell that no spreadsheet takes for a formula: '=1+1 for =1+1; all else as it is."""
    formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if formula else value


def csv_text(table: pd.DataFrame) -> str:
    """A table as CSV, its texts as safe cells; an undefined value is an empty cell, a float keeps all its digits."""
    texts = table.select_dtypes(["object", "string"])
    return table.assign(**{str(name): texts[name].map(cell) for name in texts}).to_csv(index=False)


def write_arrays(path: Path, **arrays: np.ndarray) -> Path:
    """Write a compressed npz file atomically."""
    import numpy as np

    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return write_bytes(path, buffer.getvalue())


def read_arrays(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Read the arrays of an npz file, or those of some names; empty where it is absent or damaged."""
    import numpy as np

    try:
        with path.open("rb") as opened, np.load(opened) as arrays:  # np.load leaves a damaged file open by itself
            return {name: arrays[name] for name in arrays.files if names is None or name in names}
    except Exception:  # numpy, zipfile and zlib each find a damage of their own
        return {}


def file_facts(path: Path) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file, to recognize it later by `whole_file`."""
    return {"size": path.stat().st_size, "sha256": sha256(path)}


def whole_file(folder: Path, facts: dict[str, Any], name: str, hashed: bool = True) -> Path:
    """A file of a run, checked against what its run.json (`facts`) holds of it; a ContractError if it is damaged.

    Without `hashed` it is checked by its size alone.
    """
    path, known, fault = folder / name, facts.get("files", {}).get(name), ""
    size = path.stat().st_size if path.is_file() else None
    if size is None:
        fault = "none"
    elif known and size != known["size"]:
        fault = f"a file of {size} bytes instead of {known['size']}"
    elif known and hashed and sha256(path) != known["sha256"]:
        fault = "a file with other content"
    exported = (folder / "model.safetensors").is_file()
    remedy = "it was exported; open the run that was trained" if exported else "rerun=true trains it again"
    run = f"run {os.path.relpath(folder)}"
    require(not fault, run, f"{name} as it was written", fault, remedy)
    return path


def archive_is_intact(path: Path) -> bool:
    """Whether a file of torch.save or numpy.savez is complete: both are zip archives, with a checksum of each record.

    torch.load does not compare the checksums.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, ValueError, EOFError, zlib.error):
        return False


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def read_weights(path: Path, who: str) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint by name: .safetensors, or torch.save of a state_dict, bare or as `state_dict`.

    Nothing but tensors and plain data is unpickled. Raises a ContractError in the name of `who`.
    """
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        saved = torch.load(path, map_location="cpu", weights_only=True)
        saved = saved.get("state_dict", saved)
        return {name: value for name, value in saved.items() if isinstance(value, torch.Tensor)}
    except Exception as error:  # pickle, zip and safetensors each fail in their own way
        reason = "no such file" if isinstance(error, FileNotFoundError) else type(error).__name__
        remedy = "give a .safetensors file or a state_dict of torch.save"
        raise ContractError(f"{who}: expected a file of weights, got {path} ({reason}); {remedy}") from None
