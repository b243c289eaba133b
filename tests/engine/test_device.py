"""What is asked of the machine that computes."""

import pytest

from seglab.engine import device


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
