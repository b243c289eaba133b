"""Snapshots: their epochs and weights, and that they do not change the run."""

import shutil

import pytest
import torch

from seglab.contract import ContractError
from seglab.engine.config import identity
from seglab.engine.trained_run import open_run
from tests.conftest import SMALL, assert_same_tables, train_small, weights_of

EVERY = ("callbacks=snapshots", "callbacks.snapshots.every_n_epochs=1")


def test_a_run_keeps_its_weights_after_each_of_so_many_epochs(trained_study):
    run = open_run(trained_study / "bce")
    assert list(run.snapshots) == [1, 2]
    assert [file.name for file in run.snapshots.values()] == ["epoch-00000.ckpt", "epoch-00001.ckpt"]
    first, second, last = map(weights_of, (*run.snapshots.values(), run.folder / "checkpoints/last.ckpt"))
    torch.testing.assert_close(second, last, rtol=0, atol=0)
    assert not torch.equal(next(iter(first.values())), next(iter(second.values())))
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
