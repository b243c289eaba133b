"""The benchmark of losses has a row for every loss."""

import sys

import pytest

from seglab.benchmark import benchmark
from seglab.benchmarks.losses import measure
from seglab.benchmarks.sweep import seconds
from seglab.contract import ContractError
from tests.losses.conftest import ALL

SMALL = {"foreground": 0.2, "repeats": 1, "compile": False, "device": "cpu"}


def test_every_loss_gets_a_row(make):
    pytest.importorskip("monai")
    pytest.importorskip("kornia")
    mapped = [
        name for name in ALL if name != "lovasz_softmax" and make(name).needs and name not in {"boundary", "weight_map"}
    ]
    names = ["bce", "focal", "dice", "boundary", "weight_map", "lovasz_hinge", "external", *mapped]
    rows = measure({name: make(name) for name in names}, shape=[2, 1, 32, 32], step=True, **SMALL)
    assert [row.loss for row in rows[1:]] == names
    for row in rows:
        assert row.eager > 0
        assert row.milliseconds > 0
        assert row.step > 0
        assert row.compiled != row.compiled, "nothing was compiled"
    assert rows[1].kept > 1
    assert {row.loss for row in rows if row.monai == row.monai} == {"focal", "dice"}


def test_a_loss_without_a_whole_graph_is_measured_uncompiled(make):
    pytest.importorskip("monai")
    options = {**SMALL, "compile": True, "step": False}
    rows = measure({"per_component": make("per_component")}, shape=[1, 1, 16, 16], **options)
    assert rows[1].eager > 0
    assert rows[1].compiled != rows[1].compiled


def test_a_benchmark_that_cannot_be_measured_is_one_sentence(configure, tmp_path):
    with pytest.raises(ContractError, match=r"losses: expected losses.OPTION=VALUE, got losses=x; losses.only="):
        benchmark(configure("benchmark", "what=losses", "losses=x"), tmp_path)
    for names, expected in (("dyce", "names among .*, dice, .*, got .'dyce'"), ("lovasz_softmax", "a loss for binary")):
        with pytest.raises(ContractError, match=f"losses.only: expected {expected}"):
            benchmark(configure("benchmark", f"losses.only=[{names}]", "losses.threads=1"), tmp_path)
    with pytest.raises(ContractError, match=r"benchmark: expected .* to succeed, got ZeroDivisionError"):
        seconds([sys.executable, "-c", "1 / 0"], tmp_path)
