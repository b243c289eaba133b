"""Sliding-window prediction: overlapping tiles of an image of any size, blended smoothly, one band of rows at a time.

The tiles lie in rows and columns, so that their weights are products of one weight down and one across, which are
normalized beforehand: nothing as large as the image is kept but the image itself.

Predictions near a tile's inner edges, where the model lacks context, have weight 0: weights rise from a quarter to
three quarters of the overlap. A pixel therefore depends on the tiling only if the model's receptive field reaches
beyond a quarter of the overlap; with a `window` large enough for that, tiled and whole agree to rounding. Models that
pool over the whole image (instance and group norms, squeeze and excitation, pyramids) always depend on it.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from seglab.images.resize import crop

Model = Callable[[np.ndarray], np.ndarray]
"""From tiles (b, h, w, c) to float32 (b, h, w), or (b, k, h, w) of several classes."""

GRID = 32
"""Tiles but for the last begin at multiples of its common divisor with the window, so that all pool the same pixels."""


def slide(
    model: Model, image: np.ndarray, window: int, overlap: float = 0.5, batch: int = 4, least: int = 1
) -> Iterator[np.ndarray]:
    """Give the blended prediction of `model` for an image (h, w, c): bands of rows float32 from top to bottom.

    A band is (rows, w), or (k, rows, w) where the model gives several classes.

    Every tile lies inside of the image, whose black surroundings a net takes for objects (IoU 0.42 instead of 0.83,
    docs/findings); those of an image smaller than `window` are smaller. Only an image smaller than `least` pixels, or
    than one cell of the grid, has black beside it, as in training.
    overlap: fraction of a tile's side that its neighbor covers too, in [0, 0.75].
    """
    height, width = image.shape[:2]
    grid = grid_of(window)
    tall, wide = (min(window, max(n // grid * grid, least, grid)) for n in (height, width))
    tops, lefts = origins(height, tall, overlap), origins(width, wide, overlap)
    down, across = weights(tops, tall, overlap), weights(lefts, wide, overlap)
    band = np.zeros(0, np.float32)
    for row, top in enumerate(tops):
        for first in range(0, len(lefts), batch):
            some = lefts[first : first + batch]
            tiles = [crop(image, top, left, tall, wide).reshape(tall, wide, -1) for left in some]
            maps = model(np.stack(tiles))
            if not band.size:  # the model says of how many classes
                band = np.zeros((*maps.shape[1:-1], lefts[-1] + wide), np.float32)
            for left, weight, found in zip(some, across[first:], maps, strict=False):
                band[..., left : left + wide] += found * (down[row][:, None] * weight)
        done = (tops[row + 1] if row + 1 < len(tops) else top + tall) - top
        yield band[..., : min(done, height - top), :width].copy()  # a copy, as the rows move up now
        band[..., :-done, :] = band[..., done:, :]
        band[..., -done:, :] = 0


def origins(length: int, window: int, overlap: float) -> list[int]:
    """Place tiles over a side: the first at its start, the last at its end, none overlapping less than `overlap`."""
    last = max(length - window, 0)
    return [*range(0, last, step_of(window, overlap)), last]


def step_of(window: int, overlap: float) -> int:
    """The largest distance of neighboring tiles: a multiple of the grid."""
    grid = grid_of(window)
    return max(int(window * (1 - overlap)) // grid, 1) * grid


def grid_of(window: int) -> int:
    """The grid on which tiles of a window begin."""
    return math.gcd(window, GRID)


def weights(starts: Sequence[int], window: int, overlap: float) -> np.ndarray:
    """The weight of each pixel of each tile along one side: (tiles, window) float32; over the tiles they sum to 1."""
    shared = window - step_of(window, overlap)
    place = (np.arange(window) + 0.5 - shared / 4) / max(shared / 2, 1e-9)  # without an overlap there is no slope
    rise = np.sin(np.pi / 2 * np.clip(place, 0, 1)) ** 2
    table = np.ones((len(starts), window))
    table[1:] *= rise  # no other tile covers the image's own border
    table[:-1] *= rise[::-1]
    total = np.zeros(starts[-1] + window)
    for start, row in zip(starts, table, strict=True):
        total[start : start + window] += row
    return np.stack([row / total[s : s + window] for s, row in zip(starts, table, strict=True)]).astype(np.float32)
