"""Finite values and gradients wherever logits and masks may go, in every precision."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

if TYPE_CHECKING:
    from conftest import Case

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SIZES = [0.0, 12.0, 20.0, 100.0, 1e4]


def masks(size: int = 9) -> Tensor:
    """Empty, full, one foreground pixel, one background pixel, a corner."""
    mask = torch.zeros(5, 1, size, size, dtype=torch.uint8)
    mask[1] = mask[3] = 1
    mask[2, 0, 4, 4], mask[3, 0, 4, 4] = 1, 0
    mask[4, 0, :3, :3] = 1
    return mask


def everywhere(target: Tensor) -> Tensor:
    """Logits of each size: right, wrong, all foreground, all background, one wrong pixel among right ones."""
    right = 2.0 * target - 1
    one = right.clone()
    one[..., 0, 0] *= -1
    patterns = [right, -right, torch.ones_like(right), -torch.ones_like(right), one]
    return torch.stack([size * pattern for size in SIZES for pattern in patterns])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_value_and_gradient_are_finite_everywhere(case: Case, dtype: torch.dtype) -> None:
    target = masks()
    for logits in everywhere(target).to(dtype):
        assert case(logits, target).isfinite().all()
        assert case.gradient(logits, target).isfinite().all()


def test_float32_agrees_with_float64_at_the_extremes(case: Case) -> None:
    if case.name == "external":
        pytest.skip("foreign code")
    target = masks()
    for logits in everywhere(target):
        torch.testing.assert_close(case(logits, target).double(), case(logits.double(), target), rtol=2e-5, atol=1e-9)
        precise = case.gradient(logits.double(), target)
        gradient = case.gradient(logits, target).double()
        assert (gradient - precise).abs().max() <= 2e-5 * precise.abs().max() + 1e-10


def test_no_mask_is_without_a_gradient_while_the_prediction_is_unsure(case: Case) -> None:
    target = masks()
    gradient = case.gradient(torch.zeros(target.shape), target)
    assert (gradient.abs().amax((1, 2, 3)) > 1e-5).all()


def test_an_empty_mask_pushes_every_false_alarm_down(case: Case) -> None:
    target = torch.zeros(1, 1, 6, 6, dtype=torch.uint8)
    assert (case.gradient(torch.full(target.shape, 2.0), target) > 0).all()


@pytest.mark.parametrize("size", [12.0, 20.0, 100.0, 1e4])
@pytest.mark.parametrize(
    ("name", "foreground", "background"),
    [
        ("bce", 1, 1),
        ("weighted_bce", 9, 1),
        ("focal", 1, 1),
        ("asymmetric_focal", 0.7, 0.3),
        ("poly1", 1, 1),
        ("combo", 0.25, 0.25),
        ("bce_dice", 1, 1),
    ],
)
def test_a_wrong_pixel_keeps_its_full_gradient_however_wrong_it_is(
    make, name: str, foreground: float, background: float, size: float
) -> None:
    target = masks()[4:]
    logits = ((1 - 2.0 * target) * size).requires_grad_()
    (gradient,) = torch.autograd.grad(make(name)(logits, target).sum(), logits)
    expected = torch.where(target == 1, -foreground, background) / target.numel()
    near = 3e-4 if size == 12 else 1e-6
    torch.testing.assert_close(gradient, expected, rtol=near if size < 100 else 1e-6, atol=2e-6 if size == 12 else 1e-8)


def test_equal_pixels_have_equal_gradients(case: Case) -> None:
    target = masks()[4:]
    gradient = case.gradient(torch.zeros(target.shape), target)
    if case.loss.needs or case.name in {"cldice", "hausdorff"}:
        pytest.skip("place matters to it by design")
    for label in (0, 1):
        values = gradient[target == label]
        torch.testing.assert_close(values, values[:1].expand_as(values), rtol=1e-5, atol=0)


@pytest.mark.parametrize("gamma", [0.3, 0.5, 1.5, 2.0, 4.0])
@pytest.mark.parametrize("margin", [-20.0, -1.0, 20.0])
def test_a_focal_factor_is_exact_however_small_it_is(make, gamma: float, margin: float) -> None:
    target = masks()[4:]
    logits = ((2.0 * target - 1) * margin).requires_grad_()
    loss = make("focal", gamma=gamma)(logits, target)
    cost, other = math.log1p(math.exp(-margin)), math.log1p(math.exp(margin))
    assert float(loss.detach()) == pytest.approx(math.exp(-gamma * other) * cost, rel=1e-5)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    right, wrong = math.exp(-cost), math.exp(-other)
    slope = wrong**gamma * (wrong + gamma * right * cost) / target.numel()
    assert gradient.abs().flatten().tolist() == pytest.approx([slope] * target.numel(), rel=1e-5)


def test_balanced_ce_of_one_class_is_the_mean_over_that_class(make) -> None:
    target = masks()[:2]
    logits = torch.randn(target.shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(make("balanced_ce")(logits, target), make("bce")(logits, target))


def test_a_full_mask_pulls_every_pixel_up(case: Case) -> None:
    target = torch.ones(1, 1, 6, 6, dtype=torch.uint8)
    assert (case.gradient(torch.full(target.shape, -2.0), target) < 0).all()
