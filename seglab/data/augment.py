"""Random augmentation of training images, a function of seed, epoch and index only: base class and albumentations."""

import copy
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seglab.contract import require

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # otherwise the import looks for a newer version online

NORMALIZED = "seglab normalizes on the device (dataset.mean, dataset.std); leave it out"
REFUSED = dict.fromkeys(("Normalize", "ToFloat", "FromFloat"), NORMALIZED)  # transforms with which chains often end
REFUSED |= dict.fromkeys(("ToTensorV2", "ToTensor3D"), "seglab converts images to tensors itself; leave it out")
Changed = tuple[Tensor, Tensor, Tensor | None]  # image, target and valid mask of an augmented batch


@dataclass(frozen=True, kw_only=True)
class Augment:
    """The base class of all augmentations, which itself changes nothing."""

    def __call__(
        self, image: Tensor, target: Tensor, valid: Tensor | None, seed: int, pairs: Sequence[tuple[int, int]]
    ) -> Changed:
        """Augment a batch at random.

        Args:
            image: (b, c, h, w) uint8, or float32 from 0 to 255; may be changed in place.
            target: (b, k, h, w) uint8; `valid` is bool (b, 1, h, w), or None.
            seed: with the (epoch, index) of each sample in `pairs`, it determines how the sample changes.
        """
        return image, target, valid

    def check(self, image: np.ndarray, mask: np.ndarray) -> None:
        """Raise ContractError if the augmentation, or a part that is rarely applied, does not fit the images."""


def to_unit_range(image: np.ndarray) -> np.ndarray:
    """Scale float32 from 0 .. 255 to 0 .. 1, which all transforms accept; uint8 is unchanged."""
    return image if image.dtype == np.uint8 else image.astype(np.float32) / 255


def require_unchanged(who: str, image: np.ndarray, mask: np.ndarray, out: dict[str, Any]) -> None:
    """Raise ContractError unless a transform kept the size, channels, type and range of an image and its mask."""
    new_image, new_mask = out["image"], out["mask"]
    expected = f"an image of {spell(image)} and a mask of {spell(mask)} as before"
    got = f"{spell(new_image)} and {spell(new_mask)}"
    shapes = (image.shape, image.shape[:2]) if image.shape[2:] == (1,) else (image.shape,)  # some drop a single channel
    same = tuple(new_image.shape) in shapes and new_mask.shape == mask.shape
    same = same and (new_image.dtype, new_mask.dtype) == (image.dtype, mask.dtype)
    require(same, who, expected, got, "set the size of images with dataset.size and dataset.fit")
    if image.dtype == np.float32:
        low, high = float(new_image.min()), float(new_image.max())
        require(low >= -0.01 and high <= 1.01, who, "values from 0 to 1", f"{low:.3g} to {high:.3g}", NORMALIZED)
    most = max(int(mask.max()), 1)
    require(new_mask.max() <= most, who, f"mask values of at most {most}, as before", new_mask.max(), "set fill_mask=0")


def spell(array: Any) -> str:
    """Format the shape and the type of an array or a tensor, as in 32x32x3 uint8."""
    return f"{'x'.join(map(str, array.shape))} {str(array.dtype).removeprefix('torch.')}"


@dataclass(frozen=True, kw_only=True)
class Chain(Augment):
    """Any albumentations transforms, named in the yaml (`augment=chain augment.steps.flip.p=1`), run on the CPU.

    All transforms draw from one random generator per sample.
    """

    steps: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from albumentations import BaseCompose, BasicTransform

        for name, step in self.steps.items():
            who, kind = f"augment.steps.{name}", type(step).__name__
            require(kind not in REFUSED, who, "an augmentation", kind, REFUSED.get(kind, ""))
            is_transform = isinstance(step, BasicTransform | BaseCompose)
            require(is_transform, who, "an albumentations transform", kind, "write {_target_: albumentations.NAME}")

    @cached_property
    def chain(self) -> Any:
        from albumentations import Compose

        return Compose(list(self.steps.values()))

    def __call__(
        self, image: Tensor, target: Tensor, valid: Tensor | None, seed: int, pairs: Sequence[tuple[int, int]]
    ) -> Changed:
        # The valid mask goes through the same changes as the labels, as one more channel of them.
        device, labels = image.device, target if valid is None else torch.cat((target, valid.to(target.dtype)), 1)
        images, masks = (x.permute(0, 2, 3, 1).cpu().numpy() for x in (image, labels))
        results = [self.one(pixels, mask, (seed, *key)) for pixels, mask, key in zip(images, masks, pairs, strict=True)]
        stacks = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*results, strict=True))
        new_image, new_labels = (stack.permute(0, 3, 1, 2).to(device) for stack in stacks)
        if valid is None:
            return new_image, new_labels, None
        return new_image, new_labels[:, :-1], new_labels[:, -1:].bool()

    def one(self, image: np.ndarray, mask: np.ndarray, key: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Augment one image (h, w, c) and its labels (h, w, k)."""
        # One shared state: Compose.set_random_seed would give each transform the same seed, and a horizontal flip would
        # always come with a vertical one.
        generator = np.random.default_rng(key)
        self.chain.set_random_state(generator, random.Random(int(generator.integers(2**63))))
        unit_image, labels = to_unit_range(image), mask[..., 0] if mask.shape[2] == 1 else mask
        out = self.chain(image=unit_image, mask=labels)
        require_unchanged("augment", unit_image, labels, out)
        changed = out["image"].reshape(image.shape)
        return changed if image.dtype == np.uint8 else 255 * np.clip(changed, 0, 1), out["mask"].reshape(mask.shape)

    def check(self, image: np.ndarray, mask: np.ndarray) -> None:
        """Run every transform of the chain once, however rare; raises ContractError naming those that do not fit."""
        from albumentations import Compose

        unit_image = to_unit_range(image)
        out, changing = {"image": unit_image, "mask": mask}, []
        for transform in copy.deepcopy(list(self.steps.values())):  # copies, because p is set to 1
            name, transform.p, before = type(transform).__name__, 1.0, (spell(out["image"]), spell(out["mask"]))
            try:
                out = Compose([transform], seed=0)(image=out["image"], mask=out["mask"])
            except Exception as error:  # a transform that needs boxes or other pixels may raise anything
                reason = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
                require(False, f"augment: {name}", "a transform of an image and its mask", reason, "leave it out")
            changing += [name] if (spell(out["image"]), spell(out["mask"])) != before else []
        require_unchanged(f"augment: {', '.join(changing)}".removesuffix(": "), unit_image, mask, out)
