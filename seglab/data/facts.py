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

FEW = 3  # a class that is in fewer training images than this is memorized at best


def item_facts(item: Item, stored: Seen, dataset: Dataset) -> Facts:
    """Return the facts of one item as stored, as plain data.

    Of the image: `shape`, `depth`, and `extent`, its minimum and maximum if it has more than 8 bits. Of the mask: the
    fractions of the valid pixels that are `foreground` and of each of the `classes`, the fraction of `ignored` pixels,
    the number of `objects` and how many of them are `lost` at `dataset.size`, and the `mask_facts` of its `masks`.
    """
    image, mask, valid = stored
    foreground, classes = fractions(mask, valid, dataset.task)
    areas, vanished = objects_in(item, mask, dataset)
    return {
        "shape": list(mask.shape[:2]),
        "depth": str(image.dtype),
        "extent": extent(image),
        "foreground": foreground,
        "classes": classes,
        "ignored": 0.0 if valid is None else 1 - float(valid.mean()),
        "objects": len(areas),
        "lost": vanished,
        "masks": item.decoded.facts["masks"] if item.decoded else [mask_facts(p, item.page) for p in item.mask_files],
    }


def objects_in(item: Item, mask: np.ndarray, dataset: Dataset) -> tuple[np.ndarray, int]:
    """Return the areas in pixels of the objects of all scored classes, and how many vanish at `dataset.size`."""
    maps, areas, vanished = layers(mask, dataset.task), [np.zeros(0, np.int64)], 0
    for layer in (maps[k] for k in dataset.task.scored):
        binary = to_mask(layer.astype(np.float32), 0.5)
        labels: np.ndarray = item.objects() if item.objects else cv2.connectedComponents(binary, connectivity=8)[1]
        count, (height, width) = int(labels.max()) + 1, mask.shape[:2]
        areas.append(np.bincount(labels[binary > 0], minlength=count)[1:])  # without ignored pixels
        if dataset.fit != "patch" and count > 1:
            size = inside(mask.shape, dataset.size, dataset.fit)
            small = to_mask(resize(binary.astype(np.float32), *size), dataset.coverage)
            survivors = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)
            remaining = np.bincount(labels[(survivors > 0) & (binary > 0)], minlength=count)[1:]
            vanished += int((remaining == 0).sum())
    return np.concatenate(areas), vanished


def extent(image: np.ndarray) -> list[float] | None:
    """Return the minimum and maximum of an image with more than 8 bits; None for uint8."""
    if image.dtype == np.uint8:
        return None
    return [float(np.fmin.reduce(image, None)), float(np.fmax.reduce(image, None))]  # ignores NaN, no data


def data_warnings(facts: Mapping[str, Sequence[Facts]], dataset: Dataset) -> list[str]:
    """Return warnings about the images and masks of the splits, the most serious first."""
    records = [record for part in facts.values() for record in part]
    masks = [mask for record in records for mask in record["masks"]]
    warnings, train, classes = foreground_warnings(facts, dataset), facts.get("train", []), dataset.task.classes
    counts = {name: sum(record["classes"][k] > 0 for record in train) for k, name in enumerate(classes)}
    rare = [f"{name} ({count} of {len(train)})" for name, count in counts.items() if count < FEW]
    if rare and train and len(classes) > 1:
        warnings.append(f"classes in too few training images to be learned: {', '.join(rare)}")
    warnings += absent_classes(facts, dataset)
    # objects are rarely so large: the masks may be inverted
    over_half = sum(record["foreground"] > 0.5 for record in records)
    if records and over_half >= 0.9 * len(records) and dataset.task.kind == "binary":
        warnings.append(
            f"foreground covers more than half of {over_half} of {len(records)} images; if that is the background, set"
            f" dataset.mask_value (values in the masks: {mask_values(masks)})"
        )
    vanished, objects = sum(record["lost"] for record in records), sum(record["objects"] for record in records)
    if vanished:
        images = sum(record["objects"] > 0 and record["lost"] == record["objects"] for record in records)
        warnings.append(
            f"{vanished} of {objects} objects vanish at dataset.size={dataset.size}, in {images} images all of them;"
            f" a lower dataset.coverage (now {dataset.coverage:g}), a larger size or dataset.fit=patch keeps them"
        )
    warnings += range_warnings(records, dataset)
    above_one = sum(record["depth"] == "float32" and record["extent"][1] > 1 for record in records)
    if above_one and dataset.range == "full":
        words = "floats above 1, which dataset.range=full clips (integers are read as floats if pixels lack data)"
        warnings.append(f"{above_one} of {len(records)} images have {words}; set dataset.range=[low,high]")
    for name, count in Counter(mask["lossy"] for mask in masks if mask["lossy"]).items():
        warnings.append(
            f"{count} of {len(masks)} masks are {name} files, whose compression blurs edges: they are thresholded at"
            " half of the full value; save them as PNG"
        )
    return warnings + dataset.mask_warnings(masks)


def absent_classes(facts: Mapping[str, Sequence[Facts]], dataset: Dataset) -> list[str]:
    """Return warnings about scored classes missing in val or test; `foreground_warnings` covers splits without any."""
    warnings, task = [], dataset.task
    for split in ("val", "test"):
        with_foreground = [record["classes"] for record in facts.get(split, []) if record["foreground"] > 0]
        absent = [k for k in task.scored if with_foreground and not any(classes[k] > 0 for classes in with_foreground)]
        if absent:
            names = ", ".join(task.classes[k] for k in absent)
            elsewhere = any(record["classes"][k] > 0 for images in facts.values() for record in images for k in absent)
            remedy = "; if splits are drawn, another dataset.split_seed may draw some" if elsewhere else ""
            warnings.append(f"no {split} image has {names}, so the {split} scores cover only the other classes{remedy}")
    return warnings


def range_warnings(facts: Sequence[Facts], dataset: Dataset) -> list[str]:
    """Return warnings about images that are nearly black: 8 bits in a deeper range, or all in its lowest 16th."""
    if isinstance(dataset.range, str):
        return []
    (low, high), warnings = dataset.range, []
    shallow = sum(record["depth"] == "uint8" for record in facts)
    if shallow and high > 255:
        warnings.append(
            f"{shallow} of {len(facts)} images have 8 bits, and are nearly black in the range {low:g} to {high:g}"
            " (dataset.range); dataset.range=full uses the full range of each file's type"
        )
    tops = [record["extent"][1] for record in facts if record["extent"]]
    dark = [top for top in tops if top < low + (high - low) / 16]
    if dark:
        warnings.append(
            f"{len(dark)} of {len(facts)} images are nearly black in the range {low:g} to {high:g} (dataset.range):"
            f" no value is above {max(dark):g}"
        )
    return warnings


def foreground_warnings(facts: Mapping[str, Sequence[Facts]], dataset: Dataset) -> list[str]:
    """Return warnings about splits without images, without foreground, or with masks that are all foreground."""
    records = [record for part in facts.values() for record in part]
    positive = sum(record["foreground"] > 0 for record in records)
    values = mask_values([mask for record in records for mask in record["masks"]])
    remedy = "check what counts as foreground (dataset.threshold, mask_value, classes, target, coverage)"
    warnings = [f"{split}: no images" for split, part in facts.items() if not part]
    if records and not positive:
        their_values = f"their values are {values}; " if values else ""
        return [*warnings, f"no mask has any foreground; {their_values}{remedy}"]
    hint = "too few for three splits"
    hint = hint if dataset.stratify else "if splits are drawn, dataset.stratify=true gives some to each split"
    for split, part in facts.items():
        full = sum(record["foreground"] == 1 for record in part)
        if part and not any(record["foreground"] for record in part):
            warnings.append(f"{split}: no mask has any foreground, unlike {positive} in the other splits: {hint}")
        elif full:
            warnings.append(f"{split}: {full} of {len(part)} masks are foreground everywhere; {remedy}")
    return warnings


def mask_values(masks: Sequence[Facts]) -> str:
    """Format the values that mask files hold, with the mean fraction of the pixels that each has."""
    total: Counter[str] = Counter()
    for mask in masks:
        total.update(mask["values"])
    return summary({value: part / len(masks) for value, part in total.most_common(12)})


def value_warnings(masks: Sequence[Facts], named: Sequence[int | str]) -> list[str]:
    """Return warnings about mask values; foreground is the `named` ones or, if there are none, all above 0."""
    warnings, exact = [], [mask for mask in masks if not mask["lossy"] and mask["kind"] in ("gray", "palette")]
    values = {value.split()[0] for mask in exact for value in mask["values"]}
    numbers = {int(value) for value in values if value.isdigit()} - {0}
    small = sorted(number for number in numbers if number <= 32)  # labels rather than gray levels
    if 255 in numbers and small:
        counts = "foreground" if 255 in named or not named else "background"
        warnings.append(
            f"the masks contain 255 besides {', '.join(map(str, small[:5]))}, and it counts as {counts}: if 255 marks"
            " pixels that must not be scored, set dataset.ignore=255"
        )
    elif len(numbers) > 1 and not named:
        warnings.append(
            f"the masks contain several values, and all above 0 count as foreground: {mask_values(exact)};"
            " dataset.mask_value selects some of them, dataset.classes makes each a class"
        )
    colors: dict[str, set[str]] = {}
    for value in (value for mask in exact if mask["kind"] == "palette" for value in mask["values"]):
        colors.setdefault(value.split()[0], set()).add(value.split()[-1])
    mixed = [f"{index} is {' or '.join(sorted(shades))}" for index, shades in colors.items() if len(shades) > 1]
    if mixed and not any(isinstance(value, str) for value in named):
        warnings.append(f"the palettes of the masks differ: index {mixed[0]}; set dataset.mask_value to colors instead")
    return warnings


def spread(values: Iterable[float], count: int) -> list[int]:
    """Choose `count` indices, evenly over the ranks of the values from the smallest to the largest."""
    order = np.argsort(np.asarray(list(values)), kind="stable")
    return order[np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)].tolist()


def spread_objects(foreground: Iterable[float], count: int) -> list[int]:
    """Choose indices of images as `spread` does, among those with foreground if there are any."""
    sizes = np.asarray(list(foreground))
    candidates = np.flatnonzero(sizes > 0) if (sizes > 0).any() else np.arange(len(sizes))
    return candidates[spread(sizes[candidates], count)].tolist()
