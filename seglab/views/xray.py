"""Where the gradient of each loss falls on the user's own masks, shown before any time is spent on training."""

from __future__ import annotations  # for `Valid | None`: Valid is a string, since contract.py imports no torch

import logging
import math
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from seglab.contract import Logits, Target, Valid, require
from seglab.data.dataset import Dataset
from seglab.data.facts import spread
from seglab.data.module import DataModule
from seglab.engine.module import SegModule
from seglab.engine.trained_run import TrainedRun
from seglab.losses.base import Loss
from seglab.metrics.objects import components
from seglab.views.gradients import loss_and_gradient, maps_of
from seglab.views.run_inputs import Autocast, forward
from seglab.views.view_page import ViewPage
from seglab.views.xray_figures import page, warnings

log = logging.getLogger(__name__)
QUALITIES = {"early": 0.3, "half-trained": 0.6, "good": 0.9}
FALSE_POSITIVE_LOGIT, TRUE_NEGATIVE_LOGIT = math.log(0.9 / 0.1), -4.0
"""Logits of a false-positive object (p = 0.9) and of the background around it (p = 0.02) in an empty image."""


def view(
    losses: Mapping[str, Loss],
    dataset: Dataset,
    module: SegModule,
    images: int,
    batch: int,
    edge: int,
    run: TrainedRun | None,
    seed: int,
) -> ViewPage:
    """Return the X-ray of some losses on a dataset.

    Args:
        module: a fresh model, for the untrained prediction; its own loss is not used.
        images: number of training images, from the least to the most foreground.
        batch: number of images per batch.
        edge: distance in pixels from the mask's outline within which a pixel belongs to the edge.
        run: a run whose best weights give one more prediction.
        seed: seed of the noise in the simulated predictions.
    """
    for name, value in (("images", images), ("batch", batch), ("edge", edge)):
        require(value >= 1, "xray", f"{name} of at least 1", value)
    needs = tuple(dict.fromkeys(need for loss in losses.values() for need in loss.needs))
    data = DataModule(dataset, None, batch, needs=needs)
    facts = data.opened.facts()
    foreground, count = facts["foreground"], facts["images"]["train"]
    require(count > 0, "xray", "training images", "none", "see dataset.root")
    losses = {label: loss.with_class_frequency([foreground]) for label, loss in losses.items()}  # as in training
    samples = data.samples("train")
    fractions = [image.foreground for image in data.opened.images("train")]
    sample_fractions = [fractions[samples.source.number(index)] for index in range(len(samples))]
    chosen = samples[[(0, index) for index in sorted(spread(sample_fractions, images))]]  # of epoch 0
    target, valid = chosen["target"], chosen.get("valid")
    for loss in losses.values():
        loss.check(torch.zeros(target.shape), target, valid)  # before anything is predicted
    predictions = stages(module, run, chosen, batch, seed)
    log.info("data: %d of %d training images; %.3g %% foreground", len(target), count, 100 * foreground)
    tables = measure(losses, predictions, chosen, batch, edge) | {"empty": on_empty(losses, target)}
    sentences = warnings(tables)
    for sentence in sentences:
        log.info("! %s", sentence)
    qualities = {name: soft_iou(logits, target, valid) for name, logits in predictions.items()}
    return page(tables, sentences, qualities, edge)


def stages(fresh: SegModule, run: TrainedRun | None, batch: dict[str, Any], size: int, seed: int) -> dict[str, Logits]:
    """Return the predictions by name: untrained, three simulated ones, and that of a trained run if given."""

    def predict(module: SegModule, autocast: Autocast) -> Logits:
        with torch.no_grad():
            return torch.cat([forward(module, part, autocast) for part in batch["image"].split(size)])

    blur = typical_radius(object_sizes(batch["target"]))
    predictions = {"untrained": predict(fresh.train(), nullcontext)}  # BatchNorm uses the statistics of these images
    predictions |= {name: simulated(batch["target"], quality, blur, seed) for name, quality in QUALITIES.items()}
    return predictions | ({"trained": predict(run.module(), run.autocast)} if run else {})


def object_sizes(target: Target) -> Tensor:
    """Return for each pixel (n, 1, h, w) the number of pixels of its object; 0 on the background."""
    planes = [components(plane) for plane in (target[:, 0] >= 0.5).numpy()]
    sizes = [np.where(numbers > 0, np.bincount(numbers.ravel())[numbers], 0) for numbers in planes]  # 0: background
    return torch.from_numpy(np.stack(sizes))[:, None]


def typical_radius(sizes: Tensor) -> float:
    """Return the radius in pixels of a disc with the area of a foreground pixel's object (median over these pixels)."""
    return float((sizes[sizes > 0].double().median() / torch.pi).sqrt()) if (sizes > 0).any() else 1.0


def simulated(target: Target, quality: float, blur: float, seed: int) -> Logits:
    """Return logits (n, 1, h, w) like those of a model during training, made from the truth and noise.

    The truth is smoothed by a Gaussian of (1 - quality) `blur` pixels and scaled to logits within +-(2 + 6 quality).
    Noise in patches is added, with a standard deviation of 1 - quality times that bound.
    """
    rng = np.random.default_rng(seed)
    margin = 2 + 6 * quality
    logits = []
    for plane in target[:, 0].float().numpy():
        smooth = cv2.GaussianBlur(plane, (0, 0), max((1 - quality) * blur, 0.3))
        noise = cv2.GaussianBlur(rng.standard_normal(plane.shape, np.float32), (0, 0), max(0.4 * blur, 0.8))
        logits.append(margin * (2 * smooth - 1 + (1 - quality) * noise / noise.std()))  # the blur reduced its spread
    return torch.from_numpy(np.stack(logits))[:, None]


def soft_iou(logits: Logits, target: Target, valid: Valid | None = None) -> float:
    """Return the IoU over all pixels of all images, with probabilities in place of decisions."""
    p, t = (x.double() if valid is None else x.double() * valid for x in (logits.sigmoid(), target))
    both = (p * t).sum()
    return float(both / (p.sum() + t.sum() - both).clamp(min=1e-12))


def near_edge(target: Target, width: int, valid: Valid | None = None) -> Tensor:
    """Return which pixels (b, 1, h, w) have a `valid` pixel of the other class within `width` rows and columns."""
    t, counts = target.float(), 1.0 if valid is None else valid.float()
    side = 2 * width + 1
    near_foreground, near_background = (F.max_pool2d(x * counts, side, 1, width) for x in (t, 1 - t))  # dilations
    return near_foreground * near_background > 0


def regions(logits: Logits, target: Target, edge: int, valid: Valid | None = None) -> dict[str, Tensor]:
    """Return masks (n, 1, h, w) of the regions for which the gradient is summed; small means up to the median size.

    Pixels that are not valid belong to no region.
    """
    t, sizes = target >= 0.5, object_sizes(target)
    areas = torch.cat([image[image > 0].unique() for image in sizes])  # each size once per image, not once per pixel
    median = areas.double().median() if len(areas) else 0
    masks = {
        "foreground": t,
        "background": ~t,
        "edge": near_edge(t, edge, valid),
        "small objects": t & (sizes <= median),
        "large objects": t & (sizes > median),
        "hard": (2.0 * t - 1) * logits < 0,
        "easy": (2.0 * t - 1) * logits >= math.log(9),  # a probability of 0.9 for the true class
    }
    empty = ~t.flatten(1).any(1).view(-1, 1, 1, 1)
    masks |= {"empty images": empty.expand_as(t)} if empty.any() else {}
    return masks if valid is None else {name: mask & valid for name, mask in masks.items()}


def measure(
    losses: Mapping[str, Loss], predictions: Mapping[str, Logits], seen: Mapping[str, Any], batch: int, edge: int
) -> dict[str, pd.DataFrame]:
    """Measure every loss on every prediction.

    Returns:
        Tables by stage and loss: `regions` has the fractions of the pixels and of |dL/dlogit| in each region; `norms`
        has the value, the norm of an image's gradient, and the smallest fraction of pixels that holds 90 % of the
        gradient. Pixels that are not valid are ignored.
    """
    rows, norms, target, valid = [], [], seen["target"], seen.get("valid")
    count = target.numel() if valid is None else int(valid.count_nonzero())
    for stage, logits in tqdm(predictions.items(), desc="predictions", disable=None):
        masks = regions(logits, target, edge, valid)
        for label, loss in losses.items():
            key = {"stage": stage, "loss": label}
            parts = []
            for start in range(0, len(logits), batch):  # as in training, since a loss may pool its batch
                part = slice(start, start + batch)
                maps = {name: seen[name][part] for name in loss.needs}
                part_valid = None if valid is None else valid[part]
                parts.append(loss_and_gradient(loss, logits[part], target[part], maps, part_valid))
            value, gradient = (torch.cat(of_all) for of_all in zip(*parts, strict=True))
            size = gradient.abs().double()
            total = size.sum().clamp(min=1e-300)  # the gradient may be zero
            for name, mask in masks.items():
                shares = {"pixels": mask.sum().item() / count, "gradient": ((size * mask).sum() / total).item()}
                rows.append(key | {"region": name} | shares)
            rising = size.flatten().sort(descending=True).values.cumsum(0) / total  # cumulative, largest first
            enough = (int((rising < 0.9).sum()) + 1) / count if size.any() else math.nan  # including the last one
            norm = gradient.double().flatten(1).norm(dim=1).mean().item()
            norms.append(key | {"value": value.mean().item(), "norm": norm, "fraction_for_90_percent": enough})
    return {"regions": pd.DataFrame(rows), "norms": pd.DataFrame(norms)}


def on_empty(losses: Mapping[str, Loss], target: Target) -> pd.DataFrame:
    """Return the losses on an image without foreground, predicted correctly and with a typical false-positive object.

    The columns are loss, `without_fp` and `with_fp` (values), and `fp_gradient` (the mean gradient of a false-positive
    pixel times the number of pixels; cross-entropy has 0.9).
    """
    amounts = target.flatten(1).double().sum(1)
    order = [int(k) for k in amounts.argsort() if amounts[k] > 0]
    require(bool(order), "xray", "an image with foreground", "none", "raise xray.images")
    fp = target[order[len(order) // 2]][None] >= 0.5  # the mask of median size, on an empty image
    nothing = torch.zeros(fp.shape, dtype=torch.uint8)
    correct = torch.full(fp.shape, TRUE_NEGATIVE_LOGIT)
    rows = []
    for label, loss in losses.items():
        maps = maps_of(loss, nothing)
        without, _ = loss_and_gradient(loss, correct, nothing, maps)
        value, gradient = loss_and_gradient(loss, torch.where(fp, FALSE_POSITIVE_LOGIT, correct), nothing, maps)
        mean = float(gradient[fp].double().mean()) * fp.numel()
        rows.append({"loss": label, "without_fp": without.item(), "with_fp": value.item(), "fp_gradient": mean})
    return pd.DataFrame(rows)
