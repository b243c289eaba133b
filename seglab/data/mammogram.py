"""Mammograms: windows of brightness, where the breast is, and which file is a lesion's mask."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from seglab.contract import ContractError, require
from seglab.images.dicom import one_sentence, read_dicom
from seglab.images.image_io import read_image
from seglab.images.resize import resize, spread, to_channels


def read_mammogram(path: str, window: str = "full") -> np.ndarray:
    """Decode DICOM, PNG or JPEG to a gray image (h, w), uint16, or uint8 where the file has no more.

    window: `full`, `header` (DICOM alone), or `percentile`: from the 1st to the 99.5th of what is not black.
    """
    if Path(path).suffix.lower() == ".dcm":
        image = read_dicom(path, window)
    else:
        require(window != "header", path, "a DICOM, where window=header", "another format", "set dataset.window=full")
        image = to_channels(read_image(path), 1)[..., 0]
    if window != "percentile":
        return image
    seen = image[::4, ::4]
    seen = seen[seen > seen.min()]
    return spread(image, *np.percentile(seen, (1, 99.5))) if seen.size else image


def shape_of(path: str) -> tuple[int, ...]:
    """Give the height and width of a mammogram, of a DICOM without decoding it."""
    if Path(path).suffix.lower() != ".dcm":
        return read_mammogram(path).shape
    import pydicom

    with one_sentence(path):
        head = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["Rows", "Columns"])
        return int(head.Rows), int(head.Columns)


def breast_box(image: np.ndarray) -> tuple[slice, slice]:
    """Find the rows and columns of the breast: the largest connected part that is brighter than a dark background."""
    step = max(1, max(image.shape) // 512)
    small = cv2.GaussianBlur(image[::step, ::step].astype(np.float32), (0, 0), 2)
    bright = (small > small.min() + 0.08 * (small.max() - small.min())).astype(np.uint8)
    bright = cv2.morphologyEx(bright, cv2.MORPH_OPEN, np.ones((9, 9), np.uint8))
    count, _, stats, _ = cv2.connectedComponentsWithStats(bright)
    if count < 2:
        return slice(0, image.shape[0]), slice(0, image.shape[1])
    left, top, width, height, _ = stats[1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))]
    return slice(top * step, (top + height) * step), slice(left * step, (left + width) * step)


def is_mask(pixels: np.ndarray) -> bool:
    """Recognize a mask: nearly all pixels lie at one of two values (JPEG blurs the edge between them)."""
    low, high = float(pixels.min()), float(pixels.max())
    near = np.minimum(pixels - low, high - pixels) <= 0.05 * (high - low)
    return bool(near.mean() > 0.98)


def read_lesion(candidates: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Find the mask among the files of one abnormality, by its content, and bring it to the image's shape: uint8.

    In CBIS-DDSM neither folder nor file name distinguishes mask and crop: the mask has two values and the image's
    size, up to a few pixels. Foreground is the upper of the two, be it 1, 2 or 255.
    """
    sizes = []
    for path in candidates:
        pixels = read_mammogram(path)
        off = max(abs(a - b) / b for a, b in zip(pixels.shape, shape, strict=True))
        if off < 0.1 and is_mask(pixels):
            return (resize((pixels > pixels.max() / 2).astype(np.float32), *shape) >= 0.5).astype(np.uint8)
        sizes.append("x".join(map(str, pixels.shape)))
    wanted = f"a mask of two values and about {shape[0]}x{shape[1]}"
    raise ContractError(f"{candidates[0]}: expected {wanted}, got {', '.join(sizes)}")
