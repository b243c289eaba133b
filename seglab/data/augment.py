"""Random changes to training images: all of them functions of (seed, epoch, index), whoever computes them."""

from __future__ import annotations

import os
import random
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from seglab.contract import require

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or the import asks the network for a newer version
# A misspelled argument only warns there, and the transform runs with its default.
warnings.filterwarnings("error", message=r"Argument\(s\) .* not valid for transform")


@dataclass(frozen=True, kw_only=True)
class Augment:
    """No change at all, and the base of all chains of albumentations transforms, which `transforms()` lists.

    All draw from one generator per sample. A call takes image (h, w, c), mask (h, w) and the three numbers that decide
    the outcome, and gives back changed copies of the same shapes.
    """

    def transforms(self) -> list[Any]:
        """List the albumentations transforms, in order."""
        return []

    @cached_property
    def chain(self) -> Any:
        from albumentations import Compose

        return Compose(self.transforms())

    def __call__(self, image: np.ndarray, mask: np.ndarray, key: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
        # One shared state: Compose.set_random_seed would give each transform the same seed, so that a horizontal flip
        # always came with a vertical one.
        generator = np.random.default_rng(key)
        self.chain.set_random_state(generator, random.Random(int(generator.integers(2**63))))
        deep = image.dtype == np.uint16  # few transforms take it, all take float32 in 0..1
        out = self.chain(image=image.astype(np.float32) / 65535 if deep else image, mask=mask)
        changed = (np.clip(out["image"], 0, 1) * 65535).round().astype(np.uint16) if deep else out["image"]
        return changed.reshape(image.shape), out["mask"]


@dataclass(frozen=True, kw_only=True)
class Light(Augment):
    """Flips, quarter turns, and mild changes of brightness and contrast, which suit nearly every image.

    flip, rotate90, tone: probabilities of each flip, of a random quarter turn, of a change of tone.
    brightness, contrast: largest changes, as fractions of the full range.
    """

    flip: float = 0.5
    rotate90: float = 0.5
    tone: float = 0.5
    brightness: float = 0.2
    contrast: float = 0.2

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            known = name in ("degrees", "shear") or 0 <= value <= 1
            require(known, f"augment {type(self).__name__}", f"{name} in [0, 1]", value)

    def transforms(self) -> list[Any]:
        import albumentations as A

        return [
            A.HorizontalFlip(p=self.flip),
            A.VerticalFlip(p=self.flip),
            A.RandomRotate90(p=self.rotate90),
            A.RandomBrightnessContrast(brightness_limit=self.brightness, contrast_limit=self.contrast, p=self.tone),
        ]


@dataclass(frozen=True, kw_only=True)
class Strong(Light):
    """Light, and rotation, zoom, shear, elastic deformation, gamma, noise and blur.

    warp, bend, gamma, noise, blur: probabilities. degrees, zoom, shear: largest rotation in degrees, relative change
    of scale, and shear in degrees.
    """

    warp: float = 0.5
    bend: float = 0.2
    gamma: float = 0.2
    noise: float = 0.2
    blur: float = 0.1
    degrees: float = 30.0
    zoom: float = 0.2
    shear: float = 5.0

    def transforms(self) -> list[Any]:
        import albumentations as A

        scale = (1 - self.zoom, 1 + self.zoom)
        rotate, shear = (-self.degrees, self.degrees), (-self.shear, self.shear)
        return [
            *super().transforms(),
            A.Affine(scale=scale, rotate=rotate, shear=shear, p=self.warp),
            A.ElasticTransform(alpha=50, sigma=8, p=self.bend),
            A.RandomGamma(p=self.gamma),
            A.GaussNoise(std_range=(0.01, 0.05), p=self.noise),
            A.GaussianBlur(p=self.blur),
        ]


@dataclass(frozen=True, kw_only=True)
class Chain(Augment):
    """Any albumentations transforms, named in the yaml: `augment=chain augment.steps.flip.p=1`."""

    steps: dict[str, Any] = field(default_factory=dict)

    def transforms(self) -> list[Any]:
        return list(self.steps.values())
