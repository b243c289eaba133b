"""Small image files, written as the tests need them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np


def write_image(path: Path, pixels: np.ndarray, *options: int) -> str:
    """Write an image (h, w) or (h, w, 3) RGB, uint8 unless it is uint16, in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = pixels if pixels.dtype == np.uint16 else pixels.astype(np.uint8)
    assert cv2.imwrite(str(path), pixels[..., ::-1] if pixels.ndim == 3 else pixels, options)
    return str(path)


def write_pairs(root: Path, images: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> Path:
    """Write images/K.png and masks/K.png, the masks (h, w) of 0 and 1 as 0 and 255."""
    for k, (image, mask) in enumerate(zip(images, masks, strict=True)):
        write_image(root / f"images/{k}.png", image)
        write_image(root / f"masks/{k}.png", mask * 255)
    return root
