"""Where the gradient of each loss would fall on the user's own masks, before an hour of training is spent."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from seglab.analysis import xray as draw
from seglab.analysis.sheet import Sheet
from seglab.contract import Logits, Target, require
from seglab.data.base import Dataset
from seglab.data.loading import Samples
from seglab.data.maps import MAPS
from seglab.data.module import DataModule
from seglab.engine.gradients import at_logits, hard, near_edge
from seglab.engine.module import SegModule
from seglab.engine.records import spread
from seglab.engine.saved import open_run
from seglab.losses.base import Loss
from seglab.views.advice import learning_rates, warnings
from seglab.views.stages import object_sizes, soft_iou, stages

log = logging.getLogger(__name__)
ALARM, CALM = math.log(0.9 / 0.1), -4.0
"""Logits of a false alarm (p = 0.9) and of the background beside it (p = 0.02) on an empty image."""
TOPS = np.logspace(-5, 0, 61)
"""Shares of the pixels, the hardest pulled first, at which the share of the gradient is read."""


def view(
    losses: Mapping[str, Loss],
    dataset: Dataset,
    module: SegModule,
    optimizer: Mapping[str, Any],
    images: int,
    batch: int,
    edge: int,
    run: str | None,
    seed: int,
) -> Sheet:
    """The X-ray of some losses on a data set.

    Args:
        module: a fresh model, for the untrained prediction and the gradients of its weights; its own loss is not used.
        optimizer: its node of the configuration: `_target_`, `lr`, and `eps` where it has one.
        images: how many training images to look at, from the least to the most foreground.
        batch: how many of them make a batch.
        edge: pixels from the mask's outline that count as its edge.
        run: folder of a run whose best weights give one more prediction.
        seed: of the noise in the simulated predictions.
    """
    for name, value in (("images", images), ("batch", batch), ("edge", edge)):
        require(value >= 1, "xray", f"{name} of at least 1", value)
    data = DataModule(
        dataset, None, batch, needs=tuple(dict.fromkeys(n for loss in losses.values() for n in loss.needs))
    )
    facts = data.facts()
    losses = {label: loss.with_class_frequency([facts["foreground"]]) for label, loss in losses.items()}
    seen = chosen_images(data.samples("train"), data.data.shares_of("train"), images)
    for loss in losses.values():
        loss.check(torch.zeros(seen["target"].shape), seen["target"])
    predictions = stages(module, open_run(run).module() if run else None, seen, batch, seed)
    log.info(
        "data: %d of %d training images; %.3g %% foreground",
        len(seen["target"]),
        facts["images"]["train"],
        100 * facts["foreground"],
    )
    shares, norms, tops, pictures = measured(losses, predictions, seen, batch, edge)
    empty = on_empty(losses, seen["target"])
    weights = at_weights(losses, module, seen, batch)
    rates = learning_rates(weights, optimizer)
    said = warnings(shares, norms, empty, weights, optimizer)
    qualities = {name: soft_iou(logits, seen["target"]) for name, logits in predictions.items()}
    log.info("%s", draw.terminal(shares, norms, empty, rates, said))
    return draw.sheet(shares, norms, tops, empty, rates, said, pictures, qualities, edge, str(optimizer["_target_"]))


def chosen_images(samples: Samples, shares: np.ndarray, count: int) -> dict[str, Any]:
    """One batch of samples, evenly from the images with the least to those with the most foreground."""
    numbers = [samples.source.number(index) for index in range(len(samples))]
    return samples.__getitems__([(0, index) for index in sorted(spread(shares[numbers], count))])


def regions(logits: Logits, target: Target, edge: int) -> dict[str, Tensor]:
    """The pixels (n, 1, h, w) whose share of the gradient is read; small objects are those of less than median size."""
    t, sizes = target >= 0.5, object_sizes(target)
    areas = torch.cat([sizes[k][sizes[k] > 0].unique() for k in range(len(sizes))])
    middle = areas.double().median() if len(areas) else 0
    sure = (2.0 * t - 1) * logits >= math.log(9)
    empty = ~t.flatten(1).any(1).view(-1, 1, 1, 1)
    areas_of = {
        "foreground": t,
        "background": ~t,
        "edge": near_edge(t, edge),
        "small objects": t & (sizes <= middle),
        "large objects": t & (sizes > middle),
        "hard": hard(logits, t.float()),
        "easy": sure,
    }
    return areas_of | ({"empty images": empty.expand_as(t)} if empty.any() else {})


def gradient_of(loss: Loss, logits: Logits, seen: Mapping[str, Any], batch: int) -> tuple[Tensor, Tensor]:
    """The loss (n,) and its gradient (n, 1, h, w), in batches as in training."""
    keys = ["target", *loss.needs]
    found = []
    for start in range(0, len(logits), batch):
        part = slice(start, start + batch)
        target, *maps = (seen[key][part] for key in keys)
        found.append(at_logits(loss, logits[part], target, dict(zip(loss.needs, maps, strict=True))))
    return torch.cat([value for value, _ in found]), torch.cat([slope for _, slope in found])


def measured(
    losses: Mapping[str, Loss], predictions: Mapping[str, Logits], seen: Mapping[str, Any], batch: int, edge: int
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, list[draw.Picture]]:
    """Every loss on every prediction.

    Gives the share of the pixels and of |dL/dlogit| in each region (stage, loss, region, pixels, gradient), one row per
    stage and loss (value, norm of the gradient of an image, `carry`: the least share of the pixels that carries 90 % of
    it), its share on the most pulled pixels (stage, loss, pixels, gradient), and pictures of one image.
    """
    rows, sums, tops = [], [], []
    target = seen["target"]
    middle = typical(target)
    pictures = []
    for stage, logits in tqdm(predictions.items(), desc="predictions", disable=None):
        areas = regions(logits, target, edge)
        maps = {}
        for label, loss in losses.items():
            value, slope = gradient_of(loss, logits, seen, batch)
            size = slope.abs().double()
            whole = size.sum().clamp(min=1e-300)
            for name, area in areas.items():
                parts = {"pixels": area.double().mean().item(), "gradient": ((size * area).sum() / whole).item()}
                rows.append({"stage": stage, "loss": label, "region": name} | parts)
            rising = size.flatten().sort(descending=True).values.cumsum(0) / whole
            at = (TOPS * len(rising)).round().clip(1).astype(int) - 1
            tops.append(pd.DataFrame({"stage": stage, "loss": label, "pixels": TOPS, "gradient": rising[at].numpy()}))
            carry = (int((rising < 0.9).sum()) + 1) / len(rising) if size.sum() > 0 else math.nan
            norm = slope.double().flatten(1).norm(dim=1).mean().item()
            sums.append({"stage": stage, "loss": label, "value": value.mean().item(), "norm": norm, "carry": carry})
            maps[label] = (size[middle, 0] / size[middle].mean().clamp(min=1e-300)).numpy()
        image = seen["image"][middle].permute(1, 2, 0).numpy()
        pictures.append(
            draw.Picture(stage, image, target[middle, 0].numpy(), logits[middle, 0].sigmoid().numpy(), maps)
        )
    return pd.DataFrame(rows), pd.DataFrame(sums), pd.concat(tops, ignore_index=True), pictures


def typical(target: Target) -> int:
    """The image whose foreground is the median of those that have any."""
    amounts = target.flatten(1).double().sum(1)
    order = [int(k) for k in amounts.argsort() if amounts[k] > 0]
    require(bool(order), "xray", "an image with foreground", "none", "raise xray.images")
    return order[len(order) // 2]


def on_empty(losses: Mapping[str, Loss], target: Target) -> pd.DataFrame:
    """What the losses say to an image without foreground: `clean`, and with a false alarm as large as a typical object.

    Columns: loss, clean and alarm (values), pull (gradient of a falsely alarmed pixel times the number of pixels; cross
    entropy's is 0.9).
    """
    alarm = target[typical(target)][None] >= 0.5
    nothing = torch.zeros(alarm.shape, dtype=torch.uint8)
    clean = torch.full(alarm.shape, CALM)
    rows = []
    for label, loss in losses.items():
        maps = {name: torch.from_numpy(MAPS[name](nothing[0, 0].numpy()))[None, None] for name in loss.needs}
        calm, _ = at_logits(loss, clean, nothing, maps)
        value, slope = at_logits(loss, torch.where(alarm, ALARM, clean), nothing, maps)
        pull = float(slope[alarm].double().mean()) * alarm.numel()
        rows.append({"loss": label, "clean": calm.item(), "alarm": value.item(), "pull": pull})
    return pd.DataFrame(rows)


def at_weights(losses: Mapping[str, Loss], module: SegModule, seen: Mapping[str, Any], batch: int) -> pd.DataFrame:
    """The norm of each loss's gradient by the weights of the fresh model on one batch; `rms`: of a typical weight."""
    picks = torch.linspace(0, len(seen["target"]) - 1, min(batch, len(seen["target"]))).round().long()
    part = {key: seen[key][picks] for key in seen if key not in ("id", "index")}
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    logits = module.train()(part["image"])
    rows = []
    for label, loss in tqdm(losses.items(), desc="weights", disable=None):
        total = loss(logits, part["target"], **{name: part[name] for name in loss.needs}).mean()
        slopes = torch.autograd.grad(total, weights, retain_graph=True, allow_unused=True)
        norm = math.sqrt(sum(float(slope.double().square().sum()) for slope in slopes if slope is not None))
        rows.append({"loss": label, "norm": norm, "rms": norm / math.sqrt(sum(weight.numel() for weight in weights))})
    return pd.DataFrame(rows)
