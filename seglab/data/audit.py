"""What a person must know about a data set before spending hours on it. Needs no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import cv2
import numpy as np

from seglab.contract import ContractError
from seglab.data.dataset import Dataset, decode_native, native_objects, read
from seglab.data.duplicates import fingerprint, near_duplicates
from seglab.data.image_io import SUFFIXES, read_image
from seglab.data.items import Item
from seglab.data.parallel import each
from seglab.data.prepare_data import divide, mask_warnings
from seglab.data.resize import inside, resize, to_bits, to_channels, to_mask
from seglab.data.split import SPLITS, Splits


@dataclass(frozen=True)
class Look:
    """What one image shows: shape, depth, foreground share, areas of its objects, which of them resizing erases."""

    shape: tuple[int, int] = (0, 0)
    depth: str = ""
    share: float = 0.0
    areas: np.ndarray = field(default_factory=lambda: np.zeros(0))
    erased: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    values: tuple[int, ...] = ()
    print: tuple[np.ndarray, np.ndarray] | None = None
    fault: str = ""


@dataclass(frozen=True)
class Audit:
    """The facts as plain data, the split, the leaks as sentences, and what pictures are drawn from."""

    facts: dict[str, Any]
    splits: Splits
    leaks: list[str]
    shares: np.ndarray
    areas: np.ndarray
    samples: list[tuple[str, np.ndarray, np.ndarray]]


def audit(dataset: Dataset, samples: int = 24) -> Audit:
    """Look through every image and mask of a data set; unreadable ones are listed, not raised."""
    dataset = replace(dataset, on_bad_item="skip")
    items = dataset.items()
    splits = divide(items, dataset)
    good = [item for item in splits.all() if not item.fault and not item.left_out]
    looks = each(partial(look, dataset=dataset), good, "audit")
    seen = [(item, one) for item, one in zip(good, looks, strict=True) if not one.fault]
    part_of = {item.id: part for part in SPLITS for item in getattr(splits, part)}
    parts = [part_of[item.id] for item, _ in seen]
    pairs = near_duplicates([one.print for _, one in seen if one.print is not None], parts)
    names = [(seen[a][0].id, parts[a], seen[b][0].id, parts[b]) for a, b in pairs]
    leaks = [f"{a} ({x}) and {b} ({y}) look the same" for a, x, b, y in names]
    faults = [item.fault for item in items if item.fault] + [one.fault for one in looks if one.fault]
    facts: dict[str, Any] = {
        "items": len(items),
        "leaks": leaks,
        "unreadable": len(faults),
        "unreadable_first": faults[:5],
    }
    facts["left_out"] = dict(Counter(item.left_out for item in items if item.left_out))
    facts["group_also_in_test"] = len(splits.conflicting)
    facts |= counted([one for _, one in seen], parts, dataset)
    chosen = spread([one.share for _, one in seen], samples)
    pictures = [(seen[k][0].id, *picture(seen[k][0], dataset)) for k in chosen]
    shares = np.array([one.share for _, one in seen])
    return Audit(facts, splits, leaks, shares, np.concatenate([[], *(one.areas for _, one in seen)]), pictures)


def look(item: Item, dataset: Dataset) -> Look:
    """Measure one image and its mask."""
    try:
        image, mask = decode_native(item, dataset)
    except ContractError as error:
        return Look(fault=str(error))
    binary = to_mask(mask.astype(np.float32), 0.5)
    labels = native_objects(item, dataset) if item.objects else cv2.connectedComponents(binary, connectivity=8)[1]
    areas = np.bincount(labels[binary > 0], minlength=int(labels.max(initial=0)) + 1)[1:].astype(float)
    values = tuple(np.unique(read_image(item.files[-1])).tolist()) if has_mask_file(item) else ()
    return Look(
        shape=mask.shape,
        depth=str(image.dtype),
        share=float(mask.mean(dtype=np.float64)),
        areas=areas,
        erased=erased(binary, labels, 1 + len(areas), dataset),
        values=values,
        print=fingerprint(image),
    )


def has_mask_file(item: Item) -> bool:
    """Tell whether an item's mask is an image file of its own."""
    return len(item.files) == 2 and item.files[-1].lower().endswith(SUFFIXES)


def erased(mask: np.ndarray, labels: np.ndarray, count: int, dataset: Dataset) -> np.ndarray:
    """Tell of each object whether no pixel of it is left at `dataset.size`: (objects,) bool."""
    height, width = mask.shape
    if dataset.fit == "patch" or count == 1:
        return np.zeros(count - 1, bool)
    small = to_mask(resize(mask.astype(np.float32), *inside(mask.shape, dataset.size, dataset.fit)), dataset.coverage)
    back = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)
    left = np.bincount(labels[(back > 0) & (mask > 0)], minlength=count)
    return left[1:] == 0


def counted(looks: Sequence[Look], parts: Sequence[str], dataset: Dataset) -> dict[str, Any]:
    """Sum up all looks as plain data."""
    shares = np.array([one.share for one in looks])
    part = np.array(parts)
    areas, gone = (np.concatenate([[], *(getattr(one, name) for one in looks)]) for name in ("areas", "erased"))
    return {
        "images": {name: int((part == name).sum()) for name in SPLITS},
        "empty_masks": {name: int((shares[part == name] == 0).sum()) for name in SPLITS},
        "foreground": {name: float(shares[part == name].mean()) for name in SPLITS if name in part},
        "foreground_of_images_with_any": quantiles(shares[shares > 0]),
        "warnings": [sentence for name in SPLITS for sentence in mask_warnings(name, shares[part == name])],
        "depths": dict(Counter(one.depth for one in looks)),
        "sizes": len({one.shape for one in looks}),
        "height": quantiles([one.shape[0] for one in looks]),
        "width": quantiles([one.shape[1] for one in looks]),
        "mask_values": dict(Counter(str(list(one.values[:12])) for one in looks if one.values).most_common(5)),
        "objects": len(areas),
        "objects_per_image": dict(sorted(Counter(len(one.areas) for one in looks).items())),
        "object_pixels": quantiles(areas),
        "objects_erased_at_size": int(gone.sum()),
        "seen_as": f"size {dataset.size}, fit {dataset.fit}, coverage {dataset.coverage}",
    }


def quantiles(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Give the least, the quartiles and the greatest of some numbers; nothing of none."""
    names = ("min", "25%", "median", "75%", "max")
    return dict(zip(names, np.quantile(values, (0, 0.25, 0.5, 0.75, 1)).tolist(), strict=True)) if len(values) else {}


def spread(values: Sequence[float], count: int) -> list[int]:
    """Choose numbers of images evenly over the ranks of their values."""
    order = np.argsort(values, kind="stable")
    return [
        int(order[k]) for k in np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))
    ]


def picture(item: Item, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Give an image (s, s, 3) uint8 and its mask (s, s) as the model sees them, or whole where it sees patches."""
    shown = replace(dataset, fit="pad", size=256) if dataset.fit == "patch" else dataset
    image, mask = read(item, shown)
    image = to_channels(to_bits(image.squeeze(-1) if image.shape[2] == 1 else image, 8), 3)
    return image, mask > (127 if dataset.soft else 0)
