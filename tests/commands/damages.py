"""Ways to damage a file, and a run that is killed before its end."""

from collections.abc import Callable
from pathlib import Path

from tests.conftest import killed, train_small

LONGER = ("trainer.max_epochs=3", "scheduler=none")


def half(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def garbage(file):
    """Other bytes in the middle, of the same length: no reader of tensors notices."""
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(byte ^ 0x55 for byte in data[middle : middle + 64])
    file.write_bytes(data)


def empty(file):
    file.write_bytes(b"")


DAMAGES: dict[str, Callable[[Path], None]] = {"half": half, "garbage": garbage, "empty": empty, "gone": Path.unlink}


def killed_in_the_third_epoch(folder):
    """Train a run of `LONGER` whose process ends in its third epoch."""
    with killed(epoch=2):
        train_small(folder, *LONGER)
    return folder
