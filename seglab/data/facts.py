"""What each image says about itself while it is decoded, and what looks wrong about all of them together.

Training says the worst of it before the first epoch, the audit all of it. Needs no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import cv2
import numpy as np

from seglab.contract import ContractError
from seglab.data.dataset import Dataset, Facts, Item
from seglab.data.image_io import image_facts
from seglab.data.masks import MANY, mask_facts, summary
from seglab.data.resize import inside, resize, to_mask


def item_facts(item: Item, image: np.ndarray, mask: np.ndarray, dataset: Dataset) -> Facts:
    """Give the facts of one item as it is stored, as plain data.

    `shape` and `depth` of the image, `extent`: its least and greatest value where it has more than 8 bits; of the mask
    the `foreground` fraction, how many `objects` it has and how many of them are `lost` at `dataset.size`; and what the
    files say: `image` as `image_facts`, `masks` as `mask_facts`.
    """
    binary, labels, areas = objects_in(item, mask)
    known = item.decoded.facts if item.decoded else None
    return {
        "shape": list(mask.shape),
        "depth": str(image.dtype),
        "extent": extent(image),
        "foreground": float(mask.mean(dtype=np.float64)),
        "objects": len(areas),
        "lost": int(lost(binary, labels, 1 + len(areas), dataset).sum()),
        "image": known["image"] if known else stored_facts(item),
        "masks": known["masks"] if known else [mask_facts(path, item.page) for path in item.mask_files],
    }


def stored_facts(item: Item) -> Facts:
    """Give what the image's file says, nothing where it is of a format of somebody's own."""
    try:
        return dict(image_facts(item.files[0])) if item.files else {}
    except ContractError:
        return {}


def objects_in(item: Item, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give the foreground of a mask (h, w) uint8, the numbers of its objects (h, w), and their areas in pixels."""
    binary = to_mask(mask.astype(np.float32), 0.5)
    labels = item.objects() if item.objects else cv2.connectedComponents(binary, connectivity=8)[1]
    return binary, labels, np.bincount(labels[binary > 0], minlength=int(labels.max(initial=0)) + 1)[1:]


def extent(image: np.ndarray) -> list[float] | None:
    """Give the least and the greatest value of an image of more than 8 bits."""
    return None if image.dtype == np.uint8 else [float(image.min(initial=0)), float(image.max(initial=0))]


def lost(mask: np.ndarray, labels: np.ndarray, count: int, dataset: Dataset) -> np.ndarray:
    """Say of each object whether no pixel of it is left at `dataset.size`: (count - 1,) bool."""
    if dataset.fit == "patch" or count == 1:
        return np.zeros(count - 1, bool)
    height, width = mask.shape
    small = to_mask(resize(mask.astype(np.float32), *inside(mask.shape, dataset.size, dataset.fit)), dataset.coverage)
    back = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.bincount(labels[(back > 0) & (mask > 0)], minlength=count)[1:] == 0


def doubts(facts: Mapping[str, Sequence[Facts]], dataset: Dataset) -> list[str]:
    """Say in sentences what looks wrong about the images and masks of the splits, the worst first."""
    every = [one for some in facts.values() for one in some]
    masks = [mask for one in every for mask in one["masks"]]
    found = [sentence for split, some in facts.items() for sentence in foreground_doubts(split, some, every, dataset)]
    over_half = sum(one["foreground"] > 0.5 for one in every)
    if every and over_half >= 0.9 * len(every):
        found.append(
            f"foreground is more than half of {over_half} of {len(every)} images; if it is the background, set"
            f" dataset.mask_value (the masks hold {mask_values(masks)})"
        )
    gone, objects = sum(one["lost"] for one in every), sum(one["objects"] for one in every)
    if gone:
        images = sum(0 < one["objects"] == one["lost"] for one in every)
        found.append(
            f"{gone} of {objects} objects, all those of {images} images, are too small for dataset.size={dataset.size};"
            f" a lower dataset.coverage (now {dataset.coverage:g}), a larger size or dataset.fit=patch keeps them"
        )
    for name, count in Counter(mask["lossy"] for mask in masks if mask["lossy"]).items():
        found.append(
            f"{count} of {len(masks)} masks are {name}, which blurs edges: they are cut at half; save them as PNG"
        )
    alpha = sum(one["image"].get("alpha", False) for one in every)
    if alpha:
        found.append(f"{alpha} images have an alpha channel, which is left out")
    return found + dataset.mask_doubts(masks)


def foreground_doubts(split: str, some: Sequence[Facts], every: Sequence[Facts], dataset: Dataset) -> Iterable[str]:
    """Say what looks wrong about the foreground of one split."""
    remedy = "look at what the data set calls foreground (dataset.threshold, mask_value, target, coverage)"
    full = sum(one["foreground"] == 1 for one in some)
    if not some:
        yield f"{split}: no images"
    elif not any(one["foreground"] for one in some):
        others = sum(one["foreground"] > 0 for one in every)
        values = mask_values([mask for one in some for mask in one["masks"]])
        remedy = f"they hold {values}; {remedy}" if values else remedy
        remedy = f"{others} in other splits have; set dataset.stratify=true" if others else remedy
        yield f"{split}: no mask has any foreground; {remedy}"
    elif full:
        yield f"{split}: {full} of {len(some)} masks are foreground everywhere; {remedy}"


def mask_values(masks: Sequence[Facts]) -> str:
    """Write the values that mask files hold, with the mean fraction of the pixels that each has."""
    total: Counter[str] = Counter()
    for mask in masks:
        total.update(mask["values"])
    return summary({value: part / len(masks) for value, part in total.most_common(MANY)})


def value_doubts(masks: Sequence[Facts], named: Sequence[int | str]) -> list[str]:
    """Say what looks wrong about the values of masks, of which the `named` are foreground; without, all above 0."""
    found, exact = [], [mask for mask in masks if not mask["lossy"] and mask["kind"] in ("gray", "palette")]
    values = {value.split()[0] for mask in exact for value in mask["values"]}
    numbers = {int(value) for value in values if value.isdigit()} - {0}
    small = sorted(number for number in numbers if number <= 32)
    if 255 in numbers and small:
        counts = "foreground" if 255 in named or not named else "background"
        found.append(
            f"255 stands beside {', '.join(map(str, small[:5]))} in the masks and counts as {counts}; if it means that"
            f" a pixel is not to be scored, dataset.mask_value={small[0]} makes it background at least"
        )
    elif len(numbers) > 1 and not named:
        found.append(
            f"the masks hold several values, of which all above 0 are foreground: {mask_values(exact)};"
            " dataset.mask_value takes some of them"
        )
    colors: dict[str, set[str]] = {}
    for value in (value for mask in exact if mask["kind"] == "palette" for value in mask["values"]):
        colors.setdefault(value.split()[0], set()).add(value.split()[-1])
    mixed = [f"{index} is {' or '.join(sorted(some))}" for index, some in colors.items() if len(some) > 1]
    if mixed and not any(isinstance(value, str) for value in named):
        found.append(f"the palettes of the masks differ: {mixed[0]}; name colors by dataset.mask_value instead")
    return found
