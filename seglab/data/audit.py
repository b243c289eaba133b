"""What a person must know about a data set before spending hours on it. Needs no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import cv2
import numpy as np

from seglab.contract import ContractError
from seglab.data.dataset import Dataset, Item
from seglab.data.decode import decode_item, decode_native, native_objects
from seglab.data.duplicates import image_hash, near_duplicates
from seglab.data.image_io import SUFFIXES, read_image
from seglab.data.parallel import each
from seglab.data.prepare_data import mask_warnings, split_items
from seglab.data.resize import inside, resize, to_bits, to_channels, to_mask
from seglab.data.split import SPLITS, Splits


@dataclass(frozen=True)
class Inspection:
    """What one image shows: its size, the areas of its objects, which of them resizing erases, values of its mask."""

    shape: tuple[int, ...]
    depth: str
    foreground: float
    areas: np.ndarray
    erased: np.ndarray
    values: tuple[int, ...]
    hash: tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Audit:
    """The facts as plain data, the split, the leaks as sentences, and what pictures are drawn from."""

    facts: dict[str, Any]
    splits: Splits
    leaks: list[str]
    foreground: np.ndarray
    areas: np.ndarray
    samples: list[tuple[str, np.ndarray, np.ndarray]]


def audit(dataset: Dataset, samples: int = 24) -> Audit:
    """Inspect every image and mask of a data set; unreadable ones are listed, not raised."""
    dataset = replace(dataset, on_bad_item="skip")
    items = dataset.items()
    splits = split_items(items, dataset)
    split_of = {item.id: split for split in SPLITS for item in splits[split]}
    good = [item for item in splits.all() if not item.fault and not item.left_out]
    results = each(partial(inspect, dataset=dataset), good, "audit")
    faults = [item.fault for item in items if item.fault] + [one for one in results if isinstance(one, str)]
    shown = [item for item, one in zip(good, results, strict=True) if isinstance(one, Inspection)]
    seen = [one for one in results if isinstance(one, Inspection)]
    sides = [split_of[item.id] for item in shown]
    names = [f"{item.id} ({side})" for item, side in zip(shown, sides, strict=True)]
    leaks = [f"{names[a]} and {names[b]} look the same" for a, b in near_duplicates([one.hash for one in seen], sides)]
    facts: dict[str, Any] = {
        "items": len(items),
        "leaks": leaks,
        "unreadable": len(faults),
        "unreadable_first": faults[:5],
        "left_out": dict(Counter(item.left_out for item in items if item.left_out)),
        "group_also_in_test": len(splits.conflicting),
    }
    facts |= summary(seen, sides, dataset)
    foreground = np.array([one.foreground for one in seen])
    pictures = [(shown[k].id, *picture(shown[k], dataset)) for k in spread(foreground, samples)]
    return Audit(facts, splits, leaks, foreground, joined(one.areas for one in seen), pictures)


def inspect(item: Item, dataset: Dataset) -> Inspection | str:
    """Measure one image and its mask, or say why that is not possible."""
    try:
        image, mask = decode_native(item, dataset)
    except ContractError as error:
        return str(error)
    binary = to_mask(mask.astype(np.float32), 0.5)
    labels = native_objects(item, dataset) if item.objects else cv2.connectedComponents(binary, connectivity=8)[1]
    areas = np.bincount(labels[binary > 0], minlength=int(labels.max(initial=0)) + 1)[1:].astype(float)
    mask_file = len(item.files) == 2 and item.files[1].lower().endswith(SUFFIXES)
    return Inspection(
        shape=mask.shape,
        depth=str(image.dtype),
        foreground=float(mask.mean(dtype=np.float64)),
        areas=areas,
        erased=erased(binary, labels, 1 + len(areas), dataset),
        values=tuple(np.unique(read_image(item.files[1])).tolist()) if mask_file else (),
        hash=image_hash(image),
    )


def erased(mask: np.ndarray, labels: np.ndarray, count: int, dataset: Dataset) -> np.ndarray:
    """Say of each object whether no pixel of it is left at `dataset.size`: (objects,) bool."""
    height, width = mask.shape
    if dataset.fit == "patch" or count == 1:
        return np.zeros(count - 1, bool)
    small = to_mask(resize(mask.astype(np.float32), *inside(mask.shape, dataset.size, dataset.fit)), dataset.coverage)
    back = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.bincount(labels[(back > 0) & (mask > 0)], minlength=count)[1:] == 0


def summary(seen: Sequence[Inspection], splits: Sequence[str], dataset: Dataset) -> dict[str, Any]:
    """Sum up all inspections as plain data; `splits` are those of their images."""
    every = np.array([one.foreground for one in seen])
    of = {split: every[np.array(splits, str) == split] for split in SPLITS}
    areas = joined(one.areas for one in seen)
    return {
        "images": {split: len(some) for split, some in of.items()},
        "empty_masks": {split: int((some == 0).sum()) for split, some in of.items()},
        "foreground": {split: float(some.mean()) for split, some in of.items() if len(some)},
        "foreground_of_images_with_any": quantiles(every[every > 0]),
        "warnings": [sentence for split, some in of.items() for sentence in mask_warnings(split, some)],
        "depths": dict(Counter(one.depth for one in seen)),
        "sizes": len({one.shape for one in seen}),
        "height": quantiles([one.shape[0] for one in seen]),
        "width": quantiles([one.shape[1] for one in seen]),
        "mask_values": dict(Counter(str(list(one.values[:12])) for one in seen if one.values).most_common(5)),
        "objects": len(areas),
        "objects_per_image": dict(sorted(Counter(len(one.areas) for one in seen).items())),
        "object_pixels": quantiles(areas),
        "objects_erased_at_size": int(joined(one.erased for one in seen).sum()),
        "seen_as": f"size {dataset.size}, fit {dataset.fit}, coverage {dataset.coverage}",
    }


def joined(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """Join arrays (n,), of which there may be none."""
    return np.concatenate([[], *arrays])


def quantiles(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Give the least, the quartiles and the greatest of some numbers; nothing of none."""
    names = ("min", "25%", "median", "75%", "max")
    return dict(zip(names, np.quantile(values, (0, 0.25, 0.5, 0.75, 1)).tolist(), strict=True)) if len(values) else {}


def spread(values: np.ndarray, count: int) -> list[int]:
    """Choose at most `count` numbers of images evenly over the ranks of their values."""
    ranks = np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int)
    return np.argsort(values, kind="stable")[np.unique(ranks)].tolist()


def picture(item: Item, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Give an image (s, s, 3) uint8 and its mask (s, s) as the model sees them, or whole where it sees patches."""
    shown = replace(dataset, fit="pad", size=256) if dataset.fit == "patch" else dataset
    image, mask = decode_item(item, shown)
    return to_channels(to_bits(image, 8), 3), mask > (127 if dataset.soft else 0)
