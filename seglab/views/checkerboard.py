"""Grid artifacts of upsampling: the outputs of each way to upsample, their spectra, and how much of them is grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.fft import fftshift

from seglab.contract import Image, PerImage, require
from seglab.data.loading import Batch
from seglab.engine.module import SegModule
from seglab.engine.trained_run import TrainedRun, assemble
from seglab.plots import styled
from seglab.views.panels import color_bar, picture_grid, show
from seglab.views.run_inputs import Autocast, forward, pick_images, titles
from seglab.views.view_page import ViewPage, number_table, static

KINDS = ("output", "gradient")
CENTER = 32
"""Side in pixels of the enlarged center of a map."""


class Grid(NamedTuple):
    """One net: maps (h, w), spectra (fractions of the energy) and mean grid energy of its output and gradient, by kind.

    `counted` marks the frequencies of the grid; spectra have frequency zero in the middle.
    """

    name: str
    maps: Mapping[str, np.ndarray]
    spectra: Mapping[str, np.ndarray]
    counted: np.ndarray
    energy: Mapping[str, float]


def view(runs: list[TrainedRun], upsample: list[str], images: int | list[str], stride: int, seed: int) -> ViewPage:
    """Show the grid in runs as they were trained, and in the first run's model untrained with each way to upsample.

    Args:
        upsample: values of `model.upsample` to compare untrained; none where the model has no such parameter.
        images: how many test images, or ids; the first is drawn.
        stride: of the grid that is looked for, in pixels.
        seed: of the untrained weights, the same for each way.
    """
    batches = pick_images(runs[0], [runs[0].loss()], images)
    grids = [
        measure(f"{name}, {run.config['model'].get('upsample', '')}", run.module(), batches, stride, run.autocast)
        for name, run in zip(titles(runs), runs, strict=True)
    ]
    grids += [
        measure(f"untrained, {way}", untrained(runs[0], way, seed), batches, stride, runs[0].autocast)
        for way in upsample
    ]
    table = pd.DataFrame([{"net": grid.name, **grid.energy} for grid in grids])
    percent = {f"{kind} %": 100 * table[kind] for kind in KINDS}
    image = batches[0]["id"][0]
    figure = draw(image, grids)
    caption = (
        f"Left the logits of {image} and their center enlarged, right the size of the gradient of their sum with "
        "respect to the image. Spectra show the fraction of the map's energy at each frequency (zero in the middle) on "
        f"one logarithmic scale; in the marked squares lie the frequencies of a grid of {stride} pixels. The numbers "
        "are their fraction of the energy, the mean over all images."
    )
    sections = [
        ("Pictures and spectra", static(figure, "grid", caption)),
        ("Energy at the grid's frequencies", number_table(table[["net"]].assign(**percent))),
    ]
    return ViewPage("Checkerboards", sections, {"checkerboard": figure}, {"checkerboard": table})


def untrained(run: TrainedRun, way: str, seed: int) -> SegModule:
    """The run's model before training, with another way to upsample."""
    model = run.config["model"]
    remedy = "set checkerboard.upsample=[]"
    require("upsample" in model, "checkerboard", "a model with the parameter upsample", model["_target_"], remedy)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        changed = {**run.config, "model": {**model, "upsample": way}, "compile": False}
        return assemble(changed, run.dataset(), run.loss()).eval()


def measure(
    name: str,
    net: SegModule,
    batches: Sequence[Batch],
    stride: int,
    autocast: Autocast = nullcontext,
) -> Grid:
    """The first image's logits and gradient with their spectra, and the mean grid energy of all images."""
    maps = [output_and_gradient(net, batch["image"].float(), autocast) for batch in batches]
    first = {kind: x[0] for kind, x in maps[0].items()}
    spectra = {kind: spectrum(x) for kind, x in maps[0].items()}
    return Grid(
        name,
        {"output": first["output"][0].numpy(), "gradient": first["gradient"].abs().sum(0).numpy()},
        {kind: fftshift(x[0] / x.sum().clamp(min=1e-30)).numpy() for kind, x in spectra.items()},
        fftshift(on_grid(spectra["output"], stride)).numpy(),
        {kind: float(torch.stack([grid_energy(one[kind], stride) for one in maps]).mean()) for kind in KINDS},
    )


def output_and_gradient(model: nn.Module, image: Image, autocast: Autocast = nullcontext) -> dict[str, Tensor]:
    """A model's logits ("output") and the gradient of their sum with respect to the image ("gradient").

    The output shows what upsampling adds on the way forward; the gradient shows that some pixels of the image count
    for more than their neighbors, which strided and pooled layers cause as well.
    """
    image = image.detach().requires_grad_()
    logits = forward(model, image, autocast)
    (gradient,) = torch.autograd.grad(logits.sum(), image)
    return {"output": logits.detach(), "gradient": gradient}


def grid_energy(maps: Tensor, stride: int = 2, width: float = 1 / 16) -> PerImage:
    """The fraction of a map's energy that lies at the frequencies of a grid of `stride` pixels: (b,) in [0, 1].

    The mean of each map in (b,c,h,w) is subtracted and its border faded out (Hann), so that neither counts as a
    pattern. Counted are the frequencies within `width` cycles per pixel, on both axes, of a multiple of 1 / stride
    other than zero: a checkerboard (Odena et al., "Deconvolution and Checkerboard Artifacts", Distill 2016) that
    follows the image is spread that far. White noise scores about (stride^2 - 1) * (2 * width)^2, smooth maps next to
    nothing, a constant map 0.
    """
    require(maps.dim() == 4, "grid_energy", "maps (b,c,h,w)", "x".join(map(str, maps.shape)))
    require(stride > 1 and 0 < width < 0.5 / stride, "grid_energy", f"stride > 1 and width < {0.5 / stride}", width)
    energy = spectrum(maps)
    fraction = (energy * on_grid(energy, stride, width)).sum((1, 2)) / energy.sum((1, 2))
    return fraction.nan_to_num(0)


def spectrum(maps: Tensor) -> Tensor:
    """The energy of maps (b,c,h,w) at each frequency, summed over the channels: (b,h,w), as torch.fft orders it.

    The mean is subtracted first, and the border faded out.
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


@styled
def draw(image: str, grids: Sequence[Grid]) -> Figure:
    """Draw map, enlarged center and spectrum of output and gradient, a row per net."""
    heads = [f"{kind}{what}" for kind in KINDS for what in ("", ", its center", ", spectrum")]
    most = max(1e-30, *(float(energy.max()) for grid in grids for energy in grid.spectra.values()))
    norm = LogNorm(most * 1e-7, most, clip=True)
    figure, axes = picture_grid([grid.name for grid in grids], heads, (11.5, 0.6 + 1.85 * len(grids)))
    for line, grid in zip(axes, grids, strict=True):
        for (whole, center, energy), kind in zip((line[:3], line[3:]), KINDS, strict=True):
            values = grid.maps[kind]
            top, left = (max(0, n - CENTER) // 2 for n in values.shape)
            show(whole, values, cmap="gray")
            show(center, values[top : top + CENTER, left : left + CENTER], cmap="gray")
            show(energy, grid.spectra[kind], f"grid {100 * grid.energy[kind]:.2f} %", cmap="magma", norm=norm)
            energy.contour(grid.counted, [0.5], colors="#56b4e9", linewidths=0.7)
    color_bar(figure, axes.flat, norm, "magma", "fraction of the energy", shrink=0.6, aspect=30)
    figure.suptitle(image, fontsize=9, x=0.01, ha="left")
    return figure
