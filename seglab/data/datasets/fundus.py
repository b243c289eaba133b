"""Eye fundus photographs with optic disc and cup, in three layouts that are told apart by what lies in the root.

Drishti-GS1 (Sivaswamy et al., ISBI 2014), RIM-ONE DL (Fumero et al., Image Analysis & Stereology 2020), and the
159 images of a study with folders tr_images, ts_images and clean_masks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from seglab.contract import require
from seglab.data.dataset import Dataset
from seglab.data.image_io import files_in, read_image, read_mask
from seglab.data.items import Item

LAYOUTS = "Training and Test (Drishti-GS), partitioned_* (RIM-ONE DL), or tr_images, ts_images and clean_masks"


@dataclass(frozen=True, kw_only=True)
class Fundus(Dataset):
    """Drishti-GS, RIM-ONE DL or the 159-image study, each with its own test images.

    target: `disc` or `cup`. agreement: share of the experts who must call a pixel foreground (Drishti-GS has four;
    with `soft` their share is the target itself). partition: which of RIM-ONE DL's divisions, `randomly` or
    `by_hospital`. threshold: above it a mask of the study is foreground (its masks are not binary).
    """

    root: str
    target: str = "disc"
    agreement: float = 0.75
    partition: str = "randomly"
    threshold: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.target in ("disc", "cup"), "dataset fundus", "target to be disc or cup", self.target)
        require(0 < self.agreement <= 1, "dataset fundus", "agreement in (0, 1]", self.agreement)
        known = self.partition in ("randomly", "by_hospital")
        require(known, "dataset fundus", "partition to be randomly or by_hospital", self.partition)

    def items(self) -> list[Item]:
        root = Path(self.root)
        require(root.is_dir(), "dataset fundus", "a root that exists", root, "set dataset.root")
        partitioned = find(root, f"partitioned_{self.partition}")
        study = find(root, "tr_images")
        if find(root, "Training") and find(root, "Test"):
            return self.drishti(root)
        if partitioned:
            return self.rim_one(root, partitioned)
        require(study is not None, "dataset fundus", f"a root with {LAYOUTS}", root)
        return self.study(study.parent) if study else []

    def drishti(self, root: Path) -> list[Item]:
        """List Training and Test; the map of an image is found by its name, wherever below it lies."""
        ending = {"disc": "_ODsegSoftmap", "cup": "_cupsegSoftmap"}[self.target]
        items = []
        for folder, part in (("Training", "train"), ("Test", "test")):
            below = find(root, folder) or root
            maps = {path.stem.removesuffix(ending): path for path in sorted(below.rglob(f"*{ending}.png"))}
            images = {path.stem: path for path in sorted(below.rglob("drishtiGS_*.png")) if "Softmap" not in path.name}
            images = {name: path for name, path in images.items() if path.parent.parent.name == "Images"}
            read = partial(votes, agreement=self.agreement, soft=self.soft)
            items += [pair(name, name, path, maps.get(name), part, read) for name, path in images.items()]
        return items

    def rim_one(self, root: Path, partitioned: Path) -> list[Item]:
        """List training_set and test_set; both eyes of a patient of the third release are one group."""
        ending = f"-1-{self.target.capitalize()}-T"
        masks = {path.stem.removesuffix(ending): path for path in sorted(root.rglob(f"*{ending}.png"))}
        items = []
        for folder, part in (("training_set", "train"), ("test_set", "test")):
            for path in sorted((partitioned / folder).rglob("*.png")):
                patient = re.match(r"r3_[A-Z]-\d+", path.stem)
                group = patient[0] if patient else path.stem
                items.append(pair(path.stem, group, path, masks.get(path.stem), part, read_mask))
        return items

    def study(self, root: Path) -> list[Item]:
        """List tr_images and ts_images; the mask bears its image's file name."""
        require(self.target == "disc", "dataset fundus", "target=disc in this layout, which has no cups", self.target)
        masks = {path.name: path for path in files_in(root / "clean_masks")}
        read = partial(read_mask, threshold=self.threshold)
        return [
            pair(path.stem, path.stem, path, masks.get(path.name), part, read)
            for folder, part in (("tr_images", "train"), ("ts_images", "test"))
            for path in files_in(root / folder)
        ]


def find(root: Path, name: str) -> Path | None:
    """Find a folder by name in the root or one folder below it, as archives unpack."""
    return next((path for path in [root / name, *sorted(root.glob(f"*/{name}"))] if path.is_dir()), None)


def pair(name: str, group: str, image: Path, mask: Path | None, part: str, read: partial | type(read_mask)) -> Item:
    """Make one item; an image without mask becomes one with a fault."""
    if mask is None:
        return Item(name, group, split=part, fault=f"{image}: expected a mask of its name")
    files = (str(image), str(mask))
    return Item(name, group, partial(read_image, files[0]), partial(read, files[1]), part, files)


def votes(path: str, agreement: float, soft: bool) -> np.ndarray:
    """Read a map of the experts' votes (0 to 255): the share who call a pixel foreground, or where enough of them do.

    With four experts the values are rounded quarters, such as 191 for three of four: half a step is forgiven.
    """
    share = read_image(path).astype(np.float32) / 255
    return share if soft else (share >= agreement - 0.01).astype(np.uint8)
