"""Snapshots: of which epochs, with which weights, and that a run with them is the same run."""

import shutil

import pytest
import torch

from seglab.contract import ContractError
from seglab.engine.config import identity
from seglab.engine.trained_run import open_run
from tests.conftest import SMALL, assert_same_tables, train_small

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
def test_a_run_without_snapshots_is_the_same_run_and_one_made_again_forgets_them(configure, tmp_path, trained_study):
    alone = train_small(tmp_path / "alone", "loss=bce")
    assert identity(configure("train", *SMALL, *EVERY)) == identity(configure("train", *SMALL))
    assert_same_tables(alone, trained_study / "bce")
    with pytest.raises(ContractError, match=r"snapshots/epoch-.*train it with callbacks=snapshots"):
        _ = open_run(alone).snapshots
    again = shutil.copytree(trained_study / "bce", tmp_path / "again")
    train_small(again, "loss=bce", *EVERY, "trainer.max_epochs=1", "rerun=true")
    assert list(open_run(again).snapshots) == [1]


@pytest.mark.slow
def test_snapshots_of_an_averaged_run_hold_the_average(tmp_path):
    run = open_run(train_small(tmp_path, "callbacks=[snapshots,ema]", EVERY[1]))
    last = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert_same_weights(weights(run.snapshots[2]), last["state_dict"])
    trained = next(state for state in last["callbacks"].values() if "weights" in state)
    assert not all(map(torch.equal, last["state_dict"].values(), trained["weights"]))
