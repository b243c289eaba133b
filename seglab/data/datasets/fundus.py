"""Eye fundus photographs with optic disc and cup, in three layouts that are recognized by the folders in the root.

Drishti-GS1 (Sivaswamy et al., ISBI 2014), RIM-ONE DL (Fumero et al., Image Analysis & Stereology 2020), and the
159 images of a study with folders tr_images, ts_images and clean_masks.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from seglab.contract import Task, require
from seglab.data.dataset import Dataset, Item, Reader, one_of
from seglab.data.datasets.folder import Read, pair_item
from seglab.images.image_io import existing_folder, files_in
from seglab.images.masks import read_mask

Layout = tuple[list[tuple[str, Path]], list[dict[str, list[Path]]], Read]
"""Images with their splits, the masks of each structure by image name, and the function that decodes a mask."""

LAYOUTS = "Training and Test (Drishti-GS), partitioned_* (RIM-ONE DL), or tr_images, ts_images and clean_masks"


@dataclass(frozen=True, kw_only=True)
class Fundus(Dataset):
    """Drishti-GS, RIM-ONE DL or the 159-image study, each with its own test images.

    Args:
        target: `disc`, `cup`, `disc_cup` (both, overlapping) or `rim_cup` (mutually exclusive).
        agreement: fraction of the experts who must call a pixel foreground (Drishti-GS has four; if `soft`, the target
            is the fraction of experts).
        partition: which division of RIM-ONE DL to use, `randomly` or `by_hospital`.
        threshold: masks of the study, which are not binary, are foreground above it.
    """

    root: str
    target: str = "disc"
    agreement: float = 0.75
    partition: str = "randomly"
    threshold: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        targets, partitions = ("disc", "cup", "disc_cup", "rim_cup"), ("randomly", "by_hospital")
        one_of("dataset fundus", self, target=targets, partition=partitions)
        require(0 < self.agreement <= 1, "dataset fundus", "agreement in (0, 1]", self.agreement)
        hard = self.target != "rim_cup" or not self.soft
        require(hard, "dataset fundus", "soft=false for target=rim_cup, whose classes are mutually exclusive")

    @property
    def task(self) -> Task:
        if self.target == "rim_cup":
            return Task("multiclass", ("background", "rim", "cup"))
        return Task("multilabel", ("disc", "cup")) if self.target == "disc_cup" else Task("binary", (self.target,))

    @property
    def structures(self) -> tuple[str, ...]:
        """The structures whose masks are read: one, or disc and cup."""
        return (self.target,) if self.target in ("disc", "cup") else ("disc", "cup")

    def items(self) -> list[Item]:
        root = existing_folder(self.root)
        train, test, study = (find(root, name) for name in ("Training", "Test", "tr_images"))
        partitioned = find(root, f"partitioned_{self.partition}")
        if train and test:
            images, masks, read = self.drishti(train, test)
        elif partitioned:
            images, masks, read = self.rim_one(root, partitioned)
        else:
            require(study is not None, "dataset fundus", f"a root that contains {LAYOUTS}", root)
            images, masks, read = self.study(study.parent if study else root)
        items = []
        for split, path in images:
            patient = re.match(r"r3_[A-Z]-\d+", path.stem)  # RIM-ONE r3: both eyes of a patient are one group
            base = Item(path.stem, patient[0] if patient else path.stem, split=split)
            items.append(pair_item(base, path, [structure.get(path.stem, []) for structure in masks], read))
        without_image = sorted({name for structure in masks for name in structure} - {path.stem for _, path in images})
        for name in without_image:  # listed too: `pair_item` reports the missing image
            items.append(pair_item(Item(name, name), None, [structure.get(name, []) for structure in masks], read))
        rim = self.target == "rim_cup"
        return [replace(item, mask=partial(rim_and_cup, item.mask)) for item in items] if rim else items

    def file_warnings(self, items: Sequence[Item]) -> list[str]:
        if any(item.split == "test" for item in items):
            return []
        return ["no images in the test folder: test images are drawn from the training images"]

    def drishti(self, train: Path, test: Path) -> Layout:
        """Find the files of Drishti-GS: several folders have copies of an image; maps are found by name anywhere."""
        endings, images = {"disc": "_ODsegSoftmap", "cup": "_cupsegSoftmap"}, []
        for split, folder in (("train", train), ("test", test)):
            by_stem = {path.stem: path for path in sorted(folder.glob("**/Images/*/drishtiGS_*.png"))}  # keeps one copy
            images += [(split, path) for path in by_stem.values()]
        masks = [by_name(train, endings[name]) | by_name(test, endings[name]) for name in self.structures]
        return images, masks, partial(read_votes, agreement=self.agreement, soft=self.soft)

    def rim_one(self, root: Path, partitioned: Path) -> Layout:
        """Find the files of RIM-ONE DL, whose masks lie beside the partitions of its images."""
        folders = (("train", partitioned / "training_set"), ("test", partitioned / "test_set"))
        images = [(split, path) for split, folder in folders for path in files_in(folder) if path.suffix == ".png"]
        return images, [by_name(root, f"-1-{name.capitalize()}-T") for name in self.structures], read_mask

    def study(self, root: Path) -> Layout:
        """Find the files of the study, in which a mask has the same name as its image."""
        require(self.target == "disc", "dataset fundus", "target=disc in this layout without cup masks", self.target)
        folders = (("train", root / "tr_images"), ("test", root / "ts_images"))
        images = [(split, path) for split, folder in folders for path in files_in(folder)]
        masks = {path.stem: [path] for path in files_in(root / "clean_masks")}
        return images, [masks], partial(read_mask, threshold=self.threshold)


def by_name(root: Path, ending: str) -> dict[str, list[Path]]:
    """Return the PNG files below a folder whose names end in `ending`, by the rest of their names."""
    files = [path for path in files_in(root) if path.name.endswith(f"{ending}.png")]
    return {path.stem.removesuffix(ending): [path] for path in files}


def rim_and_cup(read: Reader) -> np.ndarray:
    """Combine the masks of disc and cup (h, w, 2) into class numbers: 1 for the rim, 2 for the cup."""
    disc, cup = np.moveaxis(read(), 2, 0)
    return np.where(cup > 0, 2, disc).astype(np.uint8)  # the cup wins, even where experts drew it beyond the disc


def find(root: Path, name: str) -> Path | None:
    """Return a folder by name in the root or one folder below it, where archives unpack; None if there is none."""
    folders = [path for path in (root / name, *sorted(root.glob(f"*/{name}"))) if path.is_dir()]
    return folders[0] if folders else None


def read_votes(path: str, agreement: float, soft: bool) -> np.ndarray:
    """Read a map of the experts' votes (0 to 255): the fraction who call a pixel foreground, or where enough do.

    With four experts, the values are rounded quarters, such as 191 for three of four; hence a tolerance of 0.01.
    """
    fraction = read_mask(path, soft=True)
    return fraction if soft else (fraction >= agreement - 0.01).astype(np.uint8)
