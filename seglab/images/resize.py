"""Resize images and masks to what the model sees, and convert their value range and channels."""

import cv2
import numpy as np

from seglab.contract import require

FITS = ("resize", "pad", "patch")


def to_bits(image: np.ndarray, bits: int) -> np.ndarray:
    """Convert an image to uint8 or uint16, scaling full range to full range."""
    if image.dtype == np.uint8:
        return image if bits == 8 else image.astype(np.uint16) * 257
    return image if bits == 16 else (image >> 8).astype(np.uint8)


def rescale(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    """Scale the range from `low` to `high` to 0 .. 65535, clipping values outside: uint16."""
    scale = 65535 / max(high - low, 1e-6)  # percentiles of a constant are equal
    return np.rint(np.clip((pixels.astype(np.float32) - low) * scale, 0, 65535)).astype(np.uint16)


def to_full_range(image: np.ndarray, limits: str | tuple[float, ...]) -> np.ndarray:
    """Scale an image so that its values of black and white become the ends of uint8 or uint16.

    limits: those two values; for any string, integers stay as they are and floats are taken as 0 to 1.
    """
    if not isinstance(limits, str):
        return rescale(image, *limits)
    return rescale(image, 0, 1) if image.dtype.kind == "f" else image


def to_units(images: np.ndarray) -> np.ndarray:
    """Convert decoded images to the units of a model's input, 0 to 255: uint8 unchanged, uint16 as float32."""
    return images if images.dtype == np.uint8 else images.astype(np.float32) / 257  # 65535 / 255


def require_bands(who: str, image: np.ndarray, channels: int) -> None:
    """Raise ContractError, naming `who`, unless `to_channels` can convert the image."""
    bands = image.shape[2] if image.ndim == 3 else 1
    fits = bands == channels or {bands, channels} == {1, 3}
    remedy = "train with dataset.bands to select bands, or with dataset.channels set to their number"
    require(fits, who, f"{channels} band{'' if channels == 1 else 's'} (dataset.channels)", bands, remedy)


def to_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Convert a gray (h, w) or (h, w, 1), an RGB (h, w, 3), or an image with `channels` bands to (h, w, channels)."""
    image = image[..., 0] if image.shape[2:] == (1,) else image
    require_bands("image", image, channels)
    if channels == 1 and image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    elif channels == 3 and image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    return image[..., None] if image.ndim == 2 else image


def in_colors(images: np.ndarray) -> np.ndarray:
    """Return the bands of images (..., c) to display: the first three, or only the first of one or two."""
    return images[..., : 3 if images.shape[-1] >= 3 else 1]


def resize(array: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize by area averaging where it shrinks and linearly where it grows; a mask must be float32 fractions."""
    if array.shape[:2] == (height, width):
        return array
    if array.ndim == 3 and array.shape[2] > 4:  # OpenCV cannot shrink more channels at once
        return np.dstack([resize(array[..., k : k + 4], height, width) for k in range(0, array.shape[2], 4)])
    smaller = min(height, array.shape[0]), min(width, array.shape[1])
    if smaller != array.shape[:2]:  # shrink first: with another side growing, OpenCV would skip pixels
        array = cv2.resize(array, smaller[::-1], interpolation=cv2.INTER_AREA)
    return array if smaller == (height, width) else cv2.resize(array, (width, height), interpolation=cv2.INTER_LINEAR)


def pad(array: np.ndarray, size: int) -> np.ndarray:
    """Center an array in a square of zeros."""
    rows, columns = size - array.shape[0], size - array.shape[1]
    return border(array, (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2))


def border(array: np.ndarray, *sides: tuple[int, int]) -> np.ndarray:
    """Pad an array with zeros: `sides` are the rows above and below, and the columns to the left and right."""
    return np.pad(array, (*sides, *[(0, 0)] * (array.ndim - 2))) if np.any(sides) else array


def inside(shape: tuple[int, ...], size: int, how: str) -> tuple[int, int]:
    """Return the height and width of an image within size x size: stretched (`resize`), or in proportion (`pad`)."""
    if how == "resize":
        return size, size
    scale = size / max(shape[:2])
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def fit(array: np.ndarray, size: int, how: str) -> np.ndarray:
    """Resize an image or a map to size x size: stretched (`resize`), or in proportion and padded with zeros (`pad`)."""
    return pad(resize(array, *inside(array.shape, size, how)), size)


def unfit(array: np.ndarray, height: int, width: int, how: str) -> np.ndarray:
    """Resize a square map to the size of the image that it was made from: the inverse of `fit`, up to resampling."""
    size = len(array)
    tall, wide = inside((height, width), size, how)  # the image inside the padding
    top, left = (size - tall) // 2, (size - wide) // 2
    return resize(np.ascontiguousarray(array[top : top + tall, left : left + wide]), height, width)


def crop(array: np.ndarray, top: int, left: int, height: int, width: int) -> np.ndarray:
    """Crop height x width from an image or mask, starting at a corner; pixels outside of it are 0."""
    cut = np.ascontiguousarray(array[top : top + height, left : left + width])
    return border(cut, (0, height - cut.shape[0]), (0, width - cut.shape[1]))


def to_mask(fraction: np.ndarray, coverage: float) -> np.ndarray:
    """Return 1 (uint8) where at least the fraction `coverage` of a pixel's area is foreground, else 0."""
    return (fraction >= coverage - 1e-6).astype(np.uint8)  # a full area sums to 0.9999998 in float32
