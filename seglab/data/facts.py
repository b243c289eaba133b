"""Facts about each image, collected while it is decoded, and warnings about all images together.

Training logs the most serious warnings before the first epoch; the audit reports all of them. Does not import torch.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import cv2
import numpy as np

from seglab.data.dataset import Dataset, Facts, Item
from seglab.images.labels import Seen, fractions, layers
from seglab.images.masks import mask_facts, summary
from seglab.images.resize import inside, resize, to_mask

FEW = 3  # training images: a class shown by fewer is memorized at best


def item_facts(item: Item, stored: Seen, dataset: Dataset) -> Facts:
    """Return the facts of one item as stored, as plain data.

    Of the image: `shape`, `depth`, and `extent`, its minimum and maximum if it has more than 8 bits. Of the mask: the
    fractions of the valid pixels that are `foreground` and of each of the `classes`, the fraction of `ignored` pixels,
    the number of `objects` and how many of them are `lost` at `dataset.size`, and the `mask_facts` of its `masks`.
    """
    image, mask, valid = stored
    foreground, classes = fractions(mask, valid, dataset.task)
    areas, lost = objects_in(item, mask, dataset)
    return {
        "shape": list(mask.shape[:2]),
        "depth": str(image.dtype),
        "extent": extent(image),
        "foreground": foreground,
        "classes": classes,
        "ignored": 0.0 if valid is None else 1 - float(valid.mean()),
        "objects": len(areas),
        "lost": lost,
        "masks": item.decoded.facts["masks"] if item.decoded else [mask_facts(p, item.page) for p in item.mask_files],
    }


def objects_in(item: Item, mask: np.ndarray, dataset: Dataset) -> tuple[np.ndarray, int]:
    """Return the areas in pixels of the objects of all scored classes, and how many vanish at `dataset.size`."""
    every, areas, lost = layers(mask, dataset.task), [np.zeros(0, np.int64)], 0
    for layer in (every[k] for k in dataset.task.scored):
        binary = to_mask(layer.astype(np.float32), 0.5)
        labels = item.objects() if item.objects else cv2.connectedComponents(binary, connectivity=8)[1]
        count, (height, width) = int(labels.max()) + 1, mask.shape[:2]
        areas.append(np.bincount(labels[binary > 0], minlength=count)[1:])  # without ignored pixels
        if dataset.fit != "patch" and count > 1:
            size = inside(mask.shape, dataset.size, dataset.fit)
            small = to_mask(resize(binary.astype(np.float32), *size), dataset.coverage)
            back = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)  # what survives
            left = np.bincount(labels[(back > 0) & (binary > 0)], minlength=count)[1:]
            lost += int((left == 0).sum())
    return np.concatenate(areas), lost


def extent(image: np.ndarray) -> list[float] | None:
    """Return the minimum and maximum of an image with more than 8 bits; None for uint8."""
    if image.dtype == np.uint8:
        return None
    return [float(np.fmin.reduce(image, None)), float(np.fmax.reduce(image, None))]  # ignores NaN, no data


def data_warnings(facts: Mapping[str, Sequence[Facts]], dataset: Dataset) -> list[str]:
    """Return warnings about the images and masks of the splits, the most serious first."""
    every = [one for some in facts.values() for one in some]
    masks = [mask for one in every for mask in one["masks"]]
    found, train, classes = foreground_warnings(facts, dataset), facts.get("train", []), dataset.task.classes
    shown = {name: sum(one["classes"][k] > 0 for one in train) for k, name in enumerate(classes)}
    rare = [f"{name} ({count} of {len(train)})" for name, count in shown.items() if count < FEW]
    if rare and train and len(classes) > 1:
        found.append(f"classes in too few training images to be learned: {', '.join(rare)}")
    found += absent_classes(facts, dataset)
    over_half = sum(one["foreground"] > 0.5 for one in every)  # an object is rarely so large: a mask may be inverted
    if every and over_half >= 0.9 * len(every) and dataset.task.kind == "binary":
        found.append(
            f"foreground covers more than half of {over_half} of {len(every)} images; if that is the background, set"
            f" dataset.mask_value (values in the masks: {mask_values(masks)})"
        )
    gone, objects = sum(one["lost"] for one in every), sum(one["objects"] for one in every)
    if gone:
        images = sum(one["objects"] > 0 and one["lost"] == one["objects"] for one in every)
        found.append(
            f"{gone} of {objects} objects, all objects of {images} images, vanish at dataset.size={dataset.size};"
            f" a lower dataset.coverage (now {dataset.coverage:g}), a larger size or dataset.fit=patch keeps them"
        )
    found += range_warnings(every, dataset)
    white = sum(one["depth"] == "float32" and one["extent"][1] > 1 for one in every)
    if white and dataset.range == "full":
        words = "floats above 1, which dataset.range=full clips (integers are read as floats if pixels lack data)"
        found.append(f"{white} of {len(every)} images have {words}; set dataset.range=[low,high]")
    for name, count in Counter(mask["lossy"] for mask in masks if mask["lossy"]).items():
        found.append(
            f"{count} of {len(masks)} masks are {name} files, whose compression blurs edges: they are thresholded at"
            " half of the full value; save them as PNG"
        )
    return found + dataset.mask_warnings(masks)


def absent_classes(facts: Mapping[str, Sequence[Facts]], dataset: Dataset) -> list[str]:
    """Return warnings about scored classes missing in val or test; `foreground_warnings` covers splits without any."""
    found, task = [], dataset.task
    for split in ("val", "test"):
        some = [one["classes"] for one in facts.get(split, []) if one["foreground"] > 0]
        absent = [k for k in task.scored if some and not any(one[k] > 0 for one in some)]
        if absent:
            names = ", ".join(task.classes[k] for k in absent)
            there = any(one["classes"][k] > 0 for images in facts.values() for one in images for k in absent)
            remedy = "; if splits are drawn, another dataset.split_seed may draw some" if there else ""
            found.append(f"no {split} image has {names}, so the {split} scores cover only the other classes{remedy}")
    return found


def range_warnings(facts: Sequence[Facts], dataset: Dataset) -> list[str]:
    """Return warnings about images that are nearly black: 8 bits in a deeper range, or all in its lowest 16th."""
    if isinstance(dataset.range, str):
        return []
    (low, high), found = dataset.range, []
    shallow = sum(one["depth"] == "uint8" for one in facts)
    if shallow and high > 255:
        found.append(
            f"{shallow} of {len(facts)} images have 8 bits, and are nearly black in the range {low:g} to {high:g} of"
            " images with more bits; dataset.range=full uses the full range of each file's type"
        )
    tops = [one["extent"][1] for one in facts if one["extent"]]
    dark = [top for top in tops if top < low + (high - low) / 16]
    if dark:
        found.append(
            f"{len(dark)} of {len(facts)} images are nearly black in the range {low:g} to {high:g} (dataset.range):"
            f" no value is above {max(dark):g}"
        )
    return found


def foreground_warnings(facts: Mapping[str, Sequence[Facts]], dataset: Dataset) -> list[str]:
    """Return warnings about splits without images, without foreground, or with masks that are all foreground."""
    every = [one for some in facts.values() for one in some]
    positive = sum(one["foreground"] > 0 for one in every)
    values = mask_values([mask for one in every for mask in one["masks"]])
    remedy = "check what counts as foreground (dataset.threshold, mask_value, classes, target, coverage)"
    found = [f"{split}: no images" for split, some in facts.items() if not some]
    if every and not positive:
        held = f"their values are {values}; " if values else ""
        return [*found, f"no mask has any foreground; {held}{remedy}"]
    few = "too few for three splits"
    few = few if dataset.stratify else "if splits are drawn, dataset.stratify=true gives some to each split"
    for split, some in facts.items():
        full = sum(one["foreground"] == 1 for one in some)
        if some and not any(one["foreground"] for one in some):
            found.append(f"{split}: no mask has any foreground, but {positive} masks of other splits do: {few}")
        elif full:
            found.append(f"{split}: {full} of {len(some)} masks are foreground everywhere; {remedy}")
    return found


def mask_values(masks: Sequence[Facts]) -> str:
    """Format the values that mask files hold, with the mean fraction of the pixels that each has."""
    total: Counter[str] = Counter()
    for mask in masks:
        total.update(mask["values"])
    return summary({value: part / len(masks) for value, part in total.most_common(12)})


def value_warnings(masks: Sequence[Facts], named: Sequence[int | str]) -> list[str]:
    """Return warnings about mask values; foreground is the `named` ones or, if there are none, all above 0."""
    found, exact = [], [mask for mask in masks if not mask["lossy"] and mask["kind"] in ("gray", "palette")]
    values = {value.split()[0] for mask in exact for value in mask["values"]}
    numbers = {int(value) for value in values if value.isdigit()} - {0}
    small = sorted(number for number in numbers if number <= 32)  # labels rather than gray levels
    if 255 in numbers and small:
        counts = "foreground" if 255 in named or not named else "background"
        found.append(
            f"the masks contain 255 besides {', '.join(map(str, small[:5]))}, and it counts as {counts}: if 255 marks"
            " pixels that must not be scored, set dataset.ignore=255"
        )
    elif len(numbers) > 1 and not named:
        found.append(
            f"the masks contain several values, and all above 0 count as foreground: {mask_values(exact)};"
            " dataset.mask_value selects some of them, dataset.classes makes each a class"
        )
    colors: dict[str, set[str]] = {}
    for value in (value for mask in exact if mask["kind"] == "palette" for value in mask["values"]):
        colors.setdefault(value.split()[0], set()).add(value.split()[-1])
    mixed = [f"{index} is {' or '.join(sorted(some))}" for index, some in colors.items() if len(some) > 1]
    if mixed and not any(isinstance(value, str) for value in named):
        found.append(f"the palettes of the masks differ: index {mixed[0]}; set dataset.mask_value to colors instead")
    return found


def spread(values: Iterable[float], count: int) -> list[int]:
    """Choose `count` indices, evenly over the ranks of the values from the smallest to the largest."""
    order = np.argsort(np.asarray(list(values)), kind="stable")
    return order[np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)].tolist()


def spread_objects(foreground: Iterable[float], count: int) -> list[int]:
    """Choose indices of images as `spread` does, among those with foreground if there are any."""
    sizes = np.asarray(list(foreground))
    able = np.flatnonzero(sizes > 0) if (sizes > 0).any() else np.arange(len(sizes))
    return able[spread(sizes[able], count)].tolist()
