"""Two folders, images and masks, matched by name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from seglab.contract import require
from seglab.data.dataset import Dataset
from seglab.data.image_io import files_in, read_image, read_mask
from seglab.data.items import Item


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
        root = Path(self.root)
        require(root.is_dir(), "dataset folder", "a root that exists", root, "set dataset.root")
        items = self.pairs(root / self.images, root / self.masks, "" if self.test_images is None else "train")
        if self.test_images is not None and self.test_masks is not None:
            items += self.pairs(root / self.test_images, root / self.test_masks, "test")
        require(bool(items), "dataset folder", f"images in {root / self.images}", 0, "set dataset.images")
        return items

    def pairs(self, images: Path, masks: Path, part: str) -> list[Item]:
        """Match the two folders of one part; a file without its partner becomes an item with a fault."""
        left = stems(images, self.image_suffix, "" if images != masks else self.mask_suffix)
        right = stems(masks, self.mask_suffix, "" if images != masks else self.image_suffix)
        prefix = f"{part}/" if part else ""
        return [
            self.pair(prefix + stem, left.get(stem), right.get(stem), part)
            for stem in sorted(left.keys() | right.keys())
        ]

    def pair(self, name: str, image: Path | None, mask: Path | None, part: str) -> Item:
        """Make one item of an image and a mask, either of which may be missing."""
        if image is None or mask is None:
            fault = (
                f"{mask}: expected an image of its name" if image is None else f"{image}: expected a mask of its name"
            )
            return Item(name, name, split=part, fault=fault)
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


def stems(folder: Path, suffix: str, other: str) -> dict[str, Path]:
    """Give the files of a folder whose names end in `suffix`, and not in `other` if that says more, by what is left."""
    mine = [path for path in files_in(folder) if path.stem.endswith(suffix)]
    if len(other) > len(suffix):
        mine = [path for path in mine if not path.stem.endswith(other)]
    return {path.stem.removesuffix(suffix): path for path in mine}
