"""A loss over several scales: the weights, the target pixels of each scale, and ignored pixels."""

import math

import torch

from seglab.losses import BCE, LovaszSoftmax
from seglab.losses.deep_supervision import over_scales


def test_three_scales_weigh_four_two_and_one_seventh():
    """On foreground, logits of 0, ln 3 and -ln 3 cost ln 2, ln 4/3 and ln 4 per pixel."""
    values = (0.0, math.log(3), -math.log(3))
    scales = [torch.full((1, 1, size, size), value) for size, value in zip((8, 4, 2), values, strict=True)]
    loss = over_scales(BCE(), scales, torch.ones(1, 1, 8, 8))
    expected = (4 * math.log(2) + 2 * math.log(4 / 3) + math.log(4)) / 7
    torch.testing.assert_close(loss, torch.tensor([expected]))


def test_a_coarse_pixel_stands_for_the_one_after_the_middle_of_its_block():
    """For 4x8 pixels with their index as class, logits of 2x2 use rows 1 and 3, columns 2 and 6."""
    target = torch.arange(32).view(1, 1, 4, 8)
    certain = torch.zeros(1, 32, 2, 2)
    for at, number in zip([(0, 0), (0, 1), (1, 0), (1, 1)], [10, 14, 26, 30], strict=True):
        certain[0, number, *at] = 60.0
    fine = 60.0 * torch.nn.functional.one_hot(target[:, 0], 32).permute(0, 3, 1, 2)
    for loss in (BCE(task="multiclass"), LovaszSoftmax(task="multiclass")):
        assert over_scales(loss, [fine, certain], target).item() < 1e-6
        assert over_scales(loss, [fine, certain.flip(2)], target).item() > 0.1


def test_a_pixel_that_does_not_count_does_not_on_any_scale():
    target, valid = torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4, dtype=torch.bool)
    valid[:, :, 1, 1] = False  # the target pixel of its block of 2x2
    fine, coarse = torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 2, 2)
    fine[0, 0, 1, 1], coarse[0, 0, 0, 0] = 50.0, 50.0
    losses = over_scales(BCE(), [fine, coarse], target, valid)
    torch.testing.assert_close(losses, torch.full((2,), math.log(2)))
