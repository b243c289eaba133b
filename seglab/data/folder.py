"""Two folders, images and masks, matched by name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from seglab.contract import require
from seglab.data.base import Dataset
from seglab.data.items import Item, nothing
from seglab.data.pixels import files_in, read_image, read_mask


@dataclass(frozen=True, kw_only=True)
class Folder(Dataset):
    """Any two folders of images and masks (PNG, JPEG, TIFF, PGM), matched by the name without its ending.

    images, masks, and for a test set of its own test_images, test_masks: folders in `root`. mask_suffix: what a mask's
    name adds to its image's. mask_value: foreground is this value; null: foreground is above `threshold`.
    group_pattern: a regular expression whose first group, found in an image's name, is its patient or scene.
    """

    root: str
    images: str = "images"
    masks: str = "masks"
    test_images: str | None = None
    test_masks: str | None = None
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
        root = Path(self.root)
        require(root.is_dir(), "dataset folder", "a root that exists", root, "set dataset.root")
        items = self.pairs(root / self.images, root / self.masks, "" if self.test_images is None else "train")
        if self.test_images is not None and self.test_masks is not None:
            items += self.pairs(root / self.test_images, root / self.test_masks, "test")
        require(bool(items), "dataset folder", f"images in {root / self.images}", 0, "set dataset.images")
        return items

    def pairs(self, images: Path, masks: Path, part: str) -> list[Item]:
        """Match the two folders of one part; a file without its partner becomes an item with a fault."""
        left = {path.stem: path for path in files_in(images) if images != masks or not self.is_mask(path)}
        right = {path.stem.removesuffix(self.mask_suffix): path for path in files_in(masks) if self.is_mask(path)}
        prefix = f"{part}/" if part else ""
        return [
            self.pair(prefix + stem, left.get(stem), right.get(stem), part)
            for stem in sorted(left.keys() | right.keys())
        ]

    def is_mask(self, path: Path) -> bool:
        """Tell by the suffix whether a file among the masks is one."""
        return path.stem.endswith(self.mask_suffix)

    def pair(self, name: str, image: Path | None, mask: Path | None, part: str) -> Item:
        """Make one item of an image and a mask, either of which may be missing."""
        if image is None or mask is None:
            fault = (
                f"{mask}: expected an image of its name" if image is None else f"{image}: expected a mask of its name"
            )
            return Item(name, name, nothing, nothing, part, fault=fault)
        return Item(
            id=name,
            group=self.group_of(image.stem, name),
            image=partial(read_image, str(image)),
            mask=partial(read_mask, str(mask), self.threshold, self.mask_value),
            split=part,
            files=(str(image), str(mask)),
        )

    def group_of(self, stem: str, name: str) -> str:
        """Find the patient in a name; without a pattern each image is its own group."""
        if self.group_pattern is None:
            return name
        found = re.search(self.group_pattern, stem)
        require(found is not None, "dataset folder", f"group_pattern {self.group_pattern} to match", stem)
        return found[1] if found and found.re.groups else stem
