"""Loss and gradient as curves: of a single pixel where a loss has such a value, of an image, and over errors."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from seglab.contract import Logits, PerImage, Target, require
from seglab.data.distance_maps import MAPS
from seglab.engine.gradient_stats import loss_and_gradient
from seglab.losses.base import Loss
from seglab.views.curve_figures import OBJECT, SIDES, page
from seglab.views.view_page import ViewPage

FRACTIONS = (0.01, 0.03, 0.1, 0.3)
"""Foreground fractions that the page shows beside the chosen one."""


@dataclass(frozen=True)
class Context:
    """An image to see a loss in: two discs side by side that fill a `fraction` of size x size pixels."""

    fraction: float
    size: int

    def target(self) -> Target:
        """The mask (1, 1, size, size), uint8; as many pixels as the fraction says, at least one of each class."""
        rows, columns = np.indices((self.size, self.size)) + 0.5
        away = [np.hypot(rows - 0.5 * self.size, columns - x * self.size) for x in (0.25, 0.75)]
        nearest = np.minimum(*away).ravel()
        mask = np.zeros(self.size**2, np.uint8)
        count = min(max(round(self.fraction * mask.size), 1), mask.size - 1)
        mask[np.argsort(nearest, kind="stable")[:count]] = 1
        return torch.from_numpy(mask.reshape(1, 1, self.size, self.size))

    def maps(self, loss: Loss) -> dict[str, Tensor]:
        """What the loss needs beside the target."""
        mask = self.target()[0, 0].numpy()
        return {name: torch.from_numpy(MAPS[name](mask))[None, None] for name in loss.needs}


def view(
    losses: Mapping[str, Loss], foreground: float, quality: float, size: int, points: int, confidence: float
) -> ViewPage:
    """The curves of some losses.

    Args:
        foreground: foreground fraction of the image in which losses without a value of a single pixel are seen.
        quality: probability of the true class of the pixels that stay as they are in that image.
        size: side of that image in pixels.
        points: points of a curve of an image; a pixel's has four times as many.
        confidence: probability of the predicted class of a pixel in the plane of false positives and negatives.
    """
    for name, value in (("foreground", foreground), ("quality", quality), ("confidence", confidence)):
        require(0 < value < 1, "curve", f"{name} between 0 and 1", value)
    require(size >= 8, "curve", "size of at least 8 pixels", size)
    require(points >= 3, "curve", "points of at least 3", points)
    fitted = {label: loss.with_class_frequency([foreground]) for label, loss in losses.items()}
    additive = {label: loss for label, loss in fitted.items() if is_additive(loss)}
    counting = {label: loss for label, loss in fitted.items() if label not in additive and is_exchangeable(loss)}
    return page(
        list(losses),
        pixel_curves(additive, 4 * points) if additive else None,
        {a: image_curves(losses, a, quality, size, points) for a in sorted({*FRACTIONS, foreground})},
        error_plane(counting, foreground, confidence) if counting else None,
        {"foreground": foreground, "quality": quality, "size": size, "confidence": confidence},
    )


def is_additive(loss: Loss) -> bool:
    """Whether the loss of an image is the mean of what its pixels cost alone, so that a pixel has its own value."""
    if loss.needs:
        return False
    z = torch.tensor([-2.0, -0.3, 0.4, 1.7, 2.5, -1.1], dtype=torch.float64)
    t = torch.tensor([1, 0, 1, 0, 0, 0], dtype=torch.uint8)
    whole = loss(z.view(1, 1, 2, 3), t.view(1, 1, 2, 3))
    pixels = one_by_one(loss, z.view(-1, 1, 1, 1), t.view(-1, 1, 1, 1), {})[0]
    return bool(torch.allclose(whole, pixels.mean(), rtol=1e-9, atol=1e-12))


def is_exchangeable(loss: Loss) -> bool:
    """Whether only the numbers of false pixels count, and not where they lie."""
    if loss.needs:
        return False
    context = Context(0.2, 12)
    target, order = context.target(), torch.randperm(144, generator=torch.Generator().manual_seed(0))
    z = torch.randn(144, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mixed = loss(z[order].view(1, 1, 12, 12), target.flatten()[order].view(1, 1, 12, 12))
    return bool(torch.allclose(loss(z.view(1, 1, 12, 12), target), mixed, rtol=1e-9, atol=1e-12))


def one_by_one(loss: Loss, logits: Logits, target: Target, maps: Mapping[str, Tensor]) -> tuple[PerImage, Tensor]:
    """The loss of each image (n,) and its gradient (n, 1, h, w), each image alone: a loss may pool its batch."""
    targets = target.expand_as(logits)
    found = [loss_and_gradient(loss, logits[k : k + 1], targets[k : k + 1], maps) for k in range(len(logits))]
    return torch.cat([value for value, _ in found]), torch.cat([gradient for _, gradient in found])


def margins(points: int, reach: float) -> Tensor:
    """Signed margins, from wrong to right, whose probabilities of the true class a curve is drawn over."""
    return torch.linspace(-reach, reach, points, dtype=torch.float64)


def pixel_curves(losses: Mapping[str, Loss], points: int) -> pd.DataFrame:
    """Loss and gradient of single pixels: a row per loss, side and point.

    Columns: p (of the true class), logit, value, by_logit (dL/dz) and by_p (the same per unit of p).
    """
    margin = margins(points, 7.0)
    p = torch.sigmoid(margin)
    rows = []
    for label, loss in losses.items():
        for side, sign in zip(SIDES, (1, -1), strict=True):
            z = (sign * margin).view(-1, 1, 1, 1)
            value, gradient = (x.flatten() for x in one_by_one(loss, z, (sign * torch.ones_like(z)).clamp(0), {}))
            columns = {"p": p, "logit": z.flatten(), "value": value, "by_logit": gradient}
            columns["by_p"] = sign * gradient / (p * torch.sigmoid(-margin))
            rows.append(pd.DataFrame({"loss": label, "pixel": side} | {k: x.numpy() for k, x in columns.items()}))
    return pd.concat(rows, ignore_index=True)


def image_curve(loss: Loss, context: Context, quality: float, margin: Tensor) -> dict[str, dict[str, np.ndarray]]:
    """One loss of an image in which all pixels of one class move over the margins, and the others stay, by side."""
    target, maps = context.target(), context.maps(loss)
    rest = math.log(quality / (1 - quality))
    sides = {}
    for side, sign in zip(SIDES, (1, -1), strict=True):
        moving = target == (side == "foreground")
        z = torch.where(moving, margin.view(-1, 1, 1, 1), rest) * (2.0 * target.double() - 1)
        value, gradient = one_by_one(loss, z, target, maps)
        each = (gradient * moving).sum((1, 2, 3)) / moving.sum()
        columns = {"p": torch.sigmoid(margin), "logit": sign * margin, "value": value}
        columns["by_logit"] = target.numel() * each
        sides[side] = {name: x.numpy() for name, x in columns.items()}
    return sides


def image_curves(losses: Mapping[str, Loss], foreground: float, quality: float, size: int, points: int) -> pd.DataFrame:
    """Every loss in an image of a foreground fraction and a quality: a table with the columns of `pixel_curves`.

    `by_logit` is the gradient of one of the moving pixels times the number of pixels in the image, so that it is on
    the scale of a single pixel's whatever the size of the image.
    """
    context, rows = Context(foreground, size), []
    for label, loss in losses.items():
        sides = image_curve(loss.with_class_frequency([foreground]), context, quality, margins(points, 5.0))
        rows += [pd.DataFrame({"loss": label, "pixel": side} | columns) for side, columns in sides.items()]
    return pd.concat(rows, ignore_index=True)


def error_plane(losses: Mapping[str, Loss], foreground: float, confidence: float) -> pd.DataFrame:
    """Loss over false positives fp and false negatives fn, in pixels, at an object of OBJECT pixels in an image."""
    margin = math.log(confidence / (1 - confidence))
    target = torch.zeros(1, 1, 1, max(round(OBJECT / foreground), 2 * OBJECT), dtype=torch.uint8)
    target[..., :OBJECT] = 1
    most = min(2 * OBJECT, target.numel() - OBJECT)
    rows = []
    for fn in range(0, OBJECT + 1, 5):
        for fp in np.linspace(0, most, 21).astype(int):
            z = torch.full(target.shape, -margin, dtype=torch.float64)
            z[..., fn : OBJECT + fp] = margin
            for label, loss in losses.items():
                rows.append({"loss": label, "fp": fp, "fn": fn, "value": loss(z, target).item()})
    return pd.DataFrame(rows)
