"""Predictions between untrained and good, made without training: of a fresh model, and by degrading the truth."""

from contextlib import nullcontext
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from seglab.contract import Logits, Target
from seglab.engine.module import SegModule
from seglab.engine.trained_run import TrainedRun
from seglab.metrics.objects import components
from seglab.views.run_inputs import Autocast, forward

QUALITIES = {"early": 0.3, "half-trained": 0.6, "good": 0.9}


def stages(fresh: SegModule, run: TrainedRun | None, batch: dict[str, Any], size: int, seed: int) -> dict[str, Logits]:
    """The predictions by name: untrained, three simulated ones, and those of a trained run where one is given."""

    def predict(module: SegModule, autocast: Autocast) -> Logits:
        with torch.no_grad():
            return torch.cat([forward(module, part, autocast) for part in batch["image"].split(size)])

    blur = typical_radius(object_sizes(batch["target"]))
    predictions = {"untrained": predict(fresh.train(), nullcontext)}
    predictions |= {name: simulated(batch["target"], quality, blur, seed) for name, quality in QUALITIES.items()}
    return predictions | ({"trained": predict(run.module(), run.autocast)} if run else {})


def object_sizes(target: Target) -> Tensor:
    """The number of pixels of the object that each pixel (n, 1, h, w) belongs to; 0 on the background."""
    planes = [components(plane) for plane in (target[:, 0] >= 0.5).numpy()]
    sizes = [np.where(numbers > 0, np.bincount(numbers.ravel())[numbers], 0) for numbers in planes]
    return torch.from_numpy(np.stack(sizes))[:, None]


def typical_radius(sizes: Tensor) -> float:
    """The radius in pixels of a disc as large as the object that a foreground pixel typically belongs to."""
    return float((sizes[sizes > 0].double().median() / torch.pi).sqrt()) if (sizes > 0).any() else 1.0


def simulated(target: Target, quality: float, blur: float, seed: int) -> Logits:
    """Logits (n, 1, h, w) like those of a model in training, from the truth and noise.

    The truth is smoothed by a Gaussian of (1 - quality) `blur` pixels, scaled to logits of up to 2 + 6 quality on both
    sides, and overlaid with noise in patches whose standard deviation is 1 - quality of that.
    """
    rng = np.random.default_rng(seed)
    margin = 2 + 6 * quality
    logits = []
    for plane in target[:, 0].float().numpy():
        smooth = cv2.GaussianBlur(plane, (0, 0), max((1 - quality) * blur, 0.3))
        noise = cv2.GaussianBlur(rng.standard_normal(plane.shape, np.float32), (0, 0), max(0.4 * blur, 0.8))
        logits.append(margin * (2 * smooth - 1 + (1 - quality) * noise / noise.std()))
    return torch.from_numpy(np.stack(logits))[:, None]


def soft_iou(logits: Logits, target: Target) -> float:
    """Overlap of all images together, with probabilities in place of decisions."""
    p, t = logits.sigmoid().double(), target.double()
    both = (p * t).sum()
    return float(both / (p.sum() + t.sum() - both).clamp(min=1e-12))
