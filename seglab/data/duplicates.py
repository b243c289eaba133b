"""Images that look the same: the leak between training and test that no list of names shows."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

SIDE = 16
ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1)
"""How many bits of each byte are set."""
FEW_BITS = 16
"""Of the 256 bits of two fingerprints: fewer that differ make a pair a candidate."""

ALIKE = 0.98
"""Correlation of two reduced images from which a candidate counts as a near-duplicate."""


def fingerprint(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reduce an image to 256 bits, whether brightness falls to the right (a difference hash), and to 64x64 pixels.

    The pixels have mean 0 and length 1, so that a product of two is their correlation; all zeros for a flat image.
    """
    grey = image if image.ndim == 2 else image.mean(axis=2)
    small = cv2.resize(grey.astype(np.float32), (4 * SIDE, 4 * SIDE), interpolation=cv2.INTER_AREA)
    coarse = cv2.resize(small, (SIDE + 1, SIDE), interpolation=cv2.INTER_AREA)
    bits = np.packbits(coarse[:, 1:] < coarse[:, :-1])
    centred = small - small.mean()
    length = np.linalg.norm(centred)
    return bits, (centred / length if length > 1e-3 else np.zeros_like(centred)).reshape(-1)


def near_duplicates(prints: Sequence[tuple[np.ndarray, np.ndarray]], parts: Sequence[str]) -> list[tuple[int, int]]:
    """List the pairs of images of different parts that look the same."""
    if not prints:
        return []
    bits = np.stack([each[0] for each in prints])
    pixels = np.stack([each[1] for each in prints])
    part = np.asarray(parts)
    pairs = []
    for k in range(len(prints) - 1):
        far = ONES[bits[k + 1 :] ^ bits[k]].sum(1)
        for other in k + 1 + np.flatnonzero((far <= FEW_BITS) & (part[k + 1 :] != part[k])):
            if pixels[k] @ pixels[other] >= ALIKE:
                pairs.append((k, int(other)))
    return pairs
