"""Folders of images and of masks, matched by name."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import normalize

import numpy as np

from seglab.contract import Task, require
from seglab.data.dataset import Dataset, Facts, Item, Reader, one_of
from seglab.data.facts import value_warnings
from seglab.data.names import affix, option, proposal, read_rows
from seglab.images.image_io import SUFFIXES, existing_folder, files_in, read_image, without_suffix
from seglab.images.labels import IGNORED
from seglab.images.masks import Value, listed, read_classes, read_mask, to_rgb
from seglab.images.raster import Page

WHO = "dataset folder"
Masks = Sequence[Sequence[Path]]  # for each class, the mask files of an image
Read = Callable[[str], np.ndarray]  # decodes a mask file
Folders = Mapping[str, str] | tuple[tuple[str, str], ...]  # a folder of masks for each class, by name


class Named(NamedTuple):
    """A file, and its name without suffix."""

    name: str
    path: Path


Files = dict[str, list[Named]]  # files by the core of their names, which images and masks share


@dataclass(frozen=True, kw_only=True)
class Folder(Dataset):
    """Folders of images and masks, matched by their names without suffix; subfolders are part of the name.

    Args:
        table: a CSV file in `root`, in place of folders, with the columns image and mask (paths below `root`) and,
            optionally, split and group.
        images, masks: folders in `root`. `masks` may instead give a folder for each class by name; classes may then
            overlap.
        val_images, val_masks, test_images, test_masks: folders of separate splits; an empty val_images draws validation
            images even if there is a folder of them.
        image_prefix, image_suffix, mask_prefix, mask_suffix: what the names add to their common core; a suffix may be a
            list, and the masks of one image are then united.
        mask_value: the value or color ("#rrggbb") of foreground pixels, or a list; None: pixels above `threshold` are
            foreground.
        classes: the values or colors of each class by name, background first, `{background: 0, gland: [192, 200]}`;
            every pixel must have one.
        ignore: values or colors of pixels that do not count.
        missing_mask: `error`, or `empty`: an image without a mask has no foreground.
        page: page (from 0) to read of files with several.
        bands: bands to read (from 1).
        group_pattern: regular expression whose first group (or, without parentheses, whose whole match) in an image's
            name is its patient.
    """

    root: str
    table: str | None = None
    images: str = "images"
    masks: str | Folders = "masks"
    val_images: str | None = None
    val_masks: str | Folders | None = None
    test_images: str | None = None
    test_masks: str | Folders | None = None
    image_prefix: str = ""
    image_suffix: str | tuple[str, ...] = ""
    mask_prefix: str = ""
    mask_suffix: str | tuple[str, ...] = ""
    mask_value: Value | tuple[Value, ...] | None = None
    classes: Mapping[str, Value | Sequence[Value]] | tuple[tuple[str, tuple[Value, ...]], ...] | None = None
    ignore: Value | tuple[Value, ...] | None = None
    threshold: int = 0
    missing_mask: str = "error"
    page: Page | None = None
    bands: tuple[int, ...] | None = None
    group_pattern: str | None = None

    def __post_init__(self) -> None:
        if self.classes is not None:  # before the base class asks for the task
            self.check_classes(dict(self.classes))
        super().__post_init__()
        require(self.threshold >= 0, WHO, "threshold of at least 0", self.threshold)
        one_of(WHO, self, missing_mask=("error", "empty"))
        for split in ("val", "test"):
            images, masks = getattr(self, f"{split}_images"), getattr(self, f"{split}_masks")
            require(bool(images) == bool(masks), WHO, f"{split}_images and {split}_masks to be set together")
        for color in (value for value in (*listed(self.mask_value), *listed(self.ignore)) if isinstance(value, str)):
            to_rgb(color)  # raises ContractError if invalid
        options = [masks for masks in (self.masks, self.val_masks, self.test_masks) if masks]
        names = [named(masks).keys() for masks in options]
        require(all(keys == names[0] for keys in names), WHO, "the same classes in masks, val_masks and test_masks")
        try:
            re.compile(self.group_pattern or "")
        except re.error as error:
            require(False, WHO, "group_pattern to be a regular expression", f"{self.group_pattern!r} ({error})")

    def check_classes(self, classes: dict[str, Any]) -> None:
        """Raise ContractError unless names and values distinguish the classes; store them as tuples."""
        expected = "classes to give each name a value, a color or a list of these: {background: 0, gland: 192}"
        fits = all(isinstance(name, str) and name for name in classes) and len(classes) >= 2
        require(fits, WHO, expected, classes)
        pairs = tuple((name, listed(value)) for name, value in classes.items())
        values = [value for _, group in pairs for value in group]
        require(all(isinstance(v, int | str) for v in values), WHO, expected, classes)
        duplicates = sorted({str(value) for value in values if values.count(value) > 1})
        require(not duplicates, WHO, "each value in one class", ", ".join(duplicates))
        also_ignored = [value for value in values if value in listed(self.ignore)]
        require(not also_ignored, WHO, "values in classes that are not in ignore", ", ".join(map(str, also_ignored)))
        for color in (value for value in values if isinstance(value, str)):
            to_rgb(color)
        compatible = isinstance(self.masks, str) and self.mask_value is None and not self.soft and not self.threshold
        require(compatible, WHO, "classes without mask_value, threshold, soft or several folders of masks")
        object.__setattr__(self, "classes", pairs)

    @property
    def task(self) -> Task:
        if self.classes is not None:
            return Task("multiclass", tuple(dict(self.classes)))
        return Task() if isinstance(self.masks, str) else Task("multilabel", tuple(dict(self.masks)))

    def decode(self, path: str, page: int | None = None) -> np.ndarray:
        return read_image(path, self.page if page is None else page, self.read_bands)

    @property
    def read_bands(self) -> tuple[int, ...] | None:
        """The bands for `read_image`: `bands`, or all if they are None and `channels` is neither gray nor RGB."""
        return () if self.bands is None and self.channels not in (1, 3) else self.bands

    def mask_warnings(self, masks: Sequence[Facts]) -> list[str]:
        explicit = self.threshold or self.soft or self.classes is not None or self.ignore is not None
        return [] if explicit else value_warnings(masks, listed(self.mask_value))

    def items(self) -> list[Item]:
        root = existing_folder(self.root)
        if self.table is not None:
            return self.from_table(root, self.table)
        separate = {"val": (self.val_images, self.val_masks), "test": (self.test_images, self.test_masks)}
        used = {split: (images, masks) for split, (images, masks) in separate.items() if images and masks}
        folders = {"train": (self.images, self.masks)} | used
        if "test" in folders:
            self.require_no_other_val(root)
        # A folder of masks may be inside the folder of images.
        all_folders = {root / name for images, masks in folders.values() for name in (images, *named(masks).values())}
        items = []
        for split, (images, masks) in folders.items():
            matches = [self.matched(root / images, root / name, all_folders) for name in named(masks).values()]
            for core in sorted({core for pair in matches for side in pair for core in side}):
                files = [(image_files.get(core, []), mask_files.get(core, [])) for image_files, mask_files in matches]
                items += self.pair(core, files, split if len(folders) > 1 else "")
        return items

    def from_table(self, root: Path, table: str) -> list[Item]:
        """Build the items of each row of a table."""
        require(isinstance(self.masks, str), WHO, "either a table or several folders of masks")
        items: list[Item] = []
        for image, masks, split, group in read_rows(root / table, root):
            stem = without_suffix(image.relative_to(root) if image.is_relative_to(root) else image)
            base = Item(stem, group or self.group_of(stem, stem), split=split, page=self.page)
            missing = [path for path in (image, *masks) if not path.is_file()]
            faults = [replace(base, fault=f"{table}: expected files that exist, got {path}") for path in missing[:1]]
            items += faults or self.items_of(base, image, [masks])
        return items

    def require_no_other_val(self, root: Path) -> None:
        """Raise ContractError if validation images would be drawn despite a folder of them beside the test images.

        Otherwise nobody would notice that the folder is not used.
        """
        names = ("val", "valid", "validation") if self.val_images is None else ()
        for folder in ((self.test_images or "").replace("test", name) for name in names):
            fits = folder == self.test_images or not (root / folder).is_dir()
            remedy = f"set dataset.val_images={folder} and dataset.val_masks, or dataset.val_images= to draw some"
            require(fits, WHO, "val_images along with test_images", f"none, although {root / folder} exists", remedy)

    def matched(self, images: Path, masks: Path, others: set[Path]) -> tuple[Files, Files]:
        """Return the images and masks of two folders, except for the folders `others`, by the core of their names.

        Raises ContractError, with the option to set, if no names match, or if files without a partner are not skipped.
        """
        names = [names_in(folder, others - {folder}) for folder in (images, masks)]
        suffixes = listed(self.mask_suffix)
        image_pattern = affix(self.image_prefix, listed(self.image_suffix))
        mask_pattern = affix(self.mask_prefix, suffixes)
        shared = images.resolve() == masks.resolve()
        hint = partial(proposal, list(names[0]), list(names[1]))  # compares all pairs of names: only if needed
        if shared and image_pattern == mask_pattern:
            remedy = hint() or "set dataset.mask_suffix to the ending of the mask names"
            require(False, WHO, "names that distinguish masks from images", f"every file of {images} as both", remedy)
        image_files = by_core(names[0], image_pattern, mask_pattern, shared)
        mask_files = by_core(names[1], mask_pattern, image_pattern, shared)
        without_mask = image_files.keys() - mask_files.keys() if self.missing_mask == "error" else set()
        without_image, no_match = mask_files.keys() - image_files.keys(), not image_files.keys() & mask_files.keys()
        if no_match or (self.on_bad_item == "raise" and (without_mask or without_image)):
            got = f"{len(without_mask)} of {len(image_files)} images without a mask{first(image_files, without_mask)}, "
            got += f"{len(without_image)} of {len(mask_files)} masks without an image{first(mask_files, without_image)}"
            as_empty = "" if without_image else "dataset.missing_mask=empty treats their masks as empty, and "
            remedy = hint()
            if not remedy or remedy.endswith(option("mask_suffix", *suffixes)):  # it is already set
                remedy = f"{as_empty}dataset.on_bad_item=skip leaves them out"
            require(False, WHO, "a mask for each image and an image for each mask", got, remedy)
        return image_files, mask_files

    def pair(self, core: str, files: Sequence[tuple[list[Named], list[Named]]], split: str) -> list[Item]:
        """Build the items of one name, or one with a fault if two files have it; `files` has those of each class."""
        name, masks = f"{split}/{core}" if split else core, [masks for _, masks in files]
        images = next((candidates for candidates, _ in files if candidates), [])  # the same for each class
        # Masks may have several names, one per suffix.
        by_name = [[file for file in group if file.name == stem] for group in masks for stem in dict(group)]
        for file, other, *_ in (files for files in (images, *by_name) if len(files) > 1):
            fault = f"{file.path}: expected one file of this name, got {other.path} as well"
            return [Item(name, name, split=split, fault=fault)]
        image, patient = (images[0].path, self.group_of(images[0].name, name)) if images else (None, name)
        base = Item(name, patient, split=split, page=self.page)
        return self.items_of(base, image, [[file.path for file in group] for group in masks])

    def items_of(self, base: Item, image: Path | None, masks: Masks) -> list[Item]:
        """Build the items of an image and its masks per class: `base` with its pixels, or several for a volume."""
        common: dict[str, Any] = {"page": base.page, "ignore": self.ignore}
        pairs: Any = self.classes
        read: Read = partial(read_classes, classes=pairs, **common)
        if pairs is None:
            read = partial(read_mask, threshold=self.threshold, value=self.mask_value, soft=self.soft, **common)
        return [pair_item(base, image, masks, read, self.read_bands, self.missing_mask == "empty")]

    def group_of(self, stem: str, name: str) -> str:
        """Return the patient found in the name of an image; without a pattern, each image is its own group."""
        if self.group_pattern is None:
            return name
        match = re.search(self.group_pattern, stem)
        require(match is not None, WHO, f"group_pattern {self.group_pattern} to match each name", stem)
        return (match and match[min(1, match.re.groups)]) or stem  # the whole match if there are no parentheses


def named(masks: str | Folders) -> dict[str, str]:
    """Return folders by the names of their classes; a single folder has the name ""."""
    return {"": masks} if isinstance(masks, str) else dict(masks)


def names_in(folder: Path, without: Container[Path]) -> dict[str, list[Path]]:
    """Return the image files in and below a folder by their names, with subfolders and without suffixes."""
    names: dict[str, list[Path]] = {}
    for path in files_in(folder, without):  # NFC: macOS stores an umlaut as two characters
        names.setdefault(normalize("NFC", without_suffix(path.relative_to(folder))), []).append(path)
    suffixes = Counter(path.suffix for path in folder.iterdir() if path.is_file()) if not names else {}
    got = ", ".join(f"{count} with {suffix or 'no suffix'}" for suffix, count in suffixes.items()) or "none"
    require(bool(names), WHO, f"images ({', '.join(SUFFIXES)}) in {folder}", got)
    return names


def by_core(names: dict[str, list[Path]], kind: re.Pattern[str], other: re.Pattern[str], shared: bool) -> Files:
    """Return the files whose names match the pattern `kind`, by the core of their names.

    In a shared folder, a file is skipped if the pattern `other` matches more of its name.
    """
    cores: Files = {}
    for name, files in names.items():
        match, rival = kind.fullmatch(name), other.fullmatch(name) if shared else None
        if match and not (rival and len(rival["core"]) < len(match["core"])):
            cores.setdefault(match["folder"] + match["core"], []).extend(Named(name, path) for path in files)
    return cores


def first(cores: Files, some: Collection[str]) -> str:
    """Return the name of the first of some files in parentheses; "" if there are none."""
    return f" (first {cores[min(some)][0].path.name})" if some else ""


def pair_item(
    base: Item, image: Path | None, masks: Masks, read: Read, bands: Sequence[int] | None = None, empty: bool = False
) -> Item:
    """Return an item with the pixels of an image file and of the mask files per class, which `read` decodes.

    It has a fault if the image is missing, or the mask of a class unless that means no foreground (`empty`).
    """
    if image is None or not (empty or all(masks)):
        present = image or next(path for group in masks for path in group)
        partner = "an image for this mask" if image is None else "a mask for this image"
        return replace(base, fault=f"{present}: expected {partner}")
    paths = [[str(path) for path in group] for group in masks]
    reader = partial(read_image, str(image), base.page, bands)
    mask_files = tuple(dict.fromkeys(path for group in paths for path in group if path != str(image)))  # or it is alpha
    mask = partial(read_all, paths, read, reader)
    return replace(base, image=reader, mask=mask, files=(str(image), *mask_files), mask_files=mask_files)


def read_all(paths: Sequence[Sequence[str]], read: Read, image: Reader) -> np.ndarray:
    """Decode the masks of an image: (h, w), or (h, w, k) for several classes; one without files has no foreground."""
    masks = [[read(path) for path in group] for group in paths]
    shapes = sorted({mask.shape for group in masks for mask in group}) or [image().shape[:2]]  # decoded only if needed
    who = next((path for group in paths for path in group), "")
    require(len(shapes) == 1, who, "masks of the same size", ", ".join(f"{w}x{h}" for h, w in shapes))
    united_masks = [united(group, who) if group else np.zeros(shapes[0], np.uint8) for group in masks]
    return united_masks[0] if len(united_masks) == 1 else np.stack(united_masks, axis=-1)


def united(masks: Sequence[np.ndarray], who: str) -> np.ndarray:
    """Return the union of several masks of one size; raises ContractError if their classes overlap."""
    has_classes = len(masks) > 1 and any(((mask > 1) & (mask != IGNORED)).any() for mask in masks)
    overlap = int((np.sum([mask > 0 for mask in masks], axis=0) > 1).sum()) if has_classes else 0
    require(not overlap, who, "masks of classes that do not overlap", f"{overlap} pixels in several masks")
    return np.maximum.reduce(masks)
