"""Predictions and what each pixel costs, at several snapshots and for several losses, on one colour scale."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from textwrap import fill
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
import plotly.graph_objects as go
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from plotly.subplots import make_subplots

from seglab.contract import require
from seglab.plots import FAINT, STYLE, paint_errors
from seglab.views.animation import Film
from seglab.views.view_page import Sheet, interactive

COLORS = {"loss": "inferno", "confidence": "viridis"}
BARE = {
    **STYLE,
    "axes.grid": False,
    "image.interpolation": "nearest",
    "axes.spines.left": False,
    "axes.spines.bottom": False,
}
HUES = "errors: hit white, false alarm orange, miss blue"
KINDS = {
    "probability": "probability",
    "errors": HUES,
    "confidence": "confidence: the probability of the true class",
    "loss": "loss of each pixel",
}
DECADES = 4
SIDE = 64
"""A surface to turn in the page has no more points than this along each side."""


def narrow(label: str) -> str:
    """A label beside a picture, a line for each of its parts: `focal gamma=3`, `bce · size=96`."""
    return "\n".join(label.replace(" · ", " ").split())


class Look(NamedTuple):
    """One prediction: arrays (h, w) of its probability, confidence and pixel losses; its loss, threshold and scores."""

    probability: np.ndarray
    confidence: np.ndarray
    loss: np.ndarray
    value: float
    threshold: float
    scores: dict[str, float]


class Scene(NamedTuple):
    """One image (h, w, c) uint8 with its truth (h, w), and looks at it by row (run, loss) and column (snapshot)."""

    id: str
    image: np.ndarray
    truth: np.ndarray
    snapshots: Sequence[str]
    rows: dict[str, list[Look]]


def sheet(title: str, scenes: Sequence[Scene], words: str, snapshots: pd.Series, colours: str) -> Sheet:
    """Make the sheet of some scenes: grids, films and numbers; `words` say what the loss maps show.

    `snapshots` gives the number behind each column's name, and by its own name the unit: epoch, step. `colours` is log
    or linear.
    """
    norm = scale(scenes, colours)
    kind = "logarithmic" if isinstance(norm, LogNorm) else "linear"
    top = (
        f"One {kind} scale of colors and heights, from {norm.vmin:.2g} to {norm.vmax:.3g}, serves every loss, snapshot "
        f"and image here; {over(scenes, norm):.2g} % of the pixels lie above it."
    )
    sections, figures, films = [], {}, {}
    for scene in scenes:
        key = re.sub(r"[^0-9A-Za-z]+", "-", scene.id)
        films[key] = film(scene, norm, words)
        caption = f"Drag the slider through the snapshots. The last column shows the {words}. {top} In {HUES}."
        sections.append((f"{scene.id} through training", films[key].html(caption)))
        for kind, figure in grids(scene, norm, words):
            figures[f"{key}_{kind}"] = figure
    turned = interactive(
        relief(scenes[0], norm), f"Turn each surface with the mouse. Height and colour: {words}. {top}"
    )
    sections.insert(1, (f"{scenes[0].id} as a surface", turned))
    return Sheet(title, sections, figures, {"pixels": table(scenes, snapshots)}, films)


def scale(scenes: Sequence[Scene], colours: str) -> Normalize:
    """One colour scale for every map, up to what one pixel in 1000 exceeds.

    A linear one begins at 0 (or below, where shares are), a logarithmic one DECADES below its top, and what lies below
    is drawn like its lower end.
    """
    require(colours in ("log", "linear"), "surface", "colours as log or linear", colours)
    values = np.concatenate([look.loss.ravel() for scene in scenes for row in scene.rows.values() for look in row])
    low, high = (float(x) for x in np.quantile(values, [0.001, 0.999]))
    high = max(high, 1e-12)
    if colours == "log":
        return LogNorm(high * 10**-DECADES, high)
    return Normalize(low if low < -1e-6 * high else 0.0, high)


def over(scenes: Sequence[Scene], norm: Normalize) -> float:
    """How many percent of all pixels lie above the scale."""
    maps = [look.loss for scene in scenes for row in scene.rows.values() for look in row]
    return 100 * float(np.mean([values > norm.vmax for values in maps]))


def grids(scene: Scene, norm: Normalize, words: str) -> Iterator[tuple[str, Figure]]:
    """The grids of pictures of a scene: every kind in one if it has one row, else one grid of rows for each kind."""
    if len(scene.rows) == 1:
        ((title, looks),) = scene.rows.items()
        told = f"{title}: the last row shows the {words}; {HUES}"
        yield "pixels", grid(scene, {heading(kind, words): (kind, looks) for kind in KINDS}, norm, told)
        return
    for kind, told in KINDS.items():
        rows = {title: (kind, looks) for title, looks in scene.rows.items()}
        yield kind, grid(scene, rows, norm, words if kind == "loss" else told)


def grid(scene: Scene, rows: dict[str, tuple[str, list[Look]]], norm: Normalize, told: str) -> Figure:
    """Draw rows of pictures, a column per snapshot, after the image and its truth."""
    height, width = scene.truth.shape
    cell = 1.25
    with mpl.rc_context(BARE):
        size = (1.3 + cell * (1 + len(scene.snapshots)) + 0.8, 0.6 + len(rows) * (cell * height / width + 0.22))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(len(rows), 1 + len(scene.snapshots), squeeze=False)
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[])
        for axis in axes[2:, 0]:
            axis.set_visible(False)
        for axis, picture, name in zip(axes[:, 0], (scene.image, scene.truth), ("image", "truth"), strict=False):
            axis.imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=255 if name == "image" else 1)
            axis.set_title(name, color=FAINT, fontsize=8)
        for axis, snapshot in zip(axes[0, 1:], scene.snapshots, strict=True):
            axis.set_title(snapshot, color=FAINT, fontsize=8)
        for line, (title, (kind, looks)) in zip(axes, rows.items(), strict=True):
            for axis, look in zip(line[1:], looks, strict=True):
                paint(axis, scene, look, kind, norm)
            line[1].set_ylabel(narrow(title), rotation=0, ha="right", va="center", multialignment="right")
        for kind in dict.fromkeys(kind for kind, _ in rows.values() if kind in COLORS):
            lines = [line for line, (other, _) in zip(axes, rows.values(), strict=True) if other == kind]
            bar(figure, np.array(lines)[:, 1:].ravel(), kind, norm, told)
        figure.suptitle(fill(f"{scene.id}: {told}", int(15 * size[0])), fontsize=9, x=0.01, ha="left")
    return figure


def heading(kind: str, words: str) -> str:
    """What stands over a kind of map; the maps of losses may be their gradients."""
    return "gradient" if kind == "loss" and "gradient" in words else kind


def bar(figure: Figure, axes: Sequence[Axes], kind: str, norm: Normalize, words: str) -> None:
    """Draw the colour scale of a kind of map beside its pictures."""
    span, extend = (norm, "max") if kind == "loss" else (Normalize(0, 1), "neither")
    looks = {"shrink": 0.9, "aspect": 25, "pad": 0.01, "extend": extend}
    drawn = figure.colorbar(ScalarMappable(span, COLORS[kind]), ax=axes, **looks)
    drawn.set_label(heading(kind, words), size=8)
    drawn.outline.set_visible(False)
    drawn.ax.tick_params(labelsize=7)


def paint(axis: Axes, scene: Scene, look: Look, kind: str, norm: Normalize) -> None:
    """Draw one map of a look, and below it the number it comes down to."""
    if kind == "errors":
        axis.imshow(paint_errors(scene.image, scene.truth, look.probability, look.threshold))
        axis.set_xlabel(f"IoU {look.scores['iou']:.3f}", fontsize=7, labelpad=1)
    elif kind == "loss":
        axis.imshow(look.loss.clip(norm.vmin), cmap=COLORS[kind], norm=norm)
        axis.set_xlabel(f"loss {look.value:.4g}", fontsize=7, labelpad=1)
    elif kind == "confidence":
        axis.imshow(look.confidence, cmap=COLORS[kind], vmin=0, vmax=1)
        axis.set_xlabel(f"white {look.scores['foreground_confidence']:.2f}", fontsize=7, labelpad=1)
    else:
        axis.imshow(look.probability, cmap="gray", vmin=0, vmax=1)


def film(scene: Scene, norm: Normalize, words: str) -> Film:
    """One frame per snapshot: a row per run or loss with image, truth, probability, errors, confidence and loss."""
    return Film({snapshot: frame(scene, place, norm, words) for place, snapshot in enumerate(scene.snapshots)})


def frame(scene: Scene, place: int, norm: Normalize, words: str) -> Figure:
    """Draw one snapshot of a scene."""
    height, width = scene.truth.shape
    kinds = list(KINDS)
    with mpl.rc_context(BARE):
        size = (11.0, 0.75 + len(scene.rows) * (1.55 * height / width + 0.2))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(len(scene.rows), 2 + len(kinds), squeeze=False)
        for line, (title, looks) in zip(axes, scene.rows.items(), strict=True):
            line[0].imshow(scene.image.squeeze(), cmap="gray", vmin=0, vmax=255)
            line[1].imshow(scene.truth, cmap="gray", vmin=0, vmax=1)
            line[0].set_ylabel(narrow(title), rotation=0, ha="right", va="center", multialignment="right")
            for axis, kind in zip(line[2:], kinds, strict=True):
                paint(axis, scene, looks[place], kind, norm)
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[])
        for axis, name in zip(axes[0], ("image", "truth", *(heading(kind, words) for kind in kinds)), strict=True):
            axis.set_title(name, color=FAINT, fontsize=8)
        for kind in COLORS:
            bar(figure, axes, kind, norm, words)
        figure.suptitle(f"{scene.id}, {scene.snapshots[place]}", fontsize=9, x=0.01, ha="left")
    return figure


def relief(scene: Scene, norm: Normalize) -> go.Figure:
    """The pixel losses of a scene as surfaces to turn, one per row, with a slider through the snapshots."""
    titles, across = list(scene.rows), min(3, len(scene.rows))
    down = -(-len(titles) // across)
    figure = make_subplots(down, across, subplot_titles=titles, specs=[[{"type": "surface"}] * across] * down)
    frames = []
    for place, snapshot in enumerate(scene.snapshots):
        data = [go.Surface(z=raised(looks[place].loss, norm), coloraxis="coloraxis") for looks in scene.rows.values()]
        frames.append(go.Frame(name=snapshot, data=data, traces=list(range(len(data)))))
    for k, surface in enumerate(frames[-1].data):
        figure.add_trace(surface, row=1 + k // across, col=1 + k % across)
    figure.frames = frames
    reach = max(raised(look.loss, norm).max() for looks in scene.rows.values() for look in looks)
    low, high = (float(raised(np.full((1, 1), end), norm)[0, 0]) for end in (norm.vmin, norm.vmax))
    ticks = list(range(int(np.ceil(low)), int(reach) + 1)) if isinstance(norm, LogNorm) else None
    marks = {} if ticks is None else {"tickvals": ticks, "ticktext": [f"1e{tick}" for tick in ticks]}
    hidden = {"showticklabels": False, "title": ""}
    figure.update_scenes(
        xaxis=hidden,
        yaxis={**hidden, "autorange": "reversed"},
        zaxis={"range": [low, max(float(reach), high)], "title": "", **marks},
        aspectratio={"x": 1, "y": 1, "z": 0.6},
        camera={"eye": {"x": 1.1, "y": 1.1, "z": 0.9}},
    )
    scale = {"cmin": low, "cmax": high, "colorscale": COLORS["loss"].capitalize(), "colorbar": marks}
    figure.update_layout(coloraxis=scale, height=180 + 360 * down, margin={"l": 40, "r": 0, "t": 30, "b": 120})
    return slid(figure, list(scene.snapshots))


def raised(values: np.ndarray, norm: Normalize) -> np.ndarray:
    """A map as heights: thinned out, and logarithmic where the scale is."""
    heights = thin(values)
    return np.log10(heights.clip(norm.vmin)) if isinstance(norm, LogNorm) else heights


def slid(figure: go.Figure, names: list[str]) -> go.Figure:
    """A Plotly figure with a slider through its frames, which opens at the last."""
    still = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    steps = [{"label": name, "method": "animate", "args": [[name], still]} for name in names]
    return figure.update_layout(sliders=[{"active": len(steps) - 1, "steps": steps}])


def thin(values: np.ndarray) -> np.ndarray:
    """A map averaged over squares until it has at most SIDE points a side; what does not fill a square is left out."""
    step = -(-max(values.shape) // SIDE)
    rows, columns = (n // step for n in values.shape)
    cut = values[: rows * step, : columns * step].reshape(rows, step, columns, step)
    return cut.mean((1, 3)).astype(np.float32)


def table(scenes: Sequence[Scene], snapshots: pd.Series) -> pd.DataFrame:
    """A row per image, row and snapshot: the loss, its share on the foreground, the highest pixel, and the scores."""
    rows = []
    for scene in scenes:
        for title, looks in scene.rows.items():
            for look, snapshot in zip(looks, snapshots, strict=True):
                white = scene.truth >= 0.5
                total = np.abs(look.loss).sum()
                facts = {"image": scene.id, "row": title, snapshots.name: snapshot, "loss": look.value}
                facts |= {"on_foreground": float(np.abs(look.loss)[white].sum() / total) if total else float("nan")}
                facts |= {"highest_pixel": float(look.loss.max())}
                rows.append(facts | look.scores)
    return pd.DataFrame(rows)
