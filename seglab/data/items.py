"""What one labelled image is, before anybody has decoded it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Reader = Callable[[], np.ndarray]
"""A picklable function of no arguments: a `functools.partial` of a function of some module."""


def nothing() -> np.ndarray:
    """Stand for the pixels of an item that has a fault."""
    return np.zeros((1, 1), np.uint8)


@dataclass(frozen=True)
class Item:
    """One image and its mask, as two functions that decode them when somebody needs the pixels.

    `image()` gives (h, w) or (h, w, 3) in RGB order, uint8 or uint16; `mask()` gives (h, w), uint8 of 0 and 1 or
    float32 shares. `group` is whatever must not be divided by a split (patient, scene). `split` is the data set's
    own part of this image, or "". `files` are the source files, of which fingerprints are made; `labels` is what else
    decides the mask (rows of a table). `fault` says why an image that should be there cannot be used, `left_out` why
    one is left out on purpose; "" for a good one. `objects()` gives the mask's objects by their numbers (h, w) from 1,
    0 elsewhere, where the data set tells them apart; None where they are whatever is connected.
    """

    id: str
    group: str
    image: Reader = nothing
    mask: Reader = nothing
    split: str = ""
    files: tuple[str, ...] = ()
    labels: str = ""
    fault: str = ""
    left_out: str = ""
    objects: Reader | None = None
