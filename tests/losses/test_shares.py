"""What a pixel has to do with a loss: its shares add up, and where the split is known they are it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scipy.integrate import quad

from seglab.contract import ContractError
from seglab.engine.config import CONF, build_choices
from seglab.losses.base import Loss
from seglab.losses.combine import Batchwise, Sum
from seglab.losses.focal import Focal
from seglab.losses.pixel import BCE, BalancedCE, PixelLoss
from seglab.losses.region import Dice, Tversky
from seglab.losses.shares import gradients, shares
from seglab.losses.sums import SumLoss

NAMES = sorted(file.stem for file in Path(CONF, "loss").glob("*.yaml") if file.stem != "external")


def made(name: str) -> Loss:
    (loss,) = build_choices("loss", [name]).values()
    return loss.fitted(0.1)


def scene(foreground: float = 0.2) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    rng = torch.Generator().manual_seed(0)
    z = 2 * torch.randn(1, 1, 12, 10, generator=rng)
    t = (torch.rand(1, 1, 12, 10, generator=rng) < foreground).float()
    distance = torch.randn(1, 1, 12, 10, generator=rng)
    return z, t, {"gap": 5 * distance.abs(), "distance": distance}


@pytest.mark.parametrize("foreground", [0.2, 0.0])
@pytest.mark.parametrize("name", NAMES)
def test_the_shares_of_the_pixels_add_up_to_the_loss(name: str, foreground: float) -> None:
    loss, (z, t, maps) = made(name), scene(foreground)
    maps = {need: maps[need] for need in loss.needs}
    if not isinstance(loss, SumLoss | Sum | Batchwise):
        with pytest.raises(ContractError, match="a function of sums over the pixels; look at its gradient instead"):
            shares(loss, z, t, **maps)
        return
    split = shares(loss, z, t, **maps)
    perfect = 0 if isinstance(loss, PixelLoss) else loss(torch.logit(t).clamp(-60, 60), t, **maps)
    torch.testing.assert_close(split.mean((1, 2, 3)), loss(z, t, **maps) - perfect, rtol=2e-5, atol=2e-5)
    assert split.shape == z.shape


def test_the_share_of_a_pixel_of_cross_entropy_is_its_own_loss() -> None:
    z, t, _ = scene()
    torch.testing.assert_close(
        shares(BCE(), z, t), torch.nn.functional.binary_cross_entropy_with_logits(z, t, reduction="none")
    )
    p = z.sigmoid()
    expected = torch.where(t > 0, -((1 - p) ** 3) * p.log(), -(p**3) * (1 - p).log())
    torch.testing.assert_close(shares(Focal(gamma=3.0), z, t), expected)


def test_each_class_of_balanced_cross_entropy_is_divided_by_its_own_size() -> None:
    z, t, _ = scene()
    cost = torch.nn.functional.binary_cross_entropy_with_logits(z, t, reduction="none")
    expected = 0.5 * t.numel() * torch.where(t > 0, cost / t.sum(), cost / (1 - t).sum())
    torch.testing.assert_close(shares(BalancedCE(), z, t), expected)


@pytest.mark.parametrize("wrong", [0.0, 1.0])
def test_errors_of_one_kind_share_a_tversky_loss_in_proportion(wrong: float) -> None:
    """With false alarms alone, or misses alone, the share is the pixel's error over the total."""
    z, t, _ = scene()
    z = torch.where(t == wrong, z, torch.logit(t).clamp(-60, 60))
    loss, error = Tversky(fp_weight=0.3, fn_weight=0.7), (z.sigmoid() - t).abs()
    torch.testing.assert_close(shares(loss, z, t), error / error.sum() * loss(z, t) * t.numel(), rtol=1e-4, atol=1e-6)


def test_misses_and_false_alarms_share_dice_as_the_path_integral_says() -> None:
    z, t, _ = scene()
    fp, fn, total = ((x.sum().item()) for x in (z.sigmoid() * (1 - t), (1 - z.sigmoid()) * t, t))
    # Dice is E / W with E = fp + fn and W = 2 total + fp - fn; its derivative by fn is 1 / W + E / W^2
    width = lambda s: 2 * total + s * (fp - fn)  # noqa: E731
    rise = quad(lambda s: fn * (1 / width(s) + s * (fp + fn) / width(s) ** 2), 0, 1)[0]
    missed = (shares(Dice(), z, t) * t).sum().item() / t.numel()
    assert missed == pytest.approx(rise, rel=1e-4)


def test_a_pixel_that_is_right_has_no_share_and_no_gradient() -> None:
    z, t, _ = scene()
    z[..., 0, :] = torch.logit(t[..., 0, :]).clamp(-40, 40)
    for loss in (BCE(), Dice(), Focal()):
        assert shares(loss, z, t)[..., 0, :].abs().max() < 1e-6
        assert gradients(loss, z, t)[..., 0, :].max() < 1e-6


def test_the_gradient_of_cross_entropy_is_the_error() -> None:
    z, t, _ = scene()
    torch.testing.assert_close(gradients(BCE(), z, t), (z.sigmoid() - t).abs())


def test_a_pooled_loss_is_split_one_image_at_a_time() -> None:
    z, t, _ = scene()
    torch.testing.assert_close(shares(Batchwise(loss=Dice()), z, t), shares(Dice(), z, t))
    with pytest.raises(ContractError, match="one image at a time"):
        shares(Batchwise(loss=Dice()), z.expand(2, -1, -1, -1), t.expand(2, -1, -1, -1))
