"""What a run keeps of its way: when, how exactly, and that it is the same run with and without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from seglab.contract import ContractError
from seglab.engine.config import identity
from seglab.engine.snapshots import Snapshots, is_due
from seglab.engine.trained_run import open_run
from seglab.train import load_data, make_module, train

Configure = Callable[..., DictConfig]
SMALL = ("dataset.size=32", "dataset.train=8", "dataset.val=4", "dataset.test=4", "model.base=4", "model.depth=2")
WITH = (*SMALL, "trainer.accelerator=cpu", "callbacks=snapshots", "trainer.max_epochs=3", "loss=bce")


@pytest.mark.parametrize(
    ("growth", "kept"),
    [(2, [0, 1, 2, 4, 8, 16]), (3, [0, 1, 3, 9, 27]), (1, list(range(30))), (1.5, [0, 1, 2, 3, 4, 7, 10, 15, 23])],
)
def test_moments_are_spaced_like_a_logarithm(growth: float, kept: list[int]) -> None:
    assert [epoch for epoch in range(30) if is_due(epoch, growth)] == kept


def test_a_run_keeps_its_start_its_way_and_its_end(configure: Configure, tmp_path: Path) -> None:
    from seglab.engine.run import Run

    cfg = configure("train", *WITH, folder=tmp_path)
    train(cfg, tmp_path)
    snapshots = open_run(tmp_path).snapshots
    assert list(snapshots) == [0, 1, 2, 3]
    fresh = make_module(cfg, load_data(cfg, Run(tmp_path / "fresh")), Run(tmp_path / "fresh")).state_dict()
    last = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    for epoch, state in ((0, fresh), (3, last)):
        kept = open_run(tmp_path).module(snapshots[epoch]).state_dict()
        for name, weight in state.items():
            torch.testing.assert_close(kept[name], weight, rtol=1e-3, atol=1e-6)
    half = snapshots[3].stat().st_size
    assert half < 0.65 * (tmp_path / "checkpoints/best.ckpt").stat().st_size


@pytest.mark.slow
def test_moments_make_no_other_experiment_and_no_other_weights(configure: Configure, tmp_path: Path) -> None:
    alone = configure("train", *(word for word in WITH if "snapshots" not in word), folder=tmp_path / "alone")
    watched = configure("train", *WITH, folder=tmp_path / "watched")
    assert identity(alone) == identity(watched)
    values = train(alone, tmp_path / "alone"), train(watched, tmp_path / "watched")
    assert values[0] == values[1]
    with pytest.raises(ContractError, match=r"snapshots/epoch-.*train it with callbacks=snapshots"):
        _ = open_run(tmp_path / "alone").snapshots


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_same_moments(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = Snapshots.keep

    def killed(self: Snapshots, trainer: object, module: object, epoch: int) -> None:
        keep(self, trainer, module, epoch)  # type: ignore[arg-type]
        if epoch == 2:
            raise RuntimeError("killed")

    train(configure("train", *WITH, folder=tmp_path / "a"), tmp_path / "a")
    monkeypatch.setattr(Snapshots, "keep", killed)
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
def test_a_rerun_forgets_the_moments_of_the_run_before(configure: Configure, tmp_path: Path) -> None:
    train(configure("train", *WITH, folder=tmp_path), tmp_path)
    shorter = configure("train", *WITH, "trainer.max_epochs=1", "rerun=true", folder=tmp_path)
    train(shorter, tmp_path)
    assert list(open_run(tmp_path).snapshots) == [0, 1]
