"""Values and gradients are finite for extreme logits and masks in every precision, and exact for large images."""

from itertools import product

import pytest
import torch

from tests.losses.conftest import TASKS, of, one_hot

DTYPES = [torch.float16, torch.float32, torch.float64]
SIZES = [12.0, 20.0, 100.0, 1e4]


def masks(task="binary", size=9):
    """Return masks: empty, full, one foreground pixel, one background pixel, a corner."""
    mask = torch.zeros(5, 1, size, size, dtype=torch.uint8)
    mask[1] = mask[3] = 1
    mask[2, 0, 4, 4], mask[3, 0, 4, 4] = 1, 0
    mask[4, 0, :3, :3] = 1
    if task == "multilabel":
        return torch.cat([mask, mask.flip(0)], 1)
    return mask * 2 if task == "multiclass" else mask


def everywhere(target, task):
    """Return logits of 0 and of each size (right, wrong, all one class, all another, one wrong pixel) and targets."""
    channels = TASKS[task].channels
    right = 2.0 * (one_hot(target, channels) if task == "multiclass" else target) - 1
    first = torch.full_like(right, -1)
    first[:, 0] = 1
    one = right.clone()
    one[..., 0, 0] *= -1
    patterns = [right, -right, first, -first, one]
    logits = torch.cat([0 * right, *[size * pattern for size in SIZES for pattern in patterns]])
    return logits, target.repeat(len(logits) // len(target), 1, 1, 1)


def test_value_and_gradient_are_finite_everywhere_in_every_precision(case):
    logits, target = everywhere(masks(case.task), case.task)
    for dtype in DTYPES[1:2] if case.task == "multilabel" else DTYPES:
        z = logits.to(dtype).requires_grad_()
        value = case(z, target)
        assert value.isfinite().all()
        assert torch.autograd.grad(value.sum(), z)[0].isfinite().all()


@of(lambda case: case.name != "external" and case.task != "multilabel")
def test_float32_agrees_with_float64_at_the_extremes(case):
    logits, target = everywhere(masks(case.task), case.task)
    # torch's softmax has log p and the slope of p up to the rounding error of 1, which a power below 1 amplifies
    softmax = case.task == "multiclass"
    floor = 1e-9 if not softmax else 2e-6 if case.name != "exp_log" else 1e-3
    torch.testing.assert_close(case(logits, target).double(), case(logits.double(), target), rtol=2e-5, atol=floor)
    rough, exact = case.gradient(logits, target).double(), case.gradient(logits.double(), target)
    largest = exact.abs().amax((1, 2, 3), keepdim=True)
    assert ((rough - exact).abs() <= (1e-3 if softmax else 4e-5) * largest + (floor if softmax else 1e-10)).all()


def test_no_mask_is_without_a_gradient_while_the_prediction_is_unsure(case):
    target = masks(case.task)
    gradient = case.gradient(torch.zeros(5, TASKS[case.task].channels, 9, 9), target)
    assert (gradient.abs().amax((1, 2, 3)) > 1e-5).all()


@of(lambda case: case.task != "multiclass")
def test_masks_of_one_class_push_every_pixel_towards_it(case):
    shape = (1, TASKS[case.task].channels, 6, 6)
    for value in (0, 1):
        target = torch.full(shape, value, dtype=torch.uint8)
        gradient = case.gradient(torch.full(shape, 2.0 - 4 * value), target)
        assert ((gradient > 0) if value == 0 else (gradient < 0)).all()


@pytest.mark.parametrize(
    ("name", "foreground", "background"),
    [("bce", 1, 1), ("weighted_bce", 9, 1), ("focal", 1, 1), ("asymmetric_focal", 0.7, 0.3), ("bce_dice", 1, 1)],
)
def test_a_wrong_pixel_keeps_its_full_gradient_however_wrong_it_is(make, name, foreground, background):
    target = masks()[4:]
    weight = torch.where(target == 1, -foreground, background) / target.numel()
    for size in (12.0, 20.0, 100.0, 1e4):
        logits = ((1 - 2.0 * target) * size).requires_grad_()
        near, least = (3e-4, 2e-6) if size == 12 else (1e-6, 1e-8)
        torch.testing.assert_close(gradient(make(name), logits, target), weight, rtol=near, atol=least)
        ids = make(name, "multiclass")(torch.cat([-logits, logits, logits - 9e4, logits - 9e4], 1), target).sum()
        (many,) = torch.autograd.grad(ids, logits)
        assert many.isfinite().all()
        assert many.abs().amin() > 0


@of(lambda case: case.local)
def test_equal_pixels_have_equal_gradients(case):
    target = masks(case.task)[4:]
    gradient = case.gradient(torch.zeros(1, TASKS[case.task].channels, 9, 9), target)
    for pixels in (gradient[..., :3, :3], gradient[..., 3:, :]):
        torch.testing.assert_close(pixels, pixels[..., :1, :1].expand_as(pixels), rtol=1e-5, atol=1e-9)


def test_a_focal_factor_is_exact_however_small_it_is(make):
    target = masks()[4:]
    for gamma, margin in product((0.3, 0.5, 1.5, 2.0, 4.0), (-20.0, -1.0, 20.0)):
        logits, loss = (2.0 * target - 1) * margin, make("focal", gamma=gamma)
        m = torch.tensor(margin, dtype=torch.float64)
        cost, p, q = torch.nn.functional.softplus(-m), m.sigmoid(), (-m).sigmoid()
        steep = float(q**gamma * (q + gamma * p * cost)) / target.numel()
        for dtype, rel in ((torch.float32, 2e-5), (torch.float64, 1e-12)):
            value, slope = loss(logits.to(dtype), target), gradient(loss, logits.to(dtype), target)
            assert float(value) == pytest.approx(float(q**gamma * cost), rel=rel), (gamma, margin)
            assert slope.abs().flatten().tolist() == pytest.approx([steep] * target.numel(), rel=rel), (gamma, margin)


def gradient(loss, logits, target):
    z = logits.clone().requires_grad_()
    return torch.autograd.grad(loss(z, target).sum(), z)[0]


ONE = ["dice", "mcc", "generalized_dice", "jml", "bce_dice"]


@pytest.mark.parametrize("name", ONE)
@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_one_pixel_of_a_large_image_is_not_lost(make, name, task):
    side = 2048 if (name, task) == ("dice", "binary") else 512
    target = torch.zeros(1, 1, side, side, dtype=torch.uint8)
    target[0, 0, 500, 300] = 1
    logits = torch.full(target.shape, -3.0)
    logits[0, 0, 500, 300] = 2.0
    loss = make(name, task)
    if task == "multiclass":
        logits = torch.cat([-logits, logits, *[torch.full_like(logits, -9.0)] * 2], 1)
    assert abs(float(loss(logits, target) / loss(logits.double(), target)) - 1) < 1e-5
    at = slice(1, 2) if task == "multiclass" else slice(None)
    exact, rough = gradient(loss, logits.double(), target)[:, at], gradient(loss, logits, target)[:, at].double()
    here = target == 1
    assert abs(float((rough / exact)[here]) - 1) < 1e-4
    assert abs(float((rough / exact)[~here].mean()) - 1) < 1e-4


@pytest.mark.parametrize("name", ["dice", "mcc"])
def test_a_softmax_that_is_nearly_right_keeps_its_digits(make, name):
    target, loss = masks("multiclass")[2:], make(name, "multiclass")
    shares = one_hot(target, 3).float()
    logits = 5 * (2 * shares - 1)
    for labels in (target, shares):
        torch.testing.assert_close(loss(logits, labels).double(), loss(logits.double(), labels), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["lovasz_hinge", "lovasz_sigmoid"])
def test_lovasz_gradients_of_a_large_image_are_those_of_float64(make, name):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 1, 512, 512, generator=generator)
    target = (torch.rand(logits.shape, generator=generator) < 0.1).to(torch.uint8)
    exact = gradient(make(name), logits.double(), target)
    rough = gradient(make(name), logits, target).double()
    active = exact != 0
    assert torch.equal(active, rough != 0)
    assert ((rough - exact).abs() / exact.abs())[active].median() < 1e-6


@pytest.mark.parametrize("share", [0.5, 1e-3])
def test_generalized_dice_of_a_large_wrong_mask_is_one(make, share):
    target = (torch.arange(2048 * 2048).view(1, 1, 2048, 2048) < share * 2048 * 2048).to(torch.uint8)
    assert float(make("generalized_dice")((1 - 2.0 * target) * 20, target)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("task", ["binary", "multiclass"])
@pytest.mark.parametrize("name", ["dice", "mcc", "generalized_dice", "focal", "unified_focal"])
def test_half_precision_at_512_neither_overflows_nor_goes_blind(make, name, task):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, TASKS[task].channels, 512, 512, generator=generator).half()
    target = (torch.rand(1, 1, 512, 512, generator=generator) < 0.4).to(torch.uint8)
    loss = make(name, task)
    torch.testing.assert_close(loss(logits, target), loss(logits.double(), target).float(), rtol=1e-5, atol=1e-6)
    assert gradient(loss, logits * 1000, target).isfinite().all()
    z = logits.clone().requires_grad_()
    (scaled,) = torch.autograd.grad((loss(z, target) * 2**16).sum(), z)
    assert (scaled != 0).float().mean() > 0.98


def test_a_large_image_costs_what_its_repetition_costs(make):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 1, 64, 64, generator=generator, dtype=torch.float64)
    target = (torch.rand(logits.shape, generator=generator) < 0.3).to(torch.uint8)
    for name in ("dice", "mcc", "unified_focal", "balanced_ce", "lovasz_hinge", "topk", "exp_log", "squared_dice"):
        loss = make(name, smooth=1e-9) if name == "exp_log" else make(name)
        small, large = loss(logits, target), loss(logits.repeat(1, 1, 8, 8), target.repeat(1, 1, 8, 8))
        torch.testing.assert_close(small, large, rtol=5e-4 if name in {"lovasz_hinge", "topk"} else 1e-9, atol=0)
