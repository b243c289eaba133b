"""A switch is its first loss until its turn, which depends on the past alone and comes once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from seglab.contract import ContractError
from seglab.losses.base import Loss
from seglab.losses.boundary import Boundary
from seglab.losses.combine import Batchwise, Sum, Term
from seglab.losses.focal import Focal
from seglab.losses.pixel import BCE, WeightedBCE
from seglab.losses.region import Dice, IoU
from seglab.losses.switch import Switch


def turns(loss: Loss, values: list[float]) -> list[int]:
    return loss.course(values)[1]


def test_before_its_turn_it_is_its_first_loss(make: Callable[..., Loss], logits: Tensor, target: Tensor) -> None:
    torch.testing.assert_close(make("switch")(logits, target), BCE()(logits, target), rtol=0, atol=0)


def test_it_turns_after_so_many_epochs_in_a_row_without_a_better_value() -> None:
    loss = Switch(first=BCE(), second=IoU(), patience=3)
    values = [
        0.1,
        0.3,
        0.2,
        0.3,
        0.4,
        0.4,
        0.1,
        0.2,
        0.9,
    ]  # equal is not better; the fourth epoch of waiting never comes
    courses = [loss.course(values[:epoch]) for epoch in range(len(values) + 1)]
    assert [type(now) for now, _ in courses] == [BCE] * 8 + [IoU] * 2
    assert courses[-1][1] == [8]


def test_it_never_goes_back_whatever_comes_after() -> None:
    loss = Switch(first=BCE(), second=IoU(), patience=1)
    for later in ([], [0.9], [0.1, 0.1, 0.1], [1.0, 2.0, 3.0]):
        assert loss.course([0.5, 0.4, *later]) == (IoU(), [2])


def test_a_fixed_epoch_counts_whatever_the_values_are() -> None:
    loss = Switch(first=BCE(), second=IoU(), at=3, patience=1)
    assert [bool(turns(loss, [0.5, 0.1, 0.2, 0.9][:k])) for k in range(5)] == [False, False, False, True, True]


def test_a_value_that_is_no_number_is_not_better() -> None:
    assert turns(Switch(first=BCE(), second=IoU(), patience=2), [0.3, float("nan"), float("nan")]) == [3]


def test_three_losses_follow_one_another_each_waiting_anew() -> None:
    last = Switch(first=IoU(), second=Focal(), patience=2)
    loss = Switch(first=BCE(), second=last, patience=1)
    assert loss.course([0.5, 0.4]) == (IoU(), [2])
    assert loss.course([0.5, 0.4, 0.1, 0.1]) == (IoU(), [2])
    assert loss.course([0.5, 0.4, 0.1, 0.1, 0.1]) == (Focal(), [2, 5])


def test_losses_around_it_turn_with_it() -> None:
    switch = Switch(first=BCE(), second=IoU(), at=2)
    pooled, turned = Batchwise(loss=switch).course([0, 0])
    assert (pooled, turned) == (Batchwise(loss=IoU()), [2])
    terms = {"a": Term(loss=switch, weight=2.0), "b": Term(loss=Dice(), weight=1.0), "c": None}
    total, turned = Sum(terms=terms).course([0, 0])
    assert turned == [2]
    assert total.terms == {"a": Term(loss=IoU(), weight=2.0), "b": Term(loss=Dice(), weight=1.0)}  # type: ignore[attr-defined]


def test_it_asks_for_what_either_loss_needs_and_fits_both() -> None:
    loss = Switch(first=WeightedBCE(), second=Boundary())
    assert loss.needs == Boundary().needs
    assert not loss.soft
    assert loss.fitted(0.2).first == WeightedBCE(pos_weight=4.0)
    soft = torch.full((1, 1, 4, 4), 0.5)
    with pytest.raises(ContractError, match="Boundary: expected a target of 0 and 1"):
        loss.check(torch.zeros(1, 1, 4, 4), soft)


@pytest.mark.parametrize("wrong", [{"at": 0}, {"patience": 0}, {"second": BCE()}])
def test_what_makes_no_sense_is_one_sentence(wrong: dict) -> None:
    with pytest.raises(ContractError, match=r"^Switch: expected "):
        Switch(**({"first": BCE(), "second": IoU()} | wrong))
