"""The values of scheduled parameters are as computed by hand; a wrong schedule raises an error of one sentence."""

import pytest

from seglab.contract import ContractError
from seglab.engine.config import build, to_container
from seglab.engine.loss_schedule import Ramp, ramps, scheduled, unreached
from seglab.losses import BCE, Dice, Sum, Switch, Term, WeightedBCE


@pytest.mark.parametrize(
    ("shape", "values"),
    [
        ("linear", [16.0, 13.0, 10.0, 7.0, 4.0, 4.0]),
        ("cosine", [16.0, 14.242641, 10.0, 5.757359, 4.0, 4.0]),  # 10 + 6 cos(k pi / 4)
        ("exponential", [16.0, 11.313708, 8.0, 5.656854, 4.0, 4.0]),  # 16 / sqrt(2)^k
    ],
)
def test_a_shape_goes_from_start_to_end_and_stays_there(shape, values):
    ramp = Ramp(start=16, to=4, shape=shape, epochs=4)
    assert [ramp.at(epoch) for epoch in range(6)] == pytest.approx(values, abs=1e-6)
    assert ramp.at(4) == 4


def test_the_weight_of_the_boundary_loss_grows_by_a_hundredth_an_epoch(configure):
    spec = "schedule.terms.boundary.weight={to: 1, shape: linear, epochs: 99}"
    cfg = configure("train", "loss=sum", "loss.terms.boundary.weight=0.01", spec)
    loss = build(cfg.loss)
    found = ramps(to_container(cfg.schedule), loss)
    for epoch, weight in ((0, 0.01), (1, 0.02), (49, 0.5), (99, 1.0), (150, 1.0)):
        now = scheduled(loss, found, epoch)
        assert isinstance(now, Sum)
        assert now.terms["boundary"].weight == pytest.approx(weight)
        assert now.terms["dice"] == loss.terms["dice"]
    assert loss.terms["boundary"].weight == 0.01


def test_a_ramp_or_switch_that_training_does_not_reach_is_reported():
    loss = Switch(first=WeightedBCE(pos_weight=2.0), second=Dice(), at=3)
    found = ramps({"first": {"pos_weight": {"to": 1, "epochs": 4}}}, loss)
    assert unreached(loss, found, 5) == []
    late = "schedule.first.pos_weight: needs more than 4 epochs, got"
    assert unreached(loss, found, 4) == [f"{late} 4"]  # the first epoch has the start value
    assert unreached(loss, found, 3) == [
        f"{late} 3",
        "loss: the switch to the second loss needs more than 3 epochs (trainer.max_epochs)",
    ]
    assert unreached(BCE(), {}, 1) == []
    patient = Switch(first=BCE(), second=Dice(), patience=2)
    assert [len(unreached(patient, {}, epochs, every=3)) for epochs in (9, 10)] == [1, 0]  # patience counts validations


def test_a_weight_worked_out_from_the_data_is_where_its_schedule_starts():
    loss = WeightedBCE(pos_weight="auto").with_class_frequency([0.05])
    found = ramps({"pos_weight": {"to": 1, "epochs": 10}}, loss)
    assert scheduled(loss, found, 0).pos_weight == pytest.approx(19.0)
    assert scheduled(loss, found, 10) == WeightedBCE(pos_weight=1.0)


def test_several_parameters_move_each_at_its_own_pace():
    loss = Sum(terms={"bce": Term(loss=BCE(), weight=1.0), "dice": Term(loss=Dice(smooth=0.0), weight=0.0)})
    spec = {"bce": {"weight": {"to": 0, "epochs": 4}}, "dice": {"loss": {"smooth": {"to": 1, "epochs": 2}}}}
    now = scheduled(loss, ramps({"terms": spec}, loss), 1)
    assert now == Sum(terms={"bce": Term(loss=BCE(), weight=0.75), "dice": Term(loss=Dice(smooth=0.5), weight=0.0)})


BCE_WEIGHT = WeightedBCE(pos_weight=2.0)


@pytest.mark.parametrize(
    ("loss", "schedule", "sentence"),
    [
        (BCE_WEIGHT, {"weight": {"to": 1, "epochs": 3}}, r"schedule\.weight: expected one of .*pos_weight, got weight"),
        (BCE(), {"weight": {"to": 1, "epochs": 3}}, r"schedule\.weight: expected a loss with a parameter .*, got BCE"),
        (BCE_WEIGHT, {"pos_weight": 3}, r"schedule\.pos_weight: expected {to: NUMBER, epochs: COUNT}, got 3"),
        (BCE_WEIGHT, {"pos_weight": {"epochs": 1}}, r"expected a value for to, which Ramp requires, got none"),
        (BCE_WEIGHT, {"pos_weight": {"to": 1, "epochs": 0}}, r"expected epochs of at least 1, got 0"),
        (BCE_WEIGHT, {"pos_weight": {"to": 1, "steps": 9}}, r"steps: expected one of to, epochs, shape, start"),
        (BCE_WEIGHT, {"pos_weight": {"to": 0, "epochs": 1}}, r"BCE: expected pos_weight to be above 0, .*, got 0"),
        (Dice(), {"smooth": {"to": 1, "epochs": 1, "shape": "exponential"}}, r"start and to above 0 for shape=exp"),
        (Dice(), {"empty": {"to": 1, "epochs": 1}}, r"schedule\.empty: expected one of smooth, .*got empty"),
        (BCE_WEIGHT, {"beta": {"to": 1, "start": 0, "epochs": 3}}, r"schedule\.beta: expected one of .*, got beta"),
        (
            BCE(class_weights={"cup": 2.0}),
            {"class_weights": {"to": 1, "start": 0, "epochs": 3}},
            r"schedule\.class_weights: expected a parameter that is a number, got \w+",
        ),
        (BCE_WEIGHT, 3, r"schedule: expected the parameters of the loss that change, got 3"),
    ],
)
def test_a_wrong_schedule_is_one_sentence(loss, schedule, sentence):
    with pytest.raises(ContractError, match=sentence) as fault:
        ramps(schedule, loss)
    assert "\n" not in str(fault.value)
