"""Random changes to training images: all of them functions of (seed, epoch, index), whoever computes them."""

from __future__ import annotations

import copy
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

NORMALIZED = "seglab normalizes on the device (dataset.mean, dataset.std); leave it out"
REFUSED = dict.fromkeys(("Normalize", "ToFloat", "FromFloat"), NORMALIZED)
REFUSED |= dict.fromkeys(("ToTensorV2", "ToTensor3D"), "seglab makes tensors itself; leave it out")
"""Transforms that people end a chain with, and why they are not wanted here."""


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
        given = to_float(image)
        out = self.chain(image=given, mask=mask)
        require_unchanged("augment", given, mask, out)
        changed = out["image"].reshape(image.shape)
        if image.dtype != np.uint16:
            return changed, out["mask"]
        return (np.clip(changed, 0, 1) * 65535).round().astype(np.uint16), out["mask"]

    def check(self, image: np.ndarray, mask: np.ndarray) -> None:
        """Try the chain once with every transform in it, however rare; a ContractError names those that do not fit."""
        from albumentations import Compose

        given = to_float(image)
        out, changing = {"image": given, "mask": mask}, []
        for transform in copy.deepcopy(self.transforms()):
            name, transform.p, before = type(transform).__name__, 1.0, (spell(out["image"]), spell(out["mask"]))
            try:
                out = Compose([transform], seed=0)(image=out["image"], mask=out["mask"])
            except Exception as error:  # a transform that wants boxes or other pixels raises whatever comes first
                reason = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
                require(False, f"augment: {name}", "a transform of an image and its mask", reason, "leave it out")
            changing += [name] if (spell(out["image"]), spell(out["mask"])) != before else []
        require_unchanged(f"augment: {', '.join(changing)}".removesuffix(": "), given, mask, out)


def to_float(image: np.ndarray) -> np.ndarray:
    """Bring uint16 to float32 from 0 to 1, which all transforms take and few take uint16; bytes stay as they are."""
    return image.astype(np.float32) / 65535 if image.dtype == np.uint16 else image


def require_unchanged(who: str, image: np.ndarray, mask: np.ndarray, out: dict[str, Any]) -> None:
    """Raise a ContractError unless a transform kept size, channels, type and range of an image and its mask."""
    found, truth = out["image"], out["mask"]
    expected, got = f"an image of {spell(image)} and a mask of {spell(mask)}", f"{spell(found)} and {spell(truth)}"
    shapes = (image.shape, image.shape[:2]) if image.shape[2:] == (1,) else (image.shape,)  # some drop a single channel
    same = tuple(found.shape) in shapes and truth.shape == mask.shape
    same = same and (found.dtype, truth.dtype) == (image.dtype, mask.dtype)
    require(same, who, f"{expected} as before", got, "dataset.size, fit, mean and std make what the model sees")
    if image.dtype == np.float32:
        low, high = float(found.min()), float(found.max())
        require(low >= -0.01 and high <= 1.01, who, "an image from 0 to 1", f"{low:.3g} to {high:.3g}", NORMALIZED)
    most = max(int(mask.max()), 1)
    require(truth.max() <= most, who, f"a mask of at most {most}, as before", truth.max(), "set fill_mask=0")


def spell(array: Any) -> str:
    """Write the shape and the type of an array or a tensor: 32x32x3 uint8."""
    return f"{'x'.join(map(str, array.shape))} {str(array.dtype).removeprefix('torch.')}"


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

    def __post_init__(self) -> None:
        from albumentations import BaseCompose, BasicTransform

        for name, step in self.steps.items():
            who, kind = f"augment.steps.{name}", type(step).__name__
            require(kind not in REFUSED, who, "a transform of pixels", kind, REFUSED.get(kind, ""))
            known = isinstance(step, BasicTransform | BaseCompose)
            require(known, who, "a transform of albumentations", kind, "write {_target_: albumentations.NAME}")

    def transforms(self) -> list[Any]:
        return list(self.steps.values())
