"""Two folders, images and masks, matched by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from seglab.contract import require
from seglab.data.dataset import Dataset, Item
from seglab.data.image_io import existing_folder, files_in, read_image, read_mask


@dataclass(frozen=True, kw_only=True)
class Folder(Dataset):
    """Any two folders of images and masks (PNG, JPEG, TIFF, PGM), matched by the name without its ending.

    images, masks, and for a test set of its own test_images, test_masks: folders in `root`. image_suffix, mask_suffix:
    what the names add to what the two have in common. mask_value: foreground is this value; null: it is above
    `threshold`. group_pattern: a regular expression whose first group, found in an image's name, is its patient.
    """

    root: str
    images: str = "images"
    masks: str = "masks"
    test_images: str | None = None
    test_masks: str | None = None
    image_suffix: str = ""
    mask_suffix: str = ""
    mask_value: int | None = None
    threshold: int = 0
    group_pattern: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.threshold >= 0, "dataset folder", "threshold of at least 0", self.threshold)
        both = (self.test_images is None) == (self.test_masks is None)
        require(both, "dataset folder", "test_images and test_masks together")

    def items(self) -> list[Item]:
        root = existing_folder(self.root)
        items = self.pairs(root / self.images, root / self.masks, "" if self.test_images is None else "train")
        if self.test_images is not None and self.test_masks is not None:
            items += self.pairs(root / self.test_images, root / self.test_masks, "test")
        require(bool(items), "dataset folder", f"images in {root / self.images}", 0, "set dataset.images")
        return items

    def pairs(self, images: Path, masks: Path, split: str) -> list[Item]:
        """Match two folders; a file without its partner becomes an item with a fault."""
        left = stems(images, self.image_suffix, "" if images != masks else self.mask_suffix)
        right = stems(masks, self.mask_suffix, "" if images != masks else self.image_suffix)
        prefix = f"{split}/" if split else ""
        read = partial(read_mask, threshold=self.threshold, value=self.mask_value)
        items = []
        for stem in sorted(left.keys() | right.keys()):
            name, image, mask = prefix + stem, left.get(stem), right.get(stem)
            group = self.group_of(image.stem, name) if image and mask else name
            items.append(pair_item(name, group, image, mask, split, read))
        return items

    def group_of(self, stem: str, name: str) -> str:
        """Find the patient in the name of an image; without a pattern each image is its own group."""
        if self.group_pattern is None:
            return name
        found = re.search(self.group_pattern, stem)
        require(found is not None, "dataset folder", f"group_pattern {self.group_pattern} to match", stem)
        return found[1] if found and found.re.groups else stem


def stems(folder: Path, suffix: str, other: str) -> dict[str, Path]:
    """Give the files of a folder whose names end in `suffix`, and not in `other` if that says more, by what is left."""
    mine = [path for path in files_in(folder) if path.stem.endswith(suffix)]
    if len(other) > len(suffix):
        mine = [path for path in mine if not path.stem.endswith(other)]
    return {path.stem.removesuffix(suffix): path for path in mine}


def pair_item(
    name: str, group: str, image: Path | None, mask: Path | None, split: str, read: Callable[[str], np.ndarray]
) -> Item:
    """Make one item of an image file and a mask file that `read` decodes; without either it has a fault."""
    if image is None or mask is None:
        fault = f"{image or mask}: expected {'an image' if image is None else 'a mask'} of its name"
        return Item(name, group, split=split, fault=fault)
    files = (str(image), str(mask))
    return Item(name, group, partial(read_image, files[0]), partial(read, files[1]), split, files)
