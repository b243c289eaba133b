"""The U-Net has the paper's number of parameters, keeps image sizes, and reports sizes that it cannot take."""

import pytest
import torch
from torch import nn

from seglab.contract import ContractError
from seglab.models.parts import initialize
from seglab.models.unet import UNet


def paper_parameters(base, depth):
    """Count the parameters of figure 1 of the paper by hand, with one input channel and one output channel."""
    conv = lambda i, o, k: i * o * k * k + o  # noqa: E731
    widths = [base * 2**level for level in range(depth + 1)]
    down = sum(conv(i, o, 3) + conv(o, o, 3) for i, o in zip([1, *widths], widths, strict=False))
    up = sum(conv(2 * w, w, 2) + conv(2 * w, w, 3) + conv(w, w, 3) for w in widths[:-1])
    return down + up + conv(base, 1, 1)


def test_the_papers_net_has_the_papers_thirty_one_million_weights():
    net = UNet(1, base=64, norm="none", padding="valid", upsample="transpose")
    weights = sum(p.numel() for p in net.parameters())
    assert weights == paper_parameters(64, 4) == 31_030_593


def test_valid_padding_turns_572_pixels_into_388_as_in_figure_1():
    net = UNet(1, base=1, norm="none", padding="valid")
    with torch.inference_mode():
        assert net.inner(torch.zeros(1, 1, 572, 572))[0].shape == (1, 1, 388, 388)
    assert net.context(388) == (92, 92)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("upsample", ["transpose", "resize", "bilinear"])
@pytest.mark.parametrize("norm", ["batch", "instance", "group", "none"])
def test_every_choice_gives_one_logit_per_pixel_and_a_gradient_for_every_weight(norm, upsample, padding):
    net = UNet(3, base=4, depth=2, norm=norm, upsample=upsample, padding=padding)
    logits = net(torch.randn(2, 3, 32, 44))
    assert logits.shape == (2, 1, 32, 44)
    logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("size", [(24, 24), (25, 31), (40, 23), (61, 33)])
def test_valid_padding_serves_every_size_beyond_its_context(size):
    net = UNet(1, base=2, depth=2, padding="valid").eval()
    assert net(torch.randn(1, 1, *size)).shape == (1, 1, *size)


def test_valid_logits_are_those_of_the_bare_net_on_the_mirrored_image():
    net = UNet(1, base=2, depth=2, padding="valid").eval()
    image = torch.randn(1, 1, 36, 36)  # 36 = 4 + 4 * 8: an exact fit, with 20 pixels mirrored on each side
    rows = [abs(i) if i < 36 else 70 - i for i in range(-20, 56)]
    assert torch.equal(net(image), net.inner(image[:, :, rows][..., rows])[0])


def test_valid_logits_follow_the_image_when_it_shifts_by_the_stride():
    net = UNet(1, base=2, depth=2, padding="valid").eval()
    image = torch.randn(1, 1, 140, 140)
    one, other = net(image[..., :136, :136]), net(image[..., 4:, 4:])
    torch.testing.assert_close(one[..., 60:100, 60:100], other[..., 56:96, 56:96])


def test_an_image_smaller_than_its_context_is_refused_with_the_size_that_works():
    net = UNet(1, base=2, depth=4, padding="valid")
    with pytest.raises(ContractError, match=r"at least (\d+), .*, got 64x64; set dataset.size=\1 ") as caught:
        net(torch.zeros(1, 1, 64, 64))
    least = int(str(caught.value).split("dataset.size=")[1].split()[0])
    assert net.eval()(torch.zeros(1, 1, least, least)).shape == (1, 1, least, least)


@pytest.mark.parametrize(("size", "remedy"), [((500, 500), "496"), ((500, 530), r"\[496,528\]")])
def test_a_size_that_does_not_halve_is_refused_with_the_nearest_that_does(size, remedy):
    with pytest.raises(ContractError, match=f"divisible by 16.*set dataset.size={remedy}"):
        UNet(1, base=2)(torch.zeros(1, 1, *size))


@pytest.mark.parametrize(
    ("name", "value"), [("norm", "layer"), ("padding", "reflect"), ("upsample", "cubic"), ("depth", 0), ("prior", 1.0)]
)
def test_unknown_choices_are_one_sentence(name, value):
    with pytest.raises(ContractError, match=f"model.*{name}.*expected|model: .*{value}"):
        UNet(1, **{name: value})


@pytest.mark.parametrize(
    "conv",
    [nn.Conv2d(64, 64, 3), nn.Conv2d(64, 64, 1), nn.ConvTranspose2d(64, 64, 2, 2), nn.ConvTranspose2d(64, 64, 4, 2)],
    ids=str,
)
def test_the_first_weights_of_a_layer_keep_a_signals_variance(conv):
    torch.manual_seed(0)
    initialize(conv, gain=2)
    with torch.inference_mode():
        inside = conv(torch.randn(2, 64, 32, 32))[..., 2:-2, 2:-2]  # fewer taps reach a border
    assert inside.std() == pytest.approx(2, rel=0.05)
    assert not conv.bias.any()


def test_the_first_weights_keep_a_signals_variance_through_the_paper_net():
    torch.manual_seed(0)
    net = UNet(1, base=32, depth=3, norm="none")
    with torch.inference_mode():
        logits = net(torch.randn(2, 1, 64, 64))
    assert 0.2 < logits.std() < 5
