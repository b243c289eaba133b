"""Invalid pixels: value and gradient equal those of the image without these pixels."""

import pytest
import torch

from seglab.contract import ContractError
from seglab.losses import BCEDice, External
from tests.losses.conftest import CASES, of, scene

SPATIAL = {"cldice", "hausdorff"}
"""Losses that use neighbors, so that ignoring pixels differs from cutting them off."""


def left(logits, target):
    """Return inputs whose right third is invalid, filled with values that must not matter."""
    valid = torch.ones(len(logits), 1, *logits.shape[2:], dtype=torch.bool)
    valid[..., 8:] = False
    logits, target = logits.clone(), target.clone()
    logits[..., 8:], target[..., 8:] = torch.nan, 255
    logits[..., 9, 9] = torch.inf
    return logits, target, valid


@of(lambda case: case.name not in SPATIAL)
def test_value_and_gradient_are_those_of_the_image_cut(case, logits, target):
    maps = case.maps(target, logits)
    cut = [x[..., :8] for x in (logits, target)], {name: m[..., :8] for name, m in maps.items()}
    dirty, label, valid = left(logits, target)
    for name in maps:
        maps[name][..., 8:] = torch.nan
    z, small = dirty.requires_grad_(), cut[0][0].clone().requires_grad_()
    value, alone = case.loss(z, label, valid, **maps), case.loss(small, cut[0][1], **cut[1])
    torch.testing.assert_close(value, alone)
    (gradient,) = torch.autograd.grad(value.sum(), z)
    torch.testing.assert_close(gradient[..., :8], torch.autograd.grad(alone.sum(), small)[0])
    assert (gradient[..., 8:] == 0).all()


@of(lambda case: case.loss.soft and not case.loss.needs and case.name != "external")
def test_soft_labels_of_valid_pixels_alone_count(case, logits):
    soft = torch.rand(logits.shape, generator=torch.Generator().manual_seed(5))
    soft = soft / soft.sum(1, keepdim=True) if case.task == "multiclass" else soft
    dirty, label, valid = left(logits, soft)
    label[..., 8:] = torch.nan
    torch.testing.assert_close(case.loss(dirty, label, valid), case.loss(logits[..., :8], soft[..., :8]))


def test_all_pixels_valid_is_the_same_as_no_valid_mask(case, logits, target):
    valid = torch.ones(3, 1, 12, 12, dtype=torch.bool)
    torch.testing.assert_close(case(logits, target, valid), case(logits, target))
    torch.testing.assert_close(case.gradient(logits, target, valid), case.gradient(logits, target))


def test_an_image_without_a_valid_pixel_costs_nothing_and_pulls_nothing(case):
    logits, target = scene(case.task)
    valid = torch.rand(3, 1, 12, 12, generator=torch.Generator().manual_seed(6)) < 0.9
    valid[1] = False
    whole = case(logits, target, valid)
    gradient = case.gradient(logits, target, valid)
    if not case.pools:
        assert whole[1] == 0
        others = case(logits[[0, 2]], target[[0, 2]], valid[[0, 2]])
        more = 1.5 if case.name == "lovasz_softmax" else 1  # its policy skips the image
        torch.testing.assert_close(whole[[0, 2]], more * others)
    assert (gradient[1] == 0).all()
    assert (gradient[[0, 2]] != 0).any()
    nothing = torch.zeros_like(valid)
    assert (case(logits, target, nothing) == 0).all()
    assert (case.gradient(logits * torch.nan, target, nothing) == 0).all()


def test_an_image_without_a_valid_pixel_has_no_offset_either():
    logits, target = scene("binary")
    valid = torch.ones(3, 1, 12, 12, dtype=torch.bool)
    valid[1] = False
    assert (BCEDice(offset=-1.0)(logits, target, valid) == 0).tolist() == [False, True, False]


@pytest.mark.parametrize(("name", "task"), [case for case in CASES if case[0] in SPATIAL], ids=str)
def test_invalid_pixels_cost_nothing_even_if_a_loss_uses_neighbors(make, name, task):
    from tests.losses.conftest import Case

    case, (logits, target) = Case(name, task, make(name, task)), scene(task)
    _, _, valid = left(logits, target)
    gradient = case.gradient(logits, target, valid)
    assert (gradient[..., 8:] == 0).all()
    assert (gradient[..., :8] != 0).any()
    other = logits.clone()
    other[..., 8:] = torch.randn(3, logits.shape[1], 12, 4, generator=torch.Generator().manual_seed(7)) * 5
    torch.testing.assert_close(case(other, target, valid), case(logits, target, valid))


def test_boundaries_are_those_of_the_whole_mask(make):
    logits, target = scene()
    distance = torch.arange(144.0).view(1, 1, 12, 12).expand(3, 1, 12, 12) - 70
    valid = torch.ones(3, 1, 12, 12, dtype=torch.bool)
    valid[..., 6:] = False
    p = logits.sigmoid()
    expected = (p * distance)[..., :6].mean((1, 2, 3))
    expected[1] = p[1, ..., :6].mean()  # a mask of a single class: every distance is 1
    torch.testing.assert_close(make("boundary")(logits, target, valid, distance=distance), expected)


def test_a_foreign_function_gets_the_image_that_is_cut(make):
    logits, target = scene()
    dirty, label, valid = left(logits, target)
    seen = []

    def function(z, t):
        seen.append((tuple(z.shape), tuple(t.shape)))
        return (z - t).square().mean()

    loss = type(make("external"))(function=function)
    torch.testing.assert_close(loss(dirty, label, valid), (logits - target)[..., :8].square().mean((1, 2, 3)))
    assert seen == [((1, 1, 12, 8), (1, 1, 12, 8))] * 3
    with pytest.raises(
        ContractError, match="External: expected image_by_image=true if pixels are excluded by `valid`, got false"
    ):
        type(loss)(function=function, image_by_image=False)(dirty, label, valid)


def test_a_mask_of_the_wrong_shape_or_dtype_is_named(case, logits, target):
    for wrong in (torch.ones(3, 12, 12, dtype=torch.bool), torch.ones(3, 1, 12, 12), torch.ones(3, 1, 12, 11).bool()):
        with pytest.raises(
            ContractError, match=r"expected valid to be a bool tensor of shape \(3, 1, 12, 12\), got \(3, .* of torch\."
        ):
            case(logits, target, wrong)


def test_the_worst_are_a_fraction_of_the_valid_pixels(make):
    logits = torch.arange(20.0).view(1, 1, 4, 5)
    target, valid = torch.zeros(1, 1, 4, 5, dtype=torch.uint8), torch.zeros(1, 1, 4, 5, dtype=torch.bool)
    valid[..., :2, :] = True  # costs 0 to 9; a fifth of them are two
    expected = torch.nn.functional.softplus(torch.tensor([9.0, 8.0])).mean()
    torch.testing.assert_close(make("topk", fraction=0.2)(logits, target, valid)[0], expected)


def test_an_external_loss_gets_a_copy_and_only_the_inside_of_a_padded_image():
    seen = []

    def function(z, t):
        seen.append((z.clone(), t.clone()))
        loss = (z - t).square().mean()
        t.zero_()
        z.data.zero_()
        return loss

    logits, target = torch.randn(2, 1, 6, 8), torch.ones(2, 1, 6, 8)
    kept, inside = logits.clone(), torch.zeros(2, 1, 6, 8, dtype=torch.bool)
    inside[..., 1:5, 2:7] = True
    scattered = inside.clone()
    scattered[..., 2, 3] = False
    for valid in (None, torch.ones_like(inside), inside, scattered):
        External(function=function)(logits, target, valid)
    assert torch.equal(logits, kept)
    assert bool((target == 1).all())
    assert [tuple(z.shape) for z, _ in seen[::2]] == [(1, 1, 6, 8), (1, 1, 6, 8), (1, 1, 4, 5), (1, 1, 19, 1)]
    assert all(z.shape == t.shape for z, t in seen)
    assert torch.equal(seen[4][0], kept[:1, :, 1:5, 2:7])
