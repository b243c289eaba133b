"""The FCN has the shapes of the mammography paper, and a single kind of upsampling if configured."""

import pytest
import torch
from torch import nn

from seglab.contract import ContractError
from seglab.models.fcn import FCN


def shapes(net, size):
    """Return the output shape (channels, h, w) of each named stage for a gray image."""
    seen = []
    for stage in (net.dilated, *net.up, net.full, net.last):
        stage.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape[1:])))
    with torch.inference_mode():
        net(torch.zeros(1, 1, size, size))
    return seen


def test_an_image_of_640_goes_through_20x20x512_and_320x320x32():
    channels = [shape[0] for shape in shapes(FCN(1).eval(), 64)]
    sides = [shape[1:] for shape in shapes(FCN(1, base=1).eval(), 640)]
    assert channels == [512, 256, 128, 64, 32, 32, 1]
    assert sides == [(20, 20), (40, 40), (80, 80), (160, 160), (320, 320), (640, 640), (640, 640)]


@pytest.mark.parametrize(("upsample", "transposed"), [("mixed", 2), ("resize", 0), ("bilinear", 0), ("transpose", 6)])
def test_every_choice_doubles_step_by_step_and_trains_every_weight(upsample, transposed):
    sides = [(32, 3, 3), (16, 6, 6), (8, 12, 12), (4, 24, 24), (2, 48, 48), (2, 96, 96), (1, 96, 96)]
    for skips in (False, True):
        net = FCN(1, base=2, upsample=upsample, skips=skips)
        assert shapes(net, 96) == sides
        assert sum(isinstance(module, nn.ConvTranspose2d) for module in net.modules()) == transposed  # two as published
        logits = net(torch.randn(2, 1, 64, 96))
        assert logits.shape == (2, 1, 64, 96)
        logits.square().mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("skips", [False, True])
def test_only_skips_carry_the_image_past_the_bottom(skips):
    net = FCN(1, base=2, skips=skips).eval()
    net.dilated.register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
    one, other = net(torch.randn(2, 1, 64, 64))
    assert torch.equal(one, other) != skips


def test_unknown_choices_and_sizes_are_one_sentence():
    with pytest.raises(ContractError, match="mixed or resize or transpose or bilinear, got cubic"):
        FCN(1, upsample="cubic")
    for size, remedy in (((500, 500), "512"), ((32, 32), "64")):
        with pytest.raises(ContractError, match=f"divisible by 32, got .*; set dataset.size={remedy}"):
            FCN(1, base=1)(torch.zeros(1, 1, *size))
