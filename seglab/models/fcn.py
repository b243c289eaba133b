"""The fully convolutional network of the mammography work, with a choice of upsampling methods."""

import math
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from seglab.contract import Image, Logits, require
from seglab.models.parts import block, check_input, conv_norm_relu, initialize, norm_layer, resizing, set_prior


class FCN(nn.Module):
    """A plain contracting path to 1/32 of the size and an expanding path back, by default without skip connections.

    Designed for lesions in mammograms of 640x640 pixels, which it reduces to 20x20x512 (five poolings; a dilated
    convolution replaces a sixth one) and expands to 320x320x32 and 640x640. It is based on the fully convolutional
    networks of Long, Shelhamer and Darrell, CVPR 2015. Takes (b, in_channels, h, w) with sides divisible by 32, returns
    logits (b, out_channels, h, w).

    Args:
        base: channels at full size, doubled by each of the first four poolings (32 gives 512).
        norm: batch, instance, group or none.
        upsample: "mixed" is the published network: four times nearest-neighbor resizing and a 3x3 convolution, then a
            transposed convolution of stride 2 and one of stride 1; "resize", "bilinear" and "transpose" use one kind
            for all steps. Transposed convolutions can leave checkerboard artifacts (Odena et al., Distill 2016).
        skips: add the features of the contracting path, reduced by 1x1 convolutions, to those of the same size.
        prior: the foreground probability of the untrained network; None leaves it to chance, near 0.5.
    """

    def __init__(
        self,
        in_channels: int,
        base: int = 32,
        norm: str = "batch",
        upsample: str = "mixed",
        skips: bool = False,
        prior: float | None = None,
        out_channels: int = 1,
    ) -> None:
        super().__init__()
        require(in_channels > 0 and base > 0, "model", "in_channels and base to be at least 1", (in_channels, base))
        methods = ("mixed", "resize", "transpose", "bilinear")
        require(upsample in methods, "model: upsample", " or ".join(methods), upsample)
        self.in_channels = in_channels
        widths = [base * 2**level for level in range(5)]
        self.down = nn.ModuleList(block(i, o, norm) for i, o in pairwise([in_channels, *widths]))
        self.dilated = conv_norm_relu(widths[-1], widths[-1], norm, padding=2, dilation=2)
        middle, end = ("resize", "transpose") if upsample == "mixed" else (upsample, upsample)
        self.up = nn.ModuleList(grow(2 * width, width, norm, middle) for width in reversed(widths[:-1]))
        self.bottlenecks = nn.ModuleList(nn.Conv2d(2 * w, w, 1) for w in reversed(widths[:-1])) if skips else None
        self.full = grow(base, base, norm, end)
        self.last = (nn.ConvTranspose2d if end == "transpose" else nn.Conv2d)(base, out_channels, 3, padding=1)
        initialize(self.last)
        set_prior(self.last, prior)

    def forward(self, image: Image) -> Logits:
        """Return the logits (b, out_channels, h, w) of images (b, in_channels, h, w)."""
        check_input(image, self.in_channels, 32, smallest=64)
        levels: list[Tensor] = []
        features = image
        for down in self.down:
            features = down(features)
            levels.append(features)
            features = F.max_pool2d(features, 2)
        features = self.dilated(features)
        for step, up in enumerate(self.up):
            features = up(features)
            if self.bottlenecks is not None:
                features = features + self.bottlenecks[step](levels[-1 - step])
        return self.last(self.full(features))


def grow(inputs: int, outputs: int, norm: str, how: str) -> nn.Sequential:
    """Build a layer that doubles the size of a map: a 4x4 transposed convolution, or resizing and a 3x3 convolution."""
    if how != "transpose":
        return nn.Sequential(resizing(how), conv_norm_relu(inputs, outputs, norm))
    conv = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=norm == "none")
    initialize(conv, gain=math.sqrt(2))
    return nn.Sequential(conv, norm_layer(norm, outputs), nn.ReLU(inplace=True))
