"""Audit a dataset: facts, leaks between splits and examples, to check before training. Does not import torch."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import cv2
import numpy as np

from seglab.contract import ContractError
from seglab.data.dataset import Dataset, Facts, Item
from seglab.data.decode import convert, decode_item, read_item, view_image
from seglab.data.facts import data_warnings, item_facts, mask_values, objects_in, spread
from seglab.data.memo import each
from seglab.data.prepare_data import divide, select_items
from seglab.data.split import SPLITS, Splits
from seglab.images.image_io import decode
from seglab.images.labels import foreground_of, layers
from seglab.images.resize import in_colors, inside, resize
from seglab.plots import hatched, paint_classes

PICTURE = 256  # the longer side of a picture in pixels
SIDE = 16  # height and width of a difference hash in bits
FEW_BITS = 16  # a pair is a candidate if at most this many of the 256 bits differ
ALIKE = 0.98  # a candidate is a near-duplicate if its reduced images correlate at least this much


class Sample(NamedTuple):
    """One image as stored, reduced for display, and as the model sees it; uint8 (h, w, 3), but `seen_mask` is bool.

    The stored mask shows several classes in their colors, and hatches the pixels that do not count.
    """

    name: str
    image: np.ndarray
    mask: np.ndarray
    seen: np.ndarray
    seen_mask: np.ndarray


@dataclass(frozen=True)
class Audit:
    """The facts as plain data, the split, the leaks as sentences, and the samples from which pictures are drawn."""

    facts: dict[str, Any]
    splits: Splits
    leaks: list[str]
    samples: list[Sample]


def audit(dataset: Dataset, samples: int = 12) -> Audit:
    """Inspect every image and mask of a dataset; unreadable ones are listed in the facts, not raised."""
    chosen = select_items(replace(dataset, on_bad_item="skip"))
    dataset, listed = chosen.dataset, chosen.listed
    good = [item for item in listed if not item.fault and not item.left_out]
    inspected = each(partial(inspect, dataset=dataset), good, "audit")
    results = {item.id: one for item, one in zip(good, inspected, strict=True)}
    faults = {item.id: item.fault for item in listed if item.fault}
    faults |= {name: one for name, one in results.items() if isinstance(one, str)}
    # Split again without the images that cannot be decoded, as training does.
    splits, out = divide(listed, faults, chosen.hashes, dataset, False)
    shown = [(split, item) for split in SPLITS for item in splits[split]]
    seen = [one for _, item in shown if isinstance(one := results[item.id], dict)]
    sides = [split for split, _ in shown]
    names = [f"{item.id} ({split})" for split, item in shown]
    copies = [reason for reason in out.values() if "expected in one split" in reason]
    pairs = near_duplicates([one["hash"] for one in seen], sides)
    leaks = copies + [f"{names[a]} and {names[b]} look the same" for a, b in pairs]
    facts: dict[str, Any] = {
        "items": len(listed),
        "leaks": leaks,
        "unreadable": len(faults),
        "unreadable_first": list(dict.fromkeys(faults.values()))[:5],  # the slices of a volume share one
        "left_out": dict(Counter(item.left_out for item in listed if item.left_out)),
        "group_also_in_test": len(splits.conflicting),
        "range": dataset.range,
    }
    by_split = {split: [one for side, one in zip(sides, seen, strict=True) if side == split] for split in SPLITS}
    facts |= {"warnings": chosen.notes + data_warnings(by_split, dataset)} | summary(by_split, dataset)
    pictures = [picture(shown[k][1], dataset) for k in spread([one["foreground"] for one in seen], samples)]
    return Audit(facts, splits, leaks, pictures)


def inspect(item: Item, dataset: Dataset) -> Facts | str:
    """Return the facts of an image and its mask as stored, or the message of the error that makes them unusable.

    Adds to `item_facts`: `turned`, `alpha`, the `areas` of the objects in pixels, and a `hash` to find near-duplicates.
    """
    try:
        stored = read_item(item, dataset)
        facts = item_facts(item, stored, dataset)
    except ContractError as error:
        return str(error)
    try:
        raster = decode(item.files[0], item.page) if item.files else None
    except ContractError:  # a custom format that only the item's reader decodes
        raster = None
    facts["turned"], facts["alpha"] = bool(raster and raster.turned), raster is not None and raster.alpha is not None
    facts["areas"] = objects_in(item, stored.mask, dataset)[0]
    native = replace(dataset, fit="patch", reduce=1)
    return facts | {"hash": image_hash(view_image(stored.image, native))}  # NaN (no data) becomes black


def summary(splits: dict[str, list[Facts]], dataset: Dataset) -> dict[str, Any]:
    """Summarize the facts of all images as plain data."""
    seen = [one for some in splits.values() for one in some]
    areas = np.concatenate([[], *(one["areas"] for one in seen)])  # [] if there are no images
    every, task = np.array([one["foreground"] for one in seen]), dataset.task
    masks = [mask for one in seen for mask in one["masks"]]
    kinds = Counter(" ".join(filter(None, (mask["lossy"], mask["kind"]))) for mask in masks)
    return {
        "images": {split: len(some) for split, some in splits.items()},
        "empty_masks": {split: sum(not one["foreground"] for one in some) for split, some in splits.items()},
        "foreground": {
            split: float(np.mean([one["foreground"] for one in some])) for split, some in splits.items() if some
        },
        "classes": {n: float(np.mean([one["classes"][k] for one in seen])) for k, n in enumerate(task.classes) if seen},
        "images_with_class": {n: sum(one["classes"][k] > 0 for one in seen) for k, n in enumerate(task.classes)},
        "ignored": float(np.mean([one["ignored"] for one in seen])) if seen else 0.0,
        "foreground_of_images_with_any": quantiles(every[every > 0]),
        "depths": dict(Counter(one["depth"] for one in seen)),
        "images_stored_turned": sum(one["turned"] for one in seen),
        "images_whose_alpha_is_left_out": sum(one["alpha"] for one in seen),
        "sizes": len({tuple(one["shape"]) for one in seen}),
        "height": quantiles([one["shape"][0] for one in seen]),
        "width": quantiles([one["shape"][1] for one in seen]),
        "mask_kinds": dict(kinds),
        "mask_values": mask_values(masks),
        "objects": len(areas),
        "objects_per_image": dict(sorted(Counter(one["objects"] for one in seen).items())),
        "object_pixels": quantiles(areas),
        "objects_erased_at_size": sum(one["lost"] for one in seen),
        "seen_as": f"size {dataset.size}, fit {dataset.fit}, coverage {dataset.coverage}",
    }


def quantiles(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Return the minimum, quartiles and maximum of some numbers; an empty dictionary if there are none."""
    names = ("min", "25%", "median", "75%", "max")
    return dict(zip(names, np.quantile(values, (0, 0.25, 0.5, 0.75, 1)).tolist(), strict=True)) if len(values) else {}


def image_hash(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the 256-bit difference hash of an image (whether brightness falls to the right) and its 64x64 pixels.

    The pixels have mean 0 and norm 1, so that the product of two is their correlation; all zeros for a flat image.
    """
    gray = image if image.ndim == 2 else image.mean(axis=2)
    small = cv2.resize(gray.astype(np.float32), (4 * SIDE, 4 * SIDE), interpolation=cv2.INTER_AREA)
    coarse = cv2.resize(small, (SIDE + 1, SIDE), interpolation=cv2.INTER_AREA)  # 17 columns give 16 differences
    bits = np.packbits(coarse[:, 1:] < coarse[:, :-1])
    centered = small - small.mean()
    length = np.linalg.norm(centered)
    return bits, (centered / length if length > 1e-3 else np.zeros_like(centered)).reshape(-1)


def near_duplicates(hashes: Sequence[tuple[np.ndarray, np.ndarray]], splits: Sequence[str]) -> list[tuple[int, int]]:
    """List the index pairs of images that look the same and lie in different splits."""
    bits, pixels = (np.array([one[k] for one in hashes]) for k in (0, 1))
    pairs = []
    for k in range(len(hashes) - 1):
        differ = np.unpackbits(bits[k + 1 :] ^ bits[k], axis=1).sum(1, dtype=np.uint16)
        for other in (k + 1 + np.flatnonzero(differ <= FEW_BITS)).tolist():
            if splits[k] != splits[other] and pixels[k] @ pixels[other] >= ALIKE:  # the most expensive test comes last
                pairs.append((k, other))
    return pairs


def picture(item: Item, dataset: Dataset) -> Sample:
    """Return the sample of one item; the whole image, even if the model sees patches."""
    image, mask, valid = read_item(item, dataset)
    image, task = view_image(image, replace(dataset, fit="patch", reduce=1)), dataset.task
    size = inside(mask.shape[:2], PICTURE, "pad")
    maps = np.stack([resize(layer.astype(np.float32), *size) for layer in layers(mask, task)])
    marks = None if valid is None else resize(valid.astype(np.float32), *size) >= 0.5
    black = np.zeros((*size, 3), np.uint8)
    if task.channels > 1:
        drawn = paint_classes(black, maps, 0.5, task.kind, marks)
    else:
        drawn = hatched(black + np.uint8(255) * (maps[0] >= 0.5)[..., None], marks)
    display = replace(dataset, channels=3 if dataset.channels == 1 else dataset.channels, bits=8)
    whole = replace(dataset, fit="pad", size=PICTURE) if dataset.fit == "patch" else dataset
    seen, seen_mask, _ = decode_item(item, replace(whole, bits=8))
    return Sample(
        item.id,
        resize(in_colors(convert(image, display)), *size),
        drawn,
        in_colors(convert(seen, replace(display, range="full"))),  # `decode_item` has already applied the range
        foreground_of(seen_mask, task) > (127 if dataset.soft else 0),
    )
