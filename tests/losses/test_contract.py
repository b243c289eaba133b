"""What every loss of conf/loss promises, whatever its formula."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

if TYPE_CHECKING:
    from conftest import Case

NOT_PER_IMAGE = {"batchwise"}


def margin(target: Tensor, size: float) -> Tensor:
    """Logits that are right by `size` everywhere; wrong for a negative size."""
    return (2.0 * target - 1) * size


def test_gives_one_number_per_image(case: Case, logits: Tensor, target: Tensor) -> None:
    loss = case(logits, target)
    assert loss.shape == (3,)
    assert loss.dtype == torch.float32


def test_an_image_costs_the_same_alone_and_in_any_order(case: Case, logits: Tensor, target: Tensor) -> None:
    if case.name in NOT_PER_IMAGE:
        pytest.skip("pools the batch by design")
    together = case(logits, target)
    alone = torch.cat([case(logits[i : i + 1], target[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(case(logits[order], target[order]), together[order])


def test_strides_and_the_dtype_of_the_target_do_not_matter(case: Case, logits: Tensor, target: Tensor) -> None:
    loss = case(logits, target)
    strided = logits.transpose(2, 3).contiguous().transpose(2, 3)
    assert not strided.is_contiguous()
    torch.testing.assert_close(case(strided, target.transpose(2, 3).contiguous().transpose(2, 3)), loss)
    for dtype in (torch.bool, torch.int64, torch.float16, torch.float32, torch.float64):
        maps = case.maps(target)
        torch.testing.assert_close(case.loss(logits, target.to(dtype), **maps), loss)


def test_a_flip_turns_the_gradient_with_the_image(case: Case, logits: Tensor, target: Tensor) -> None:
    turned = case.gradient(logits.flip(2, 3), target.flip(2, 3)).flip(2, 3)
    torch.testing.assert_close(turned, case.gradient(logits, target), atol=1e-6, rtol=1e-4)


def test_inputs_are_left_as_they_were(case: Case, logits: Tensor, target: Tensor) -> None:
    maps = case.maps(target)
    before = logits.clone(), target.clone(), {name: m.clone() for name, m in maps.items()}
    z = logits.requires_grad_()
    case.loss(z, target, **maps).sum().backward()
    assert torch.equal(z.detach(), before[0])
    assert torch.equal(target, before[1])
    assert all(torch.equal(maps[name], m) for name, m in before[2].items())


def test_the_gradient_is_that_of_the_value(case: Case, logits: Tensor, target: Tensor) -> None:
    z = logits[:2, :, 1:6, 2:7].double().contiguous().requires_grad_()
    t = target[:2, :, 1:6, 2:7].contiguous()
    maps = {name: m.double() for name, m in case.maps(t).items()}
    assert torch.autograd.gradcheck(lambda x: case.loss(x, t, **maps), z)


def test_the_second_derivative_is_that_of_the_first(case: Case, logits: Tensor, target: Tensor) -> None:
    z = logits[:2, :, 1:5, 2:6].double().contiguous().requires_grad_()
    t = target[:2, :, 1:5, 2:6].contiguous()
    maps = {name: m.double() for name, m in case.maps(t).items()}
    assert torch.autograd.gradgradcheck(lambda x: case.loss(x, t, **maps), z)


def test_the_upstream_gradient_weighs_each_image(case: Case, logits: Tensor, target: Tensor) -> None:
    if case.name in NOT_PER_IMAGE:
        pytest.skip("pools the batch by design")
    z = logits.requires_grad_()
    weights = torch.tensor([2.0, -0.5, 0.0])
    (weighted,) = torch.autograd.grad((case(z, target) * weights).sum(), z)
    torch.testing.assert_close(weighted, case.gradient(z, target) * weights.view(3, 1, 1, 1))


def test_a_second_backward_pass_gives_the_same_gradient(case: Case, logits: Tensor, target: Tensor) -> None:
    z = logits.requires_grad_()
    loss = case(z, target).sum()
    (first,) = torch.autograd.grad(loss, z, retain_graph=True)
    first = first.clone()
    (second,) = torch.autograd.grad(loss, z)
    torch.testing.assert_close(first, second)


def test_half_precision_costs_what_its_values_cost_in_float32(case: Case, logits: Tensor, target: Tensor) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        rounded = logits.to(dtype)
        torch.testing.assert_close(case(rounded, target), case(rounded.float(), target))
        gradient = case.gradient(rounded, target)
        assert gradient.dtype == dtype
        torch.testing.assert_close(gradient, case.gradient(rounded.float(), target).to(dtype))


def test_autocast_changes_nothing(case: Case, logits: Tensor, target: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        loss, gradient = case(logits, target), case.gradient(logits, target)
    torch.testing.assert_close(loss, case(logits, target), rtol=0, atol=0)
    torch.testing.assert_close(gradient, case.gradient(logits, target), rtol=0, atol=0)


def test_float64_is_computed_in_float64(case: Case, logits: Tensor, target: Tensor) -> None:
    precise = case(logits.double(), target)
    assert precise.dtype == torch.float64
    assert (precise - case(logits, target)).abs().max() > 0


def test_right_is_cheaper_than_unsure_and_unsure_than_wrong(case: Case, target: Tensor) -> None:
    right, unsure, wrong = (case(margin(target, size), target) for size in (4, 0, -4))
    assert (right < unsure).all()
    assert (unsure < wrong).all()


def test_a_perfect_prediction_costs_nothing_and_no_loss_is_negative(case: Case, logits: Tensor, target: Tensor) -> None:
    if case.loss.card.zero and case.name != "sum":
        assert (case(margin(target, 100), target).abs() < 1e-6).all()
    if not case.loss.card.signed:
        assert (case(logits, target) >= 0).all()


def test_the_way_down_leads_to_the_target(case: Case, logits: Tensor, target: Tensor) -> None:
    z = logits.clone().requires_grad_()
    maps = case.maps(target)
    optimizer = torch.optim.Adam([z], lr=0.3)
    for _ in range(300):
        optimizer.zero_grad()
        case.loss(z, target, **maps).sum().backward()
        optimizer.step()
    assert case(z.detach(), target).sum() < case(logits, target).sum()
    decided = maps["distance"] != 0 if case.name == "boundary" else torch.ones_like(target, dtype=torch.bool)
    assert torch.equal((z > 0)[decided], (target > 0)[decided])


def test_a_small_step_down_the_gradient_lowers_it(case: Case, logits: Tensor, target: Tensor) -> None:
    z = logits.double()
    gradient = case.gradient(z, target)
    step = z - 1e-4 * gradient / gradient.norm()
    assert case(step, target).sum() < case(z, target).sum()


def test_a_proper_loss_ends_at_soft_labels(case: Case) -> None:
    if not case.loss.card.proper:
        pytest.skip("its card does not promise it")
    soft = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(3)) * 0.8 + 0.1
    z = torch.zeros_like(soft).requires_grad_()
    optimizer = torch.optim.Adam([z], lr=0.1)
    for step in range(600):
        optimizer.param_groups[0]["lr"] = 0.1 * 0.99**step
        optimizer.zero_grad()
        case(z, soft).sum().backward()
        optimizer.step()
    assert (z.sigmoid() - soft).abs().mean() < 0.01


@pytest.mark.slow
def test_the_graph_is_whole_and_gives_the_same(case: Case, logits: Tensor, target: Tensor) -> None:
    if case.name == "external":
        pytest.skip("foreign code")
    maps = case.maps(target)
    torch._dynamo.reset()  # all losses share __call__, and one code object is compiled 8 times at most
    compiled = torch.compile(case.loss, fullgraph=True, backend="aot_eager", dynamic=False)
    z = logits.requires_grad_()
    loss = compiled(z, target, **maps)
    torch.testing.assert_close(loss, case(z, target))
    (gradient,) = torch.autograd.grad(loss.sum(), z)
    torch.testing.assert_close(gradient, case.gradient(z, target), atol=1e-7, rtol=1e-4)


def test_a_compiler_can_trace_a_loss_as_a_whole(make, logits: Tensor, target: Tensor) -> None:
    torch._dynamo.reset()
    loss = make("unified_focal")
    traced = torch.compile(loss, fullgraph=True, dynamic=False, backend="eager")
    torch.testing.assert_close(traced(logits, target), loss(logits, target))


@pytest.mark.slow
def test_the_fused_kernel_gives_the_same(case: Case, logits: Tensor, target: Tensor) -> None:
    maps = case.maps(target)
    torch._dynamo.reset()  # all losses share __call__, and one code object is compiled 8 times at most
    compiled = torch.compile(case.loss, fullgraph=True, dynamic=False)
    z = logits.requires_grad_()
    loss = compiled(z, target, **maps)
    torch.testing.assert_close(loss, case(z, target))
    (gradient,) = torch.autograd.grad(loss.sum(), z)
    torch.testing.assert_close(gradient, case.gradient(z, target), atol=1e-7, rtol=1e-4)
