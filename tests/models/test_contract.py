"""Every model of conf/model keeps the contract that training, export and comparison rely on."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from seglab.contract import ContractError

CONF = Path(__file__).parents[2] / "conf" / "model"
LIGHT = {"unet": {"base": 4, "depth": 3}, "fcn": {"base": 4}, "smp": {"encoder_name": "resnet18"}}


def build(name, channels=3, seed=5, **options):
    """Build the model of a YAML file from a seed, with fewer channels if it has an option for that."""
    torch.manual_seed(seed)
    cfg = OmegaConf.load(CONF / f"{name}.yaml")
    return instantiate(cfg, in_channels=channels, **LIGHT.get(name, {}), **options)


@pytest.fixture(params=sorted({file.stem for file in CONF.glob("*.yaml")} - {"external"}))
def name(request):
    return request.param


@pytest.fixture
def image():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_one_raw_logit_per_pixel_for_any_number_of_channels(name, channels):
    logits = build(name, channels)(torch.randn(2, channels, 64, 64))
    assert (logits.shape, logits.dtype) == ((2, 1, 64, 64), torch.float32)
    assert (logits < 0).any(), "an activation at the end?"
    assert logits.requires_grad


def test_one_seed_gives_one_net_and_a_saved_net_comes_back(name, image, tmp_path):
    one, other = build(name).eval(), build(name).eval()
    assert torch.equal(one(image), other(image))
    torch.save(one.state_dict(), tmp_path / "net.pt")
    fresh = build(name, seed=6).eval()
    assert not torch.equal(fresh(image), one(image))
    fresh.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True))
    assert torch.equal(fresh(image), one(image))


def test_channels_and_sizes_that_a_net_cannot_take_are_one_sentence(name):
    net = build(name)
    with pytest.raises(ContractError, match=r"model: expected images \(b,3,h,w\), got 1x1x64x64"):
        net(torch.zeros(1, 1, 64, 64))
    with pytest.raises(ContractError, match=r"at least (\d+), .*, got 8x8; set dataset.size=\1$"):
        net(torch.zeros(1, 3, 8, 8))


def test_the_untrained_net_starts_at_the_prior(name, image):
    assert build(name, prior=0.02)(image).sigmoid().mean().item() == pytest.approx(0.02, rel=0.1)


def test_an_images_logits_do_not_depend_on_its_company(name, image):
    net = build(name).eval()
    torch.testing.assert_close(net(image)[1:], net(image[1:]), atol=1e-4, rtol=1e-4)


def test_memory_format_and_bf16_change_no_more_than_rounding(name, image):
    net = build(name).eval()
    plain = net(image)
    last = net.to(memory_format=torch.channels_last)(image.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(last, plain, atol=1e-3, rtol=1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        half = net(image)
    assert half.dtype == torch.bfloat16
    assert (half.float() - plain).abs().max() < 0.1 * plain.abs().max()


def test_a_step_down_the_gradient_lowers_the_loss_and_moves_every_weight(name, image):
    net = build(name)
    target = (image.mean(1, keepdim=True) > 0.5).float()
    before = [p.clone() for p in net.parameters()]
    optimizer, losses = torch.optim.Adam(net.parameters(), 1e-3), []
    for _ in range(5):
        loss = nn.functional.binary_cross_entropy_with_logits(net(image), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(not torch.equal(old, new) for old, new in zip(before, net.parameters(), strict=True))
