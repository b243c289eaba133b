"""Parts shared by the networks: checks of the input size, normalization, upsampling and initialization."""

import math
from collections.abc import Iterable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seglab.contract import require


def check_input(image: Tensor, channels: int, divisor: int, smallest: int) -> None:
    """Raise ContractError unless images are (b,channels,h,w), with h and w >= `smallest` and divisible by `divisor`."""
    if image.dim() != 4 or image.shape[1] != channels:
        shape = "x".join(map(str, image.shape))  # only here: a compiler cannot format a dynamic size
        require(False, "model", f"images (b,{channels},h,w)", shape, "set model.in_channels or dataset.channels")
    height, width = image.shape[2:]
    if height % divisor or width % divisor or min(height, width) < smallest:
        nearest = [max(round(side / divisor) * divisor, smallest) for side in (height, width)]
        size = nearest[0] if nearest[0] == nearest[1] else f"[{nearest[0]},{nearest[1]}]"
        expected = f"a height and width of at least {smallest}, divisible by {divisor}"
        require(False, "model", expected, f"{height}x{width}", f"set dataset.size={size}")


def norm_layer(norm: str, width: int) -> nn.Module:
    """Build a normalization layer of `width` channels: batch, instance (affine), group (at most 8 groups) or none."""
    require(norm in ("batch", "instance", "group", "none"), "model: norm", "batch, instance, group or none", norm)
    if norm == "batch":
        return nn.BatchNorm2d(width)
    if norm == "instance":
        return nn.InstanceNorm2d(width, affine=True)
    return nn.GroupNorm(math.gcd(8, width), width) if norm == "group" else nn.Identity()


def conv_norm_relu(inputs: int, outputs: int, norm: str, padding: int = 1, dilation: int = 1) -> nn.Sequential:
    """Build a 3x3 convolution, its norm and a ReLU, with the initial weights of He et al. (2015)."""
    conv = nn.Conv2d(inputs, outputs, 3, padding=padding, dilation=dilation, bias=norm == "none")
    initialize(conv, gain=math.sqrt(2))  # a ReLU halves the mean square
    return nn.Sequential(conv, norm_layer(norm, outputs), nn.ReLU(inplace=True))


def block(inputs: int, outputs: int, norm: str, padding: int = 1) -> nn.Sequential:
    """Build what the networks have at each scale: two 3x3 convolutions, each with its norm and ReLU."""
    first = conv_norm_relu(inputs, outputs, norm, padding)
    return nn.Sequential(first, conv_norm_relu(outputs, outputs, norm, padding))


class Nearest(nn.Module):
    """Nearest-neighbor upsampling by 2, in the precision of the map: autocast on a GPU would use float32."""

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast("cuda", enabled=False) if features.is_cuda else nullcontext():
            return F.interpolate(features, scale_factor=2, mode="nearest")


def resizing(how: str) -> nn.Module:
    """Build a layer that doubles the size of a map: resize (nearest neighbor) or bilinear."""
    require(how in ("resize", "bilinear"), "model: upsample", "transpose, resize or bilinear", how)
    return Nearest() if how == "resize" else nn.Upsample(scale_factor=2, mode=how)


def initialize(conv: nn.Conv2d | nn.ConvTranspose2d, gain: float = 1.0) -> None:
    """Draw normal weights that multiply the variance of a signal by gain^2, counting the taps per output pixel."""
    taps: float = math.prod(conv.kernel_size)
    if isinstance(conv, nn.ConvTranspose2d):
        taps /= math.prod(conv.stride)  # an output pixel sees every stride-th tap of the kernel
    nn.init.normal_(conv.weight, std=gain / math.sqrt(conv.in_channels * taps))
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def set_prior(last: nn.Conv2d | nn.ConvTranspose2d, prior: float | None) -> None:
    """Initialize a last layer to predict the probability `prior` (RetinaNet, Lin et al. 2017); None leaves it as it is.

    If foreground is rare, training from 0.5 spends the first epochs on unlearning it, with large gradients.
    """
    if prior is None:
        return
    require(0 < prior < 1, "model: prior", "a probability between 0 and 1, both excluded, or null", prior)
    nn.init.normal_(last.weight, std=0.01)  # as in RetinaNet: at first the bias alone decides
    if last.bias is not None:
        nn.init.constant_(last.bias, math.log(prior / (1 - prior)))


def scale_heads(widths: Sequence[int], out_channels: int, prior: float | None) -> nn.ModuleList:
    """Build the last layers of coarser scales, whose maps have `widths` channels, the finest first."""
    heads = [nn.Conv2d(width, out_channels, 1) for width in widths]
    for head in heads:
        initialize(head)
        set_prior(head, prior)
    return nn.ModuleList(heads)


def coarse_logits(heads: Iterable[nn.Module], grown: Sequence[Tensor]) -> list[Tensor]:
    """Return the logits of coarser scales, the finest first; grown: the maps of a decoder, the coarsest first."""
    return [head(features) for head, features in zip(heads, reversed(grown[:-1]), strict=False)]
