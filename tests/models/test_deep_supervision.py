"""Networks that return logits at several scales in training, and only at the image size otherwise."""

import copy

import pytest
import torch

from seglab.contract import ContractError
from seglab.models.smp import Smp
from seglab.models.unet import UNet

SMP = {"encoder_name": "resnet18"}


def made(kind, **options):
    torch.manual_seed(3)
    return kind(2, out_channels=3, **options)


@pytest.mark.parametrize(
    ("kind", "options", "sizes"),
    [
        (UNet, {"base": 4, "depth": 4, "prior": 0.01}, [64, 32, 16]),
        (UNet, {"base": 4, "depth": 3, "upsample": "transpose"}, [64, 32]),
        (Smp, SMP, [64, 32, 16, 8]),
        pytest.param(Smp, SMP | {"arch": "manet"}, [64, 32, 16, 8], marks=pytest.mark.slow),
        (Smp, SMP | {"options": {"encoder_depth": 4, "decoder_channels": [32, 16, 8, 4]}}, [64, 32, 16]),
    ],
)
def test_scales_halve_in_training_and_the_finest_is_that_of_the_net_without(kind, options, sizes):
    image = torch.randn(2, 2, 64, 64, generator=torch.Generator().manual_seed(0))
    deep, plain = made(kind, **options, deep_supervision=True), made(kind, **options)
    scales = copy.deepcopy(deep)(image)  # like the dry run
    assert [tuple(logits.shape) for logits in scales] == [(2, 3, size, size) for size in sizes]
    for number in range(len(sizes)):  # each scale has its own head
        deep.zero_grad()
        deep(image)[number].sum().backward()
        assert [head.weight.grad is not None for head in deep.heads] == [k + 1 == number for k in range(len(sizes) - 1)]
    assert torch.equal(scales[0], plain(image))
    plain, deep = made(kind, **options), made(kind, **options, deep_supervision=True)
    assert torch.equal(deep.eval()(image), plain.eval()(image))


@pytest.mark.parametrize(
    ("kind", "options", "sentence"),
    [
        (UNet, {"depth": 2}, "a depth of at least 3 and padding=same, got depth=2 and padding=same"),
        (UNet, {"padding": "valid"}, "got depth=4 and padding=valid"),
        (Smp, SMP | {"arch": "FPN"}, "expected arch to be unet or manet, got FPN"),
    ],
)
def test_nets_without_scales_are_refused(kind, options, sentence):
    with pytest.raises(ContractError, match=sentence):
        made(kind, **options, deep_supervision=True)
