"""Snapshots: after which epochs, how exactly, and that a run with them is the same run."""

import pytest
import torch
from omegaconf import OmegaConf

from seglab.contract import ContractError
from seglab.engine.config import identity
from seglab.engine.snapshots import Snapshots, is_due
from seglab.engine.trained_run import open_run
from seglab.train import load_data, make_module
from tests.conftest import SMALL, assert_same_tables, train_small


def test_snapshots_are_spaced_like_a_logarithm():
    for growth, kept in ((2, [0, 1, 2, 4, 8, 16]), (1, [*range(30)]), (1.5, [0, 1, 2, 3, 4, 7, 10, 15, 23])):
        assert [epoch for epoch in range(30) if is_due(epoch, growth)] == kept


def test_a_run_keeps_its_initial_and_its_last_weights(trained_study, tmp_path):
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
def test_an_interrupted_run_ends_with_the_same_snapshots_and_a_run_without_them_with_the_same_tables(
    configure, tmp_path, monkeypatch
):
    save = Snapshots.save

    def killed(self, trainer, module, epoch):
        save(self, trainer, module, epoch)
        if epoch == 2:
            raise RuntimeError("killed")

    words = ("callbacks=snapshots", "trainer.max_epochs=3")
    a, alone = train_small(tmp_path / "a", *words), train_small(tmp_path / "alone", words[1])
    assert identity(configure("train", *SMALL, *words)) == identity(configure("train", *SMALL, words[1]))
    assert_same_tables(a, alone)
    with pytest.raises(ContractError, match=r"snapshots/epoch-.*train it with callbacks=snapshots"):
        _ = open_run(alone).snapshots
    monkeypatch.setattr(Snapshots, "save", killed)
    with pytest.raises(RuntimeError, match="killed"):
        train_small(tmp_path / "b", *words)
    monkeypatch.undo()
    ours, theirs = (open_run(folder).snapshots for folder in (a, train_small(tmp_path / "b", *words)))
    assert list(ours) == list(theirs)
    for epoch, file in ours.items():
        state, other = (torch.load(f, weights_only=True)["state_dict"] for f in (file, theirs[epoch]))
        assert all(torch.equal(weight, other[name]) for name, weight in state.items())
    train_small(a, words[0], "trainer.max_epochs=1", "rerun=true")
    assert list(open_run(a).snapshots) == [0, 1]  # those of the run before are forgotten
