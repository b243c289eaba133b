"""Ways to damage a file, and a run that is killed before its end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import train_small

LONGER = ("trainer.max_epochs=3", "scheduler=none")


def half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def garbage(file: Path) -> None:
    """Other bytes in the middle, of the same length: no reader of tensors notices."""
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(byte ^ 0x55 for byte in data[middle : middle + 64])
    file.write_bytes(data)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def gone(file: Path) -> None:
    file.unlink()


DAMAGES: dict[str, Callable[[Path], None]] = {"half": half, "garbage": garbage, "empty": empty, "gone": gone}


def killed_in_the_third_epoch(folder: Path) -> Path:
    """Train a run of `LONGER` whose process ends in its third epoch."""
    from seglab.engine.module import SegModule

    step = SegModule.training_step

    def killed(self: SegModule, batch: dict, batch_idx: int) -> object:
        if self.current_epoch == 2:
            raise RuntimeError("killed")
        return step(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SegModule, "training_step", killed)
        with pytest.raises(RuntimeError, match="killed"):
            train_small(folder, *LONGER)
    return folder
