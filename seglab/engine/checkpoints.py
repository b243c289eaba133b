"""Checkpoints of a run: which ones are kept, and how they are written (rarely, atomically, with the run's identity)."""

import copy
import re
import time
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins import TorchCheckpointIO
from torch import nn

from seglab.contract import require
from seglab.files import atomic


def checkpoints(folder: Path, monitor: str, mode: str) -> list[ModelCheckpoint]:
    """Return the callbacks that save the best weights by `monitor` (`mode` max or min), and all that resuming needs."""
    common: dict[str, Any] = {"dirpath": folder, "save_top_k": 1, "enable_version_counter": False}
    # A training metric is known when its epoch ends; None lets Lightning save after each epoch with a validation
    at_epoch_end = True if monitor.startswith("train/") else None
    by_monitor: dict[str, Any] = {"monitor": monitor, "mode": mode, "save_weights_only": True}
    best = ModelCheckpoint(filename="best", save_on_train_epoch_end=at_epoch_end, **by_monitor, **common)
    # Without a monitor the mode has no effect, but it makes Lightning's key differ from that of callbacks.snapshots
    every: dict[str, Any] = {"every_n_epochs": 1, "save_on_train_epoch_end": True, "mode": "max"}
    return [best, ModelCheckpoint(filename="last", **every, **common)]


class AtomicCheckpointIO(TorchCheckpointIO):
    """Keep checkpoints in memory; write the newest of each name together, every `every` seconds and at the end.

    They are also written if the run is interrupted or fails. With epochs of one second and a model of 30 MB, writing
    every epoch would be 100 GB per hour. Files are written next to their destination and renamed, not in /tmp.

    Args:
        identity: the run's identity; a run does not resume from the checkpoint of another experiment.
        every: seconds between two writes.
    """

    def __init__(self, identity: str, every: float = 30.0) -> None:
        self.identity, self.every = identity, every
        self._pending: dict[Path, dict[str, Any]] = {}
        self._checked = False
        self._written = time.monotonic()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Keep a copy on the same device, since training continues to change the weights that Lightning passes."""
        if "callbacks" in checkpoint and not self._checked:  # after one epoch, not when the run resumes after many
            require_loadable(checkpoint)
            self._checked = True
        self._pending[Path(path)] = copied(checkpoint)
        if Path(path).stem == "last" and time.monotonic() - self._written >= self.every:
            self.write()

    def write(self) -> None:
        """Write the pending checkpoints; `last` is written after `best`, to which it refers."""
        for path, checkpoint in sorted(self._pending.items(), key=lambda item: item[0].stem == "last"):
            with atomic(path) as partial, partial.open("wb") as opened:  # given a path, torch.save hides a full disk
                torch.save(checkpoint | {"identity": self.identity}, opened)
        self._pending.clear()
        self._written = time.monotonic()

    def remove_checkpoint(self, path: Any) -> None:
        self._pending.pop(Path(path), None)
        super().remove_checkpoint(path)  # also on disk, if it was written

    def teardown(self) -> None:
        """Write the pending checkpoints; Lightning calls this when training ends, even by an error."""
        self.write()

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a checkpoint, with the folders in the callback states replaced by the run's current location.

        Otherwise Lightning would forget the best score so far of a run whose folder was moved or copied.
        """
        checkpoint = super().load_checkpoint(path, *args, **kwargs)
        for state in checkpoint.get("callbacks", {}).values():
            new = str(Path(path).parents[1] / Path(state.get("dirpath") or "?").name)
            if (old := state.get("dirpath")) and Path(new).is_dir():  # not a folder outside of the run
                paths = {key: value.replace(old, new) for key, value in state.items() if isinstance(value, str)}
                best = {name.replace(old, new): score for name, score in state.get("best_k_models", {}).items()}
                state.update(paths, best_k_models=best)
        return checkpoint


def require_loadable(checkpoint: dict[str, Any]) -> None:
    """Raise a ContractError unless what callbacks and others keep in a checkpoint can be loaded by `weights_only`."""
    groups = [state["param_groups"] for state in checkpoint["optimizer_states"]]
    saved = BytesIO()
    torch.save({**checkpoint, "state_dict": None, "optimizer_states": groups}, saved)
    saved.seek(0)
    try:
        torch.load(saved, weights_only=True)
    except UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        expected, remedy = "states of tensors, numbers, strings, lists and dicts", "convert it, as with float(...)"
        require(False, "callbacks, optimizer and scheduler", expected, found[1] if found else str(error), remedy)


def copied(state: Any) -> Any:
    """Return a copy of a checkpoint's dictionaries, lists and tensors (copy.deepcopy takes three times as long)."""
    if isinstance(state, torch.Tensor):
        return state.detach().clone()
    if isinstance(state, dict):
        return {key: copied(value) for key, value in state.items()}
    return [copied(value) for value in state] if type(state) is list else copy.copy(state)


def load_best(callbacks: Iterable[Any], module: nn.Module, paused: bool) -> dict[str, Any]:
    """Load the best weights; return the monitor's name, value and epoch (undefined values only if `paused`)."""
    best, _ = [c for c in callbacks if isinstance(c, ModelCheckpoint)][-2:]  # of `checkpoints`; users' come first
    remedy = "raise trainer.max_epochs or trainer.max_time"
    require(bool(best.best_model_path), "trainer", f"a validation that gives {best.monitor}", "none", remedy)
    score = torch.as_tensor(best.best_model_score)  # Lightning turns NaN into the worst number (inf or -inf)
    remedy = "choose another monitor, or train longer (last.ckpt is kept)"
    defined = paused or bool(score.isfinite())
    require(defined, f"monitor={best.monitor}", "a validation in which it is defined", "none", remedy)
    saved = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
    module.load_state_dict(saved["state_dict"])
    return {"name": best.monitor, "value": float(score), "epoch": saved["epoch"]}


def finished_epochs(file: Path, identity: str) -> int:
    """Return the number of epochs in a last checkpoint; raise ContractError if it is from another experiment."""
    saved = torch.load(file, map_location="cpu", weights_only=True, mmap=True)  # mmap: the weights are not read
    remedy = "choose another hydra.run.dir, or set rerun=true to replace the run"
    require(saved["identity"] == identity, f"checkpoint {file}", "one of this experiment", "one of another", remedy)
    return saved["epoch"] + 1


def refers_to_best(file: Path) -> bool:
    """Whether a last checkpoint refers to a best.ckpt; before the first validation there is none."""
    saved = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    names = [str(state.get("best_model_path")) for state in saved["callbacks"].values()]
    return "best.ckpt" in {Path(name).name for name in names}
