"""The base class of datasets, which list labeled images without decoding them and know how to read each one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, ClassVar

import numpy as np

from seglab.contract import Task, require
from seglab.images.image_io import read_image
from seglab.images.labels import Seen
from seglab.images.raster import Page
from seglab.images.resize import FITS

Reader = Callable[[], np.ndarray]  # picklable: a `functools.partial` of a module-level function
NO_PIXELS: Reader = partial(np.zeros, (1, 1), np.uint8)  # placeholder for the pixels of an item with a fault
Facts = dict[str, Any]  # facts about a decoded item as plain data, see `item_facts`
VERSION = 5  # of the decoding code: any change that alters pixels must raise it, or caches keep the old ones
IDENTITY = 3  # never changes: a run must recognize its data after a change of the code, even if caches are rebuilt

NOT_READING = {"root", "mean", "std", "val_fraction", "test_fraction", "split_seed", "split_file", "on_bad_item"}
NOT_READING |= {"cache_dir", "cache_gb", "positive_fraction", "patches_per_image", "stratify", "folds", "fold"}
"""The options of a dataset that do not affect pixels."""

AFTER_CUTTING = {"size", "fit", "channels", "bits", "range"}  # options that do not affect what patches are cut from


@dataclass(frozen=True)
class Decoded:
    """The pixels of an item from which samples are made: as the model sees them or, for patches, in native size.

    Args:
        seen: returns the image (h, w) or (h, w, c), the mask as described in labels.py, with 0 for pixels without a
            label, and the valid pixels; none may be changed in place.
        shape: (h, w).
        foreground, classes: the fractions of the valid pixels that are foreground and of each class.
        points: (k, 2), row and column of some foreground pixels; for patches only.
        facts: facts about the item in its native size.
    """

    seen: Callable[[], Seen]
    shape: tuple[int, int]
    foreground: float
    points: np.ndarray
    facts: Facts
    classes: tuple[float, ...] = ()


@dataclass(frozen=True)
class Item:
    """One image and its mask, as two functions that decode them on demand.

    Args:
        group: what a split must not divide (a patient, a scene).
        image: returns (h, w) or (h, w, bands), red first: uint8, uint16, or float32 with NaN for no data.
        mask: returns a mask for the dataset's task, see labels.py.
        split: the split to which the dataset itself assigns the image, or "".
        files: the source files, the image first; they enter the fingerprint.
        mask_files: those of the files that contain only the mask.
        page: the page read from the files.
        labels: everything else that determines the mask (rows of a table).
        fault: why an expected image is unusable; "" if it is usable.
        left_out: why an image is excluded on purpose; "" if it is used.
        objects: returns the mask's objects by number (h, w), from 1, with 0 elsewhere; None if the dataset does not
            distinguish objects, which are then connected components.
        decoded: the same pixels, if they have been decoded already.
    """

    id: str
    group: str
    image: Reader = NO_PIXELS
    mask: Reader = NO_PIXELS
    split: str = ""
    files: tuple[str, ...] = ()
    mask_files: tuple[str, ...] = ()
    page: Page | None = None
    labels: str = ""
    fault: str = ""
    left_out: str = ""
    objects: Reader | None = None
    decoded: Decoded | None = None


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Base class of all datasets, with the options of reading and splitting. A subclass adds its own and `items()`.

    Args:
        size: side in pixels of the square that the model sees.
        fit: `resize` stretches the image to the square, `pad` keeps its aspect ratio and pads with black, `patch` keeps
            its pixels: training draws random squares of `size`, validation uses tiles of `size`, and the test uses the
            whole image.
        reduce: integer factor by which the image is shrunk before everything else.
        positive_fraction: fraction of the patches of an image with foreground that are drawn around a foreground pixel;
            the others are drawn anywhere.
        patches_per_image: number of patches drawn from each image per epoch.
        channels: 3 (RGB; gray is repeated), 1 (gray), or the number of bands of the files.
        bits: 8 or 16 per channel; 8 keeps 256 steps of the range.
        range: the values of black and white: `[low, high]`; `full`, the limits of the file's type (0 and 1 for floats);
            `auto`, which is `full` for 8 bits, and for more from 0 (or the minimum, if negative) to the maximum of the
            training images, rounded up to powers of two. All images share one range.
        coverage: fraction of a resized pixel that must be foreground for it to count as such; low values keep thin
            objects.
        soft: use that fraction itself as the target (float32) instead of thresholding it at `coverage`.
        mean, std: normalization per channel (or one for all) in units of the full range 0..1, applied on the device;
            `auto` computes them from the valid training pixels, per channel.
        val_fraction: fraction of the training images to set aside if the dataset has no validation split.
        test_fraction: fraction of all images to set aside if the dataset has no test split.
        split_seed: seed of that choice, independent of the training seed.
        stratify: split images with and without foreground separately, so that each split has some.
        folds, fold: test on one (from 0) of `folds` parts of all images, divided by group, with equal numbers of images
            with foreground; 1 keeps the dataset's splits.
        split_file: a fixed split (JSON, or train.txt, val.txt and test.txt), which takes precedence over all of these.
        on_bad_item: `raise` stops at an image that cannot be read; `skip` leaves it out and counts it.
        cache_dir: folder for decoded images, None for no cache.
        cache_gb: size limit of that folder in GB.
    """

    size: int = 256
    fit: str = "resize"
    reduce: int = 1
    positive_fraction: float = 0.5
    patches_per_image: int = 1
    channels: int = 3
    bits: int = 8
    range: str | tuple[float, ...] = "auto"
    coverage: float = 0.5
    soft: bool = False
    mean: str | tuple[float, ...] = (0.5,)
    std: str | tuple[float, ...] = (0.25,)
    val_fraction: float = 0.15
    test_fraction: float = 0.15
    split_seed: int = 0
    stratify: bool = False
    folds: int = 1
    fold: int = 0
    split_file: str | None = None
    on_bad_item: str = "raise"
    cache_dir: str | None = "outputs/cache"
    cache_gb: float = 20.0
    computed: ClassVar[bool] = False
    """Whether the options alone determine every pixel, so that runs in one process can share the decoded images."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list | Mapping):  # from yaml, not hashable
                object.__setattr__(self, field.name, tuple(value.items() if isinstance(value, Mapping) else value))
        one_of("dataset", self, fit=FITS, bits=(8, 16), on_bad_item=("raise", "skip"))
        if not isinstance(self.range, str):  # [0, 255] and [0.0, 255.0] are one cache
            object.__setattr__(self, "range", tuple(float(limit) for limit in self.range))
        pair = not isinstance(self.range, str) and len(self.range) == 2 and self.range[0] < self.range[1]
        require(pair or self.range in ("auto", "full"), "dataset", "range to be auto, full or [low, high]", self.range)
        require(0 <= self.fold < max(self.folds, 1), "dataset", f"fold from 0 to {self.folds - 1}", self.fold)
        for name in ("mean", "std"):
            value = getattr(self, name)
            fits = value == "auto" or (not isinstance(value, str) and len(value) in (1, self.channels))
            require(fits, "dataset", f"{name} to be auto, or a list of 1 or {self.channels} numbers", value)
        supported = not self.soft or self.task.kind != "multiclass"
        require(supported, "dataset", "soft=false for mutually exclusive classes", self.soft)

    @property
    def task(self) -> Task:
        """The meaning of the masks: binary, unless a dataset overrides it."""
        return Task()

    @property
    def raw(self) -> dict[str, Any] | None:
        """The configuration of the dataset from which a folder of decoded images was made; None for other datasets."""
        return None

    def training_seed(self, seed: int) -> int:
        """Return the seed of weights, order and augmentation, the same for every loss; each fold has its own."""
        return (seed + 1_000_003 * self.fold) % 2**32  # distinct for all folds and all seeds below a million

    def items(self) -> list[Item]:
        """List every labeled image without decoding any."""
        raise NotImplementedError

    def decode(self, path: str, page: int | None = None) -> np.ndarray:
        """Decode an image file without a label, or a page of it, as the dataset reads its own; see `read_image`."""
        return read_image(path, page)

    def region(self, path: str) -> tuple[slice, slice] | None:
        """Return the rows and columns of an image file that the model sees; None for all of it."""
        return None

    def file_warnings(self, items: Sequence[Item]) -> list[str]:
        """Return warnings about the files of all items, none of which has been decoded."""
        return []

    def mask_warnings(self, masks: Sequence[Facts]) -> list[str]:
        """Return warnings about mask files, given their `mask_facts`."""
        return []

    def reading_options(self, version: int = VERSION) -> str:
        """Return the class and options that determine the decoded pixels, and so the name of a cache, as text."""
        ignored = NOT_READING | (AFTER_CUTTING if self.fit == "patch" else set())
        options = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ignored}
        return f"{version} {type(self).__name__} {sorted(options.items())}"


def one_of(who: str, chosen: object, **choices: tuple) -> None:
    """Raise ContractError unless each named attribute of `chosen` is one of its choices."""
    for name, allowed in choices.items():
        value = getattr(chosen, name)
        require(value in allowed, who, f"{name} to be one of {', '.join(map(str, allowed))}", value)
