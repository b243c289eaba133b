"""The contract that every loss of conf/loss keeps for every task."""

import gc
import weakref
from dataclasses import fields, replace
from itertools import product

import pytest
import torch

from seglab.losses.calibration import L1ACE
from seglab.losses.components import PerComponent
from seglab.losses.composite import WeightedSum
from seglab.losses.cross_entropy import PixelLoss
from seglab.losses.external import External
from seglab.losses.numerics import is_hard
from tests.losses.conftest import of, one_hot


def mean_over_classes(case):
    """Whether the loss is a mean over classes; with a softmax, cross-entropy is one value for all classes."""
    whole = isinstance(case.loss, WeightedSum | External | PerComponent | L1ACE)
    return not whole and (case.task != "multiclass" or not (isinstance(case.loss, PixelLoss) or case.name == "switch"))


def plain(case):
    """Whether the task is not multilabel, whose channels behave like binary ones in these tests."""
    return case.task != "multilabel"


def right(target, like, size):
    """Return logits that are right by `size` everywhere, or wrong for a negative size."""
    return size * (2.0 * (target if target.shape == like.shape else one_hot(target, like.shape[1])) - 1)


def test_gives_one_number_per_image(case, logits, target):
    loss = case(logits, target)
    assert loss.shape == (3,)
    assert loss.dtype == torch.float32
    assert case(logits.double(), target).dtype == torch.float64


@of(lambda case: not case.pools)
def test_an_image_costs_the_same_alone_and_in_any_order(case, logits, target):
    together = case(logits, target)
    if case.name != "lovasz_softmax":
        alone = torch.cat([case(logits[i : i + 1], target[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(together, alone)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(case(logits[order], target[order]), together[order])


def test_the_tensors_of_a_step_are_freed_when_it_ends(case, logits, target):
    """On a GPU, tensors that wait for Python's garbage collector would occupy memory needed by the next step."""
    weights = logits.clone().requires_grad_()

    def step():
        made = weights * 1
        case(made, target).sum().backward()
        return weakref.ref(made)

    gc.disable()
    try:
        assert step()() is None
    finally:
        gc.enable()


def test_strides_and_the_dtype_of_the_target_do_not_matter(case, logits, target):
    loss, maps = case(logits, target), case.maps(target, logits)
    strided = logits.transpose(2, 3).contiguous().transpose(2, 3)
    assert not strided.is_contiguous()
    torch.testing.assert_close(case(strided, target.transpose(2, 3).contiguous().transpose(2, 3)), loss)
    torch.testing.assert_close(case(logits.to(memory_format=torch.channels_last), target), loss)
    torch.testing.assert_close(case.loss(logits, target.long(), **maps), loss)
    shares = target if case.task != "multiclass" else one_hot(target, logits.shape[1])
    for dtype in (torch.float16, torch.float32, torch.float64, torch.bool):
        torch.testing.assert_close(case.loss(logits, shares.to(dtype), **maps), loss)
    soft = shares.float().requires_grad_()  # computed by the formulas of soft labels
    torch.testing.assert_close(case.loss(logits, soft, **maps), loss)


@of(lambda case: case.task != "multiclass")
def test_float_masks_of_zeros_and_ones_are_computed_as_hard_labels(case, logits, target):
    z, maps = logits.clone().requires_grad_(), case.maps(target, logits)
    loss = case.loss(z, target.float(), **maps)
    torch.testing.assert_close(loss, case(z, target), rtol=0, atol=0)
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), z)[0], case.gradient(z, target), rtol=0, atol=0)


@of(lambda case: plain(case) and case.name not in {"per_component", "skeleton_recall"})  # which break ties by position
def test_a_flip_turns_the_gradient_with_the_image(case, logits, target):
    turned = case.gradient(logits.flip(2, 3), target.flip(2, 3)).flip(2, 3)
    torch.testing.assert_close(turned, case.gradient(logits, target), atol=1e-6, rtol=1e-4)


@of(plain)
def test_inputs_are_left_as_they_were(case, logits, target):
    maps, valid = case.maps(target, logits), torch.rand(3, 1, 12, 12) < 0.8
    given = [logits, target, valid, *maps.values()]
    before = [x.clone() for x in given]
    case.loss(logits.detach().requires_grad_(), target, valid, **maps).sum().backward()
    assert all(torch.equal(x, y) for x, y in zip(given, before, strict=True))


@of(lambda case: case.name.startswith("lovasz"))  # their ranking has no derivative
def test_a_target_that_requires_a_gradient_changes_none_of_the_logits(case, logits, target):
    shares = (target if case.task != "multiclass" else one_hot(target, 4)).float().requires_grad_()
    z = logits.clone().requires_grad_()
    case(z, shares).sum().backward()
    torch.testing.assert_close(z.grad, case.gradient(logits, target))


@of(plain)
def test_first_and_second_derivatives_are_those_of_the_value(case, logits, target):
    z = logits[:2, :, 2:6, 3:7].double().contiguous().requires_grad_()
    t = target[:2, :, 2:6, 3:7].contiguous()
    maps = case.maps(t, z)
    assert torch.autograd.gradcheck(lambda x: case.loss(x, t, **maps), z, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: case.loss(x, t, **maps), z, fast_mode=True)


@of(plain)
def test_half_precision_costs_what_its_values_cost_in_float32(case, logits, target):
    for dtype in (torch.float16, torch.bfloat16):
        rounded = logits.to(dtype)
        torch.testing.assert_close(case(rounded, target), case(rounded.float(), target))
        gradient = case.gradient(rounded, target)
        assert gradient.dtype == dtype
        torch.testing.assert_close(gradient, case.gradient(rounded.float(), target).to(dtype))


@of(plain)
def test_autocast_changes_nothing(case, logits, target):
    with torch.autocast("cpu", torch.bfloat16):
        loss, gradient = case(logits, target), case.gradient(logits, target)
    torch.testing.assert_close(loss, case(logits, target), rtol=0, atol=0)
    torch.testing.assert_close(gradient, case.gradient(logits, target), rtol=0, atol=0)


def test_foreign_code_computes_in_float32_under_autocast(logits, target):
    loss = External(function=lambda z, t: (z.flatten(1) @ t.flatten(1).T).sum())  # autocast rounds products
    with torch.autocast("cpu", torch.bfloat16):
        rounded = loss(logits, target)
    torch.testing.assert_close(rounded, loss(logits, target), rtol=0, atol=0)


@of(lambda case: case.task != "multilabel" and case.name not in {"external", "per_component"})  # these read values
def test_a_loss_runs_on_tensors_without_data(case, logits, target):
    z = logits.to("meta").requires_grad_()
    loss = case.loss(z, target.to("meta"), **{name: x.to("meta") for name, x in case.maps(target, logits).items()})
    loss.sum().backward()
    assert (loss.device.type, loss.shape, z.grad.shape) == ("meta", (3,), z.shape)


@of(plain)
def test_right_is_cheaper_than_unsure_and_unsure_than_wrong(case, logits, target):
    good, unsure, wrong = (case(right(target, logits, size), target) for size in (4, 0, -4))
    assert (good < unsure).all()
    assert (unsure < wrong).all()


def test_a_perfect_prediction_costs_nothing_and_no_loss_is_negative(case, logits, target):
    if case.loss.card.zero:
        assert (case(right(target, logits, 100), target).abs() < 1e-6).all()
    if not case.loss.card.signed:
        assert (case(logits, target) >= 0).all()


@of(plain)
@pytest.mark.slow
def test_gradient_descent_leads_to_the_target(case, logits, target):
    z, maps = logits.clone().requires_grad_(), case.maps(target, logits)
    optimizer = torch.optim.Adam([z], lr=0.5)
    for _ in range(100):
        optimizer.zero_grad()
        case.loss(z, target, **maps).sum().backward()
        optimizer.step()
    assert case(z.detach(), target).sum() < case(logits, target).sum()
    shares = target if case.task != "multiclass" else one_hot(target, logits.shape[1])
    wanted, found = shares > 0, z > 0
    if case.task == "multiclass":
        found = one_hot(z.argmax(1, keepdim=True), z.shape[1]) > 0
    decided = torch.ones_like(wanted)
    if case.name == "boundary":  # whose weight is 0 on the outermost pixels of an object
        decided = (maps["distance"][:, case.task == "multiclass" :] != 0).all(1, keepdim=True).expand_as(wanted)
    stuck = case.name == "noise_robust_dice" and case.task == "multiclass"  # bounded errors: confident mistakes stay
    assert (wanted == found)[decided].float().mean() > (0.8 if stuck else 0.995)


@of(lambda case: case.loss.card.proper)
def test_a_proper_loss_is_smallest_where_probabilities_are_the_soft_labels(case, logits):
    best = logits.double()
    soft = best.softmax(1) if case.task == "multiclass" else best.sigmoid()
    if case.name not in ("jml", "region_size"):  # these have a kink there
        assert case.gradient(best, soft).abs().max() < 1e-9
    generator = torch.Generator().manual_seed(3)
    for size in (0.01, 0.3, 3.0):
        away = best + size * torch.randn(best.shape, generator=generator, dtype=best.dtype)
        assert (case(away, soft) > case(best, soft)).all()


@of(mean_over_classes)
def test_the_loss_is_the_mean_of_per_class(case, logits, target):
    each = case.loss.per_class(logits, target, **case.maps(target, logits))
    classes = {"binary": 1, "multilabel": 2, "multiclass": 3}[case.task]
    assert each.shape == (3, classes + (case.name == "lovasz_softmax"))  # its mean includes the background
    if case.name != "lovasz_softmax":  # it skips absent classes
        torch.testing.assert_close(each.mean(1), case(logits, target))


@of(lambda case: case.task == "multiclass" and case.name != "nacl")  # which depends on raw logits
def test_the_gradient_of_a_softmax_sums_to_0_over_the_classes(case, logits, target):
    gradient = case.gradient(logits, target)
    assert gradient.sum(1).abs().max() < 4e-6 * gradient.abs().max()
    shifted = logits + torch.randn(3, 1, 12, 12, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(case(shifted, target), case(logits, target), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(case.gradient(shifted, target), gradient, rtol=1e-4, atol=1e-6)


@of(lambda case: case.task != "binary" and not case.fitted)
def test_classes_may_change_places(case, logits, target):
    order = torch.tensor([1, 0]) if case.task == "multilabel" else torch.tensor([0, 3, 1, 2])
    moved = target[:, order] if case.task == "multilabel" else order.argsort()[target.long()]
    torch.testing.assert_close(case(logits[:, order], moved), case(logits, target))


@of(lambda case: case.task == "multilabel" and "class_weights" in {f.name for f in fields(case.loss) if f.init})
def test_a_class_of_weight_0_has_no_say_in_a_multilabel_task(case, logits, target):
    alone = replace(case, loss=replace(case.loss, class_weights=(0.0, 2.0)))
    torch.testing.assert_close(alone(logits + torch.tensor([3.0, 0.0]).view(2, 1, 1), target), alone(logits, target))


def test_equal_losses_have_one_hash_whatever_their_parameters_are(case):
    assert len({case.loss, replace(case.loss)}) == 1
    free = {field.name for field in fields(case.loss) if field.init} & {"class_weights", "pos_weight"}
    for name, weights in product(free, ([0.5, 2, 1], {"cup": 1, "disc": 2})):
        if name == "class_weights" or isinstance(weights, list):
            assert hash(replace(case.loss, **{name: weights})) == hash(case.loss)


@of(plain)
def test_subclassing_a_loss_changes_nothing_and_a_module_gives_its_mean(case, logits, target):
    class Heir(type(case.loss)):
        """A subclass that overrides nothing."""

    given = {field.name: getattr(case.loss, field.name) for field in fields(case.loss) if field.init}
    heir, maps = type(case)(case.name, case.task, Heir(**given)), case.maps(target, logits)
    torch.testing.assert_close(heir(logits, target), case(logits, target), rtol=0, atol=0)
    torch.testing.assert_close(heir.gradient(logits, target), case.gradient(logits, target), rtol=0, atol=0)
    torch.testing.assert_close(heir.loss.as_module()(logits, target, **maps), case(logits, target).mean())


@pytest.mark.parametrize(
    ("label", "known"),
    [(0.0, True), (1.0, True), (0.5, False), (1e-30, False), (-1.0, False), (255.0, False), (float("nan"), False)],
)
def test_labels_are_known_to_be_hard_if_they_are_zeros_and_ones(label, known):
    target = torch.tensor([0.0, 1.0, label]).view(1, 1, 3)
    assert is_hard(target) is known
    assert is_hard(target.bool())
    assert not is_hard(target.clone().requires_grad_()), "the gradient of the target would be lost"
