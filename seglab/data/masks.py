"""What the pixels of a mask file mean: gray levels, indices of a palette, colors, or alpha."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from seglab.contract import require
from seglab.data.image_io import Raster, decode

Value: TypeAlias = int | str
"""A gray level or an index of a palette; or a color, "#rrggbb"."""

HALF = 127
"""Lossy masks are cut here, half of 255: compression puts levels of up to some dozens beside every edge."""

MANY = 12
"""Values of a mask that are listed."""

NAME_THEM = "name the foreground by dataset.mask_value, one of these or a list of"


def read_mask(
    path: str,
    threshold: int = 0,
    value: Value | Sequence[Value] | None = None,
    soft: bool = False,
    page: int | None = None,
) -> np.ndarray:
    """Decode a mask to (h, w) uint8: 1 where a pixel is one of `value`, or, without any, lies above `threshold`.

    A palette is read by its indices, unless all its colors are gray; an alpha channel where the colors say nothing. A
    mask in color needs `value`, such as "#ff0000", and so does a palette of which several indices occur beside 0. What
    was compressed with loss is cut at half. With `soft` and neither threshold nor value the gray levels are kept as
    fractions, float32. Raises a ContractError otherwise.
    """
    raster = decode(path, page)
    named = [value] if isinstance(value, int | str) else list(value or ())
    if named:
        return any_of(path, raster, named)
    pixels, blurred = levels(path, raster, threshold)
    indices = palette_counts(raster)
    one = sum(not name.startswith("0 ") for name in indices) <= 1
    require(one, path, "one index beside 0, or named ones", summary(indices), f"{NAME_THEM} indices or colors")
    if soft and threshold == 0:
        return to_fraction(pixels)
    return (pixels > (HALF if blurred and threshold == 0 else threshold)).astype(np.uint8)


def any_of(path: str, raster: Raster, named: Sequence[Value]) -> np.ndarray:
    """Mark the pixels (h, w) uint8 that have one of several values or colors."""
    exact = not raster.lossy or named == [255]
    require(exact, path, "a lossless mask, where values are named", raster.format, "save it as PNG")
    mask = np.zeros(raster.pixels.shape[:2], bool)
    for value in named:
        if isinstance(value, str):
            mask |= (np.atleast_3d(raster.colors()) == to_rgb(value)).all(axis=2)
        else:
            pixels, _ = levels(path, raster)
            mask |= pixels > HALF if raster.lossy else pixels == value
    return mask.astype(np.uint8)


def to_rgb(color: str) -> list[int]:
    """Read a color such as "#ff8000"."""
    fits = len(color) == 7 and color[0] == "#" and all(digit in "0123456789abcdefABCDEF" for digit in color[1:])
    require(fits, "dataset.mask_value", 'numbers and colors such as "#ff8000"', repr(color))
    return [int(color[k : k + 2], 16) for k in (1, 3, 5)]


def levels(path: str, raster: Raster, threshold: int = 0) -> tuple[np.ndarray, bool]:
    """Give the gray levels or indices (h, w) of a mask, and whether its edges are blurred: by loss, or as alpha is."""
    if raster.palette is not None:
        return (raster.palette[raster.pixels, 0] if is_gray(raster.palette) else raster.pixels), False
    pixels, alpha = raster.pixels, raster.alpha
    if alpha is not None:
        if (pixels == pixels[:1, :1]).all():
            return alpha, True
        same = bool(((to_gray(pixels) > threshold) == (alpha > HALF)).all())
        require(same, path, "a mask in its colors or in its alpha", "both, which differ", "save one of them alone")
    if pixels.ndim == 3 and not is_gray(pixels, raster.lossy):
        remedy = f"{'save it as PNG, and ' * raster.lossy}{NAME_THEM} colors"
        require(False, path, "a gray mask, or named colors", summary(color_counts(pixels)), remedy)
    return to_gray(pixels), raster.lossy


def to_gray(pixels: np.ndarray) -> np.ndarray:
    """Give the brightest channel."""
    return pixels.max(axis=2) if pixels.ndim == 3 else pixels


def is_gray(colors: np.ndarray, lossy: bool = False) -> bool:
    """Say whether the channels (..., c) are equal, or nearly so in a file compressed with loss."""
    return bool((colors.max(axis=-1) - colors.min(axis=-1)).max(initial=0) <= (24 if lossy else 0))


def to_fraction(pixels: np.ndarray) -> np.ndarray:
    """Read gray levels as fractions of foreground, float32; a mask of 0 and 1 holds them already."""
    full = np.iinfo(pixels.dtype).max if pixels.dtype in (np.uint8, np.uint16) and pixels.max(initial=0) > 1 else 1
    return np.clip(pixels.astype(np.float32) / full, 0, 1)


def color_counts(pixels: np.ndarray) -> dict[str, float]:
    """Give the colors (h, w, 3) as "#rrggbb", the most frequent first, and what fraction of the pixels each has."""
    packed = (pixels[..., :3].astype(np.uint32) * (65536, 256, 1)).sum(2, dtype=np.uint32)
    found, counts = np.unique(packed, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:MANY]
    return {f"#{found[k]:06x}": float(counts[k] / packed.size) for k in order}


def count_values(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the values that occur, in order, and how often each does."""
    if pixels.dtype != np.uint8:
        return np.unique(pixels, return_counts=True)
    counts = np.bincount(pixels.reshape(-1), minlength=256)  # without sorting
    return np.flatnonzero(counts), counts[counts > 0]


def palette_counts(raster: Raster) -> dict[str, float]:
    """Give the indices of a palette in colors that occur, each with its color and fraction; nothing without one."""
    if raster.palette is None or is_gray(raster.palette):
        return {}
    found, counts = count_values(raster.pixels)
    names = [f"{index} #{bytes(raster.palette[index]).hex()}" for index in found[:MANY]]
    return dict(zip(names, (counts / raster.pixels.size).tolist(), strict=False))


def mask_facts(path: str, page: int | None = None) -> dict[str, Any]:
    """Say how a mask file holds its mask: `kind` (gray, palette, color, alpha), `lossy` format or "", and `values`.

    `values` are its levels, indices or colors, at most MANY, with the fraction of the pixels that each has; an index
    of a palette is followed by its color.
    """
    raster = decode(path, page)
    facts = {"kind": "gray", "lossy": raster.format if raster.lossy else ""}
    pixels, palette = raster.pixels, palette_counts(raster)
    if palette:
        return facts | {"kind": "palette", "values": palette}
    if pixels.ndim == 3 and not is_gray(pixels, raster.lossy):
        return facts | {"kind": "color", "values": color_counts(pixels)}
    if raster.alpha is not None and (pixels == pixels[:1, :1]).all():
        facts["kind"] = "alpha"
    found, counts = count_values(levels(path, raster)[0])
    names = [f"{value:g}" for value in found[:MANY].tolist()]
    return facts | {"values": dict(zip(names, (counts / counts.sum()).tolist(), strict=False))}


def summary(values: dict[str, float]) -> str:
    """Write values with their fractions, as `#000000 (96.6 %), #ff0000 (3.4 %)`."""
    return ", ".join(f"{value} ({100 * part:.3g} %)" for value, part in values.items())
