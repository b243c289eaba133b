"""How much of a map is grid: the energy that upsampling leaves at the frequencies of its stride."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seglab.contract import Image, PerImage, require


def grid_energy(maps: Tensor, stride: int = 2, width: float = 1 / 16) -> PerImage:
    """Give the share of a map's energy that lies at the frequencies of a grid of `stride` pixels: (b,) in [0, 1].

    Of each map in (b,c,h,w) the mean is taken off and the border faded out (Hann), so that neither counts as a
    pattern. Counted are the frequencies within `width` cycles per pixel, on both axes, of a multiple of 1 / stride
    other than zero: a checkerboard (Odena et al., "Deconvolution and Checkerboard Artifacts", Distill 2016) that
    follows the image is spread that far. White noise scores about (stride^2 - 1) * (2 * width)^2, smooth maps next to
    nothing, a constant map 0.
    """
    require(maps.dim() == 4, "grid_energy", "maps (b,c,h,w)", "x".join(map(str, maps.shape)))
    require(stride > 1 and 0 < width < 0.5 / stride, "grid_energy", f"stride > 1 and width < {0.5 / stride}", width)
    energy = spectrum(maps)
    share = (energy * on_grid(energy, stride, width)).sum((1, 2)) / energy.sum((1, 2))
    return share.nan_to_num(0)


def spectrum(maps: Tensor) -> Tensor:
    """Give the energy of maps (b,c,h,w) at each frequency, summed over the channels: (b,h,w), as torch.fft orders it.

    The mean is taken off first, and the border faded out.
    """
    maps = maps.float() - maps.float().mean((2, 3), keepdim=True)
    rows, columns = (torch.hann_window(n, periodic=False, device=maps.device) for n in maps.shape[2:])
    return torch.fft.fft2(maps * rows[:, None] * columns).abs().square().sum(1)


def on_grid(energy: Tensor, stride: int = 2, width: float = 1 / 16) -> Tensor:
    """Mark the frequencies (h,w) near a multiple of 1 / stride on both axes, but not near zero on both."""
    axes = [torch.fft.fftfreq(n, device=energy.device).abs() for n in energy.shape[1:]]
    rows, columns = (((f * stride - (f * stride).round()).abs() <= width * stride) for f in axes)
    low_rows, low_columns = (f <= width for f in axes)
    return (rows[:, None] & columns) & ~(low_rows[:, None] & low_columns)


def checkerboards(model: nn.Module, image: Image, stride: int = 2) -> dict[str, PerImage]:
    """Measure the grid in a model's logits ("output") and in their gradient to the image ("gradient"), each (b,).

    The output shows what upsampling adds on the way forward; the gradient shows that some pixels of the image are heard
    more often than their neighbours, which strided and pooled layers cause as well.
    """
    image = image.detach().requires_grad_()
    logits = model(image)
    (gradient,) = torch.autograd.grad(logits.sum(), image)
    return {"output": grid_energy(logits.detach(), stride), "gradient": grid_energy(gradient, stride)}
