"""Losses around losses: sums share computations, a batch counts as one image, switches happen once, user code runs."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F

from seglab.contract import ContractError
from seglab.losses import (
    BCE,
    Batchwise,
    BCEDice,
    Boundary,
    Dice,
    External,
    Focal,
    IoU,
    PerComponent,
    Sum,
    Switch,
    Term,
    Tversky,
    WeightedBCE,
)
from seglab.losses.base import Loss
from seglab.losses.numerics import Sigmoid
from seglab.losses.pixels import pixels_of
from tests.losses.conftest import TASKS, Case, build, of, scene


def total(weights):
    return Sum(terms={type(loss).__name__: Term(loss=loss, weight=w) for loss, w in weights.items()} | {"off": None})


@pytest.mark.parametrize("task", list(TASKS))
def test_a_sum_of_any_losses_has_the_sum_of_their_values_and_gradients(task):
    names = {"dice": 0.5, "focal": 1.0, "topk": 0.25, "hausdorff": 0.1, "batchwise": 2.0, "external": 1.0}
    terms = {build(name, task): weight for name, weight in names.items() if name != "external"}
    loss, (z, target) = total(terms), scene(task)
    maps = {"distance": torch.randn(z.shape, generator=torch.Generator().manual_seed(1))}
    z.requires_grad_()
    each = [w * part(z, target, **{need: maps[need] for need in part.needs}).sum() for part, w in terms.items()]
    apart = torch.stack(each).sum()
    together = loss(z, target, **maps).sum()
    torch.testing.assert_close(together, apart)
    assert loss.task == task
    assert loss.needs == ("distance",)
    torch.testing.assert_close(torch.autograd.grad(together, z)[0], torch.autograd.grad(apart, z)[0])


def test_the_terms_of_a_sum_share_what_they_compute(monkeypatch):
    made = []
    forward = Sigmoid.forward
    monkeypatch.setattr(Sigmoid, "forward", staticmethod(lambda z, flip: made.append(1) or forward(z, flip)))
    logits, target = scene()
    total({Dice(): 1, IoU(): 1, Tversky(): 1, BCE(): 1, Focal(): 1})(logits, target)
    assert len(made) == 1
    total({Dice(): 1, IoU(): 1, Tversky(): 1})(logits, 0.9 * target)
    assert len(made) == 3, "p and q, once each"


def test_a_sum_binds_its_terms_and_is_hard_where_one_of_them_is():
    loss = total({WeightedBCE(): 2.0, Boundary(): 1.0}).with_task(TASKS["multiclass"])
    assert loss.with_class_frequency((0.5, 0.25, 0.2, 0.05)).terms["WeightedBCE"].loss.pos_weight == (2.0, 2.5, 10.0)
    assert not loss.soft
    assert loss.task == "multiclass"
    with pytest.raises(ContractError, match="Sum: expected inner losses with the same task, got none"):
        Sum(terms={"off": None})
    with pytest.raises(ContractError, match="inner losses with the same task, got binary and multiclass"):
        total({BCE(): 1.0, Dice(task="multiclass"): 1.0})


@pytest.mark.parametrize("task", list(TASKS))
def test_a_batchwise_loss_is_that_of_one_tall_image(task):
    logits, target = scene(task)
    valid = torch.rand(3, 1, 12, 12, generator=torch.Generator().manual_seed(0)) < 0.9
    for loss in (Dice(task=task), build("cldice", task), build("generalized_dice", task)):
        tall = [x.transpose(0, 1).reshape(1, -1, 36, 12) for x in (logits, target, valid)]
        torch.testing.assert_close(Batchwise(loss=loss)(logits, target), loss(*tall[:2]).expand(3))
        torch.testing.assert_close(Batchwise(loss=loss)(logits, target, valid), loss(*tall).expand(3))


def test_it_switches_after_so_many_epochs_in_a_row_without_a_better_value():
    loss = Switch(first=BCE(), second=IoU(), patience=3)
    values = [0.1, 0.3, 0.2, 0.3, 0.4, 0.4, 0.1, 0.2, 0.9]  # equal is not better; it never waits a fourth epoch
    schedule = [loss.at_epoch(values[:epoch]) for epoch in range(len(values) + 1)]
    assert [type(now) for now, _ in schedule] == [BCE] * 8 + [IoU] * 2
    assert schedule[-1][1] == [8]
    assert loss.at_epoch([0.5, float("nan"), float("nan"), 0.1]) == (IoU(), [4])  # NaN is not better
    once = Switch(first=BCE(), second=IoU(), patience=1)
    for later in ([], [0.9], [0.1, 0.1, 0.1], [1.0, 2.0, 3.0]):  # it never switches back
        assert once.at_epoch([0.5, 0.4, *later]) == (IoU(), [2])
    with pytest.raises(ContractError, match=r"^Switch: expected "):
        Switch(first=BCE(), second=IoU(), patience=0)


def test_a_fixed_epoch_counts_whatever_the_values_are():
    loss = Switch(first=BCE(), second=IoU(), at=3, patience=1)
    switches = [loss.at_epoch([0.5, 0.1, 0.2, 0.9][:k])[1] for k in range(5)]
    assert switches == [[], [], [], [3], [3]]


def test_three_losses_follow_one_another_each_waiting_anew():
    last = Switch(first=IoU(), second=Focal(), patience=2)
    loss = Switch(first=BCE(), second=last, patience=1)
    assert loss.at_epoch([0.5, 0.4]) == (IoU(), [2])
    assert loss.at_epoch([0.5, 0.4, 0.1, 0.1]) == (IoU(), [2])
    assert loss.at_epoch([0.5, 0.4, 0.1, 0.1, 0.1]) == (Focal(), [2, 5])


def test_a_switch_that_comes_first_switches_too():
    inner = Switch(first=BCE(), second=Focal(), at=1)
    for loss in (Switch(first=inner, second=IoU(), at=3), Switch(first=inner, second=IoU(), patience=2)):
        schedule = [loss.at_epoch([0.0] * k) for k in range(5)]
        assert [now for now, _ in schedule] == [BCE(), Focal(), Focal(), IoU(), IoU()]
        assert [switches for _, switches in schedule] == [[], [1], [1], [1, 3], [1, 3]]
        around, switches = total({loss: 2.0}).at_epoch([0.0, 0.0])
        assert (around.terms["Switch"].loss, switches) == (Focal(), [1])
    late = Switch(first=Switch(first=BCE(), second=Focal(), at=3), second=IoU(), at=3)
    assert late.at_epoch([0.0] * 9) == (IoU(), [3])  # the inner second loss never has an epoch


def test_losses_around_a_switch_switch_with_it_and_keep_its_task():
    switch = Switch(first=BCE(), second=IoU(), at=2).with_task(TASKS["multilabel"])
    assert Batchwise(loss=switch).at_epoch([0, 0]) == (Batchwise(loss=IoU(task="multilabel")), [2])
    terms = {"a": Term(loss=switch, weight=2.0), "b": Term(loss=Dice(task="multilabel"), weight=1.0), "c": None}
    now, switches = Sum(terms=terms).at_epoch([0, 0])
    assert switches == [2]
    assert isinstance(now, Sum)
    assert now.terms == {"a": Term(loss=IoU(task="multilabel"), weight=2.0), "b": terms["b"]}


def test_a_switch_asks_for_what_either_loss_needs_and_fits_both():
    loss = Switch(first=WeightedBCE(), second=Boundary())
    assert loss.needs == Boundary().needs
    assert not loss.soft
    assert loss.with_class_frequency([0.2]).first == WeightedBCE(pos_weight=4.0)
    with pytest.raises(ContractError, match="Boundary: expected a target of only 0 and 1"):
        loss.check(torch.zeros(1, 1, 4, 4), torch.full((1, 1, 4, 4), 0.5))


@pytest.mark.parametrize("name", ["per_component", "sum"])
def test_the_batch_is_no_image_whose_objects_have_numbers(name):
    inside = build("per_component")
    inside = Sum(terms={"a": Term(loss=inside, weight=1.0)}) if name == "sum" else inside
    with pytest.raises(ContractError, match=r"^Batchwise: expected a loss without PerComponent, which .*, got \w+$"):
        Batchwise(loss=inside)


@pytest.mark.parametrize("partition", ["cells", "components"])
def test_a_loss_per_component_is_the_plain_loss_for_one_object_or_none(partition):
    logits, target = scene()  # the second image is empty, the third has one object
    case = Case("per_component", "binary", build("per_component", partition=partition))
    plain = BCEDice()(logits, target)
    torch.testing.assert_close(case(logits, target)[1:], plain[1:])
    assert abs(case(logits, target)[0] - plain[0]) > 1e-3
    more = Case("per_component", "binary", build("per_component", partition=partition, whole_weight=2.0))
    torch.testing.assert_close(more(logits, target), case(logits, target) + 2 * plain)


@of(lambda case: case.loss.by_totals and case.task != "multilabel")
def test_all_components_at_once_cost_what_they_cost_one_by_one(case, logits, target):
    valid = torch.rand(3, 1, 12, 12, generator=torch.Generator().manual_seed(6)) < 0.7
    for partition in ("cells", "components"):
        around = PerComponent(loss=case.loss, partition=partition)
        maps = Case("per_component", case.task, around).maps(target, logits)
        for mask in (None, valid):
            x = pixels_of(case.task, logits.double(), target, mask, maps)
            objects = x.maps[partition][:, -1:]
            assert case.loss.value(x).shape == (3,)  # a cache of the whole must not affect the parts
            for at_once, one in zip(around.at_once(x, objects, 2), around.one_by_one(x, objects, 2), strict=True):
                torch.testing.assert_close(at_once, one, check_dtype=False, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_components_leave_out_what_is_not_valid(task):
    logits, target = scene(task)
    case = Case("per_component", task, build("per_component", task, partition="components"))
    maps, valid = case.maps(target, logits), torch.ones(3, 1, 12, 12, dtype=torch.bool)
    valid[..., 8:] = False
    cut = case.loss(logits[..., :8], target[..., :8], components=maps["components"][..., :8])
    torch.testing.assert_close(case.loss(logits, target, valid, **maps), cut)


def test_a_foreign_function_sees_one_image_or_the_batch_in_float32(logits, target):
    seen = []

    def function(z, t):
        seen.append((len(z), z.dtype, t.dtype))
        return (z - t).square().mean()

    with pytest.raises(ContractError, match="External: expected its function to return a tensor, got float"):
        External(function=lambda z, t: 1.0)(logits, target)
    each = External(function=function)(logits.half(), target)
    assert seen == [(1, torch.float32, torch.float32)] * 3
    once = External(function=function, image_by_image=False)(logits.half(), target)
    assert seen[3:] == [(3, torch.float32, torch.float32)]
    torch.testing.assert_close(once, each.mean().expand(3))


def test_a_foreign_function_may_give_one_number_per_image_or_per_pixel(logits, target):
    def each(z, t):
        return (z - t).square()

    def per_image(z, t):
        return each(z, t).flatten(1).mean(1)

    expected = per_image(logits, target.float())
    assert expected.std() > 0
    for function in (each, per_image, lambda z, t: per_image(z, t).view(-1, 1, 1, 1)):
        for image_by_image in (True, False):
            loss = External(function=function, image_by_image=image_by_image)(logits, target)
            torch.testing.assert_close(loss, expected)
    with pytest.raises(ContractError, match=r"its function to return one number, or one per image \(3,\), got \(2,\)"):
        External(function=lambda z, t: per_image(z, t)[:2], image_by_image=False)(logits, target)


def test_the_weights_of_foreign_code_belong_to_the_module_of_a_loss():
    def foreign():
        return External(function=torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0)))

    def nested():
        return total({Batchwise(loss=foreign()): 1.0, BCE(): 1.0})

    for loss in (foreign(), nested(), Switch(first=Dice(), second=nested())):
        module = loss.as_module()
        assert [weight.item() for weight in module.state_dict().values()] == [3.0]
        assert module.to("meta").loss.modules()[0].pos_weight.device.type == "meta"
        assert loss.modules()[0].pos_weight.device.type == "meta"
    assert list(Dice().as_module().state_dict()) == []


def test_a_loss_that_does_not_return_one_number_per_image_is_named(logits, target):
    @dataclass(frozen=True, kw_only=True)
    class Mine(Loss):
        shape: tuple[int, ...]

        def value(self, x):
            return x.z.new_zeros(self.shape)

    assert Mine(shape=(3,))(logits, target).shape == (3,)
    for shape in ((), (3, 1), (1,)):
        with pytest.raises(
            ContractError, match=r"^Mine: expected its `value` to return one number per image, \(3,\), got \("
        ):
            Mine(shape=shape)(logits, target)


def test_a_foreign_function_gets_probabilities_and_ids_where_it_takes_them(logits, target):
    loss = External(function=torch.nn.BCELoss(), takes="probabilities")
    torch.testing.assert_close(loss(logits, target), BCE()(logits, target))
    z, ids = scene("multiclass")
    for labels in ("ids", "shares"):
        loss = External(function=F.cross_entropy, labels=labels, task="multiclass")
        torch.testing.assert_close(loss(z, ids), BCE(task="multiclass")(z, ids))
    seen = External(function=lambda p, t: (p.sum(1) - 1).abs().max(), takes="probabilities", task="multiclass")(z, ids)
    assert (seen < 1e-6).all()
