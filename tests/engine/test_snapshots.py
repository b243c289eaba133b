"""Snapshots: of which epochs, with which weights, and that a run with them is the same run."""

import pytest
import torch

from seglab.contract import ContractError
from seglab.engine.config import identity
from seglab.engine.trained_run import open_run
from tests.conftest import SMALL, assert_same_tables, killed, train_small

EVERY = ("callbacks=snapshots", "callbacks.snapshots.every_n_epochs=1")


def weights(file):
    return torch.load(file, weights_only=True)["state_dict"]


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(weight, other[name]) for name, weight in one.items())


def test_a_run_keeps_its_weights_after_each_of_so_many_epochs(trained_study):
    run = open_run(trained_study / "bce")
    assert list(run.snapshots) == [1, 2]
    assert [file.name for file in run.snapshots.values()] == ["epoch-00000.ckpt", "epoch-00001.ckpt"]
    assert_same_weights(weights(run.snapshots[2]), weights(run.folder / "checkpoints/last.ckpt"))
    assert not torch.equal(*(next(iter(weights(run.snapshots[epoch]).values())) for epoch in (1, 2)))
    assert set(torch.load(run.snapshots[2], weights_only=True)).isdisjoint({"optimizer_states", "callbacks"})


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_same_snapshots_and_a_run_without_them_with_the_same_tables(
    configure, tmp_path
):
    words = (*EVERY, "trainer.max_epochs=3")
    a, alone = train_small(tmp_path / "a", *words), train_small(tmp_path / "alone", words[-1])
    assert identity(configure("train", *SMALL, *words)) == identity(configure("train", *SMALL, words[-1]))
    assert_same_tables(a, alone)
    with pytest.raises(ContractError, match=r"snapshots/epoch-.*train it with callbacks=snapshots"):
        _ = open_run(alone).snapshots
    with killed(epoch=2):
        train_small(tmp_path / "b", *words)
    (tmp_path / "b").rename(tmp_path / "moved")
    train_small(tmp_path / "moved", *words)
    ours, theirs = (open_run(folder).snapshots for folder in (a, tmp_path / "moved"))
    assert list(ours) == list(theirs) == [1, 2, 3]
    for epoch, file in ours.items():
        assert_same_weights(weights(file), weights(theirs[epoch]))
    train_small(a, *EVERY, "trainer.max_epochs=1", "rerun=true")
    assert list(open_run(a).snapshots) == [1]  # those of the run before are forgotten


@pytest.mark.slow
def test_snapshots_of_an_averaged_run_hold_the_average(tmp_path):
    run = open_run(train_small(tmp_path, "callbacks=[snapshots,ema]", EVERY[1]))
    last = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert_same_weights(weights(run.snapshots[2]), last["state_dict"])
    trained = next(state for state in last["callbacks"].values() if "weights" in state)
    assert not all(map(torch.equal, last["state_dict"].values(), trained["weights"]))
