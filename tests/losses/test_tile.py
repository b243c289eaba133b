"""Hard labels by their margin, soft ones from both sides: what is looked at and that both ways agree."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor

from seglab.contract import ContractError
from seglab.losses.sums import Pass, SumLoss, plain
from seglab.losses.tile import Pixels, Room


def seen(z: Tensor, t: Tensor) -> Pixels:
    return Pixels(z.flatten(2), t.flatten(2), {}, closed=True, room=Room())


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float32, torch.float64])
def test_labels_of_0_and_1_are_seen_to_be_hard_in_any_dtype(logits: Tensor, target: Tensor, dtype: torch.dtype) -> None:
    assert seen(logits, target.to(dtype)).hard
    assert not Pixels(logits, target.to(dtype), {}).hard, "a compiler or a second derivative must not look"


@pytest.mark.parametrize("label", [1e-6, 0.5, 0.999999, 2.0, 255.0, float("nan")])
def test_a_single_other_label_is_seen(logits: Tensor, target: Tensor, label: float) -> None:
    t = target.float()
    t[1, 0, 3, 3] = label
    assert not seen(logits, t).hard
    if label >= 2:
        assert not seen(logits, t.to(torch.uint8)).hard


def test_a_few_soft_labels_among_hard_ones_cost_what_the_mixture_costs(case, logits: Tensor, target: Tensor) -> None:
    if not isinstance(case.loss, SumLoss) or not case.loss.soft:
        pytest.skip("refuses soft labels, or is not a function of sums")
    t = target.double()
    t[:, :, 3:5] = torch.rand(3, 1, 2, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    maps = {name: m.flatten(2) for name, m in case.maps(target).items()}
    z = logits.double().flatten(2).requires_grad_()
    parts = tuple(dict.fromkeys(case.loss.parts()))
    for labels in (t, target.double()):
        eager, ordinary = (f(z, labels.flatten(2), maps, parts) for f in (Pass.apply, plain))
        torch.testing.assert_close(eager, ordinary, rtol=1e-11, atol=1e-11)
        weights = torch.rand(eager.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        slopes = [torch.autograd.grad(x, z, weights)[0] for x in (eager, ordinary)]
        torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-11)


def test_a_mask_of_255_is_named_at_the_call_itself(make, logits: Tensor, target: Tensor) -> None:
    for dtype in (torch.uint8, torch.float32):
        with pytest.raises(ContractError, match="got 0 to 255; divide masks of 255 by 255"):
            make("bce")(logits, (target * 255).to(dtype))


def test_the_smaller_of_two_weights_is_not_lost_in_the_sum() -> None:
    x = seen(torch.zeros(1, 1, 1, 2), torch.tensor([0.0, 1.0]).view(1, 1, 1, 2))
    for pair in ((1e-9, 1.0), (1.0, 1e-9), (-1e-9, 3.0)):
        foreground, background = (torch.tensor(w).view(1, 1, 1) for w in pair)
        assert x.weigh(foreground, background).flatten().tolist() == [background.item(), foreground.item()]


@pytest.mark.parametrize("n", [1, 2, 3, 17, 1000])
@pytest.mark.parametrize("centre", [-20.0, 0.0, 20.0])
def test_the_costs_of_many_pixels_add_up_without_losing_a_digit(n: int, centre: float) -> None:
    generator = torch.Generator().manual_seed(n)
    margin = centre + 3 * torch.randn(2, 1, n, generator=generator)
    t = (torch.rand(2, 1, n, generator=generator) < 0.3).float()
    x = Pixels(margin * (2 * t - 1), t, {}, closed=True, room=Room())
    each = np.logaddexp(0, -margin.double().numpy())
    for foreground, background in ((1, 1), (1, 0), (0, 1), (20, 1), (0.3, 0.7), (2, 2)):
        weight = (foreground * x.t + background * x.u).numpy()
        np.testing.assert_allclose(x.cost_sum(foreground, background), (each * weight).sum(-1), rtol=1e-6)


def test_lent_memory_is_lent_once_at_a_time_and_fits_the_tile() -> None:
    room, small, large = Room(), torch.zeros(2, 3), torch.zeros(2, 4)
    first, second = room.like(small), room.like(small)
    assert first.data_ptr() != second.data_ptr()
    assert room.clear().like(small).data_ptr() == first.data_ptr()
    assert room.clear().like(large).shape == large.shape
    assert room.clear().like(large.double()).dtype == torch.float64


def test_memory_lent_in_inference_mode_serves_outside(make, logits: Tensor, target: Tensor, monkeypatch) -> None:
    monkeypatch.setattr(Room, "free", [])
    loss, z = make("bce_dice"), logits.clone().requires_grad_()
    with torch.inference_mode():
        inside = loss(logits.clone(), target).clone()
    assert Room.free, "the room is back"
    outside = loss(z, target)
    outside.sum().backward()
    assert inside.tolist() == outside.tolist()
    assert z.grad is not None


def test_two_threads_never_share_a_room(make, logits: Tensor, target: Tensor) -> None:
    loss, batches = make("bce_dice"), [logits + i for i in range(50)]
    alone = [loss(z, target).tolist() for z in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda z: loss(z, target).tolist(), batches))
    assert together == alone


def test_what_a_sure_pixel_costs_beyond_its_margin_keeps_its_digits() -> None:
    z = torch.tensor([-25.0, -16.0, -1.0, 0.0, 1.0, 16.0, 25.0]).view(1, 1, -1)
    x = Pixels(z, torch.full_like(z, 0.5), {}, closed=True, room=Room())
    np.testing.assert_allclose(x.rest, np.log1p(np.exp(-z.abs().double().numpy())), rtol=1e-6)
    for side, sign in zip(x.sides, (1, -1), strict=True):
        np.testing.assert_allclose(side.cost, np.logaddexp(0, -sign * z.double().numpy()), rtol=1e-6)
