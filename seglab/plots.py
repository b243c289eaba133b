"""The style of all figures: colors, line styles, saving, and errors painted over an image.

Everything draws on `matplotlib.figure.Figure` objects instead of pyplot's global state, so that a training process,
its threads and tests can draw at any time without a display.
"""

import io
import re
from collections import Counter
from collections.abc import Iterable
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, LogFormatterMathtext
from PIL import Image

from seglab.contract import Task
from seglab.files import write_bytes, write_text

INK, FAINT, GRID = "#1c1e21", "#6b7075", "#d5d8dc"
TRUE_POSITIVE, FALSE_POSITIVE, FALSE_NEGATIVE = "#ffffff", "#e69f00", "#56b4e9"  # also distinct for color-blind readers
OUTLINE = "#f0e442"

HALF = 0.5 + 1e-6  # decided() compares with >=, and exactly half is background
"""The fraction of a pixel above which a class counts as present."""

STYLE: dict[Any, Any] = {
    **{key: value for key, value in dict.items(mpl.rcParamsDefault) if key != "backend"},  # not a user's style sheet
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.facecolor": "none",
    **dict.fromkeys(("axes.labelcolor", "axes.titlecolor", "text.color"), INK),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), FAINT),
    **dict.fromkeys(("axes.linewidth", "xtick.major.width", "ytick.major.width"), 0.6),
    **dict.fromkeys(("axes.grid", "axes.axisbelow"), True),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    "grid.color": GRID,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.5,
    "text.parse_math": False,  # a file name may contain dollar signs
    "svg.fonttype": "none",
    "svg.hashsalt": "seglab",  # the same figure gives the same file
}

styled = mpl.rc_context(STYLE)
"""Decorator for drawing functions: applies the project's style without changing matplotlib's global style."""

COLORS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#8c6d46", "#7f7f7f")
CLASS_COLORS = ("#009e73", "#cc79a7", "#0072b2", "#d55e00", "#f0e442", "#8c6d46", "#7f7f7f")
"""Colors of classes in pictures that also contain the colors of errors."""

WIDTH = 9.5
"""The width in inches of a figure that fills the column of a page."""

DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (6, 1, 1, 1)))


def line_styles(labels: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return a color and a line style per label, the same in every figure; colors repeat after eight, styles differ."""
    return {
        label: {"color": COLORS[k % len(COLORS)], "linestyle": DASHES[k // len(COLORS) % len(DASHES)]}
        for k, label in enumerate(labels)
    }


def file_keys(titles: Iterable[str]) -> list[str]:
    """Return a part of a file name for each title: its letters and digits, numbered if several titles give the same.

    At most 100 characters long, since a title may contain a path, and file names are limited to 255 bytes.
    """
    keys, counts = list[str](), Counter[str]()
    for key in (re.sub(r"[^0-9A-Za-z]+", "-", title)[:100] for title in titles):
        counts[key] += 1
        keys.append(key if counts[key] == 1 else f"{key}_{counts[key]}")
    return keys


def save(figure: Figure, out: Path) -> Path:
    """Write a figure atomically; the suffix of `out` selects PNG or SVG."""
    if out.suffix == ".svg":
        return write_text(out, svg(figure, out.stem))
    with mpl.rc_context(STYLE):
        _lay_out(figure)
        figure.set_facecolor("#ffffff")
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    return write_png(np.asarray(canvas.buffer_rgba()), out)


def write_png(pixels: np.ndarray, out: Path) -> Path:
    """Write an opaque picture, uint8 (h, w, 3 or 4), atomically."""
    import cv2  # imported here, since a report writes no PNG

    # half the time of Pillow, which tries all filters per row; level 1 takes a third of the time of level 6
    options = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]
    bgr = np.ascontiguousarray(pixels[..., 2::-1])
    return write_bytes(out, cv2.imencode(".png", bgr, options)[1].tobytes())


def svg(figure: Figure, name: str) -> str:
    """Return a figure as SVG text without a background; `name` keeps its ids distinct from those of other figures."""
    buffer = io.StringIO()
    with mpl.rc_context(STYLE | {"svg.hashsalt": name}):
        _lay_out(figure)
        figure.set_facecolor("none")
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    return buffer.getvalue()


def _lay_out(figure: Figure) -> None:
    """Place the axes once per figure, since finding room for their labels takes longer than drawing them.

    `figure.savefig` would repeat this for each file and draw everything twice; the print functions of a canvas do not.
    """
    figure.set_dpi(144)
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        if isinstance(axis.get_major_formatter(), LogFormatterMathtext):  # formats powers of ten as mathtext
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(LogFormatter())
    if engine := figure.get_layout_engine():
        engine.execute(figure)
        figure.set_layout_engine("none")


def four_pictures(
    image: np.ndarray, truth: np.ndarray, probability: np.ndarray, valid: np.ndarray | None, threshold: float, kind: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return a test image with its true outline, its truth, its prediction, and its errors, see paint_errors.

    Truth and prediction are (h, w) in [0, 1] for one class, uint8 (h, w, 3) for several.
    """
    scored = truth if truth.ndim == 2 else truth[1 if kind == "multiclass" else 0 :].max(0)
    errors = paint_errors(image, truth, probability, threshold, kind, valid)
    if truth.ndim == 3:
        truth = paint_classes(image, truth, HALF, kind, valid)
        probability = paint_classes(image, probability, threshold, kind, valid)
    return outlined(image, scored), truth, probability, errors


def paint_errors(
    image: np.ndarray,
    truth: np.ndarray,
    probability: np.ndarray,
    threshold: float = 0.5,
    kind: str = "binary",
    valid: np.ndarray | None = None,
) -> np.ndarray:
    """Paint true positives white, false positives orange, false negatives blue on the darkened image: uint8 (h, w, 3).

    `image` is uint8 (h, w), (h, w, 1) or (h, w, 3); truth and probability are (h, w), or (k, h, w) for several classes.
    Pixels outside `valid` (h, w) are hatched.
    """
    predicted, true = decided(probability, threshold, kind), decided(truth, HALF, kind)
    fp = (predicted & ~true).any(0)
    fn = (~predicted & true).any(0) & ~fp  # a pixel of the wrong class is both; it gets one color
    tp = (predicted & true).any(0) & ~fp & ~fn
    return _paint(image, zip((FALSE_POSITIVE, FALSE_NEGATIVE, TRUE_POSITIVE), (fp, fn, tp), strict=True), valid)


def paint_classes(
    image: np.ndarray, maps: np.ndarray, threshold: float, kind: str, valid: np.ndarray | None = None
) -> np.ndarray:
    """Paint each class (k, h, w) in its color on the darkened image: uint8 (h, w, 3); later ones cover earlier ones."""
    return _paint(image, zip(cycle(CLASS_COLORS), decided(maps, threshold, kind), strict=False), valid)


def _paint(image: np.ndarray, layers: Iterable[tuple[str, np.ndarray]], valid: np.ndarray | None) -> np.ndarray:
    channels = np.moveaxis(image.reshape(*image.shape[:2], -1).astype(float), 2, 0)
    canvas = np.repeat((0.45 * (sum(channels) / len(channels)))[..., None], 3, axis=2)  # darkened, so that colors show
    for color, mask in layers:
        canvas[mask] = 0.25 * canvas[mask] + 0.75 * 255 * np.array(to_rgb(color))
    return hatched(canvas, valid).astype(np.uint8)


def class_colors(task: Task) -> list[tuple[str, str]]:
    """Return the names and colors of the classes that `paint_classes` paints; empty for a binary task."""
    return list(zip((task.classes[k] for k in task.scored if task.channels > 1), cycle(CLASS_COLORS), strict=False))


def as_image(pixels: np.ndarray) -> Image.Image:
    """Convert a picture (h, w) in [0, 1] or uint8 (h, w, 3) to a Pillow image."""
    return Image.fromarray(pixels if pixels.ndim == 3 else (255 * pixels.astype(np.float32)).round().astype(np.uint8))


def decided(maps: np.ndarray, threshold: float, kind: str) -> np.ndarray:
    """Return the pixels of each scored class, bool (k, h, w), from probabilities (h, w) or (k, h, w)."""
    if kind == "multiclass":
        return maps.argmax(0) == np.arange(1, len(maps))[:, None, None]
    return (maps if maps.ndim == 3 else maps[None]) >= threshold


def hatched(canvas: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    """Draw diagonal lines, in place, over the pixels that do not count."""
    if valid is not None:
        rows, columns = np.indices(valid.shape)
        canvas[~valid & ((rows + columns) % 6 < 2)] = 128
    return canvas


def outlined(image: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the image, uint8 as for paint_errors, with the border pixels of the true foreground in yellow."""
    real = np.pad(truth > 0.5, 1)
    inside = real[:-2, 1:-1] & real[2:, 1:-1] & real[1:-1, :-2] & real[1:-1, 2:]
    pixels = image.reshape(*image.shape[:2], -1)
    canvas = pixels[..., [0, 1, 2] if pixels.shape[2] > 2 else [0, 0, 0]]
    canvas[real[1:-1, 1:-1] & ~inside] = (255 * np.array(to_rgb(OUTLINE))).astype(np.uint8)
    return canvas


def two_sided() -> ListedColormap:
    """Return a colormap for white and black pages: orange below the middle, transparent at it, blue above."""
    level = np.linspace(-1, 1, 64)
    color = np.where(level[:, None] < 0, to_rgb(COLORS[1]), to_rgb(COLORS[0]))
    return ListedColormap(np.column_stack([color, 0.7 * np.abs(level)]))
