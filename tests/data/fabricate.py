"""Write the small image files and folders that tests need, with the libraries that people use."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from PIL import Image

VOC = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]
"""The first colors of the palette of PASCAL VOC: black, dark red, dark green, olive."""

Writer = Callable[[Path, np.ndarray], Any]
"""A function that writes a mask (h, w) bool, or an image (h, w, 3) uint8, to a file."""


def write_image(path: Path, pixels: np.ndarray, *options: int) -> str:
    """Write an image (h, w) or (h, w, 3) RGB, as uint16 or else as uint8, in the format of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = pixels if pixels.dtype == np.uint16 else pixels.astype(np.uint8)
    assert cv2.imwrite(str(path), pixels[..., ::-1] if pixels.ndim == 3 else pixels, options)
    return str(path)


def write_dicom(path: Path, pixels: np.ndarray, kind: str = "MONOCHROME2", bits: int = 16, **tags: Any) -> str:
    """Write a valid DICOM file of pixels with pydicom; return its path."""
    import pydicom

    data = pydicom.Dataset()
    data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", pydicom.uid.generate_uid()
    data.set_pixel_data(pixels, kind, bits)
    for name, value in tags.items():
        setattr(data, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return str(path)


def write_pairs(root: Path, images: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> Path:
    """Write images/K.png and masks/K.png; masks (h, w) of 0 and 1 are written as 0 and 255."""
    for k, (image, mask) in enumerate(zip(images, masks, strict=True)):
        write_image(root / f"images/{k}.png", image)
        write_image(root / f"masks/{k}.png", mask * 255)
    return root


def run_lengths(mask: np.ndarray) -> str:
    """Encode a mask (h, w) as starts (from 1, column by column) and lengths, as the ship challenge does."""
    flat = np.concatenate([[False], mask.T.reshape(-1) > 0, [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1]).reshape(-1, 2)
    return " ".join(f"{start + 1} {end - start}" for start, end in edges.tolist())


def scene(k: int, height: int = 40, width: int = 48, radius: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Return an image (h, w, 3) uint8 of a bright disc on noise, never symmetric, and its mask (h, w) bool."""
    rng = np.random.default_rng(k)
    y, x = rng.integers(radius + 1, height // 2), rng.integers(radius + 1, width // 2)
    mask = np.hypot(*np.ogrid[-y : height - y, -x : width - x]) <= radius
    image = rng.normal(90, 10, (height, width, 3)) + 100 * mask[..., None]
    return np.clip(image, 0, 255).astype(np.uint8), mask


def save(path: Path, array: np.ndarray, mode: str | None = None, **options: Any) -> None:
    """Write an array with Pillow."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array, mode).save(path, **options)


def save_palette(path: Path, indices: np.ndarray, palette: Sequence[int] = VOC, **options: Any) -> None:
    """Write indices (h, w) with a palette, with Pillow."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(indices.astype(np.uint8), "P")
    image.putpalette(list(palette))
    image.save(path, **options)


def save_turned(path: Path, array: np.ndarray, orientation: int, **options: Any) -> None:
    """Write an array with an EXIF orientation, 1 to 8, that readers must apply to get it upright."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ways = Image.Transpose
    stored = (None, ways.FLIP_LEFT_RIGHT, ways.ROTATE_180, ways.FLIP_TOP_BOTTOM, ways.TRANSPOSE)
    stored = (*stored, ways.ROTATE_90, ways.TRANSVERSE, ways.ROTATE_270)
    way, image = stored[orientation - 1], Image.fromarray(array)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = image if way is None else image.transpose(way)
    image.save(path, **({"tiffinfo": {274: orientation}} if path.suffix == ".tif" else {"exif": exif}), **options)


def white(mask: np.ndarray) -> np.ndarray:
    """Return 255 where a mask is true, else 0."""
    return mask.astype(np.uint8) * 255


def with_alpha(mask: np.ndarray, level: int) -> np.ndarray:
    """Return an image (h, w, 4) of one gray level with the mask as alpha."""
    return np.dstack([np.full((*mask.shape, 3), level, np.uint8), white(mask)])


def two_colors(mask: np.ndarray, background: Sequence[int], foreground: Sequence[int]) -> np.ndarray:
    """Return a mask painted in two colors."""
    return np.where(mask[..., None], np.uint8(foreground), np.uint8(background))


SAME_MASK: dict[str, tuple[str, Writer]] = {
    "white": (".png", lambda path, mask: save(path, white(mask))),
    "ones": (".png", lambda path, mask: save(path, mask.astype(np.uint8))),
    "1 bit": (".png", lambda path, mask: save(path, mask)),
    "gray with alpha": (".png", lambda path, mask: save(path, np.dstack([white(mask), white(mask | True)]), "LA")),
    "RGB": (".png", lambda path, mask: save(path, np.repeat(white(mask)[..., None], 3, 2))),
    "lossless WebP": (".webp", lambda path, mask: save(path, white(mask), lossless=True)),
    "fax TIFF": (".tif", lambda path, mask: save(path, mask, compression="group4")),
    "white is 0": (".tif", lambda path, mask: tifffile.imwrite(path, white(~mask), photometric="miniswhite")),
    "int64 TIFF": (".tif", lambda path, mask: tifffile.imwrite(path, mask.astype(np.int64), compression="lzw")),
    "float TIFF": (".tif", lambda path, mask: save(path, mask.astype(np.float32))),
    "palette": (".png", save_palette),
    "palette GIF": (".gif", save_palette),
    "palette TIFF": (".tif", save_palette),
    "gray palette": (".png", lambda path, mask: save_palette(path, ~mask, [255, 255, 255, 0, 0, 0])),
    "alpha on white": (".png", lambda path, mask: save(path, with_alpha(mask, 255))),
    "alpha on black": (".png", lambda path, mask: save(path, with_alpha(mask, 0))),
    "alpha WebP": (".webp", lambda path, mask: save(path, with_alpha(mask, 255), lossless=True, exact=True)),
    "alpha and colors": (".png", lambda path, mask: save(path, np.dstack([white(mask)] * 4))),
}
"""Formats of the same mask that are read without options: the suffix of the file and its writer."""

LOSSY: dict[str, tuple[str, Writer]] = {
    "JPEG": (".jpg", lambda path, mask: save(path, white(mask), quality=75)),
    "coarse JPEG": (".jpeg", lambda path, mask: save(path, white(mask), quality=20)),
    "RGB JPEG": (".jpg", lambda path, mask: save(path, np.repeat(white(mask)[..., None], 3, 2), quality=75)),
    "lossy WebP": (".webp", lambda path, mask: save(path, white(mask), quality=50)),
    "WebP with EXIF": (".webp", lambda path, mask: save_turned(path, white(mask), 1, quality=80)),
    "JPEG in TIFF": (".tif", lambda path, mask: save(path, white(mask), compression="jpeg")),
}
"""Lossy formats of the same mask."""


def write_scenes(
    root: Path,
    count: int = 6,
    image: tuple[str, Writer] = (".png", save),
    mask: tuple[str, Writer] = (".png", lambda path, mask: save(path, white(mask))),
    named: tuple[str, str] = ("images/{}", "masks/{}"),
    **options: int,
) -> Path:
    """Write numbered scenes and their masks."""
    for k in range(count):
        pixels, truth = scene(k, **options)
        for place, (suffix, write), array in ((named[0], image, pixels), (named[1], mask, truth)):
            path = root / f"{place.format(f'{k:02d}')}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, array)
    return root
