"""Painted images with exact masks, generated in memory from a seed; no files are needed."""

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import ClassVar

import cv2
import numpy as np

from seglab.contract import Task, require
from seglab.data.dataset import Dataset, Item, one_of
from seglab.data.datasets.synthetic_scenes import SCENES
from seglab.data.split import SPLITS
from seglab.images.resize import to_mask


@dataclass(frozen=True, kw_only=True)
class Synthetic(Dataset):
    """Painted scenes with exact masks; image k of a split is the same for any number of images.

    Args:
        train, val, test: number of images.
        image_seed: seed of all images.
        foreground: mean foreground fraction of the images that have any; None: the scene's own range.
        empty: fraction of images without foreground; None: the scene's own.
        contrast, noise: factors on the scene's own.
        label_noise: fraction of a training mask's objects with simulated annotation errors: missing, flipped to the
            other side of the image, grown, or shrunk.
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
    range: str | tuple[float, ...] = "full"
    cache_dir: str | None = None
    computed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("dataset synthetic", self, scene=tuple(SCENES))
        least = {"size": 32, "train": 1} | dict.fromkeys(("val", "test", "image_seed", "contrast", "noise"), 0)
        for name, limit in least.items():
            value = getattr(self, name)
            require(value >= limit, "dataset synthetic", f"{name} of at least {limit}", value)
        fits = self.foreground is None or 0 < self.foreground <= 0.3
        require(fits, "dataset synthetic", "foreground in (0, 0.3]", self.foreground)
        for name in ("empty", "label_noise"):
            require(0 <= (getattr(self, name) or 0) <= 1, "dataset synthetic", f"{name} in [0, 1]", getattr(self, name))

    @property
    def task(self) -> Task:
        return SCENES[self.scene].task

    def items(self) -> list[Item]:
        items = []
        for split, k in [(name, k) for name in SPLITS for k in range(getattr(self, name))]:
            image, mask = (partial(read, self, split, k) for read in (image_of, mask_of))
            items.append(Item(f"{self.scene}-{split}-{k:04d}", f"{split}-{k}", image, mask, split))
        return items


def image_of(options: Synthetic, split: str, k: int) -> np.ndarray:
    """Return image k of a split, (size, size, 3) uint8."""
    return paint(options, split, k)[0]


def mask_of(options: Synthetic, split: str, k: int) -> np.ndarray:
    """Return mask k of a split, (size, size) or (size, size, classes): uint8, or float32 fractions if `soft`."""
    fraction = paint(options, split, k)[1]
    if options.task.kind == "multiclass":
        return to_mask(fraction.sum(2), 0.5) * (1 + fraction.argmax(2)).astype(np.uint8)
    return fraction if options.soft else to_mask(fraction, 0.5)


@lru_cache(maxsize=64)
def paint(options: Synthetic, split: str, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Paint one image and its mask from a generator of their own; cached, because both are requested in turn."""
    rng = np.random.default_rng((options.image_seed, SPLITS.index(split), k))
    scene, mean = SCENES[options.scene], options.foreground
    # log-uniform between these limits, whose mean is then 0.98 times the requested one
    low, high = scene.foreground if mean is None else (mean * 0.6, mean * 1.5)
    fraction = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    if rng.random() < (scene.empty if options.empty is None else options.empty):
        fraction = 0.0
    image, truth = scene.paint(rng, options.size, fraction, options.contrast, options.noise)
    if split == "train":  # after painting, so that the image shows the correct labels
        maps = truth[..., None] if truth.ndim == 2 else truth
        maps = np.stack([misdraw(maps[..., k], options.label_noise, rng) for k in range(maps.shape[2])], axis=-1)
        truth = maps.reshape(truth.shape)
    return (np.clip(image, 0, 1) * 255).astype(np.uint8), truth.astype(np.float32)


def misdraw(truth: np.ndarray, rate: float, rng: np.random.Generator) -> np.ndarray:
    """With probability `rate`, remove, flip, grow or shrink (by a quarter to half of its radius) each object."""
    if not rate:
        return truth
    count, labels = cv2.connectedComponents((truth >= 0.5).astype(np.uint8))
    drawn = np.zeros_like(truth)
    for label in range(1, count):
        shape: np.ndarray = np.where(labels == label, truth, 0).astype(np.float32)
        # Always drawn, so that another rate does not change the errors of other objects.
        wrong, fault, share = rng.random() < rate, rng.integers(4), rng.uniform(0.25, 0.5)
        if wrong and fault == 0:
            continue
        if wrong and fault == 1:
            shape = shape[::-1, ::-1]
        elif wrong:
            pixels = max(1, round(share * np.sqrt((labels == label).sum() / np.pi)))  # radius of a disc of equal area
            brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * pixels + 1,) * 2)
            shape = (cv2.dilate if fault == 2 else cv2.erode)(shape, brush)
        drawn = np.maximum(drawn, shape)
    return drawn
