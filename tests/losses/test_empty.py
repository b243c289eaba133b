"""Masks without foreground: what each policy does, and that it is decided image by image."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from seglab.contract import ContractError

POLICY = ["dice", "iou", "tversky", "focal_tversky", "squared_dice", "dice_plus_plus", "noise_robust_dice", "jml"]
POLICY += ["log_cosh_dice", "lovasz_hinge", "lovasz_sigmoid", "mcc", "generalised_dice", "asymmetric_focal_tversky"]
POLICY += ["bce_dice", "combo", "exp_log", "unified_focal", "cldice"]


def test_the_complement_is_the_iou_of_the_background(make, logits: Tensor) -> None:
    empty = torch.zeros(3, 1, 12, 12)
    q = 1 - logits.sigmoid()
    expected = 1 - q.sum((1, 2, 3)) / 144
    torch.testing.assert_close(make("iou")(logits, empty), expected)


def test_the_complement_of_dice_and_tversky_scores_the_background(make, logits: Tensor) -> None:
    empty, q = torch.zeros(3, 1, 12, 12), 1 - logits.sigmoid()
    inside, beside = q.sum((1, 2, 3)), (1 - q).sum((1, 2, 3))
    torch.testing.assert_close(make("dice")(logits, empty), beside / (2 * inside + beside))
    tversky = make("tversky", fp_weight=0.2, fn_weight=0.8)(logits, empty)
    torch.testing.assert_close(tversky, 0.8 * beside / (inside + 0.8 * beside))
    torch.testing.assert_close(make("mcc")(logits, empty), 1 - (inside / 144).sqrt())
    squared = (1 - q).square().sum((1, 2, 3)) / (q.square().sum((1, 2, 3)) + 144)
    torch.testing.assert_close(make("squared_dice")(logits, empty), squared)


def test_the_formula_takes_the_smoothing_literally(make, logits: Tensor) -> None:
    empty, mass = torch.zeros(3, 1, 12, 12), logits.sigmoid().sum((1, 2, 3))
    torch.testing.assert_close(make("dice", empty="formula", smooth=1.0)(logits, empty), mass / (mass + 1))
    torch.testing.assert_close(make("dice", empty="formula")(logits, empty), torch.ones(3))
    torch.testing.assert_close(make("iou", empty="formula", smooth=2.0)(logits, empty), mass / (mass + 2))


@pytest.mark.parametrize("name", ["dice", "mcc", "lovasz_hinge", "squared_dice", "jml"])
def test_a_skipped_image_is_left_out_of_the_mean_and_never_counted_as_right(
    make, name: str, logits: Tensor, target: Tensor
) -> None:
    skip, keep = make(name, empty="skip"), make(name)
    kept = [0, 2]  # the second image of the target is empty
    torch.testing.assert_close(skip(logits, target).mean(), keep(logits[kept], target[kept]).mean())
    z = logits.requires_grad_()
    (gradient,) = torch.autograd.grad(skip(z, target).mean(), z)
    assert (gradient[1] == 0).all()
    assert (gradient[kept] != 0).any()
    nothing = skip(z, torch.zeros_like(target))
    assert torch.equal(nothing, torch.zeros(3))
    assert (torch.autograd.grad(nothing.sum(), z)[0] == 0).all()


@pytest.mark.parametrize("name", POLICY)
def test_one_empty_image_changes_nothing_for_the_others(make, name: str, logits: Tensor, target: Tensor) -> None:
    loss = make(name)
    torch.testing.assert_close(loss(logits, target)[[0, 2]], loss(logits[[0, 2]], target[[0, 2]]))


@pytest.mark.parametrize("policy", ["complement", "formula", "skip"])
@pytest.mark.parametrize("name", POLICY)
def test_every_policy_is_finite_on_every_mask(make, name: str, policy: str) -> None:
    loss = make(name, empty=policy)
    target = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    target[1] = 1
    for size in (-1e4, -20.0, 0.0, 20.0, 1e4):
        z = torch.full(target.shape, size, requires_grad=True)
        value = loss(z, target)
        value.sum().backward()
        assert value.isfinite().all()
        assert z.grad is not None
        assert z.grad.isfinite().all()


def test_the_formula_of_lovasz_on_an_empty_mask_is_its_largest_error(make, logits: Tensor) -> None:
    empty = torch.zeros(3, 1, 12, 12)
    expected = 1 + logits.amax((1, 2, 3))
    torch.testing.assert_close(make("lovasz_hinge", empty="formula")(logits, empty), expected)


@pytest.mark.parametrize("name", POLICY)
def test_an_unknown_policy_is_refused(make, name: str) -> None:
    with pytest.raises(Exception, match="empty one of complement, formula, skip, got zero") as caught:
        make(name, empty="zero")
    assert isinstance(caught.value.__cause__ or caught.value, ContractError)


def test_lovasz_on_an_empty_mask_is_the_mean_error_of_the_background(make, logits: Tensor) -> None:
    empty = torch.zeros(3, 1, 12, 12)
    torch.testing.assert_close(make("lovasz_hinge")(logits, empty), (1 + logits).clamp(min=0).mean((1, 2, 3)))
    torch.testing.assert_close(make("lovasz_sigmoid")(logits, empty), logits.sigmoid().mean((1, 2, 3)))
