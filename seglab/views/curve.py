"""Loss and gradient as curves: of a single pixel where a loss has such a value, else of an image; and over fp x fn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from seglab.analysis import loss_curves as draw
from seglab.analysis.sheet import Sheet, interactive
from seglab.contract import Logits, PerImage, Target, require
from seglab.data.maps import MAPS
from seglab.engine.gradients import at_logits
from seglab.losses.base import Loss

SIDES = ("foreground", "background")
SHARES = (0.01, 0.03, 0.1, 0.3)
QUALITIES = (0.5, 0.7, 0.9, 0.99)
OBJECT = 100
"""Pixels of the object in the plane of false positives and false negatives."""


@dataclass(frozen=True)
class Context:
    """An image to see a loss in: two discs side by side that fill the share `share` of size x size pixels."""

    share: float
    size: int

    def target(self) -> Target:
        """The mask (1, 1, size, size), uint8; as many pixels as the share says, at least one of each class."""
        rows, columns = np.indices((self.size, self.size)) + 0.5
        away = [np.hypot(rows - 0.5 * self.size, columns - x * self.size) for x in (0.25, 0.75)]
        nearest = np.minimum(*away).ravel()
        mask = np.zeros(self.size**2, np.uint8)
        count = min(max(round(self.share * mask.size), 1), mask.size - 1)
        mask[np.argsort(nearest, kind="stable")[:count]] = 1
        return torch.from_numpy(mask.reshape(1, 1, self.size, self.size))

    def maps(self, loss: Loss) -> dict[str, Tensor]:
        """What the loss needs beside the target."""
        mask = self.target()[0, 0].numpy()
        return {name: torch.from_numpy(MAPS[name](mask))[None, None] for name in loss.needs}


def view(losses: Mapping[str, Loss], share: float, quality: float, size: int, points: int, confidence: float) -> Sheet:
    """The curves of some losses.

    Args:
        share: foreground share of the image in which losses without a value of a single pixel are seen.
        quality: probability of the true class of the pixels that stay as they are in that image.
        size: side of that image in pixels.
        points: points of a curve of an image; a pixel's has four times as many.
        confidence: probability of the class that a pixel is taken for in the plane of false positives and negatives.
    """
    for name, value in (("share", share), ("quality", quality), ("confidence", confidence)):
        require(0 < value < 1, "curve", f"{name} between 0 and 1", value)
    require(size >= 8, "curve", "size of at least 8 pixels", size)
    require(points >= 3, "curve", "points of at least 3", points)
    fitted = {label: loss.with_class_frequency([share]) for label, loss in losses.items()}
    alone = {label: loss for label, loss in fitted.items() if additive(loss)}
    flat = {label: loss for label, loss in fitted.items() if label not in alone and exchangeable(loss)}
    sections, figures, tables = [], {}, {}
    if alone:
        tables["pixel"] = single(alone, 4 * points)
        figures["pixel"] = draw.pixel(tables["pixel"])
        caption = "Solid: a foreground pixel. Thin and dotted: a background pixel, where it differs."
        sections.append(("One pixel", draw.still(figures["pixel"], "pixel", caption) + without(losses, alone)))
    frames = in_context(losses, share, quality, size, points)
    chosen = tables["image"] = frames[share, quality]
    figures["image"] = draw.image(chosen, share, quality)
    sections.append(("In an image", in_page(frames, share, quality, size)))
    if flat:
        tables["plane"] = plane(flat, share, confidence)
        figures["plane"] = draw.planes(tables["plane"], OBJECT)
        sections.append(
            ("False positives and false negatives", plane_page(tables["plane"], share, confidence, figures))
        )
    if len(flat) < len(losses):
        sections.append(("Not in the plane", not_flat(fitted, alone, flat)))
    title = "Loss and gradient: " + ", ".join(losses)
    return Sheet(title, sections, figures, tables)


def additive(loss: Loss) -> bool:
    """Whether the loss of an image is the mean of what its pixels cost alone, so that a pixel has its own value."""
    if loss.needs:
        return False
    z = torch.tensor([-2.0, -0.3, 0.4, 1.7, 2.5, -1.1], dtype=torch.float64)
    t = torch.tensor([1, 0, 1, 0, 0, 0], dtype=torch.uint8)
    whole = loss(z.view(1, 1, 2, 3), t.view(1, 1, 2, 3))
    pixels = probe(loss, z.view(-1, 1, 1, 1), t.view(-1, 1, 1, 1), {})[0]
    return bool(torch.allclose(whole, pixels.mean(), rtol=1e-9, atol=1e-12))


def exchangeable(loss: Loss) -> bool:
    """Whether only the numbers of false pixels count, and not where they lie."""
    if loss.needs:
        return False
    context = Context(0.2, 12)
    target, order = context.target(), torch.randperm(144, generator=torch.Generator().manual_seed(0))
    z = torch.randn(144, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mixed = loss(z[order].view(1, 1, 12, 12), target.flatten()[order].view(1, 1, 12, 12))
    return bool(torch.allclose(loss(z.view(1, 1, 12, 12), target), mixed, rtol=1e-9, atol=1e-12))


def probe(loss: Loss, logits: Logits, target: Target, maps: Mapping[str, Tensor]) -> tuple[PerImage, Tensor]:
    """The loss of each image (n,) and its gradient (n, 1, h, w), each image alone: a loss may pool its batch."""
    targets = target.expand_as(logits)
    found = [at_logits(loss, logits[k : k + 1], targets[k : k + 1], maps) for k in range(len(logits))]
    return torch.cat([value for value, _ in found]), torch.cat([gradient for _, gradient in found])


def margins(points: int, reach: float) -> Tensor:
    """Signed margins, from wrong to right, whose probabilities of the true class a curve is drawn over."""
    return torch.linspace(-reach, reach, points, dtype=torch.float64)


def single(losses: Mapping[str, Loss], points: int) -> pd.DataFrame:
    """Loss and gradient of single pixels: a row per loss, side and point.

    Columns: p (of the true class), logit, value, by_logit (dL/dz) and by_p (the same per unit of p).
    """
    margin = margins(points, 7.0)
    p = torch.sigmoid(margin)
    rows = []
    for label, loss in losses.items():
        for side in SIDES:
            sign, truth = (1, 1) if side == "foreground" else (-1, 0)
            z = (sign * margin).view(-1, 1, 1, 1)
            value, slope = (x.flatten() for x in probe(loss, z, torch.full_like(z, truth), {}))
            columns = {"p": p, "logit": z.flatten(), "value": value, "by_logit": slope}
            columns["by_p"] = sign * slope / (p * torch.sigmoid(-margin))
            rows.append(pd.DataFrame({"loss": label, "pixel": side} | {k: x.numpy() for k, x in columns.items()}))
    return pd.concat(rows, ignore_index=True)


def moved(loss: Loss, context: Context, quality: float, margin: Tensor) -> dict[str, dict[str, np.ndarray]]:
    """What one loss makes of an image in which all pixels of one class move over the margins, and the others stay."""
    target, maps = context.target(), context.maps(loss)
    rest = math.log(quality / (1 - quality))
    sides = {}
    for side in SIDES:
        moving = target == (side == "foreground")
        z = torch.where(moving, margin.view(-1, 1, 1, 1), rest) * (2.0 * target.double() - 1)
        value, slope = probe(loss, z, target, maps)
        each = (slope * moving).sum((1, 2, 3)) / moving.sum()
        sides[side] = {"p": torch.sigmoid(margin), "logit": margin * (1 if side == "foreground" else -1)}
        sides[side] |= {"value": value, "by_logit": target.numel() * each}
    return {side: {name: x.numpy() for name, x in columns.items()} for side, columns in sides.items()}


def in_context(
    losses: Mapping[str, Loss], share: float, quality: float, size: int, points: int
) -> dict[tuple[float, float], pd.DataFrame]:
    """Every loss in images of several foreground shares and qualities: a table for each, as `single` makes it.

    `by_logit` is the gradient of one of the moving pixels times the number of pixels in the image, so that it is on
    the scale of a single pixel's whatever the size of the image.
    """
    stops = [(a, b) for a in sorted({*SHARES, share}) for b in sorted({*QUALITIES, quality})]
    tables = {}
    for a, b in tqdm(stops, desc="images", disable=None):
        rows = [
            pd.DataFrame({"loss": label, "pixel": side} | columns)
            for label, loss in losses.items()
            for side, columns in moved(
                loss.with_class_frequency([a]), Context(a, size), b, margins(points, 5.0)
            ).items()
        ]
        tables[a, b] = pd.concat(rows, ignore_index=True)
    return tables


def plane(losses: Mapping[str, Loss], share: float, confidence: float) -> pd.DataFrame:
    """Loss over false positives fp and false negatives fn, in pixels, at an object of OBJECT pixels in an image."""
    pixels = round(OBJECT / share)
    margin = math.log(confidence / (1 - confidence))
    target = torch.zeros(1, 1, 1, max(pixels, 2 * OBJECT), dtype=torch.uint8)
    target[..., :OBJECT] = 1
    beside = min(2 * OBJECT, target.numel() - OBJECT)
    rows = []
    for fn in range(0, OBJECT + 1, 5):
        for fp in np.linspace(0, beside, 21).astype(int):
            z = torch.full(target.shape, -margin, dtype=torch.float64)
            z[..., fn : OBJECT + fp] = margin
            rows += [
                {"loss": label, "fp": fp, "fn": fn, "value": loss(z, target).item()} for label, loss in losses.items()
            ]
    return pd.DataFrame(rows)


def percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def without(losses: Mapping[str, Loss], shown: Mapping[str, Loss]) -> str:
    """Say which losses have no value of a single pixel."""
    names = [label for label in losses if label not in shown]
    return draw.note(f"{', '.join(names)}: no value of a single pixel; see the next figure.") if names else ""


def in_page(frames: Mapping[tuple[float, float], pd.DataFrame], share: float, quality: float, size: int) -> str:
    caption = (
        f"An image of {size} x {size} pixels with two discs of foreground. Above, all foreground pixels have the "
        "probability on the axis, and all background pixels the set probability of being taken for background; below, "
        "the other way round. The pull is the gradient towards the truth on one of the pixels that move, times the "
        "number of pixels in the image, so that it compares with a single pixel's. Move the sliders to change the "
        "foreground share and the pixels that stay."
    )
    stops = {f"{percent(a)}|{b:g}": table for (a, b), table in frames.items()}
    sliders = {
        "foreground share": (sorted({percent(a): a for a, _ in frames}, key=lambda x: float(x[:-2])), percent(share)),
        "probability of the true class of the pixels that stay": (
            [f"{b:g}" for b in sorted({b for _, b in frames})],
            f"{quality:g}",
        ),
    }
    return interactive(draw.slide(stops, f"{percent(share)}|{quality:g}"), caption, sliders, wide=True)


def plane_page(table: pd.DataFrame, share: float, confidence: float, figures: Mapping[str, object]) -> str:
    """The heat maps, and the surfaces to turn."""
    caption = (
        f"An object of {OBJECT} pixels in an image of which it is {percent(share)}; every pixel is called "
        f"foreground or background with probability {confidence:g}. Bottom left nothing is wrong; to the right pixels "
        "are found beside the object, upwards pixels of it are missed. Numbers on the lines are the loss; colours go "
        "up to its largest value."
    )
    heat = draw.still(figures["plane"], "plane", caption)
    return heat + interactive(draw.surfaces(table, OBJECT), "The same as a surface to turn; choose the loss above it.")


def not_flat(losses: Mapping[str, Loss], alone: Mapping[str, Loss], flat: Mapping[str, Loss]) -> str:
    """Why some losses have no surface over false positives and false negatives."""
    placed = [label for label in losses if label not in alone and label not in flat]
    words: Sequence[str] = [
        f"{', '.join(alone)}: each false pixel costs the same whatever the others do, so the surface is a flat slope."
        if alone
        else "",
        f"{', '.join(placed)}: it matters where the false pixels lie, not only how many they are." if placed else "",
    ]
    return draw.note(" ".join(filter(None, words)))
