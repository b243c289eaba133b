"""Which checkpoints a run keeps, and how they are written: atomically, with the identity of their run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins import TorchCheckpointIO

from seglab.contract import require
from seglab.files import atomic


def checkpoints(folder: Path, monitor: str, mode: str) -> list[ModelCheckpoint]:
    """The callbacks that keep the best weights by a monitor (mode `max` or `min`), and all that resuming needs."""
    common: dict[str, Any] = {"dirpath": folder, "save_top_k": 1, "enable_version_counter": False}
    # Lightning looks at a metric of validation after each validation by itself (None)
    trained = True if monitor.startswith("train/") else None
    kept: dict[str, Any] = {"monitor": monitor, "mode": mode, "save_weights_only": True}
    best = ModelCheckpoint(filename="best", save_on_train_epoch_end=trained, **kept, **common)
    return [best, ModelCheckpoint(filename="last", every_n_epochs=1, save_on_train_epoch_end=True, **common)]


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it; Lightning moves it there from the system's temporary folder.

    Args:
        identity: of the run; a run does not resume from the checkpoint of another.
    """

    def __init__(self, identity: str) -> None:
        self.identity = identity

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with atomic(Path(path)) as partial, partial.open("wb") as opened:
            torch.save(checkpoint | {"identity": self.identity}, opened)

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a checkpoint; the folder in the states of callbacks becomes its present one.

        Lightning would forget the best score so far of a run whose folder was moved or copied.
        """
        checkpoint, here = super().load_checkpoint(path, *args, **kwargs), str(Path(path).parent)
        for state in checkpoint.get("callbacks", {}).values():
            if there := state.get("dirpath"):
                moved = {key: value.replace(there, here) for key, value in state.items() if isinstance(value, str)}
                best = {name.replace(there, here): score for name, score in state.get("best_k_models", {}).items()}
                state.update(moved, best_k_models=best)
        return checkpoint


def finished_epochs(file: Path, identity: str) -> int:
    """How many epochs of this very run a last checkpoint holds; raises a ContractError for that of another run."""
    saved = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    remedy = "choose another hydra.run.dir, or rerun=true to replace it"
    require(saved["identity"] == identity, f"checkpoint {file}", "one of this experiment", "another", remedy)
    return saved["epoch"] + 1
