"""What the networks share: the sizes they take, their norms, how they double a map, and their first guess."""

import math
from collections.abc import Iterable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seglab.contract import require


def check_input(image: Tensor, channels: int, divisor: int, smallest: int) -> None:
    """Refuse images (b,c,h,w) with other channels or a size that is no multiple of `divisor` or below `smallest`."""
    if image.dim() != 4 or image.shape[1] != channels:
        shape = "x".join(map(str, image.shape))  # only here: of a size that may vary a compiler can make no text
        require(False, "model", f"images (b,{channels},h,w)", shape, "set model.in_channels or dataset.channels")
    height, width = image.shape[2:]
    if height % divisor or width % divisor or min(height, width) < smallest:
        near = [max(round(side / divisor) * divisor, smallest) for side in (height, width)]
        size = near[0] if near[0] == near[1] else f"[{near[0]},{near[1]}]"
        expected = f"a height and width of at least {smallest}, divisible by {divisor}"
        require(False, "model", expected, f"{height}x{width}", f"set dataset.size={size}")


def norm_layer(norm: str, width: int) -> nn.Module:
    """Make a normalisation of `width` channels: batch, instance (affine), group (of 8 groups) or none."""
    require(norm in ("batch", "instance", "group", "none"), "model: norm", "batch, instance, group or none", norm)
    if norm == "batch":
        return nn.BatchNorm2d(width)
    if norm == "instance":
        return nn.InstanceNorm2d(width, affine=True)
    return nn.GroupNorm(math.gcd(8, width), width) if norm == "group" else nn.Identity()


def conv_norm_relu(inputs: int, outputs: int, norm: str, padding: int = 1, dilation: int = 1) -> nn.Sequential:
    """Make a 3x3 convolution, its norm and a ReLU, with the initial weights of He et al. (2015)."""
    conv = nn.Conv2d(inputs, outputs, 3, padding=padding, dilation=dilation, bias=norm == "none")
    initialise(conv, gain=math.sqrt(2))  # a ReLU halves the mean square
    return nn.Sequential(conv, norm_layer(norm, outputs), nn.ReLU(inplace=True))


def block(inputs: int, outputs: int, norm: str, padding: int = 1) -> nn.Sequential:
    """Make what the nets have at each size: two 3x3 convolutions, each with its norm and ReLU."""
    first = conv_norm_relu(inputs, outputs, norm, padding)
    return nn.Sequential(first, conv_norm_relu(outputs, outputs, norm, padding))


class Nearest(nn.Module):
    """Double a map's size by repeating its pixels, in its own precision: a GPU's autocast would take float32."""

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast("cuda", enabled=False) if features.is_cuda else nullcontext():
            return F.interpolate(features, scale_factor=2, mode="nearest")


def resizing(how: str) -> nn.Module:
    """Make the step that doubles a map's size: resize (nearest) or bilinear."""
    require(how in ("resize", "bilinear"), "model: upsample", "transpose, resize or bilinear", how)
    return Nearest() if how == "resize" else nn.Upsample(scale_factor=2, mode=how)


def initialise(conv: nn.Conv2d | nn.ConvTranspose2d, gain: float = 1.0) -> None:
    """Draw normal weights that keep a signal's variance times gain^2, counting the taps that reach one output pixel."""
    taps: float = math.prod(conv.kernel_size)
    if isinstance(conv, nn.ConvTranspose2d):
        taps /= math.prod(conv.stride)  # of its kernel's taps an output pixel sees every stride-th
    nn.init.normal_(conv.weight, std=gain / math.sqrt(conv.in_channels * taps))
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def set_prior(last: nn.Conv2d | nn.ConvTranspose2d, prior: float | None) -> None:
    """Start a last layer at the foreground probability `prior` everywhere (RetinaNet, Lin et al. 2017); None: as drawn.

    Where foreground is rare a start at 0.5 spends the first epochs on unlearning it, with large gradients.
    """
    if prior is None:
        return
    require(0 < prior < 1, "model: prior", "a probability between 0 and 1, both excluded, or null", prior)
    nn.init.normal_(last.weight, std=0.01)  # RetinaNet's, so that the bias alone decides at first
    if last.bias is not None:
        nn.init.constant_(last.bias, math.log(prior / (1 - prior)))


def scale_heads(widths: Sequence[int], out_channels: int, prior: float | None) -> nn.ModuleList:
    """Make the last layers of coarser scales, of maps with these channels, the finest first."""
    heads = [nn.Conv2d(width, out_channels, 1) for width in widths]
    for head in heads:
        initialise(head)
        set_prior(head, prior)
    return nn.ModuleList(heads)


def coarse_logits(heads: Iterable[nn.Module], grown: Sequence[Tensor]) -> list[Tensor]:
    """Give the logits of coarser scales, the finest first; grown: a decoder's maps, the lowest first."""
    return [head(features) for head, features in zip(heads, reversed(grown[:-1]), strict=False)]
