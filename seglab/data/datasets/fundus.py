"""Eye fundus photographs with optic disc and cup, in three layouts that are recognized by what lies in the root.

Drishti-GS1 (Sivaswamy et al., ISBI 2014), RIM-ONE DL (Fumero et al., Image Analysis & Stereology 2020), and the
159 images of a study with folders tr_images, ts_images and clean_masks.
"""

import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from seglab.contract import Task, require
from seglab.data.dataset import Dataset, Item, Reader, one_of
from seglab.data.datasets.folder import pair_item
from seglab.images.image_io import existing_folder, files_in
from seglab.images.masks import read_mask

LAYOUTS = "Training and Test (Drishti-GS), partitioned_* (RIM-ONE DL), or tr_images, ts_images and clean_masks"


@dataclass(frozen=True, kw_only=True)
class Fundus(Dataset):
    """Drishti-GS, RIM-ONE DL or the 159-image study, each with its own test images.

    target: `disc`, `cup`, `disc_cup` (both, which overlap) or `rim_cup` (which exclude each other). agreement: fraction
    of the experts who must call a pixel foreground (Drishti-GS has four; with `soft` that fraction is the target
    itself). partition: which of RIM-ONE DL's divisions, `randomly` or `by_hospital`. threshold: above it a mask of the
    study is foreground (its masks are not binary).
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
        require(hard, "dataset fundus", "soft=false for target=rim_cup, whose classes exclude each other")

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
        partitioned, study = find(root, f"partitioned_{self.partition}"), find(root, "tr_images")
        if find(root, "Training") and find(root, "Test"):
            items = self.drishti(root)
        elif partitioned:
            items = self.rim_one(root, partitioned)
        else:
            require(study is not None, "dataset fundus", f"a root with {LAYOUTS}", root)
            return self.study(study.parent) if study else []
        rim = self.target == "rim_cup"
        return [replace(item, mask=partial(rim_and_cup, item.mask)) for item in items] if rim else items

    def drishti(self, root: Path) -> list[Item]:
        """List Training and Test; the map of an image is found by its name, wherever below it lies."""
        endings = {"disc": "_ODsegSoftmap", "cup": "_cupsegSoftmap"}
        read = partial(read_votes, agreement=self.agreement, soft=self.soft)
        items = []
        for folder, split in (("Training", "train"), ("Test", "test")):
            below = find(root, folder) or root
            maps = [by_name(below, endings[one]) for one in self.structures]
            images = {path.stem: path for path in sorted(below.glob("**/Images/*/drishtiGS_*.png"))}
            items += [
                pair_item(n, n, path, [one.get(n, []) for one in maps], split, read) for n, path in images.items()
            ]
        return items

    def rim_one(self, root: Path, partitioned: Path) -> list[Item]:
        """List training_set and test_set; both eyes of a patient of the third release are one group."""
        masks = [by_name(root, f"-1-{one.capitalize()}-T") for one in self.structures]
        items = []
        for folder, split in (("training_set", "train"), ("test_set", "test")):
            for path in sorted((partitioned / folder).rglob("*.png")):
                patient, name = re.match(r"r3_[A-Z]-\d+", path.stem), path.stem
                group = patient[0] if patient else name
                items.append(pair_item(name, group, path, [one.get(name, []) for one in masks], split, read_mask))
        return items

    def study(self, root: Path) -> list[Item]:
        """List tr_images and ts_images; the mask bears its image's file name."""
        require(self.target == "disc", "dataset fundus", "target=disc in this layout, which has no cups", self.target)
        masks = {path.name: [path] for path in files_in(root / "clean_masks")}
        read = partial(read_mask, threshold=self.threshold)
        return [
            pair_item(path.stem, path.stem, path, [masks.get(path.name, [])], split, read)
            for folder, split in (("tr_images", "train"), ("ts_images", "test"))
            for path in files_in(root / folder)
        ]


def by_name(root: Path, ending: str) -> dict[str, list[Path]]:
    """Find the PNG files below a folder whose names end so, by the rest of their names."""
    return {path.stem.removesuffix(ending): [path] for path in sorted(root.rglob(f"*{ending}.png"))}


def rim_and_cup(read: Reader) -> np.ndarray:
    """Make class numbers of the masks (h, w, 2) of disc and cup: 1 the rim, 2 the cup."""
    disc, cup = np.moveaxis(read(), 2, 0)
    return np.where(cup > 0, 2, disc).astype(np.uint8)


def find(root: Path, name: str) -> Path | None:
    """Find a folder by name in the root or one folder below it, as archives unpack."""
    return next((path for path in [root / name, *sorted(root.glob(f"*/{name}"))] if path.is_dir()), None)


def read_votes(path: str, agreement: float, soft: bool) -> np.ndarray:
    """Read a map of the experts' votes (0 to 255): the fraction who call a pixel foreground, or where enough do.

    With four experts the values are rounded quarters, such as 191 for three of four: half a step is forgiven.
    """
    fraction = read_mask(path, soft=True)
    return fraction if soft else (fraction >= agreement - 0.01).astype(np.uint8)
