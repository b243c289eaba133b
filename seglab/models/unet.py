"""The U-Net, in the padded form that is common today and in the unpadded form of the paper."""

from __future__ import annotations

from itertools import count, pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seglab.contract import Image, Logits, require
from seglab.models.parts import block, check_input, coarse_logits, initialize, resizing, scale_heads, set_prior


class UNet(nn.Module):
    """A contracting path, an expanding path, and skip connections from the first to the second.

    Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015. The
    network of the paper, without dropout, is `base=64 norm=none padding=valid upsample=transpose`. Takes (b,
    in_channels, h, w), returns logits (b, out_channels, h, w).

    Args:
        base: channels of the first level, doubled at each of the `depth` levels below it.
        norm: batch, instance, group or none, after each 3x3 convolution.
        padding: "same" pads each convolution with zeros and needs sizes divisible by 2^depth; "valid" does not pad
            convolutions, so that every output pixel sees only real pixels: the image is mirrored once at its border
            (572 in, 388 out in the paper), and any size above the mirrored context works.
        upsample: "resize" (nearest) or "bilinear" after a 1x1 convolution, or "transpose", the 2x2 up-convolution of
            the paper, which leaves stripes early on.
        prior: the foreground probability of the untrained network; None leaves it to chance, near 0.5.
        deep_supervision: in training, return the logits of all scales, the finest first, down to 2^(depth - 2) times
            smaller; the coarsest scale of the decoder is left out, as in nnU-Net, where its weight is 0.
    """

    def __init__(
        self,
        in_channels: int,
        base: int = 32,
        depth: int = 4,
        norm: str = "batch",
        padding: str = "same",
        upsample: str = "resize",
        prior: float | None = None,
        out_channels: int = 1,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        require(in_channels > 0 and base > 0, "model", "in_channels and base to be at least 1", (in_channels, base))
        require(depth > 0, "model: depth", "at least 1", depth)
        require(padding in ("same", "valid"), "model: padding", "same or valid", padding)
        self.in_channels, self.depth, self.padding = in_channels, depth, padding
        pad = 1 if padding == "same" else 0
        widths = [base * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(block(i, o, norm, pad) for i, o in pairwise([in_channels, *widths]))
        self.grow = nn.ModuleList(doubling(2 * width, width, upsample) for width in reversed(widths[:-1]))
        self.up = nn.ModuleList(block(2 * width, width, norm, pad) for width in reversed(widths[:-1]))
        self.last = nn.Conv2d(base, out_channels, 1)
        initialize(self.last)
        set_prior(self.last, prior)
        fits = not deep_supervision or (depth > 2 and padding == "same")
        got = f"depth={depth} and padding={padding}"
        require(fits, "model: deep_supervision", "a depth of at least 3 and padding=same", got)
        coarse = widths[1 : depth - 1] if deep_supervision else []
        self.heads = scale_heads(coarse, out_channels, prior)  # drawn last: the other weights are the same without them

    def forward(self, image: Image) -> Logits | list[Logits]:
        """Return the logits (b, out_channels, h, w) of images (b, in_channels, h, w), or a list of logits by scale."""
        if self.padding == "same":
            check_input(image, self.in_channels, 2**self.depth, smallest=2 ** (self.depth + 1))
            scales = self.inner(image)
            return scales if len(scales) > 1 else scales[0]
        check_input(image, self.in_channels, 1, 1)
        height, width = image.shape[2:]
        top, bottom = self.context(height)
        left, right = self.context(width)
        if bottom >= height or right >= width:  # reflection does not repeat the border pixel: at most size - 1
            smallest = next(size for size in count(1) if self.context(size)[1] < size)
            expected = f"a height and width of at least {smallest}, to mirror the context around the image"
            require(False, "model", expected, f"{height}x{width}", f"set dataset.size={smallest} or model.padding=same")
        (logits,) = self.inner(F.pad(image, (left, right, top, bottom), mode="reflect"))
        return crop(logits, height, width)

    def inner(self, image: Image) -> list[Logits]:
        """Run the network on an image with its context: padding="valid" makes it 12 * 2^depth - 8 pixels smaller."""
        levels: list[Tensor] = []
        grown: list[Tensor] = []
        features = image
        for down in self.down[:-1]:
            features = down(features)
            levels.append(features)
            features = F.max_pool2d(features, 2)
        features = self.down[-1](features)
        for grow, up, level in zip(self.grow, self.up, reversed(levels), strict=True):
            features = grow(features)
            features = up(torch.cat([crop(level, *features.shape[2:]), features], dim=1))  # crops if padding="valid"
            grown.append(features)
        return [self.last(features), *coarse_logits(self.heads if self.training else (), grown)]

    def context(self, size: int) -> tuple[int, int]:
        """Return how many pixels to mirror before and after `size` ones, for the smallest input that covers them."""
        step = 2**self.depth
        spare = (size + step - 5) // step * step + 4 - size  # outputs are 4 more than a multiple of the step
        margin = 6 * step - 4  # lost at each side, see `inner`
        return margin + spare // 2, margin + spare - spare // 2


def doubling(inputs: int, outputs: int, upsample: str) -> nn.Module:
    """Build a layer that doubles the size of a map and halves its channels.

    Resizing comes after the 1x1 convolution: the two commute, and this order costs a quarter.
    """
    conv = nn.ConvTranspose2d(inputs, outputs, 2, 2) if upsample == "transpose" else nn.Conv2d(inputs, outputs, 1)
    initialize(conv)
    return conv if upsample == "transpose" else nn.Sequential(conv, resizing(upsample))


def crop(features: Tensor, height: int, width: int) -> Tensor:
    """Crop larger maps to the center (b, c, height, width)."""
    top, left = (features.shape[2] - height) // 2, (features.shape[3] - width) // 2
    return features[:, :, top : top + height, left : left + width]
