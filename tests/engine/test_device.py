"""Requirements on the device that trains."""

import errno
import subprocess
from types import SimpleNamespace

import pytest
import torch

from seglab.contract import ContractError
from seglab.engine import device


def test_without_facts_about_the_cpu_torch_computes_in_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)  # as before torch 2.11
    assert device.precision("cpu", "auto") == "32-true"
    assert device.device_facts("32-true")["cpu"] == "CPU"


@pytest.mark.parametrize("most", [1 << 31, 1 << 25])
def test_freed_memory_is_kept_by_a_glibc_that_limits_the_threshold_too(monkeypatch, most):
    taken = {}

    class Libc:
        def mallopt(self, option, value):
            if option == -3 and value > most:
                return 0
            taken[option] = value
            return 1

    monkeypatch.setattr(device.sys, "platform", "linux")
    monkeypatch.setattr(device.platform, "libc_ver", lambda: ("glibc", "2.28"))
    monkeypatch.setattr(device.ctypes, "CDLL", lambda _: Libc())
    device.keep_freed_memory()
    assert taken == {-1: (1 << 31) - 1, -3: min(most, 1 << 30)}


def test_a_data_worker_that_was_killed_is_one_sentence():
    expected = pytest.raises(ContractError, match=r"workers: expected all data .* by signal: Killed; set fewer workers")
    with expected, device.processes_sentence():
        raise RuntimeError("DataLoader worker (pid 4) is killed by signal: Killed. ")


def test_a_port_in_use_is_one_sentence(monkeypatch):
    monkeypatch.setenv("MASTER_PORT", "29500")
    expected = pytest.raises(
        ContractError, match=r"trainer: expected a free port .*, got MASTER_PORT=29500, which is in"
    )
    with expected, device.processes_sentence():
        raise RuntimeError("The server socket has failed to listen. port: 29500, code: -98, name: EADDRINUSE")


def test_data_workers_that_cannot_start_are_one_sentence():
    expected = pytest.raises(ContractError, match=r"workers: expected data workers to start, got Resource .*; set work")
    with expected, device.processes_sentence():
        try:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        except OSError:
            raise RuntimeError("Please call `iter(combined_loader)` first.")  # noqa: B904, as Lightning does


@pytest.mark.parametrize(
    "said", ["peer. This is typically caused by a remote worker crashing.", "peer [127.0.0.1]:49885"]
)
@pytest.mark.parametrize(
    ("end", "got"),
    [("kill -KILL $$", r"died with signal 9 \(SIGKILL\); run the same"), ("exit 1", "ended early; see its error")],
)
def test_a_process_of_the_run_that_was_killed_is_told_by_its_signal(end, got, said):
    process = subprocess.Popen(["sh", "-c", end])
    process.wait()
    with (
        pytest.raises(ContractError, match=f"got one that {got}"),
        device.processes_sentence(SimpleNamespace(procs=[process])),
    ):
        raise RuntimeError(f"Connection closed by {said}")
