"""Predictions and the loss of each pixel, at several snapshots and for several losses, on one color scale."""

import re
from collections.abc import Sequence
from textwrap import fill
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from seglab.contract import require
from seglab.plots import paint_errors, styled
from seglab.views.view_page import Animation, ViewPage, color_bar, picture_grid, show

ERRORS = "errors: true positive white, false positive orange, false negative blue"
LOSS_COLORS = "inferno"
DECADES = 4


class Inspection(NamedTuple):
    """One prediction: arrays (h, w) of probability, confidence and pixel losses; its loss, threshold and scores."""

    probability: np.ndarray
    confidence: np.ndarray
    loss_map: np.ndarray
    loss: float
    threshold: float
    scores: dict[str, float]


class ImageHistory(NamedTuple):
    """One image (h, w, c) uint8 with its truth (h, w), inspected by row (run or loss) and column (snapshot)."""

    id: str
    image: np.ndarray
    truth: np.ndarray
    snapshots: Sequence[str]
    rows: dict[str, list[Inspection]]


def page(
    title: str, histories: Sequence[ImageHistory], measure: str, words: str, snapshots: pd.Series, colors: str
) -> ViewPage:
    """The page of some images: pictures, animations and numbers.

    Args:
        measure, words: what the maps of a loss show: a heading, and a caption.
        snapshots: the number behind each column's name, and by its own name the unit: epoch, step.
        colors: log or linear.
    """
    require(colors in ("log", "linear"), "surface", "colors as log or linear", colors)
    values = np.concatenate([x.loss_map.ravel() for one in histories for row in one.rows.values() for x in row])
    log = colors == "log"
    low, high = scale(values, log)
    norm = LogNorm(low, high, clip=True) if log else Normalize(low, high)
    one_scale = (
        f"One {'logarithmic' if log else 'linear'} scale of colors, from {low:.2g} to {high:.3g}, holds for"
        f" every loss, snapshot and image here; {100 * float((values > high).mean()):.2g} % of the pixels lie above it."
    )
    kinds = {"probability": "probability", "errors": ERRORS, "confidence": "confidence: the probability of the truth"}
    kinds[measure] = words
    sections, animations = [], {}
    figures: dict[str, Figure] = {}
    for one in histories:
        key = re.sub(r"[^0-9A-Za-z]+", "-", one.id)
        animations[key] = animation(one, list(kinds), norm)
        caption = f"Drag the slider through the snapshots. The last column shows {words}. {one_scale} In {ERRORS}."
        sections.append((f"{one.id} through training", animations[key].html(caption)))
        figures |= {f"{key}_{name}": figure for name, figure in grids(one, kinds, norm).items()}
    return ViewPage(title, sections, figures, {"pixels": table(histories, snapshots)}, animations)


def scale(values: np.ndarray, log: bool) -> tuple[float, float]:
    """The ends of one color scale for every map, up to what one pixel in 1000 exceeds.

    A linear one begins at 0 (or below, where an attribution is), a logarithmic one DECADES below its top, and what lies
    below is drawn like its lower end.
    """
    low, high = (float(x) for x in np.quantile(values, [0.001, 0.999]))
    high = max(high, 1e-12)
    if log:
        return high * 10**-DECADES, high
    return (low if low < -1e-6 * high else 0.0), high


def grids(history: ImageHistory, kinds: dict[str, str], norm: Normalize) -> dict[str, Figure]:
    """The pictures of an image with a column per snapshot: all kinds in one figure for one row, else one for each."""
    if len(history.rows) == 1:
        ((title, row),) = history.rows.items()
        about = f"{history.id}: {title}: the last row shows {[*kinds.values()][-1]}; {ERRORS}"
        rows = {kind: [(kind, x) for x in row] for kind in kinds}
        return {"pixels": pictures(history, rows, history.snapshots, about, norm)}
    figures = {}
    for kind, about in kinds.items():
        rows = {title: [(kind, x) for x in row] for title, row in history.rows.items()}
        figures[kind] = pictures(history, rows, history.snapshots, f"{history.id}: {about}", norm)
    return figures


def animation(history: ImageHistory, kinds: Sequence[str], norm: Normalize) -> Animation:
    """The snapshots of an image one after the other, each with a row per run or loss and every kind of map."""
    frames = {}
    for place, snapshot in enumerate(history.snapshots):
        rows = {title: [(kind, row[place]) for kind in kinds] for title, row in history.rows.items()}
        frames[snapshot] = pictures(history, rows, kinds, f"{history.id}, {snapshot}", norm)
    return Animation(frames)


@styled
def pictures(
    history: ImageHistory,
    rows: dict[str, list[tuple[str, Inspection]]],
    columns: Sequence[str],
    title: str,
    norm: Normalize,
) -> Figure:
    """Rows of maps, each of a kind and an inspection; the image and its truth stand before the first row."""
    height, width = history.truth.shape
    size = (2.1 + 1.4 * (2 + len(columns)), 0.6 + len(rows) * (1.4 * height / width + 0.22))
    figure, axes = picture_grid(list(rows), ["image", "truth", *columns], size, named=2)
    show(axes[0, 0], history.image.squeeze(), cmap="gray", vmin=0, vmax=255)
    show(axes[0, 1], history.truth, cmap="gray", vmin=0, vmax=1)
    scaled: dict[str, list[Axes]] = {}
    for line, row in zip(axes, rows.values(), strict=True):
        for axis, (kind, inspection) in zip(line[2:], row, strict=True):
            draw(axis, history, inspection, kind, norm)
            scaled.setdefault(kind, []).extend(line)
    for kind in [kind for kind in scaled if kind not in ("probability", "errors")]:
        look: tuple[Normalize, str, str] = (norm, LOSS_COLORS, "max")
        one, colors, end = (Normalize(0, 1), "viridis", "neither") if kind == "confidence" else look
        color_bar(figure, dict.fromkeys(scaled[kind]), one, colors, kind, shrink=0.9, aspect=25, extend=end)
    figure.suptitle(fill(title, int(15 * size[0])), fontsize=9, x=0.01, ha="left")
    return figure


def draw(axis: Axes, history: ImageHistory, seen: Inspection, kind: str, norm: Normalize) -> None:
    """Draw one map, and below it the number that sums it up."""
    if kind == "probability":
        show(axis, seen.probability, cmap="gray", vmin=0, vmax=1)
    elif kind == "errors":
        painted = paint_errors(history.image, history.truth, seen.probability, seen.threshold)
        show(axis, painted, f"IoU {seen.scores['iou']:.3f}")
    elif kind == "confidence":
        below = f"foreground {seen.scores['foreground_confidence']:.2f}"
        show(axis, seen.confidence, below, cmap="viridis", vmin=0, vmax=1)
    else:
        show(axis, seen.loss_map, f"loss {seen.loss:.4g}", cmap=LOSS_COLORS, norm=norm)


def table(histories: Sequence[ImageHistory], snapshots: pd.Series) -> pd.DataFrame:
    """A row per image, row and snapshot: the loss, its fraction on the foreground, its highest pixel, the scores."""
    rows = []
    for history in histories:
        foreground = history.truth >= 0.5
        for title, row in history.rows.items():
            for seen, snapshot in zip(row, snapshots, strict=True):
                size = np.abs(seen.loss_map)
                facts = {"image": history.id, "row": title, str(snapshots.name): snapshot, "loss": seen.loss}
                facts["on_foreground"] = float(size[foreground].sum() / size.sum()) if size.any() else float("nan")
                facts["highest_pixel"] = float(seen.loss_map.max())
                rows.append(facts | seen.scores)
    return pd.DataFrame(rows)
