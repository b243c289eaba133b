"""Sliding-window prediction: overlapping tiles of an image of any size, blended smoothly, one band of rows at a time.

Tiles lie in rows and columns, so that their weights are products of a vertical and a horizontal weight. Both are
normalized beforehand, so that the image itself is the only array of its size in memory.

Predictions near a tile's inner edges, where the model lacks context, have weight 0: weights rise from a quarter to
three quarters of the overlap. A pixel therefore depends on the tiling only if the model's receptive field reaches
beyond a quarter of the overlap; with a `window` large enough, tiled and whole predictions agree up to rounding. Models
that pool over the whole image (instance and group norms, squeeze and excitation, pyramids) always depend on it.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from seglab.data.memo import progress
from seglab.images.resize import crop

Model = Callable[[np.ndarray], np.ndarray]
"""A function from tiles (b, h, w, c) to float32 (b, h, w), or (b, k, h, w) for several classes."""

GRID = 32
"""All tiles but the last start at multiples of gcd(GRID, window), so that all pool the same groups of pixels."""


def slide(
    model: Model, image: np.ndarray, window: int, overlap: float = 0.5, batch: int = 4, least: int = 1
) -> Iterator[np.ndarray]:
    """Yield the blended prediction of `model` for an image (h, w, c): float32 bands of rows from top to bottom.

    A band is (rows, w), or (k, rows, w) for several classes.

    Every tile lies inside the image, since networks take black padding for objects (IoU 0.42 instead of 0.83,
    docs/findings); tiles of an image smaller than `window` are smaller. Only an image smaller than `least` pixels, or
    than one cell of the grid, is padded with black, as in training.
    overlap: the fraction of a tile's side that its neighbor also covers, in [0, 0.75].
    """
    height, width = image.shape[:2]
    grid = grid_of(window)
    tall, wide = (min(window, max(n // grid * grid, least, grid)) for n in (height, width))
    tops, lefts = origins(height, tall, overlap), origins(width, wide, overlap)
    vertical, horizontal = weights(tops, tall, overlap), weights(lefts, wide, overlap)
    band = np.zeros(0, np.float32)
    for row, top in enumerate(progress(tops, "rows of tiles")):
        for start in range(0, len(lefts), batch):
            chunk = lefts[start : start + batch]
            tiles = [crop(image, top, left, tall, wide).reshape(tall, wide, -1) for left in chunk]
            maps = model(np.stack(tiles))
            if not band.size:  # the model determines the number of classes
                band = np.zeros((*maps.shape[1:-1], lefts[-1] + wide), np.float32)
            for left, weight, map_ in zip(chunk, horizontal[start:], maps, strict=False):
                band[..., left : left + wide] += map_ * (vertical[row][:, None] * weight)
        complete = (tops[row + 1] if row + 1 < len(tops) else top + tall) - top  # rows that no further tile covers
        yield band[..., : min(complete, height - top), :width].copy()  # a copy, as the rows move up next
        band[..., :-complete, :] = band[..., complete:, :]
        band[..., -complete:, :] = 0


def origins(length: int, window: int, overlap: float) -> list[int]:
    """Return the starts of tiles that cover a side from its start to its end and overlap by at least `overlap`."""
    last = max(length - window, 0)
    return [*range(0, last, step_of(window, overlap)), last]


def step_of(window: int, overlap: float) -> int:
    """Return the largest distance between the starts of neighboring tiles, a multiple of the grid."""
    grid = grid_of(window)
    return max(int(window * (1 - overlap)) // grid, 1) * grid


def grid_of(window: int) -> int:
    """Return the spacing of the grid on which tiles start."""
    return math.gcd(window, GRID)


def weights(starts: Sequence[int], window: int, overlap: float) -> np.ndarray:
    """Return the weight of each pixel of each tile along one side: (tiles, window) float32, summing to 1 over tiles."""
    shared = window - step_of(window, overlap)
    position = (np.arange(window) + 0.5 - shared / 4) / max(shared / 2, 1e-9)  # no division by 0 without overlap
    rise = np.sin(np.pi / 2 * np.clip(position, 0, 1)) ** 2
    table = np.ones((len(starts), window))
    table[1:] *= rise  # no other tile covers the image's own border
    table[:-1] *= rise[::-1]
    total = np.zeros(starts[-1] + window)
    for start, row in zip(starts, table, strict=True):
        total[start : start + window] += row
    return np.stack([row / total[s : s + window] for s, row in zip(starts, table, strict=True)]).astype(np.float32)
