"""Files appear whole or not at all, and weights are read from every format that trainers write."""

import errno
import math
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from seglab.contract import ContractError
from seglab.files import (
    _host,
    as_numbers,
    atomic,
    read_arrays,
    read_json,
    read_weights,
    sha256,
    write_arrays,
    write_json,
    write_text,
)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    file = write_text(tmp_path / "a.txt", "old")

    def full_disk(self, *_, **__):
        self.touch()
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="space"):
        write_text(file, "new")
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_disk_that_is_read_only_is_said_of_the_file_and_not_of_a_temporary_one(tmp_path, monkeypatch):
    def refuses(self, *_, **__):
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    for name in ("unlink", "write_bytes"):
        monkeypatch.setattr(Path, name, refuses)
    with pytest.raises(OSError, match="Read-only") as fault:
        write_text(tmp_path / "a.txt", "new")
    assert fault.value.filename == str(tmp_path / "a.txt")


def test_the_error_for_a_killed_data_worker_is_not_one_of_the_file_that_was_being_written(tmp_path):
    def write():
        with atomic(tmp_path / "a.txt"):
            try:
                raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
            except OSError:
                raise RuntimeError("DataLoader worker (pid 4) is killed")  # noqa: B904, as a signal handler does

    with pytest.raises(RuntimeError, match="DataLoader worker"):
        write()


def test_files_of_a_killed_process_are_removed_at_the_next_write_and_those_of_a_living_one_are_not(tmp_path):
    with subprocess.Popen(["true"]) as process:
        process.wait()  # its process id is free again
    left, own = (tmp_path / f".b.{_host()}-{number}-7.partial.txt" for number in (process.pid, os.getpid()))
    living, other = tmp_path / f".c.{_host()}-{os.getppid()}-7.partial.txt", tmp_path / ".hidden.partial.txt"
    elsewhere, old = (tmp_path / f".{name}.abcdef-{process.pid}-7.partial.txt" for name in "de")  # on another machine
    for file in (left, own, living, other, elsewhere, old):
        file.touch()
    os.utime(old, (0, 0))
    write_text(tmp_path / "a.txt", "new")
    assert {*tmp_path.iterdir()} == {living, other, elsewhere, tmp_path / "a.txt"}


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path):
    assert write_text(tmp_path / ("ä" * 125 + ".txt"), "long").read_text() == "long"


def test_nobody_sees_half_of_a_file(tmp_path):
    file = tmp_path / "below" / "picture.png"
    with atomic(file) as partial:
        partial.write_bytes(b"half")
        assert not file.exists()
        assert partial.suffix == ".png"  # writers choose the format by the suffix
        assert partial.name.startswith(".")
    assert file.read_bytes() == b"half"
    assert os.listdir(file.parent) == ["picture.png"]


def test_data_come_back_as_they_were_written(tmp_path):
    data = {"x": [1, None], "where": Path("b")}
    assert read_json(write_json(tmp_path / "a.json", data)) == {"x": [1, None], "where": "b"}
    undefined = {"a": np.float64("nan"), "b": [(-math.inf, 0.5)]}  # not defined in JSON
    assert read_json(write_json(tmp_path / "b.json", undefined)) == {"a": None, "b": [[None, 0.5]]}
    assert str(as_numbers({"a": None, "b": 0.5})) == "{'a': nan, 'b': 0.5}"
    assert read_json(tmp_path / "absent.json") == {}
    assert read_json(tmp_path) == {}  # like a file without read permission
    with np.load(write_arrays(tmp_path / "a.npz", x=np.arange(3))) as arrays:
        assert arrays["x"].tolist() == [0, 1, 2]
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    assert sha256(write_text(tmp_path / "abc", "abc")) == abc


def test_weights_are_read_from_every_common_form(tmp_path):
    weights = {"conv.weight": torch.randn(2, 3)}
    torch.save(weights, tmp_path / "bare.pt")
    torch.save({"state_dict": weights | {"version": 2}, "epoch": 3}, tmp_path / "lightning.ckpt")
    save_file(weights, tmp_path / "w.safetensors")
    for name in ("bare.pt", "lightning.ckpt", "w.safetensors"):
        found = read_weights(tmp_path / name, "init_from")
        assert list(found) == ["conv.weight"]
        assert torch.equal(found["conv.weight"], weights["conv.weight"])


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_a_file_without_weights_is_one_sentence(tmp_path, name):
    with pytest.raises(ContractError, match=r"init_from: expected a file of weights, got .* \(no such file\)"):
        read_weights(tmp_path / name, "init_from")
    (tmp_path / name).write_text("no weights")
    with pytest.raises(ContractError, match=r"init_from: expected a file of weights, got .*; use a .safetensors file"):
        read_weights(tmp_path / name, "init_from")


@pytest.mark.parametrize("damage", ["[" * 10**5, "{", "9" * 10**4])
def test_a_json_file_that_cannot_be_read_is_an_absent_one(tmp_path, damage, caplog):
    file = tmp_path / "a.json"
    file.write_text(damage)
    assert read_json(file) == {}
    assert str(file) in caplog.text


def test_a_name_cannot_control_the_terminal_that_shows_an_error():
    assert str(ContractError("a\x1b[31mb\u202ec\nd")) == "a\\x1b[31mb\\u202ec\nd"


def test_a_damaged_npz_file_is_an_absent_one(tmp_path):
    file, rng = tmp_path / "a.npz", np.random.default_rng(0)
    np.savez_compressed(file, table=rng.integers(0, 9, (20, 256)), ids=np.arange(20).astype(str))
    whole = file.read_bytes()
    assert set(read_arrays(file)) == {"table", "ids"}
    assert set(read_arrays(file, {"ids", "other"})) == {"ids"}
    for start in range(0, len(whole) - 64, 13):  # headers, compressed bytes and the directory at the end
        file.write_bytes(whole[:start] + rng.bytes(64) + whole[start + 64 :])
        assert set(read_arrays(file)) in ({"table", "ids"}, set())
    for content in (b"", whole[:999], b"x"):
        file.write_bytes(content)
        assert read_arrays(file) == {}
    assert read_arrays(tmp_path / "absent.npz") == {}
