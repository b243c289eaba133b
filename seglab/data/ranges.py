"""Find the values of black and white of images with more than 8 bits, and the normalization of channels."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from seglab.contract import ContractError, require
from seglab.data.dataset import Dataset, Decoded, Item
from seglab.data.decode import convert
from seglab.data.facts import extent
from seglab.data.memo import progress, remembered
from seglab.data.split import SPLITS, Splits
from seglab.images.image_io import has_8_bits
from seglab.images.resize import to_units

FOUND = ("range", "mean", "std")  # options that may be `auto`: computed from the training images, and kept in run.json


def find_range(dataset: Dataset, splits: Splits) -> tuple[str | tuple[float, ...], list[str]]:
    """Return the range of a dataset, and notes; `auto` is found from the training images, or all if there are none.

    Decodes images of over 8 bits once. Raises ContractError for mixed depths unless the range is 0 to 255 or 65535.
    """
    if dataset.range != "auto":
        return dataset.range, []
    by_split = {split: extents(splits[split], dataset) for split in SPLITS}
    deep = [limits for part in by_split.values() for limits in part if limits]
    if not deep:
        return "full", []
    low, high = around([limits for limits in by_split["train"] if limits] or deep)
    shallow = sum(limits is None for part in by_split.values() for limits in part)
    if (low, high) == (0, 65535) and shallow:  # else spelled out: 16 bits with no-data pixels are floats
        return "full", []
    mixed = f"{shallow} with 8 bits and {len(deep)} with more, from {low:g} to {high:g}"
    remedy = f"set dataset.range=full or dataset.range=[{low:g},{high:g}]"
    fits = not shallow or (low, high) == (0, 255)  # 8-bit values in deeper files
    require(fits, "dataset", "images of one bit depth, to find their range", mixed, remedy)
    beyond = sum(limits[0] < low or limits[1] > high for limits in deep)
    cut = f"{beyond} images outside the training set have values beyond {low:g} to {high:g}, which are clipped"
    return (low, high), [cut] if beyond else []


def find_normalization(dataset: Dataset, images: Iterable[Decoded]) -> Dataset:
    """Compute the channel means and standard deviations that are `auto`, over all valid pixels of the images."""
    names = [name for name in ("mean", "std") if getattr(dataset, name) == "auto"]
    if not names:
        return dataset
    count, total, squares = 0, np.zeros(dataset.channels), np.zeros(dataset.channels)
    for image in progress(images, "normalize"):
        pixels, _, valid = image.seen()
        pixels = convert(pixels, dataset) if dataset.fit == "patch" else pixels
        values = to_units(pixels if valid is None else pixels[valid]).reshape(-1, dataset.channels) / 255
        count += len(values)
        total += values.sum(0, dtype=np.float64)  # the variance is a small difference of large sums
        squares += np.square(values).sum(0, dtype=np.float64)
    mean = total / max(count, 1)
    std = np.sqrt(np.maximum(squares / max(count, 1) - mean**2, (1 / 255) ** 2))  # a constant channel becomes 0
    computed = {"mean": tuple(mean.tolist()), "std": tuple(std.tolist())}
    return replace(dataset, **{name: computed[name] for name in names})  # type: ignore[arg-type]


def extents(items: Sequence[Item], dataset: Dataset) -> list[list[float] | None]:
    """Return the minimum and maximum of each image of more than 8 bits; None for 8 bits, [] for unreadable ones."""
    stored = [item for item in items if not item.decoded]

    def read(k: int) -> list[float] | None:
        try:
            limits = None if stored[k].files and has_8_bits(stored[k].files[0]) else extent(stored[k].image())
        except ContractError:  # reported when it is decoded
            return []
        return limits if limits is None or np.isfinite(limits).all() else []  # [] if there are no data at all

    options = dataset.reading_options()
    names = [f"{item.id} {options}" for item in stored]
    results = remembered("ranges", dataset.cache_dir, [item.files for item in stored], read, names)
    by_id = {item.id: limits for item, limits in zip(stored, results, strict=True)}
    return [item.decoded.facts["extent"] if item.decoded else by_id[item.id] for item in items]


def around(extents: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Return the range of powers of two around some values: 0 to 4095 for 12 bits, 0 to 1 for fractions.

    It starts below 0 if any value does.
    """

    def power_of_two(value: float) -> float:
        return 2.0 ** math.ceil(math.log2(value))

    low, high = min(limits[0] for limits in extents), max(limits[1] for limits in extents)
    integers = all(float(value).is_integer() for limits in extents for value in limits)
    of_fractions = power_of_two(high) if high > 0 else 0.0
    above = power_of_two(max(high, 0) + 1) - 1 if integers else of_fractions  # 4095 instead of 4096 for integers
    return (-power_of_two(-low) if low < 0 else 0.0), above or 1.0  # all-black images need a range, too
