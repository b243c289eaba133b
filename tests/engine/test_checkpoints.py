"""Checkpoints are kept in memory and written rarely, the last one after the best."""

import torch

from seglab.engine import checkpoints
from seglab.engine.checkpoints import AtomicCheckpointIO


def load(path):
    return torch.load(path, weights_only=True)


def test_checkpoints_are_written_when_it_is_time_and_at_the_end(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: clock[0])
    keeper, best, last = AtomicCheckpointIO("abc", every=30), tmp_path / "best.ckpt", tmp_path / "last.ckpt"
    weights = torch.zeros(3)
    written = []
    for epoch in range(8):
        clock[0] += 10
        weights += 1
        if epoch in (0, 4):
            keeper.save_checkpoint({"epoch": epoch, "w": weights}, best)
        keeper.save_checkpoint({"epoch": epoch, "w": weights}, last)
        written.append(load(last)["epoch"] if last.exists() else None)
    assert written == [None, None, 2, 2, 2, 5, 5, 5]
    assert load(best)["epoch"] == 4
    assert load(best)["w"].tolist() == [5.0] * 3, "the weights of another epoch, which training went on to change"
    keeper.teardown()
    assert load(last) | {"w": 0} == {"epoch": 7, "identity": "abc", "w": 0}


def test_the_last_checkpoint_is_written_after_the_best_that_it_refers_to(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(checkpoints.torch, "save", lambda checkpoint, _: order.append(checkpoint["name"]))
    keeper = AtomicCheckpointIO("abc")
    for name in ("last", "best", "last"):
        keeper.save_checkpoint({"name": name}, tmp_path / f"{name}.ckpt")
    keeper.write()
    assert order == ["best", "last"]


def test_a_checkpoint_that_is_removed_before_it_is_written_never_appears(tmp_path):
    keeper = AtomicCheckpointIO("abc")
    for name in ("one", "two"):
        keeper.save_checkpoint({}, tmp_path / f"{name}.ckpt")
    keeper.remove_checkpoint(tmp_path / "one.ckpt")
    keeper.write()
    keeper.remove_checkpoint(tmp_path / "two.ckpt")
    assert not list(tmp_path.iterdir())
