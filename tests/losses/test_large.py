"""What only shows on large images: rounding, overflow, lost objects."""

from __future__ import annotations

import pytest
import torch


def gradient(loss, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    z = logits.clone().requires_grad_()
    return torch.autograd.grad(loss(z, target).sum(), z)[0]


@pytest.mark.parametrize(
    "name", ["dice", "iou", "tversky", "mcc", "generalised_dice", "jml", "squared_dice", "bce_dice"]
)
def test_one_pixel_in_four_million_is_not_lost(make, name: str) -> None:
    target = torch.zeros(1, 1, 2048, 2048, dtype=torch.uint8)
    target[0, 0, 1000, 700] = 1
    logits = torch.full(target.shape, -3.0)
    logits[0, 0, 1000, 700] = 2.0
    loss = make(name)
    precise = loss(logits.double(), target)
    assert abs(float(loss(logits, target) / precise) - 1) < 1e-5
    exact = gradient(loss, logits.double(), target)
    rough = gradient(loss, logits, target).double()
    here = target == 1
    assert abs(float((rough / exact)[here]) - 1) < 1e-4
    assert abs(float((rough / exact)[~here].mean()) - 1) < 1e-4


@pytest.mark.parametrize("name", ["lovasz_hinge", "lovasz_sigmoid"])
def test_lovasz_gradients_at_a_megapixel_are_those_of_float64(make, name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 1, 1024, 1024, generator=generator)
    target = (torch.rand(logits.shape, generator=generator) < 0.1).to(torch.uint8)
    exact = gradient(make(name), logits.double(), target)
    rough = gradient(make(name), logits, target).double()
    active = exact != 0
    assert torch.equal(active, rough != 0)
    assert ((rough - exact).abs() / exact.abs())[active].median() < 1e-6


@pytest.mark.parametrize("share", [0.5, 1e-3])
def test_generalised_dice_of_a_large_wrong_mask_is_one(make, share: float) -> None:
    target = (torch.arange(2048 * 2048).view(1, 1, 2048, 2048) < share * 2048 * 2048).to(torch.uint8)
    logits = (1 - 2.0 * target) * 20
    assert float(make("generalised_dice")(logits, target)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", ["dice", "iou", "tversky", "mcc", "generalised_dice", "bce", "focal", "unified_focal"])
def test_half_precision_at_512_neither_overflows_nor_goes_blind(make, name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 1, 512, 512, generator=generator).half()
    target = (torch.rand(logits.shape, generator=generator) < 0.4).half()
    loss = make(name)
    torch.testing.assert_close(loss(logits, target), loss(logits.double(), target).float(), rtol=1e-5, atol=1e-6)
    assert (gradient(loss, logits * 1000, target)).isfinite().all()
    scaled = gradient(lambda z, t: loss(z, t) * 2**16, logits, target)
    assert (scaled != 0).float().mean() > 0.99


def test_a_large_image_costs_what_its_repetition_costs(make) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 1, 64, 64, generator=generator, dtype=torch.float64)
    target = (torch.rand(logits.shape, generator=generator) < 0.3).to(torch.uint8)
    for name in ("dice", "mcc", "unified_focal", "balanced_ce", "lovasz_hinge", "topk", "exp_log", "squared_dice"):
        loss = make(name, smooth=1e-9) if name == "exp_log" else make(name)
        small, large = loss(logits, target), loss(logits.repeat(1, 1, 8, 8), target.repeat(1, 1, 8, 8))
        torch.testing.assert_close(small, large, rtol=5e-4 if name in {"lovasz_hinge", "topk"} else 1e-9, atol=0)
