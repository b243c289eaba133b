"""Runs whose loss changes on the way: what they train with, what they write down, and how they resume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from omegaconf import DictConfig

from seglab.contract import ContractError
from seglab.train import train
from tests.conftest import SMALL

SWITCH = (
    "loss=switch",
    "loss.patience=1",
    "optimizer.lr=0.1",  # so rough that it soon stalls
    "trainer.max_epochs=5",
    "schedule.second.smooth={to: 1, steps: 7}",
)
RAMPS = (
    "loss=sum",
    "loss.terms.boundary.weight=0.01",
    "schedule.terms.boundary.weight={to: 1, epochs: 3}",
    "schedule.terms.dice.weight={to: 0.25, shape: cosine, steps: 9}",
    "trainer.max_epochs=5",
)


@pytest.fixture
def run(configure: Callable[..., DictConfig]) -> Callable[..., float]:
    def trained(folder: Path, *overrides: str) -> float:
        return train(configure("train", *SMALL, *overrides, folder=folder), folder)

    return trained


def epochs(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "metrics.csv").drop(columns="seconds")


def facts(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


@pytest.mark.slow
def test_each_epoch_is_measured_with_its_own_loss_and_the_test_with_the_configured_one(
    run: Callable[..., float], tmp_path: Path
) -> None:
    only_bce = ("loss=sum", "loss.terms.dice=null", "loss.terms.boundary=null", "loss.terms.bce.weight=4")
    frozen = ("optimizer.lr=1e-30", "optimizer.weight_decay=0", "model.norm=none", "trainer.max_epochs=4")
    run(tmp_path, *only_bce, *frozen, "schedule.terms.bce.weight={to: 1, shape: exponential, epochs: 2}")
    table = epochs(tmp_path)
    assert table["loss/terms.bce.weight"].tolist() == [4, 2, 1, 1]
    once = table["val/loss"] / table["loss/terms.bce.weight"]
    assert once.tolist() == pytest.approx([once[0]] * 4)
    assert facts(tmp_path)["metrics"]["val/loss"] == pytest.approx(table["val/loss"][0])


def test_a_schedule_by_steps_reaches_every_step(
    run: Callable[..., float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seglab.engine.module import SegModule

    seen, step = [], SegModule.training_step

    def watched(self: SegModule, batch: dict, batch_idx: int) -> torch.Tensor:
        seen.append(self.loss.pos_weight)  # type: ignore[attr-defined]
        return step(self, batch, batch_idx)

    monkeypatch.setattr(SegModule, "training_step", watched)
    words = ("loss=weighted_bce", "loss.pos_weight=9", "trainer.max_epochs=3")
    run(tmp_path, *words, "schedule.pos_weight={to: 1, steps: 4}")
    assert seen == [9, 7, 5, 3, 1, 1]
    assert epochs(tmp_path)["loss/pos_weight"].tolist() == [9, 5, 1]


def test_a_switch_comes_once_and_where_the_curve_says_so(
    run: Callable[..., float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seglab.engine.module import SegModule

    seen, step = [], SegModule.training_step

    def watched(self: SegModule, batch: dict, batch_idx: int) -> torch.Tensor:
        state = self.trainer.optimizers[0].state
        seen.append((self.current_epoch, type(self.loss).__name__, len(state)))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(SegModule, "training_step", watched)
    run(tmp_path, *SWITCH)
    table, (turn,) = epochs(tmp_path), facts(tmp_path)["switched"]
    best = table["val/iou_pooled"].cummax()
    assert turn == next(epoch for epoch in range(2, 5) if best[epoch - 1] == best[epoch - 2])
    assert table["loss/stage"].tolist() == [1.0 + (epoch >= turn) for epoch in range(5)]
    assert [name for _, name, _ in seen] == ["BCE" if epoch < turn else "IoU" for epoch, _, _ in seen]
    forgot = [epoch for epoch, _, snapshots in seen if snapshots == 0]
    assert forgot == [0, turn]


@pytest.mark.slow
def test_up_to_its_turn_a_switch_is_the_run_of_its_first_loss_bit_for_bit(
    run: Callable[..., float], tmp_path: Path
) -> None:
    run(tmp_path / "switch", "loss=switch", "loss.at=1", "trainer.max_epochs=2")
    run(tmp_path / "bce", "loss=bce", "trainer.max_epochs=2")
    switched, alone = epochs(tmp_path / "switch").drop(columns="loss/stage"), epochs(tmp_path / "bce")
    pd.testing.assert_frame_equal(switched[:1], alone[:1], check_exact=True)
    assert switched["train/loss"][1] != alone["train/loss"][1]
    assert "switched" not in facts(tmp_path / "bce")


@pytest.mark.slow
def test_an_interrupted_run_changes_its_loss_as_the_undisturbed_one_does(
    run: Callable[..., float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seglab.engine.module import SegModule

    run(tmp_path / "undisturbed", *SWITCH)
    (turn,), step = facts(tmp_path / "undisturbed")["switched"], SegModule.training_step

    def killed(self: SegModule, batch: dict, batch_idx: int) -> torch.Tensor:
        if self.current_epoch == turn and batch_idx == 1:
            raise RuntimeError("killed")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(SegModule, "training_step", killed)
    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path / "disturbed", *SWITCH)
    monkeypatch.undo()
    run(tmp_path / "disturbed", *SWITCH)
    tables = [epochs(tmp_path / name) for name in ("disturbed", "undisturbed")]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    images = [(tmp_path / name / "per_image.csv").read_text() for name in ("disturbed", "undisturbed")]
    assert images[0] == images[1]
    assert facts(tmp_path / "disturbed")["switched"] == [turn]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["loss=bce", "schedule.pos_weight={to: 1, epochs: 3}"], r"schedule\.pos_weight: expected .*, got BCE"),
        (["loss=focal", "schedule.gamma={to: -1, epochs: 3}"], r"Focal: expected gamma .*, got -1"),
        (
            ["loss=switch", "loss.at=1", "monitor=val/loss", "monitor_mode=min"],
            r"monitor: .*, got val/loss; set monitor",
        ),
    ],
)
def test_a_wrong_schedule_is_one_sentence_before_the_first_epoch(
    run: Callable[..., float], tmp_path: Path, words: list[str], sentence: str
) -> None:
    with pytest.raises(ContractError, match=sentence):
        run(tmp_path, *words)
    assert not (tmp_path / "metrics.csv").exists()


def test_any_loss_can_stand_inside_another(configure: Callable[..., DictConfig]) -> None:
    from seglab.engine.config import build
    from seglab.losses import BCE, Focal

    cfg = configure("train", "loss=switch", "loss.second=${inner:loss,focal}")
    loss = build(cfg.loss)
    assert (loss.first, loss.second) == (BCE(), Focal())


@pytest.mark.slow
def test_a_process_compiles_a_model_once_whatever_the_loss(
    run: Callable[..., float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled, compile = [], torch.compile

    def backend(graph: torch.fx.GraphModule, inputs: list) -> Callable:
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda function, **_: compile(function, backend=backend))
    words = ("loss=weighted_bce", "loss.pos_weight=20", "trainer.max_epochs=12", "compile=true")
    run(tmp_path / "compiled", *words, "schedule.pos_weight={to: 1, epochs: 12}")
    first = len(compiled)
    assert 1 <= first <= 8  # training and evaluation, each with and without gradients at most; never one an epoch
    run(tmp_path / "dice", "loss=dice", "trainer.max_epochs=1", "compile=true")
    words = tuple(word for word in words if word != "compile=true")
    run(tmp_path / "eager", *words, "schedule.pos_weight={to: 1, epochs: 12}")
    assert len(compiled) == first
    compiled_loss, loss = (epochs(tmp_path / name)["train/loss"] for name in ("compiled", "eager"))
    pd.testing.assert_series_equal(compiled_loss, loss, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("words", "rows"), [(SWITCH, 3), (RAMPS, 1)], ids=["switch", "ramps"])
def test_a_run_killed_with_sigkill_ends_like_the_undisturbed_one(
    run: Callable[..., float], tmp_path: Path, words: tuple[str, ...], rows: int
) -> None:
    command = [sys.executable, "-m", "seglab.train", *SMALL, *words, f"hydra.run.dir={tmp_path / 'disturbed'}"]
    environment, table = {**os.environ, "OMP_NUM_THREADS": "1"}, tmp_path / "disturbed/metrics.csv"
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=quiet, stderr=quiet)
    while not (table.exists() and len(pd.read_csv(table)) >= rows):
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    for name in ("undisturbed", "disturbed"):
        run(tmp_path / name, *words)
    tables = [epochs(tmp_path / name) for name in ("disturbed", "undisturbed")]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert facts(tmp_path / "disturbed").get("switched") == facts(tmp_path / "undisturbed").get("switched")
