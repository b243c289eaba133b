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
from seglab.data.memo import each, progress
from seglab.data.prepare_data import divide, select_items
from seglab.data.split import SPLITS, Splits
from seglab.images.image_io import decode
from seglab.images.labels import foreground_of, layers
from seglab.images.resize import in_colors, inside, resize
from seglab.plots import hatched, paint_classes

PICTURE = 256  # the longer side of a picture in pixels
SIDE = 16  # height and width of a difference hash in bits
FEW_BITS = 16  # a pair is a candidate if at most this many of the 256 bits differ
ROWS = 64  # number of images that are compared with all others at once
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
    """Inspect every image and mask of a dataset; unreadable ones are listed in the facts and raise no error."""
    selection = select_items(replace(dataset, on_bad_item="skip"))
    dataset, listed = selection.dataset, selection.listed
    usable = [item for item in listed if not item.fault and not item.left_out]
    inspected = each(partial(inspect, dataset=dataset), usable, "audit")
    results = {item.id: result for item, result in zip(usable, inspected, strict=True)}
    faults = {item.id: item.fault for item in listed if item.fault}
    faults |= {name: result for name, result in results.items() if isinstance(result, str)}
    # Split again without the images that cannot be decoded, as training does.
    splits, skipped = divide(listed, faults, selection.hashes, dataset, False)
    pairs = [(split, item) for split in SPLITS for item in splits[split]]
    records = [result for _, item in pairs if isinstance(result := results[item.id], dict)]
    split_names = [split for split, _ in pairs]
    labels = [f"{item.id} ({split})" for split, item in pairs]
    copies = [reason for reason in skipped.values() if "expected in one split" in reason]
    duplicates = near_duplicates([record["hash"] for record in records], split_names)
    leaks = copies + [f"{labels[a]} and {labels[b]} look the same" for a, b in duplicates]
    facts: dict[str, Any] = {
        "items": len(listed),
        "leaks": leaks,
        "unreadable": len(faults),
        "unreadable_first": list(dict.fromkeys(faults.values()))[:5],  # the slices of a volume share one message
        "left_out": dict(Counter(item.left_out for item in listed if item.left_out)),
        "group_also_in_test": len(splits.conflicting),
        "range": dataset.range,
    }
    by_split = {
        split: [record for name, record in zip(split_names, records, strict=True) if name == split] for split in SPLITS
    }
    facts |= {"warnings": selection.notes + data_warnings(by_split, dataset)} | summary(by_split, dataset)
    pictures = [picture(pairs[k][1], dataset) for k in spread([record["foreground"] for record in records], samples)]
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
    images = [image for part in splits.values() for image in part]
    areas = np.concatenate([[], *(image["areas"] for image in images)])  # [] if there are no images
    fractions, task = np.array([image["foreground"] for image in images]), dataset.task
    masks = [mask for image in images for mask in image["masks"]]
    kinds = Counter(" ".join(filter(None, (mask["lossy"], mask["kind"]))) for mask in masks)
    return {
        "images": {split: len(part) for split, part in splits.items()},
        "empty_masks": {split: sum(not image["foreground"] for image in part) for split, part in splits.items()},
        "foreground": {
            split: float(np.mean([image["foreground"] for image in part])) for split, part in splits.items() if part
        },
        "classes": {
            name: float(np.mean([image["classes"][k] for image in images]))
            for k, name in enumerate(task.classes)
            if images
        },
        "images_with_class": {
            name: sum(image["classes"][k] > 0 for image in images) for k, name in enumerate(task.classes)
        },
        "ignored": float(np.mean([image["ignored"] for image in images])) if images else 0.0,
        "foreground_of_images_with_any": quantiles(fractions[fractions > 0]),
        "depths": dict(Counter(image["depth"] for image in images)),
        "images_stored_turned": sum(image["turned"] for image in images),
        "images_whose_alpha_is_left_out": sum(image["alpha"] for image in images),
        "sizes": len({tuple(image["shape"]) for image in images}),
        "height": quantiles([image["shape"][0] for image in images]),
        "width": quantiles([image["shape"][1] for image in images]),
        "mask_kinds": dict(kinds),
        "mask_values": mask_values(masks),
        "objects": len(areas),
        "objects_per_image": dict(sorted(Counter(image["objects"] for image in images).items())),
        "object_pixels": quantiles(areas),
        "objects_erased_at_size": sum(image["lost"] for image in images),
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
    pixels = centered / length if length > 1e-3 else np.zeros_like(centered)
    return bits, pixels.reshape(-1).astype(np.float16)  # half precision: all images are held in memory at once


def near_duplicates(hashes: Sequence[tuple[np.ndarray, np.ndarray]], splits: Sequence[str]) -> list[tuple[int, int]]:
    """List the index pairs of images that look the same and lie in different splits."""
    bits = np.array([packed for packed, _ in hashes], np.uint8).reshape(-1, SIDE**2 // 8)
    signs, split_of, pairs = 1 - 2 * np.unpackbits(bits, axis=1).astype(np.float32), np.array(splits), []
    for start in progress(range(0, len(hashes), ROWS), "near-duplicates"):
        rows = slice(start, start + ROWS)
        near = signs[rows] @ signs[start:].T >= SIDE**2 - 2 * FEW_BITS  # each bit that differs lowers the sum by two
        candidates = start + np.argwhere(near & (split_of[rows, None] != split_of[start:]))
        for first, second in candidates.tolist():
            first_pixels, second_pixels = (hashes[number][1].astype(np.float32) for number in (first, second))
            if first < second and first_pixels @ second_pixels >= ALIKE:
                pairs.append((first, second))
    return pairs


def picture(item: Item, dataset: Dataset) -> Sample:
    """Return the sample of one item; the whole image, even if the model sees patches."""
    image, mask, valid = read_item(item, dataset)
    image, task = view_image(image, replace(dataset, fit="patch", reduce=1)), dataset.task
    size = inside(mask.shape[:2], PICTURE, "pad")
    maps = np.stack([resize(layer.astype(np.float32), *size) for layer in layers(mask, task)])
    counted = None if valid is None else resize(valid.astype(np.float32), *size) >= 0.5
    black = np.zeros((*size, 3), np.uint8)
    if task.channels > 1:
        mask_image = paint_classes(black, maps, 0.5, task.kind, counted)
    else:
        mask_image = hatched(black + np.uint8(255) * (maps[0] >= 0.5)[..., None], counted)
    display = replace(dataset, channels=3 if dataset.channels == 1 else dataset.channels, bits=8)
    whole_image = replace(dataset, fit="pad", size=PICTURE) if dataset.fit == "patch" else dataset
    seen, seen_mask, _ = decode_item(item, replace(whole_image, bits=8))
    return Sample(
        item.id,
        resize(in_colors(convert(image, display)), *size),
        mask_image,
        in_colors(convert(seen, replace(display, range="full"))),  # `decode_item` has already applied the range
        foreground_of(seen_mask, task) > (127 if dataset.soft else 0),
    )
