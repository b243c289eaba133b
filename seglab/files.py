"""Atomic writing of files, checks for damaged files, and reading of weights from checkpoints."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import os
import platform
import re
import sys
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
"""The file in a run folder that its process locks; the operating system releases the lock when the process ends."""

NOT_JSON = (ValueError, RecursionError)
"""What json raises for a damaged text; the second one for very many opening brackets."""

_tidying = threading.Lock()  # otherwise a thread still in `tidy` could remove a file that another has begun to write


@cache
def tidy(folder: Path) -> None:
    """Remove temporary files of `atomic` that killed processes left in a folder; runs once per process and folder."""
    for partial in folder.glob(".*.partial*"):
        writer = re.search(r"\.([0-9a-f]{6})-(\d+)-\d+\.partial", partial.name)  # see `atomic`
        with suppress(OSError):  # the file belongs to another user or no longer exists
            old = time.time() - partial.stat().st_mtime > 86400
            if writer and (old if writer[1] != _host() else not _is_at_work(int(writer[2]))):
                partial.unlink()


@cache
def _host() -> str:
    """Return six hex digits that identify the scope of process ids: this machine, or the container on it."""
    space = Path("/proc/self/ns/pid")
    return hashlib.sha256(f"{platform.node()} {os.readlink(space) if space.exists() else ''}".encode()).hexdigest()[:6]


def _is_at_work(process: int) -> bool:
    """Return True if another live process has this id; this one does not count, as it tidies before it writes."""
    try:
        os.kill(process, 0)  # signal 0 is never delivered; it only checks that the process exists
    except ProcessLookupError:
        return False
    except PermissionError:  # the process belongs to another user
        return True
    return process != os.getpid()


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside `path` to write to; it replaces `path` if the block ends without an error.

    The file is hidden and has the suffix of `path`, from which writers infer the format. It is flushed to disk before
    the rename, so that a crash leaves either the old file or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _tidying:
        tidy(path.parent.absolute())
    stem = path.stem[:40]  # the whole stem of a long name would exceed the file system's limit of 255 bytes
    writer = f"{_host()}-{os.getpid()}-{threading.get_ident()}"
    partial = path.with_name(f".{stem}.{writer}.partial{path.suffix}")
    try:
        yield partial
        with partial.open("rb+") as written:
            os.fsync(written.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        fault = error if isinstance(error, OSError) else error.__context__  # torch.save then raises a RuntimeError
        if not isinstance(fault, OSError) or isinstance(fault, ConnectionError):  # of a data worker that was killed
            raise
        if fault.errno:  # otherwise the message would become "[Errno None] None"
            fault.filename = str(path)  # a full disk reports no file name, other errors that of the temporary file
        raise fault from None
    finally:
        with suppress(OSError):  # on a read-only disk the original error is being raised
            partial.unlink()


def stays_inside(name: str) -> bool:
    """Whether a path, joined to a folder, stays in that folder."""
    return not os.path.isabs(name) and ".." not in Path(name).parts


def remedy_for_encoding() -> str:
    """Return what to do about a name that Python could not decode."""
    return "rename it" if sys.getfilesystemencoding() == "utf-8" else "rename it or, in this locale, set PYTHONUTF8=1"


def write_bytes(path: Path, data: bytes) -> Path:
    """Write a file atomically and return its path."""
    with atomic(path) as partial:
        partial.write_bytes(data)
    return path


def write_text(path: Path, text: str) -> Path:
    """Write a UTF-8 file atomically and return its path."""
    return write_bytes(path, text.encode())


def write_json(path: Path, data: Any) -> Path:
    """Write data as an indented JSON file, atomically; objects that JSON does not support are written as strings.

    Numbers that are not finite, which JSON does not support either, are written as null.
    """
    return write_text(path, json.dumps(_finite(data), indent=2, default=str, allow_nan=False) + "\n")


def _finite(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def as_numbers(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """Return the metrics of a JSON file with NaN for null, which stands for an undefined metric there."""
    return {key: math.nan if value is None else value for key, value in metrics.items()}


def read_json(path: Path) -> Any:
    """Read a JSON file; return {} if it does not exist or, with a warning, if it is damaged or cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, *NOT_JSON) as error:
        problem = f"cannot be read ({error.strerror})" if isinstance(error, OSError) else f"is damaged ({error})"
        log.warning("%s %s", path, problem)
        return {}


def is_held(folder: Path) -> bool:
    """Return True if a live process is working in a run folder."""
    if not (folder / LOCK).exists():  # the folder is a copy, or no process has started in it
        return False
    try:
        with FileLock(folder / LOCK, timeout=0):
            return False
    except OSError:  # Timeout is an OSError; for another user's run, whose lock cannot be tried, trust its status
        return True


def run_status(folder: Path, facts: Mapping[str, Any]) -> str:
    """Return the status of a run in its run.json (`facts`), but "interrupted" if its process died while running."""
    status = str(facts.get("status", "waiting"))
    return "interrupted" if status == "running" and not is_held(folder) else status


def mistyped(facts: Mapping[str, Any]) -> set[str]:
    """Return the keys of a run.json (`facts`) whose values should be mappings and are something else."""
    mappings = ("config", "choices", "data", "monitor", "threshold", "versions", "host", "files", "metrics", "card")
    return {key for key in mappings if not isinstance(facts.get(key), Mapping | None)}


def of_version_1(facts: Mapping[str, Any]) -> str:
    """Return a message for a run of version 1, which recorded neither its version nor its command; "" for others."""
    versions = facts.get("versions")
    old = isinstance(versions, Mapping) and "seglab" not in versions and "overrides" not in facts
    remedy = "init_from=RUN/checkpoints/best.ckpt loads its weights"
    return f"made by seglab 1, whose runs this version cannot open; {remedy}" if old else ""


def cell(value: Any) -> Any:
    """Escape text that a spreadsheet would interpret as a formula ('=1+1 for =1+1); return anything else unchanged."""
    formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if formula else value


def csv_text(table: pd.DataFrame) -> str:
    """Return a table as CSV: text escaped by `cell`, undefined values as empty cells, floats with all their digits."""
    texts = table.select_dtypes(["object", "string"])
    return table.assign(**{str(name): texts[name].map(cell) for name in texts}).to_csv(index=False)


def write_arrays(path: Path, **arrays: np.ndarray) -> Path:
    """Write a compressed npz file atomically."""
    import numpy as np

    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return write_bytes(path, buffer.getvalue())


def read_arrays(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Read the arrays of an npz file, or only those in `names`; return {} if the file is absent or damaged."""
    import numpy as np

    try:
        with path.open("rb") as opened, np.load(opened) as arrays:  # np.load(path) leaves a damaged file open
            return {name: arrays[name] for name in arrays.files if names is None or name in names}
    except Exception:  # numpy, zipfile and zlib each raise their own errors for damage
        return {}


def file_facts(path: Path) -> dict[str, Any]:
    """Return the size in bytes and the SHA-256 of a file, to be checked later by `whole_file`."""
    return {"size": path.stat().st_size, "sha256": sha256(path)}


def whole_file(folder: Path, facts: dict[str, Any], name: str, hashed: bool = True) -> Path:
    """Return the path of a file of a run; raises ContractError unless it is as recorded in run.json (`facts`).

    If `hashed` is False, only the size is checked.
    """
    path, recorded, fault = folder / name, facts.get("files", {}).get(name), ""
    size = path.stat().st_size if path.is_file() else None
    if size is None:
        fault = "no file"
    elif recorded and size != recorded["size"]:
        fault = f"a file of {size} bytes instead of {recorded['size']}"
    elif recorded and hashed and sha256(path) != recorded["sha256"]:
        fault = "a file with different content"
    exported = (folder / "model.safetensors").is_file()
    remedy = "this is an exported copy; open the original run" if exported else "set rerun=true to train it again"
    who = f"run {os.path.relpath(folder)}"
    require(not fault, who, f"{name} as it was written", fault, remedy)
    return path


def archive_is_intact(path: Path) -> bool:
    """Return True if a file of torch.save or numpy.savez is intact: both are zip archives with a checksum per record.

    torch.load does not verify the checksums.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, ValueError, EOFError, zlib.error):
        return False


def sha256(path: Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def read_weights(path: Path, who: str) -> dict[str, Tensor]:
    """Read the tensors by name from .safetensors, or from torch.save of a state_dict or of {"state_dict": ...}.

    Only tensors and plain data are unpickled. Raises ContractError, in the name of `who`, if the file cannot be read.
    """
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        saved = torch.load(path, map_location="cpu", weights_only=True)
        saved = saved.get("state_dict", saved)
        return {name: value for name, value in saved.items() if isinstance(value, torch.Tensor)}
    except Exception as error:  # pickle, zip and safetensors each raise their own errors
        reason = "no such file" if isinstance(error, FileNotFoundError) else type(error).__name__
        remedy = "use a .safetensors file or a state_dict saved by torch.save"
        raise ContractError(f"{who}: expected a file of weights, got {path} ({reason}); {remedy}") from None
