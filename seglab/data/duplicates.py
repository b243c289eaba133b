"""Images that look the same: the leak between training and test that no list of names shows."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

SIDE = 16
BITS_SET = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1)
"""How many bits of each byte are set."""

FEW_BITS = 16
"""Of the 256 bits of two hashes: fewer that differ make a pair a candidate."""

ALIKE = 0.98
"""Correlation of two reduced images from which a candidate counts as a near-duplicate."""


def image_hash(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reduce an image to 256 bits, whether brightness falls to the right (a difference hash), and to 64x64 pixels.

    The pixels have mean 0 and length 1, so that a product of two is their correlation; all zeros for a flat image.
    """
    gray = image if image.ndim == 2 else image.mean(axis=2)
    small = cv2.resize(gray.astype(np.float32), (4 * SIDE, 4 * SIDE), interpolation=cv2.INTER_AREA)
    coarse = cv2.resize(small, (SIDE + 1, SIDE), interpolation=cv2.INTER_AREA)
    bits = np.packbits(coarse[:, 1:] < coarse[:, :-1])
    centered = small - small.mean()
    length = np.linalg.norm(centered)
    return bits, (centered / length if length > 1e-3 else np.zeros_like(centered)).reshape(-1)


def near_duplicates(hashes: Sequence[tuple[np.ndarray, np.ndarray]], splits: Sequence[str]) -> list[tuple[int, int]]:
    """List the pairs of images of different splits that look the same."""
    bits, pixels = (np.array([one[k] for one in hashes]) for k in (0, 1))
    pairs = []
    for k in range(len(hashes) - 1):
        differ = BITS_SET[bits[k + 1 :] ^ bits[k]].sum(1)
        for other in (k + 1 + np.flatnonzero(differ <= FEW_BITS)).tolist():
            if splits[k] != splits[other] and pixels[k] @ pixels[other] >= ALIKE:
                pairs.append((k, other))
    return pairs
