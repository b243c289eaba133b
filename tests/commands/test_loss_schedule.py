"""Runs whose loss changes during training: the losses they use, what they record, and how they resume."""

import pandas as pd
import pytest
import torch

from seglab.engine.config import build
from seglab.engine.module import SegModule
from seglab.losses import BCE, Focal
from tests.conftest import assert_same_tables, epochs_of, facts_of, killed, train_small

SWITCH = (
    "loss=switch",
    "loss.patience=1",
    "optimizer.lr=0.1",  # so large that training soon stalls
    "trainer.max_epochs=5",
    "schedule.second.smooth={to: 1, epochs: 3}",
)


def test_each_epoch_is_measured_with_its_own_loss_and_the_test_with_the_configured_one(tmp_path):
    only_bce = ("loss=sum", "loss.terms.dice=null", "loss.terms.boundary=null", "loss.terms.bce.weight=4")
    frozen = ("optimizer.lr=1e-30", "optimizer.weight_decay=0", "model.norm=none", "trainer.max_epochs=4")
    train_small(tmp_path, *only_bce, *frozen, "schedule.terms.bce.weight={to: 1, shape: exponential, epochs: 2}")
    table = epochs_of(tmp_path)
    assert table["loss/terms.bce.weight"].tolist() == [4, 2, 1, 1]
    once = table["val/loss"] / table["loss/terms.bce.weight"]
    assert once.tolist() == pytest.approx([once[0]] * 4)
    assert facts_of(tmp_path)["metrics"]["val/loss"] == pytest.approx(table["val/loss"][0])


def test_a_switch_comes_once_and_where_the_curve_says_so_and_after_an_interruption_too(tmp_path, monkeypatch):
    seen, step = [], SegModule.training_step

    def watched(self, *batch):
        seen.append((self.current_epoch, type(self.loss).__name__, len(self.trainer.optimizers[0].state)))
        return step(self, *batch)

    monkeypatch.setattr(SegModule, "training_step", watched)
    train_small(tmp_path / "undisturbed", *SWITCH)
    table, (turn,) = epochs_of(tmp_path / "undisturbed"), facts_of(tmp_path / "undisturbed")["switched"]
    best = table["val/iou_pooled"].cummax()
    assert turn == next(epoch for epoch in range(2, 5) if best[epoch - 1] == best[epoch - 2])
    assert table["loss/stage"].tolist() == [1.0 + (epoch >= turn) for epoch in range(5)]
    assert [name for _, name, _ in seen] == ["BCE" if epoch < turn else "IoU" for epoch, _, _ in seen]
    assert [epoch for epoch, _, moments in seen if moments == 0] == [0, turn]  # the optimizer is reset
    with killed(epoch=turn, batch=1):
        train_small(tmp_path / "disturbed", *SWITCH)
    train_small(tmp_path / "disturbed", *SWITCH)
    assert_same_tables(tmp_path / "disturbed", tmp_path / "undisturbed")
    assert facts_of(tmp_path / "disturbed")["switched"] == [turn]


def test_the_patience_of_a_switch_counts_validations(tmp_path):
    words = ("loss=switch", "loss.patience=1", "optimizer.lr=1e-9", "trainer.check_val_every_n_epoch=2")
    with killed(epoch=3):
        train_small(tmp_path, *words, "trainer.max_epochs=6")
    train_small(tmp_path, *words, "trainer.max_epochs=6")
    assert epochs_of(tmp_path)["loss/stage"].tolist() == [1, 1, 1, 1, 2, 2]  # the second validation is not better


@pytest.mark.slow
def test_up_to_its_turn_a_switch_is_the_run_of_its_first_loss_bit_for_bit(tmp_path):
    train_small(tmp_path / "switch", "loss=switch", "loss.at=1")
    train_small(tmp_path / "bce", "loss=bce")
    switched, alone = epochs_of(tmp_path / "switch").drop(columns="loss/stage"), epochs_of(tmp_path / "bce")
    pd.testing.assert_frame_equal(switched[:1], alone[:1], check_exact=True)
    assert switched["train/loss"][1] != alone["train/loss"][1]
    assert "switched" not in facts_of(tmp_path / "bce")


def test_any_loss_can_stand_inside_another(configure):
    loss = build(configure("train", "loss=switch", "loss.second=${inner:loss,focal}").loss)
    assert (loss.first, loss.second) == (BCE(), Focal())


@pytest.mark.slow
def test_a_process_compiles_a_model_once_whatever_the_loss(tmp_path, monkeypatch):
    compiled, compile = [], torch.compile

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda function, **_: compile(function, backend=backend))
    words = ("loss=weighted_bce", "loss.pos_weight=20", "trainer.max_epochs=12")
    words += ("schedule.pos_weight={to: 1, epochs: 12}",)
    train_small(tmp_path / "compiled", *words, "compile=true")
    first = len(compiled)
    assert 1 <= first <= 8  # training and evaluation, with and without gradients at most; not one per epoch
    train_small(tmp_path / "dice", "loss=dice", "trainer.max_epochs=1", "compile=true")
    train_small(tmp_path / "eager", *words)
    assert len(compiled) == first
    compiled_loss, loss = (epochs_of(tmp_path / name)["train/loss"] for name in ("compiled", "eager"))
    pd.testing.assert_series_equal(compiled_loss, loss, rtol=1e-3)
