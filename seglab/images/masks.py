"""What the pixels of a mask file mean: gray levels, indices of a palette, colors, or alpha."""

import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from seglab.contract import require
from seglab.images.image_io import decode
from seglab.images.labels import IGNORED, with_ignored
from seglab.images.raster import Page, Raster

Value: TypeAlias = int | str  # a gray level or an index of a palette; or a color, "#rrggbb"
HALF = 127  # lossy masks are cut here, half of 255: compression puts levels of up to some dozens beside every edge
NAME_THEM = "name the foreground by dataset.mask_value, one of these or a list"


def read_mask(
    path: str,
    threshold: int = 0,
    value: Value | Sequence[Value] | None = None,
    soft: bool = False,
    page: Page | None = None,
    ignore: Value | Sequence[Value] | None = None,
) -> np.ndarray:
    """Decode a mask to (h, w) uint8: 1 where a pixel is one of `value`, or, without any, lies above `threshold`.

    A palette is read by its indices, unless all its colors are gray; an alpha channel where the colors say nothing. A
    mask in color needs `value`, such as "#ff0000", and so does a palette of which several indices occur beside 0. What
    was compressed with loss is cut at half. With `soft` and neither threshold nor value the gray levels are kept as
    fractions, float32. Pixels of a value of `ignore` have no label, see labels.py. Raises a ContractError otherwise.
    """
    raster = decode_mask(path, page)
    counts = ~any_of(path, raster, listed(ignore)) if ignore is not None else None
    if counts is not None:  # else an ignored index would be a second one beside 0, which is refused
        pixels = raster.pixels.copy()
        pixels[~counts] = 0
        raster = raster._replace(pixels=pixels)
    mask = foreground(path, raster, threshold, listed(value), soft)
    return mask if counts is None else with_ignored(mask, counts)


def decode_mask(path: str, page: Page | None) -> Raster:
    """Decode a mask file, whatever its pixels mean; raises a ContractError for one of other than 1 or 3 bands."""
    raster = decode(path, page)
    bands = raster.pixels.shape[2] if raster.pixels.ndim == 3 else 1
    require(bands in (1, 3), path, "a mask of 1 band (levels) or 3 (colors)", f"{bands} bands")
    return raster


def foreground(path: str, raster: Raster, threshold: int, named: Sequence[Value], soft: bool) -> np.ndarray:
    """Give what of a mask is foreground, see `read_mask`."""
    if named:
        return any_of(path, raster, named).astype(np.uint8)
    pixels, blurred = levels(path, raster, threshold)
    values = value_fractions(raster) if is_colored(raster) else {}
    indices = [name for name in values if not name.startswith("0 ")]
    require(len(indices) <= 1, path, "one index beside 0, or named ones", summary(values), NAME_THEM)
    if not soft or threshold:
        return (pixels > (HALF if blurred and threshold == 0 else threshold)).astype(np.uint8)
    # A mask of 0 and 1 holds fractions already.
    full = np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" and pixels.max() > 1 else 1
    return np.clip(pixels.astype(np.float32) / full, 0, 1)


def read_classes(
    path: str,
    classes: Sequence[tuple[str, Sequence[Value]]],
    ignore: Value | Sequence[Value] | None = None,
    page: Page | None = None,
) -> np.ndarray:
    """Decode a mask to class numbers (h, w) uint8, in the order of `classes`: names with their values or colors.

    Pixels of a value of `ignore` have no label, see labels.py. Raises a ContractError for values that are not listed.
    """
    raster, unlisted = decode_mask(path, page), 254
    numbers = np.full(raster.pixels.shape[:2], unlisted, np.uint8)
    for number, (_, values) in enumerate(classes):
        numbers[any_of(path, raster, values)] = number
    if ignore is not None:
        numbers[any_of(path, raster, listed(ignore))] = IGNORED
    left = numbers == unlisted
    if left.any():
        kept = raster.pixels[left]
        shares = value_fractions(raster._replace(pixels=kept[:, None], alpha=None))  # a picture one pixel wide
        counts = ", ".join(f"{value} ({round(part * len(kept))} pixels)" for value, part in shares.items())
        require(False, path, "values listed in dataset.classes", counts, "list them there, or in dataset.ignore")
    return numbers


def listed(value: Value | Sequence[Value] | None) -> tuple[Any, ...]:
    """Give a value or several as a tuple; an empty one for None."""
    if value is None:
        return ()
    return (value,) if isinstance(value, int | str) else tuple(value)


def any_of(path: str, raster: Raster, named: Sequence[Value]) -> np.ndarray:
    """Mark the pixels (h, w) bool that have one of several values or colors."""
    exact = not raster.lossy or named == (255,)  # 255 means above half then
    require(exact, path, "a lossless mask, where values are named", raster.format, "save it as PNG")
    mask = np.zeros(raster.pixels.shape[:2], bool)
    for value in named:
        if isinstance(value, str):
            mask |= (np.atleast_3d(raster.colors()) == to_rgb(value)).all(axis=2)  # gray is compared as r = g = b
        else:
            pixels, _ = levels(path, raster)
            mask |= pixels > HALF if raster.lossy else pixels == value
    return mask


def to_rgb(color: str) -> list[int]:
    """Read a color such as "#ff8000"."""
    fits = re.fullmatch("#[0-9a-fA-F]{6}", color) is not None
    require(fits, "dataset.mask_value", 'numbers and colors such as "#ff8000"', repr(color))
    return list(bytes.fromhex(color[1:]))


def levels(path: str, raster: Raster, threshold: int = 0) -> tuple[np.ndarray, bool]:
    """Give the gray levels or indices (h, w) of a mask, and whether its edges are blurred: by loss, or as alpha is."""
    pixels, alpha = raster.pixels, raster.alpha
    if raster.palette is not None:
        return (pixels if is_colored(raster) else raster.palette[pixels, 0]), False
    gray = pixels.max(axis=2) if pixels.ndim == 3 else pixels
    if alpha is not None:
        if (pixels == pixels[:1, :1]).all():  # one color everywhere says nothing
            return alpha, True
        same = bool(((gray > threshold) == (alpha > HALF)).all())
        require(same, path, "a mask in its colors or in its alpha", "both, which differ", "save one of them alone")
    if is_colored(raster):
        remedy = f"save it as PNG, and {NAME_THEM}" if raster.lossy else NAME_THEM
        require(False, path, "a gray mask, or named colors", summary(value_fractions(raster)), remedy)
    return gray, raster.lossy


def is_colored(raster: Raster) -> bool:
    """Say whether a mask, or its palette, has colors that are not gray; loss makes gray a little colored."""
    colors = raster.pixels if raster.palette is None else raster.palette
    if raster.palette is None and colors.ndim == 2:
        return False
    return bool((colors.max(axis=-1) - colors.min(axis=-1)).max() > (24 if raster.lossy else 0))


def value_fractions(raster: Raster) -> dict[str, float]:
    """Give the levels, indices with their colors, or colors of a mask, and what fraction of the pixels each has.

    The dozen most frequent ones, in their order.
    """
    pixels, colored = raster.pixels, is_colored(raster)
    if raster.palette is None and colored:
        pixels = (pixels.astype(np.uint32) * (65536, 256, 1)).sum(2, dtype=np.uint32)
    elif not colored:  # of a palette in color the indices count
        pixels = levels("", raster)[0]
    if pixels.dtype == np.uint8:
        counts = np.bincount(pixels.reshape(-1), minlength=256)  # without sorting
        found, counts = np.flatnonzero(counts), counts[counts > 0]
    else:
        found, counts = np.unique(pixels, return_counts=True)
    order = np.sort(np.argsort(-counts, kind="stable")[:12])  # the most frequent, in order of value
    if raster.palette is not None and colored:
        names = [f"{index} #{bytes(raster.palette[index]).hex()}" for index in found[order]]
    else:
        names = [f"#{value:06x}" if colored else f"{value:g}" for value in found[order].tolist()]
    return dict(zip(names, (counts[order] / pixels.size).tolist(), strict=True))


def mask_facts(path: str, page: Page | None = None) -> dict[str, Any]:
    """Give a mask file's `kind` (gray, palette, color), its `lossy` format or "", and the fractions of its `values`."""
    raster = decode_mask(path, page)
    colors = "color" if raster.palette is None else "palette"
    kind = colors if is_colored(raster) else "gray"
    return {"kind": kind, "lossy": raster.format if raster.lossy else "", "values": value_fractions(raster)}


def summary(values: dict[str, float]) -> str:
    """Write values with their fractions, as `#000000 (96.6 %), #ff0000 (3.4 %)`."""
    shown = [f"{value} ({100 * part:.3g} %)" for value, part in list(values.items())[:6]]
    return ", ".join([*shown, "others"] if len(values) > 6 else shown)
