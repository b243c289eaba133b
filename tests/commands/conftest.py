"""Ways to damage a file, and the runs to damage: a finished run, and an interrupted one whose process died."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import killed, train_small

LONGER = ("trainer.max_epochs=3", "scheduler=none")


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def garbage(file):
    """Replace bytes in the middle, keeping the length: no reader of tensors notices."""
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(byte ^ 0x55 for byte in data[middle : middle + 64])
    file.write_bytes(data)


def empty(file):
    file.write_bytes(b"")


DAMAGES: dict[str, Callable[[Path], None]]
DAMAGES = {"truncated": truncate, "garbage": garbage, "empty": empty, "missing": Path.unlink}


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    return train_small(tmp_path_factory.mktemp("undisturbed") / "run", *LONGER)


@pytest.fixture(scope="session")
def interrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interrupted") / "run"
    with killed(epoch=2):
        train_small(folder, *LONGER)
    return folder
