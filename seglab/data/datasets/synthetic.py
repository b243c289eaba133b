"""Painted images with exact masks, made in memory from a seed: a data set that is always at hand."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial

import cv2
import numpy as np

from seglab.contract import require
from seglab.data.dataset import Dataset
from seglab.data.datasets.synthetic_scenes import SCENES
from seglab.data.items import Item
from seglab.data.resize import to_mask
from seglab.data.split import SPLITS


@dataclass(frozen=True, kw_only=True)
class Synthetic(Dataset):
    """Painted scenes (disc, lesion, ships) of known truth; image k of a part is the same however many there are.

    train, val, test: number of images. image_seed: fixes all of them. foreground: mean foreground share of the images
    that have any, null for the scene's own range; empty: share of images without any, null for the scene's own.
    contrast, noise: factors on the scene's own. label_noise: share of a mask's objects that annotators get wrong, by
    shifting, growing or shrinking it; in training and validation alone, the test masks stay exact.
    """

    scene: str = "disc"
    size: int = 128
    train: int = 96
    val: int = 24
    test: int = 48
    image_seed: int = 0
    foreground: float | None = None
    empty: float | None = None
    contrast: float = 1.0
    noise: float = 1.0
    label_noise: float = 0.0
    cache_dir: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.scene in SCENES, "dataset synthetic", f"scene to be one of {', '.join(SCENES)}", self.scene)
        require(self.size >= 32, "dataset synthetic", "size of at least 32 pixels", self.size)
        require(self.train >= 1, "dataset synthetic", "at least one training image", self.train)
        require(min(self.val, self.test) >= 0, "dataset synthetic", "val and test of at least 0", (self.val, self.test))
        require(self.image_seed >= 0, "dataset synthetic", "image_seed of at least 0", self.image_seed)
        require(0 < (self.foreground or 0.1) <= 0.3, "dataset synthetic", "foreground in (0, 0.3]", self.foreground)
        require(0 <= (self.empty or 0) <= 1, "dataset synthetic", "empty in [0, 1]", self.empty)
        require(0 <= self.label_noise <= 1, "dataset synthetic", "label_noise in [0, 1]", self.label_noise)
        require(min(self.contrast, self.noise) >= 0, "dataset synthetic", "contrast and noise of at least 0")

    def items(self) -> list[Item]:
        return [
            Item(
                id=f"{self.scene}-{part}-{k:04d}",
                group=f"{part}-{k}",
                image=partial(image_of, self, part, k),
                mask=partial(mask_of, self, part, k),
                split=part,
            )
            for part in SPLITS
            for k in range(getattr(self, part))
        ]


def image_of(knobs: Synthetic, part: str, k: int) -> np.ndarray:
    """Give the image (size, size, 3) uint8 of one number."""
    return painted(knobs, part, k)[0]


def mask_of(knobs: Synthetic, part: str, k: int) -> np.ndarray:
    """Give its mask (size, size): uint8 of 0 and 1, or float32 shares where `soft`."""
    share = painted(knobs, part, k)[1]
    return share if knobs.soft else to_mask(share, 0.5)


@lru_cache(maxsize=64)
def painted(knobs: Synthetic, part: str, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Paint one image from its own generator; kept for the mask, which is asked for next."""
    rng = np.random.default_rng((knobs.image_seed, SPLITS.index(part), k))
    scene = SCENES[knobs.scene]
    low, high = scene.shares if knobs.foreground is None else (knobs.foreground * 0.6, knobs.foreground * 1.5)
    share = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    if rng.random() < (scene.empty if knobs.empty is None else knobs.empty):
        share = 0.0
    image, truth = scene.paint(rng, knobs.size, share, knobs.contrast, knobs.noise)
    if part != "test":
        truth = misdrawn(truth, knobs.label_noise, rng)
    return (np.clip(image, 0, 1) * 255).astype(np.uint8), truth.astype(np.float32)


def misdrawn(truth: np.ndarray, rate: float, rng: np.random.Generator) -> np.ndarray:
    """Shift and grow or shrink, by up to a quarter of its radius, each object that chance picks at this rate."""
    count, labels = cv2.connectedComponents((truth >= 0.5).astype(np.uint8))
    drawn = np.zeros_like(truth)
    for label in range(1, count):
        part = np.where(labels == label, truth, 0).astype(np.float32)
        reach = 0.25 * np.sqrt((labels == label).sum() / np.pi) + 1
        if rng.random() < rate:
            (down, right), by = rng.uniform(-reach, reach, 2), rng.uniform(-reach, reach)
            part = cv2.warpAffine(part, np.array([[1, 0, right], [0, 1, down]]), part.shape[::-1])
            brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * round(abs(by)) + 1,) * 2)
            part = (cv2.dilate if by > 0 else cv2.erode)(part, brush)
        drawn = np.maximum(drawn, part)
    return drawn if rate else truth
