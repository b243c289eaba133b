"""The benchmark of losses: every loss gets a row, and libraries that define the same agree."""

from __future__ import annotations

import pytest

from seglab.benchmarks.losses import measure


def test_every_loss_gets_a_row_and_agreeing_libraries_agree(make) -> None:
    pytest.importorskip("monai")
    pytest.importorskip("kornia")
    names = ["bce", "focal", "dice", "boundary", "weight_map", "lovasz_hinge", "external"]
    made = {name: make(name) for name in names}
    rows = measure(made, shape=[2, 1, 24, 24], foreground=0.2, repeats=1, compile=False, device="cpu")
    assert [row.loss for row in rows[2:]] == names
    for row in rows:
        assert row.eager > 0
        assert row.milliseconds > 0
        assert row.compiled != row.compiled, "nothing was compiled"
    differences = {row.loss: row.value for row in rows if row.value == row.value}
    assert set(differences) == {"bce", "focal", "dice", "lovasz_hinge"}
    assert max(differences.values()) < 1e-4
