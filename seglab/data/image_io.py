"""Image files of common formats as arrays, and masks from whatever their pixels hold."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from seglab.contract import ContractError, require

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".pgm", ".ppm", ".bmp")


def read_image(path: str) -> np.ndarray:
    """Decode PNG, JPEG, TIFF or PGM to (h, w) or (h, w, 3) in RGB order, uint8 or uint16; alpha is dropped.

    Raises a ContractError that names the file if it is missing, truncated, or holds anything else.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ContractError(f"{path}: expected a readable file, got {error.strerror}") from None
    require(not is_truncated(data), path, "a whole JPEG", "one without its end", "copy the file again")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if image is None:
        raise ContractError(f"{path}: expected a readable image, got {len(data)} bytes that no decoder takes")
    require(image.dtype in (np.uint8, np.uint16), path, "an image of 8 or 16 bits", image.dtype)
    return image if image.ndim == 2 else cv2.cvtColor(image[..., :3], cv2.COLOR_BGR2RGB)


def is_truncated(data: bytes) -> bool:
    """Recognize a JPEG that lacks its end marker: decoders fill up the missing rows with gray without a word."""
    return data[:2] == b"\xff\xd8" and b"\xff\xd9" not in data[-4096:]


def read_mask(path: str, threshold: int = 0, value: int | None = None) -> np.ndarray:
    """Decode a mask to (h, w) uint8: 1 where a pixel equals `value`, or, without one, lies above `threshold`.

    A mask saved in color counts by its brightest channel.
    """
    pixels = read_image(path)
    pixels = pixels.max(axis=2) if pixels.ndim == 3 else pixels
    return ((pixels > threshold) if value is None else (pixels == value)).astype(np.uint8)


def existing_folder(path: str | Path) -> Path:
    """Give a folder of a data set, or raise one sentence if it is missing."""
    require(Path(path).is_dir(), "dataset", "a folder that exists", path, "set dataset.root")
    return Path(path)


def files_in(folder: Path) -> list[Path]:
    """List a folder's image files in the order of their names; hidden files do not count."""
    files = existing_folder(folder).iterdir()
    return sorted(path for path in files if path.suffix.lower() in SUFFIXES and path.name[0] != ".")
