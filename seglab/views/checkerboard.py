"""Grid artefacts of the upsampling: the outputs of each way to upsample, their spectra, and the measure of the grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from seglab.contract import require
from seglab.data.loading import Batch
from seglab.engine.module import SegModule
from seglab.engine.trained_run import TrainedRun, assemble
from seglab.models.checkerboard import checkerboards, on_grid, spectrum
from seglab.views.checkerboard_figures import Grid, sheet
from seglab.views.run_inputs import scenes, titles
from seglab.views.view_page import Sheet


def view(runs: list[TrainedRun], upsample: list[str], images: int | list[str], stride: int, seed: int) -> Sheet:
    """Show the grid in runs as they were trained, and in the first run's model untrained with each way to upsample.

    upsample: values of `model.upsample` to compare untrained, from the same `seed`; none where the model has no such
    knob. images: how many test images, or ids; the first is drawn. stride: of the grid that is looked for, in pixels.
    """
    batches = scenes(runs[0], [runs[0].loss()], images)
    nets = {
        f"{name}, {run.config['model'].get('upsample', '')}": run.module()
        for name, run in zip(titles(runs), runs, strict=True)
    }
    nets |= {f"untrained, {way}": untrained(runs[0], way, seed) for way in upsample}
    return sheet(batches[0]["id"][0], [look(name, net, batches, stride) for name, net in nets.items()], stride)


def look(name: str, net: SegModule, batches: Sequence[Batch], stride: int) -> Grid:
    """The first image's logits and gradient with their spectra, and the measure's mean over all images."""
    images = [batch["image"].float() for batch in batches]
    found = [checkerboards(net, image, stride) for image in images]
    first = images[0].requires_grad_()
    logits = net(first)
    (gradient,) = torch.autograd.grad(logits.sum(), first)
    maps = {"output": logits.detach(), "gradient": gradient}
    spectra = {kind: spectrum(x) for kind, x in maps.items()}
    counted = on_grid(spectra["output"], stride)
    return Grid(
        name,
        {kind: x[0].abs().sum(0).numpy() if kind == "gradient" else x[0, 0].numpy() for kind, x in maps.items()},
        {kind: centred(x[0] / x.sum().clamp(min=1e-30)) for kind, x in spectra.items()},
        centred(counted),
        {kind: float(torch.stack([one[kind] for one in found]).mean()) for kind in maps},
    )


def centred(energy: Tensor) -> np.ndarray:
    """A spectrum (h, w) with frequency zero in the middle."""
    return torch.fft.fftshift(energy).numpy()


def untrained(run: TrainedRun, way: str, seed: int) -> SegModule:
    """The run's model before training, with another way to upsample."""
    model = run.config["model"]
    fits = "upsample" in model
    require(fits, "checkerboard", "a model with the knob upsample", model["_target_"], "set checkerboard.upsample=[]")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        changed = {**run.config, "model": {**model, "upsample": way}, "compile": False}
        return assemble(changed, run.dataset(), run.loss()).eval()
