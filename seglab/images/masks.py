"""Interpret the pixels of a mask file: gray levels, palette indices, colors, or alpha."""

import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from seglab.contract import require
from seglab.images.image_io import decode
from seglab.images.labels import IGNORED, with_ignored
from seglab.images.raster import Page, Raster

Value: TypeAlias = int | str  # a gray level or a palette index; or a color, "#rrggbb"
HALF = 127  # threshold of lossy masks, half of 255: compression leaves levels of up to a few dozen beside every edge
NAME_THEM = "set dataset.mask_value to the foreground, one of these or a list"


def read_mask(
    path: str,
    threshold: int = 0,
    value: Value | Sequence[Value] | None = None,
    soft: bool = False,
    page: Page | None = None,
    ignore: Value | Sequence[Value] | None = None,
) -> np.ndarray:
    """Decode a mask to (h, w) uint8: 1 where a pixel is one of `value` or, if that is None, above `threshold`.

    A palette is read as indices, unless all its colors are gray; alpha is read if the colors are constant. A mask in
    color needs `value`, such as "#ff0000", and so does a palette with several indices in use beside 0. Without a
    threshold, lossy masks are cut at half; with `soft` and neither threshold nor value, gray levels are returned as
    float32 fractions. Pixels in `ignore` have no label, see labels.py. Raises ContractError for any other mask.
    """
    raster = decode_mask(path, page)
    counted = ~any_of(path, raster, listed(ignore)) if ignore is not None else None
    if counted is not None:  # otherwise an ignored index would be a second one beside 0, which is refused
        pixels = raster.pixels.copy()
        pixels[~counted] = 0
        raster = raster._replace(pixels=pixels)
    mask = foreground(path, raster, threshold, listed(value), soft)
    return mask if counted is None else with_ignored(mask, counted)


def decode_mask(path: str, page: Page | None) -> Raster:
    """Decode a mask file without interpreting its pixels; raises ContractError unless it has 1 or 3 bands."""
    raster = decode(path, page)
    bands = raster.pixels.shape[2] if raster.pixels.ndim == 3 else 1
    require(bands in (1, 3), path, "a mask with 1 band (gray levels) or 3 bands (colors)", f"{bands} bands")
    return raster


def foreground(path: str, raster: Raster, threshold: int, named: Sequence[Value], soft: bool) -> np.ndarray:
    """Return the foreground of a mask, see `read_mask`."""
    if named:
        return any_of(path, raster, named).astype(np.uint8)
    pixels, blurred = levels(path, raster, threshold)
    values = value_fractions(raster) if is_colored(raster) else {}
    indices = [name for name in values if not name.startswith("0 ")]
    require(len(indices) <= 1, path, "one palette index besides 0, or dataset.mask_value", summary(values), NAME_THEM)
    if not soft or threshold:
        return (pixels > (HALF if blurred and threshold == 0 else threshold)).astype(np.uint8)
    # The values 0 and 1 are fractions already.
    maximum = np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" and pixels.max() > 1 else 1
    return np.clip(pixels.astype(np.float32) / maximum, 0, 1)


def read_classes(
    path: str,
    classes: Sequence[tuple[str, Sequence[Value]]],
    ignore: Value | Sequence[Value] | None = None,
    page: Page | None = None,
) -> np.ndarray:
    """Decode a mask to class numbers (h, w) uint8, in the order of `classes`: names with their values or colors.

    Pixels in `ignore` have no label, see labels.py. Raises ContractError for values that are not listed.
    """
    raster, unlisted = decode_mask(path, page), 254
    numbers = np.full(raster.pixels.shape[:2], unlisted, np.uint8)
    for number, (_, values) in enumerate(classes):
        numbers[any_of(path, raster, values)] = number
    if ignore is not None:
        numbers[any_of(path, raster, listed(ignore))] = IGNORED
    missing = numbers == unlisted
    if missing.any():
        pixels = raster.pixels[missing]
        shares = value_fractions(raster._replace(pixels=pixels[:, None], alpha=None))  # as an image one pixel wide
        counts = ", ".join(f"{value} ({round(part * len(pixels))} pixels)" for value, part in shares.items())
        require(False, path, "only values listed in dataset.classes", counts, "list them there or in dataset.ignore")
    return numbers


def listed(value: Value | Sequence[Value] | None) -> tuple[Any, ...]:
    """Return a value, or several, as a tuple; an empty tuple for None."""
    if value is None:
        return ()
    return (value,) if isinstance(value, int | str) else tuple(value)


def any_of(path: str, raster: Raster, named: Sequence[Value]) -> np.ndarray:
    """Return which pixels, (h, w) bool, have one of several values or colors."""
    exact = not raster.lossy or named == (255,)  # 255 means above half in a lossy mask
    require(exact, path, "a lossless mask to select single values", raster.format, "save it as PNG")
    mask = np.zeros(raster.pixels.shape[:2], bool)
    for value in named:
        if isinstance(value, str):
            mask |= (np.atleast_3d(raster.colors()) == to_rgb(value)).all(axis=2)  # gray is compared as r = g = b
        else:
            pixels, _ = levels(path, raster)
            mask |= pixels > HALF if raster.lossy else pixels == value
    return mask


def to_rgb(color: str) -> list[int]:
    """Convert a color such as "#ff8000" to [red, green, blue]."""
    fits = re.fullmatch("#[0-9a-fA-F]{6}", color) is not None
    require(fits, "dataset.mask_value", 'numbers and colors such as "#ff8000"', repr(color))
    return list(bytes.fromhex(color[1:]))


def levels(path: str, raster: Raster, threshold: int = 0) -> tuple[np.ndarray, bool]:
    """Return the gray levels or indices (h, w) of a mask, and whether its edges are blurred (lossy mask or alpha)."""
    pixels, alpha = raster.pixels, raster.alpha
    if raster.palette is not None:
        return (pixels if is_colored(raster) else raster.palette[pixels, 0]), False
    gray = pixels.max(axis=2) if pixels.ndim == 3 else pixels
    if alpha is not None:
        if (pixels == pixels[:1, :1]).all():  # a constant color carries no mask
            return alpha, True
        agree = bool(((gray > threshold) == (alpha > HALF)).all())
        require(agree, path, "a mask in its colors or in its alpha channel", "two that differ", "save only one of them")
    if is_colored(raster):
        remedy = f"save it as PNG, and {NAME_THEM}" if raster.lossy else NAME_THEM
        require(False, path, "a gray mask, or colors in dataset.mask_value", summary(value_fractions(raster)), remedy)
    return gray, raster.lossy


def is_colored(raster: Raster) -> bool:
    """Return True if a mask, or its palette, has colors other than gray; lossy compression tints gray slightly."""
    colors = raster.pixels if raster.palette is None else raster.palette
    if raster.palette is None and colors.ndim == 2:
        return False
    return bool((colors.max(axis=-1) - colors.min(axis=-1)).max() > (24 if raster.lossy else 0))


def value_fractions(raster: Raster) -> dict[str, float]:
    """Return the levels, indices with their colors, or colors of a mask, each with its fraction of the pixels.

    Only the 12 most frequent ones, ordered by value.
    """
    pixels, colored = raster.pixels, is_colored(raster)
    if raster.palette is None and colored:
        pixels = (pixels.astype(np.uint32) * (65536, 256, 1)).sum(2, dtype=np.uint32)
    elif not colored:  # a palette in color keeps its indices
        pixels = levels("", raster)[0]
    if pixels.dtype == np.uint8:
        counts = np.bincount(pixels.reshape(-1), minlength=256)  # faster than np.unique, which sorts
        values, counts = np.flatnonzero(counts), counts[counts > 0]
    else:
        values, counts = np.unique(pixels, return_counts=True)
    order = np.sort(np.argsort(-counts, kind="stable")[:12])  # the most frequent, in order of value
    if raster.palette is not None and colored:
        names = [f"{index} #{bytes(raster.palette[index]).hex()}" for index in values[order]]
    else:
        names = [f"#{value:06x}" if colored else f"{value:g}" for value in values[order].tolist()]
    return dict(zip(names, (counts[order] / pixels.size).tolist(), strict=True))


def mask_facts(path: str, page: Page | None = None) -> dict[str, Any]:
    """Return a mask file's `kind` (gray, palette, color), `lossy` format or "", and the fractions of its `values`."""
    raster = decode_mask(path, page)
    colors = "color" if raster.palette is None else "palette"
    kind = colors if is_colored(raster) else "gray"
    return {"kind": kind, "lossy": raster.format if raster.lossy else "", "values": value_fractions(raster)}


def summary(values: dict[str, float]) -> str:
    """Format up to six values with their fractions, as in `#000000 (96.6 %), #ff0000 (3.4 %)`."""
    shown = [f"{value} ({100 * part:.3g} %)" for value, part in list(values.items())[:6]]
    return ", ".join([*shown, "others"] if len(values) > 6 else shown)
