"""Which checkpoints a run keeps, and how they are written: seldom, atomically, with the identity of their run."""

import copy
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins import TorchCheckpointIO
from torch import nn

from seglab.contract import require
from seglab.files import atomic


def checkpoints(folder: Path, monitor: str, mode: str) -> list[ModelCheckpoint]:
    """The callbacks that keep the best weights by a monitor (mode `max` or `min`), and all that resuming needs."""
    common: dict[str, Any] = {"dirpath": folder, "save_top_k": 1, "enable_version_counter": False}
    # A metric of training is there when its epoch ends; None leaves it to Lightning, which looks after each validation
    trained = True if monitor.startswith("train/") else None
    kept: dict[str, Any] = {"monitor": monitor, "mode": mode, "save_weights_only": True}
    best = ModelCheckpoint(filename="best", save_on_train_epoch_end=trained, **kept, **common)
    # The mode means nothing without a monitor, but Lightning tells callbacks apart by it; snapshots may be of each too
    every: dict[str, Any] = {"every_n_epochs": 1, "save_on_train_epoch_end": True, "mode": "max"}
    return [best, ModelCheckpoint(filename="last", **every, **common)]


class AtomicCheckpointIO(TorchCheckpointIO):
    """Keeps checkpoints in memory, and writes the newest of each name together every `every` seconds and at the end.

    The end is also that of an interrupted or a failed run. With epochs of a second and a model of 30 MB, one an epoch
    would be 100 GB in an hour. Each is written beside its place and renamed, not in the system's temporary folder.

    Args:
        identity: of the run; a run does not resume from the checkpoint of another.
        every: seconds between two writes.
    """

    def __init__(self, identity: str, every: float = 30.0) -> None:
        self.identity, self.every = identity, every
        self._kept: dict[Path, dict[str, Any]] = {}
        self._written = time.monotonic()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Keep a copy, on its device; training continues and changes the weights that Lightning hands over."""
        self._kept[Path(path)] = copied(checkpoint)
        if Path(path).stem == "last" and time.monotonic() - self._written >= self.every:
            self.write()

    def write(self) -> None:
        """Write what is kept, the last one after the best, to which it refers."""
        for path, checkpoint in sorted(self._kept.items(), key=lambda kept: kept[0].stem == "last"):
            with atomic(path) as partial, partial.open("wb") as opened:  # given a path torch.save hides a full disk
                torch.save(checkpoint | {"identity": self.identity}, opened)
        self._kept.clear()
        self._written = time.monotonic()

    def remove_checkpoint(self, path: Any) -> None:
        self._kept.pop(Path(path), None)
        super().remove_checkpoint(path)  # on the disk, where it may lie or not

    def teardown(self) -> None:
        """Write what is kept; Lightning calls this when training ends, however it ends."""
        self.write()

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a checkpoint; the folders in the states of callbacks become those of the run's present place.

        Lightning would forget the best score so far of a run whose folder was moved or copied.
        """
        checkpoint = super().load_checkpoint(path, *args, **kwargs)
        for state in checkpoint.get("callbacks", {}).values():
            if there := state.get("dirpath"):
                here = str(Path(path).parents[1] / Path(there).name)
                moved = {key: value.replace(there, here) for key, value in state.items() if isinstance(value, str)}
                best = {name.replace(there, here): score for name, score in state.get("best_k_models", {}).items()}
                state.update(moved, best_k_models=best)
        return checkpoint


def copied(state: Any) -> Any:
    """A copy of the dictionaries, lists and tensors of a checkpoint (copy.deepcopy takes three times as long)."""
    if isinstance(state, torch.Tensor):
        return state.detach().clone()
    if isinstance(state, dict):
        return {key: copied(value) for key, value in state.items()}
    return [copied(value) for value in state] if type(state) is list else copy.copy(state)


def load_best(callbacks: Iterable[Any], module: nn.Module, paused: bool) -> dict[str, Any]:
    """Load the best weights into the module; gives monitor, value and epoch, undefined in a `paused` run at most."""
    best = next(each for each in callbacks if isinstance(each, ModelCheckpoint) and each.filename == "best")
    remedy = "raise trainer.max_epochs or trainer.max_time"
    require(bool(best.best_model_path), "trainer", f"a validation that gives {best.monitor}", "none", remedy)
    score = torch.as_tensor(best.best_model_score)  # Lightning takes NaN for the worst number
    remedy = "choose another monitor, or train longer (last.ckpt is kept)"
    known = paused or bool(score.isfinite())
    require(known, f"monitor={best.monitor}", "a validation in which it is defined", "none", remedy)
    saved = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
    module.load_state_dict(saved["state_dict"])
    return {"name": best.monitor, "value": float(score), "epoch": saved["epoch"]}


def finished_epochs(file: Path, identity: str) -> int:
    """How many epochs of this very run a last checkpoint holds; raises a ContractError for that of another run."""
    saved = torch.load(file, map_location="cpu", weights_only=True, mmap=True)  # reads no weights
    remedy = "choose another hydra.run.dir, or rerun=true to replace it"
    require(saved["identity"] == identity, f"checkpoint {file}", "one of this experiment", "another", remedy)
    return saved["epoch"] + 1


def refers_to_best(file: Path) -> bool:
    """Whether a last checkpoint names a best one beside it; before the first validation there is none."""
    saved = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    names = [str(state.get("best_model_path")) for state in saved["callbacks"].values()]
    return "best.ckpt" in {Path(name).name for name in names}
