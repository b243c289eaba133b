"""What a pixel has to do with a loss: the parts add up, and where the split is known they are it."""

import pytest
import torch
from scipy.integrate import quad

from seglab.contract import ContractError
from seglab.losses import BCE, BalancedCE, Batchwise, Dice, Focal, Tversky
from seglab.losses.attribution import attribution, gradients
from seglab.losses.cross_entropy import PixelLoss
from tests.losses.conftest import of

MANY = dict.fromkeys(["bce", "dice", "generalized_dice", "mcc", "boundary", "cldice", "unified_focal"], "multiclass")
MANY |= {"lovasz_softmax": "multiclass"}
"""The losses to be split for several classes too: one of each kind."""
ONE = {"topk", "lovasz_hinge", "t_loss", "mbls", "per_component", "sum", "batchwise", "weight_map", "balanced_ce"}
"""Further kinds, for one class."""


def scene(foreground=0.2):
    rng = torch.Generator().manual_seed(0)
    z = 2 * torch.randn(1, 1, 12, 10, generator=rng)
    return z, (torch.rand(1, 1, 12, 10, generator=rng) < foreground).to(torch.uint8)


def perfect(case, like, target, **maps):
    shares = torch.zeros_like(like).scatter(1, target.long(), 1) if case.task == "multiclass" else target
    return case.loss((2.0 * shares - 1) * 100, target, **maps)


@of(lambda case: case.name in {*MANY, *ONE} and case.task in ("binary", MANY.get(case.name)))
def test_the_parts_of_the_pixels_add_up_to_the_loss(case, logits, target):
    for image in (slice(0, 1), slice(1, 2))[: 2 if case.name in MANY else 1]:
        z, t = logits[image, ..., 1:9, 2:10], target[image, ..., 1:9, 2:10]
        maps = case.maps(t, z)
        split = attribution(case.loss, z, t, **maps)
        assert split.shape == (z if case.task != "multiclass" else t).shape
        offset = 0 if isinstance(case.loss, PixelLoss) else perfect(case, z, t, **maps)
        near = {"lovasz_hinge": 0.01, "cldice": 5e-3}.get(case.name, 2e-4)  # which have kinks on the way
        torch.testing.assert_close(split.mean((1, 2, 3)), case(z, t) - offset, rtol=near, atol=near / 10)


def test_a_loss_that_jumps_on_the_way_has_a_gradient_alone(make):
    z, t = scene()
    distance = torch.randn(t.shape, generator=torch.Generator().manual_seed(1))
    one_sided = make("hausdorff", prediction=False)
    split = attribution(one_sided, z, t, distance=distance)
    torch.testing.assert_close(split.mean((1, 2, 3)), one_sided(z, t, distance=distance), rtol=1e-4, atol=0)
    with pytest.raises(ContractError, match="without jumps, got one that jumps; look at its gradient instead"):
        attribution(make("hausdorff"), z, t, distance=distance)
    assert gradients(make("hausdorff"), z, t, distance=distance).shape == z.shape


def test_the_part_of_a_pixel_of_cross_entropy_is_its_own_loss():
    z, t = scene()
    cost = torch.nn.functional.binary_cross_entropy_with_logits(z, t.float(), reduction="none")
    torch.testing.assert_close(attribution(BCE(), z, t), cost)
    p = z.sigmoid()
    torch.testing.assert_close(
        attribution(Focal(gamma=3.0), z, t), torch.where(t > 0, -((1 - p) ** 3) * p.log(), -(p**3) * (1 - p).log())
    )
    balanced = 0.5 * t.numel() * torch.where(t > 0, cost / t.sum(), cost / (1 - t).sum())
    torch.testing.assert_close(attribution(BalancedCE(), z, t), balanced)


@pytest.mark.parametrize("wrong", [0, 1])
def test_errors_of_one_kind_share_a_tversky_loss_in_proportion(wrong):
    z, t = scene()
    z = torch.where(t == wrong, z, (2.0 * t - 1) * 60)
    loss, error = Tversky(fp_weight=0.3, fn_weight=0.7), (z.sigmoid() - t).abs()
    torch.testing.assert_close(
        attribution(loss, z, t), error / error.sum() * loss(z, t) * t.numel(), rtol=1e-4, atol=1e-6
    )


def test_false_negatives_and_false_positives_share_dice_as_the_path_integral_says():
    z, t = scene()
    fp, fn, total = (x.sum().item() for x in (z.sigmoid() * (1 - t), (1 - z.sigmoid()) * t, t))
    # Dice is E / W with E = fp + fn and W = 2 total + fp - fn; its derivative by fn is 1 / W + E / W^2
    width = lambda s: 2 * total + s * (fp - fn)  # noqa: E731
    rise = quad(lambda s: fn * (1 / width(s) + s * (fp + fn) / width(s) ** 2), 0, 1)[0]
    missed = (attribution(Dice(), z, t) * t).sum().item() / t.numel()
    assert missed == pytest.approx(rise, rel=1e-4)


def test_a_pixel_that_is_right_or_not_valid_has_no_part_and_no_gradient():
    z, t = scene()
    z[..., 0, :] = (2.0 * t[..., 0, :] - 1) * 40
    z[..., 1, :], valid = torch.nan, torch.ones(t.shape, dtype=torch.bool)
    valid[..., 1, :] = False
    for loss in (BCE(), Dice(), Focal()):
        split = attribution(loss, z, t, valid)
        assert split[..., :2, :].abs().max() < 1e-6
        assert gradients(loss, z, t, valid)[..., :2, :].max() < 1e-6
        torch.testing.assert_close(split.sum() / valid.sum(), loss(z, t, valid)[0], rtol=1e-4, atol=1e-6)


def test_the_gradient_of_cross_entropy_is_the_error():
    z, t = scene()
    torch.testing.assert_close(gradients(BCE(), z, t), (z.sigmoid() - t).abs())


def test_a_pooled_loss_is_split_one_image_at_a_time(make):
    z, t = scene()
    torch.testing.assert_close(attribution(Batchwise(loss=Dice()), z, t), attribution(Dice(), z, t))
    with pytest.raises(ContractError, match="one image at a time"):
        attribution(Batchwise(loss=Dice()), z.expand(2, -1, -1, -1), t.expand(2, -1, -1, -1))
