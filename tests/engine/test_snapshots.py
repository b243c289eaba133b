"""Snapshots: after which epochs, how exactly, and that a run with them is the same run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from seglab.contract import ContractError
from seglab.engine.config import identity
from seglab.engine.snapshots import Snapshots, is_due
from seglab.engine.trained_run import open_run
from seglab.train import load_data, make_module, train
from tests.conftest import SMALL

Configure = Callable[..., DictConfig]
WITH = (*SMALL, "callbacks=snapshots", "trainer.max_epochs=3", "loss=bce")


@pytest.mark.parametrize(
    ("growth", "kept"),
    [(2, [0, 1, 2, 4, 8, 16]), (3, [0, 1, 3, 9, 27]), (1, list(range(30))), (1.5, [0, 1, 2, 3, 4, 7, 10, 15, 23])],
)
def test_snapshots_are_spaced_like_a_logarithm(growth: float, kept: list[int]) -> None:
    assert [epoch for epoch in range(30) if is_due(epoch, growth)] == kept


def test_a_run_keeps_its_initial_and_its_last_weights(trained_study: Path, tmp_path: Path) -> None:
    from seglab.engine.run import Run

    run = open_run(trained_study / "bce")
    assert list(run.snapshots) == [0, 1, 2]
    cfg, fresh = OmegaConf.create(run.config), Run(tmp_path / "fresh")
    initial = make_module(cfg, load_data(cfg, fresh), fresh).state_dict()
    last = torch.load(run.folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    for epoch, state in ((0, initial), (2, last)):
        kept = run.module(run.snapshots[epoch]).state_dict()
        for name, weight in state.items():
            torch.testing.assert_close(kept[name], weight, rtol=1e-3, atol=1e-6)
    assert run.snapshots[2].stat().st_size < 0.7 * run.best.stat().st_size


@pytest.mark.slow
def test_snapshots_make_no_other_experiment_and_no_other_weights(configure: Configure, tmp_path: Path) -> None:
    alone = configure("train", *(word for word in WITH if "snapshots" not in word), folder=tmp_path / "alone")
    watched = configure("train", *WITH, folder=tmp_path / "watched")
    assert identity(alone) == identity(watched)
    values = train(alone, tmp_path / "alone"), train(watched, tmp_path / "watched")
    assert values[0] == values[1]
    with pytest.raises(ContractError, match=r"snapshots/epoch-.*train it with callbacks=snapshots"):
        _ = open_run(tmp_path / "alone").snapshots


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_same_snapshots(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Snapshots.save

    def killed(self: Snapshots, trainer: object, module: object, epoch: int) -> None:
        save(self, trainer, module, epoch)  # type: ignore[arg-type]
        if epoch == 2:
            raise RuntimeError("killed")

    train(configure("train", *WITH, folder=tmp_path / "a"), tmp_path / "a")
    monkeypatch.setattr(Snapshots, "save", killed)
    with pytest.raises(RuntimeError, match="killed"):
        train(configure("train", *WITH, folder=tmp_path / "b"), tmp_path / "b")
    monkeypatch.undo()
    train(configure("train", *WITH, folder=tmp_path / "b"), tmp_path / "b")
    ours, theirs = (open_run(tmp_path / name).snapshots for name in ("a", "b"))
    assert list(ours) == list(theirs)
    for epoch, file in ours.items():
        state, other = (torch.load(f, weights_only=True)["state_dict"] for f in (file, theirs[epoch]))
        assert all(torch.equal(weight, other[name]) for name, weight in state.items())


@pytest.mark.slow
def test_a_rerun_forgets_the_snapshots_of_the_run_before(configure: Configure, tmp_path: Path) -> None:
    train(configure("train", *WITH, folder=tmp_path), tmp_path)
    shorter = configure("train", *WITH, "trainer.max_epochs=1", "rerun=true", folder=tmp_path)
    train(shorter, tmp_path)
    assert list(open_run(tmp_path).snapshots) == [0, 1]
