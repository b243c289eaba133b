"""COCO files (Lin et al. 2014), which many labeling tools export: images with outlined objects."""

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from seglab.contract import Task, require
from seglab.data.dataset import Dataset, Item
from seglab.data.datasets.folder import Folders, named
from seglab.files import read_json
from seglab.images.image_io import existing_folder, read_image, without_suffix
from seglab.images.labels import with_ignored
from seglab.images.medical import one_sentence
from seglab.images.raster import require_size

WHO = "dataset coco"
ID = int | float | str
# The keys that a COCO file must have, and the types of their values
NEEDED: dict[str, dict[str, Any]] = {"images": {"id": ID, "file_name": str, "height": int, "width": int}}
NEEDED |= {"annotations": {"image_id": ID, "category_id": ID}, "categories": {"id": ID, "name": str}}
FAR = 2**20  # pixels; the COCO tools end the process at coordinates that are far outside, infinite or not a number
Shape = tuple[int, bool, Any]  # an object: index of its class, whether it is a crowd, and polygons or run lengths


@dataclass(frozen=True, kw_only=True)
class Coco(Dataset):
    """Objects of a COCO file, as polygons or run lengths; they may overlap, and crowd regions are ignored.

    Args:
        annotations: the file in `root`, or one per split: `{train: a.json, val: b.json, test: c.json}`.
        images: the folder in `root` to which the image names in the file are relative.
        classes: names of categories, one class each, which may overlap; other categories are background. None: all
            categories form one foreground.
    """

    root: str
    annotations: str | Folders = "annotations.json"
    images: str = "images"
    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        splits = set(named(self.annotations))
        fits = splits <= {"train", "val", "test"} or splits == {""}
        expected = "annotations to be one file, or a file each for train, val and test"
        require(fits, WHO, expected, ", ".join(sorted(splits)))

    @property
    def task(self) -> Task:
        several = self.classes is not None and len(self.classes) > 1
        return Task("multilabel" if several else "binary", self.classes or ("foreground",))

    def items(self) -> list[Item]:
        root, files = existing_folder(self.root), named(self.annotations)
        return [item for split, file in files.items() for item in self.from_file(root, root / file, split)]

    def from_file(self, root: Path, file: Path, split: str) -> list[Item]:
        """Build an item for each image of a file."""
        require(file.is_file(), WHO, "a COCO file that exists", file, "set dataset.annotations")
        content = read_json(file)
        missing = [key for key in NEEDED if not isinstance(content, dict) or key not in content]
        require(not missing, str(file), "the keys images, annotations and categories", f"no {' and no '.join(missing)}")
        for kind, keys in NEEDED.items():
            entries = [entry if isinstance(entry, dict) else {} for entry in content[kind]]
            incomplete = sum(not all(isinstance(entry.get(key), keys[key]) for key in keys) for entry in entries)
            require(not incomplete, str(file), f"{', '.join(keys)} in all {kind}", f"{incomplete} incomplete")
            ids = [entry["id"] for entry in entries if "id" in keys]
            require(len(set(ids)) == len(ids), str(file), f"a different id for each of the {kind}", "one for several")
        names = {category["id"]: category["name"] for category in content["categories"]}
        unknown = [name for name in self.classes or () if name not in names.values()]
        require(not unknown, str(file), f"dataset.classes among {', '.join(names.values())}", ", ".join(unknown))
        annotations = content["annotations"]
        unknown = sorted({str(key) for key in {annotation["category_id"] for annotation in annotations} - names.keys()})
        require(not unknown, str(file), "a category for each category_id", f"none for {', '.join(unknown)}")
        boxes = sum(not annotation.get("segmentation") for annotation in annotations)
        require(not boxes, str(file), "an outline of each object", f"{boxes} without one, such as a box alone")
        shapes: dict[int, list[Shape]] = defaultdict(list)
        for annotation in annotations:
            name = names[annotation["category_id"]]
            if self.classes is None or name in self.classes:
                layer = self.classes.index(name) if self.classes else 0
                shape = (layer, bool(annotation.get("iscrowd")), annotation["segmentation"])
                shapes[annotation["image_id"]].append(shape)
        return [self.item(root, image, shapes[image["id"]], split) for image in content["images"]]

    def item(self, root: Path, image: dict[str, Any], shapes: list[Shape], split: str) -> Item:
        """Build the item of one image."""
        path, name = root / self.images / image["file_name"], without_suffix(PurePath(image["file_name"]))
        if not path.is_file():
            return Item(name, name, split=split, fault=f"{path}: expected an image file, as the COCO file lists it")
        parts = [part for _, _, outline in shapes if isinstance(outline, list) for part in outline]  # dict: run lengths
        if not all(isinstance(part, dict) or (isinstance(part, list) and len(part) >= 6) for part in parts):
            return Item(name, name, split=split, fault=f"{path}: expected outlines of at least three points")
        size = (image["height"], image["width"])
        labels = json.dumps(shapes)  # as text, outlines take a fifth of the memory that lists take
        mask = partial(draw, labels, size, self.task.channels, name)
        objects = partial(number, labels, size) if self.task.channels == 1 else None
        reader = partial(read_image, str(path))
        return Item(name, name, reader, mask, split, (str(path),), labels=labels, objects=objects)


def area(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """Rasterize one object (h, w) uint8, as the COCO tools do; raises ValueError for what would crash them."""
    from pycocotools import mask as coco

    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        runs = np.array(decompressed(counts) if isinstance(counts, str) else counts, np.int64)
        if tuple(segmentation["size"]) != size or runs.min(initial=0) < 0 or runs.sum() != size[0] * size[1]:
            # the COCO tools would return memory that was never written, or never return
            raise ValueError(f"run lengths that do not add up to {size[1]}x{size[0]} pixels")
        return np.repeat(np.arange(len(runs), dtype=np.uint8) % 2, runs).reshape(size[::-1]).T  # down the columns
    if isinstance(segmentation[0], dict):
        return np.maximum.reduce([area(part, size) for part in segmentation])
    if not all((np.abs(np.asarray(part, float)) < FAR).all() for part in segmentation):  # also if NaN
        raise ValueError("an outline with a point that is far outside, infinite or not a number")
    return coco.decode(coco.merge(coco.frPyObjects(segmentation, *size)))  # merges the parts of one object


def decompressed(text: str) -> list[int]:
    """Return the run lengths in a compressed text, five bits per letter, from the third on minus the last but one."""
    runs = list[int]()
    for letters in re.findall("[P-o]*[0-O]", text):  # the sixth bit says that the number continues
        bits = [ord(letter) - 48 & 31 for letter in letters]
        value = sum(five << 5 * k for k, five in enumerate(bits)) - ((bits[-1] & 16) << 5 * len(bits) - 4)  # its sign
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    return runs


def draw(shapes: str, size: tuple[int, int], channels: int, who: str) -> np.ndarray:
    """Rasterize the objects of an image, a JSON list of `Shape`: (h, w) uint8, or (h, w, classes); crowds have none."""
    with one_sentence(f"image {who}", "objects that the COCO tools can draw"):
        require_size(f"image {who}", *size)
        mask, crowd = np.zeros((*size, channels), np.uint8), np.zeros(size, bool)
        for layer, is_crowd, segmentation in json.loads(shapes):
            filled = area(segmentation, size)
            if is_crowd:
                crowd |= filled > 0
            else:
                mask[..., layer] |= filled
    mask = mask if channels > 1 else mask[..., 0]
    return with_ignored(mask, ~crowd) if crowd.any() else mask


def number(shapes: str, size: tuple[int, int]) -> np.ndarray:
    """Number the objects of an image from 1; where two overlap, the later one is on top."""
    numbers = np.zeros(size, np.int32)
    for k, (_, is_crowd, segmentation) in enumerate(json.loads(shapes), 1):
        if not is_crowd:
            numbers[area(segmentation, size) > 0] = k
    return numbers
