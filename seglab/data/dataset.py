"""A data set: labeled images that are listed without being decoded, and how each one is read."""

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

Reader = Callable[[], np.ndarray]  # picklable: a `functools.partial` of a function of some module
NO_PIXELS: Reader = partial(np.zeros, (1, 1), np.uint8)  # stands for the pixels of an item that has a fault
Facts = dict[str, Any]  # what a decoded item says about itself, as plain data: see `item_facts`
VERSION = 5  # of the code that decodes: a change that moves pixels must raise it, or caches keep the old ones
IDENTITY = 3  # stays: a run must find its data again after a change of the code, whatever caches are made anew

NOT_READING = {"root", "mean", "std", "val_fraction", "test_fraction", "split_seed", "split_file", "on_bad_item"}
NOT_READING |= {"cache_dir", "cache_gb", "positive_fraction", "patches_per_image", "stratify", "folds", "fold"}
"""Fields of a data set that change no pixel."""

AFTER_CUTTING = {"size", "fit", "channels", "bits", "range"}  # fields that change no pixel of what patches are cut from


@dataclass(frozen=True)
class Decoded:
    """The pixels of an item that samples are made of: as the model sees them, or, for patches, in their own size.

    `seen()` gives the image (h, w) or (h, w, c), the mask as labels.py says of its task, with 0 where a pixel has no
    label, and which pixels count; none of them is to be changed. `shape` is (h, w); `foreground` and `classes` are
    fractions of the valid pixels: of all foreground, and of each class. `points` (k, 2) are some pixels of the
    foreground, as row and column, for patches alone. `facts` are of the item in its own size.
    """

    seen: Callable[[], Seen]
    shape: tuple[int, int]
    foreground: float
    points: np.ndarray
    facts: Facts
    classes: tuple[float, ...] = ()


@dataclass(frozen=True)
class Item:
    """One image and its mask, as two functions that decode them when somebody needs the pixels.

    `image()` gives (h, w) or (h, w, bands), red first, uint8, uint16 or float32 with NaN where there are no data;
    `mask()` gives what labels.py says of the data set's task. `group` is whatever must not be divided by a split
    (patient, scene). `split` is the split that the data set itself puts this image in, or "". `files` are the source
    files, of which fingerprints are made, the image first; `mask_files` are those of them that hold nothing but the
    mask, on their `page`; `labels` is what else decides the mask (rows of a table). `fault` says why an image that
    should be there cannot be used, `left_out` why one is left out on purpose; "" for a good one. `objects()` gives the
    mask's objects by their numbers (h, w) from 1, 0 elsewhere, where the data set distinguishes them; None where they
    are whatever is connected. `decoded` are the same pixels where somebody has decoded them already.
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
    """What all data sets have in common: the options of reading and splitting. A data set adds its own and `items()`.

    size: side in pixels of the square that the model sees.
    fit: `resize` stretches the image to the square, `pad` keeps its proportions on black, `patch` keeps its pixels:
    training draws squares of `size` from it, validation tiles it with them, and the test is of the whole image.
    reduce: shrink the image by this whole factor before all that.
    positive_fraction: fraction of the patches of an image with foreground that are drawn around a pixel of it; the
    others are drawn anywhere. patches_per_image: patches drawn from each image in an epoch.
    channels: 3 (RGB; a gray image is repeated), 1 (gray), or as many bands as the files have. bits: 8 or 16 of each:
    8 keeps 256 steps of the range.
    range: the values that stand for black and white: `[low, high]`; `full`, those that the file's bits can hold (0 and
    1 for fractions); `auto`, full for 8 bits, and for more from 0 (or the least) to the largest value of the training
    images, rounded up to a power of two. One range for all images.
    coverage: fraction of a resized pixel that must be foreground for it to count as such; low values keep thin objects.
    soft: keep that fraction itself as the target (float32) instead of cutting it at `coverage`.
    mean, std: normalization per channel (or one for all) in units of the full range 0..1, done on the device; `auto`:
    those of the training pixels that count, per channel.
    val_fraction, test_fraction: fraction of the training images (of all images) set aside where the data set has no
    such split. split_seed: fixes that choice, apart from the training's seed. stratify: draw images with and without
    foreground apart, so that each split has some. folds, fold: test on one (from 0) of so many parts of all images,
    divided by group, with equal numbers of images with foreground; 1 keeps the data set's splits. split_file: a frozen
    split (JSON, or lists train.txt, val.txt and test.txt), which goes before all this.
    on_bad_item: `raise` stops at an image that cannot be read; `skip` leaves it out and counts it.
    cache_dir: folder for decoded images, null for none. cache_gb: bound for all that lies in that folder.
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
    """Whether the options alone decide every pixel, so that runs in one process may share what is computed."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list | Mapping):  # of a yaml, which cannot be hashed
                object.__setattr__(self, field.name, tuple(value.items() if isinstance(value, Mapping) else value))
        one_of("dataset", self, fit=FITS, bits=(8, 16), on_bad_item=("raise", "skip"))
        if not isinstance(self.range, str):  # [0, 255] and [0.0, 255.0] name one cache
            object.__setattr__(self, "range", tuple(float(limit) for limit in self.range))
        two = not isinstance(self.range, str) and len(self.range) == 2 and self.range[0] < self.range[1]
        require(two or self.range in ("auto", "full"), "dataset", "range of auto, full or [low, high]", self.range)
        require(0 <= self.fold < max(self.folds, 1), "dataset", f"fold from 0 to {self.folds - 1}", self.fold)
        for name in ("mean", "std"):
            value = getattr(self, name)
            fits = value == "auto" or (not isinstance(value, str) and len(value) in (1, self.channels))
            require(fits, "dataset", f"{name} of auto, or with 1 or {self.channels} numbers", value)
        hard = not self.soft or self.task.kind != "multiclass"
        require(hard, "dataset", "soft=false for classes that exclude each other", self.soft)

    @property
    def task(self) -> Task:
        """What the masks mean: binary, unless a data set says otherwise."""
        return Task()

    @property
    def raw(self) -> dict[str, Any] | None:
        """The configuration of the data set that a folder of decoded images was made from; None of all others."""
        return None

    def training_seed(self, seed: int) -> int:
        """The seed of weights, order and augmentation, for every loss: each fold is a training of its own."""
        return (seed + 1_000_003 * self.fold) % 2**32  # no two folds have one for seeds below a million

    def items(self) -> list[Item]:
        """List every labeled image without decoding any."""
        raise NotImplementedError

    def decode(self, path: str, page: int | None = None) -> np.ndarray:
        """Decode an image file without a label, or a page of it, as the data set reads its own, see `read_image`."""
        return read_image(path, page)

    def region(self, path: str) -> tuple[slice, slice] | None:
        """Give the rows and columns of an image file that the model sees, None for all of it."""
        return None

    def file_warnings(self, items: Sequence[Item]) -> list[str]:
        """Say in sentences what looks wrong about the files of all items, none of which has been decoded."""
        return []

    def mask_warnings(self, masks: Sequence[Facts]) -> list[str]:
        """Say in sentences what looks wrong about mask files, given their `mask_facts`."""
        return []

    def reading_options(self, version: int = VERSION) -> str:
        """Write down all that decides the decoded pixels, and so the name of a cache: kind of data set and options."""
        ignored = NOT_READING | (AFTER_CUTTING if self.fit == "patch" else set())
        options = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ignored}
        return f"{version} {type(self).__name__} {sorted(options.items())}"


def one_of(who: str, chosen: object, **choices: tuple) -> None:
    """Require each named attribute of `chosen` to be one of its choices."""
    for name, allowed in choices.items():
        value = getattr(chosen, name)
        require(value in allowed, who, f"{name} to be one of {', '.join(map(str, allowed))}", value)
