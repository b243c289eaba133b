"""What a sample costs: decoding it, mapping it, and changing it at random."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from seglab.benchmarks.table import Row
from seglab.data.augment import Light, Strong
from seglab.data.datasets.folder import Folder
from seglab.data.datasets.synthetic_scenes import SCENES
from seglab.data.prepare_data import open_data


def measure(images: int = 32, repeats: int = 7) -> list[Row]:
    """Measure all of it side by side in this process, on one thread, on files made for the occasion."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return [*epochs(Path(folder), images, repeats), *augmentation(repeats)]
    finally:
        cv2.setNumThreads(threads)


def epochs(root: Path, count: int, repeats: int) -> list[Row]:
    """Read an epoch of JPEGs of 569x428 pixels at 256x256: from the files each time, and from the memory map."""
    for kind in ("images", "masks"):
        (root / kind).mkdir()
    for k in range(count):
        image, fraction = SCENES["disc"].paint(np.random.default_rng(k), 569, 0.05, 1.0, 1.0)
        picture = (np.clip(image[:428, :, ::-1], 0, 1) * 255).astype(np.uint8)
        cv2.imwrite(str(root / f"images/{k}.jpg"), picture)
        cv2.imwrite(str(root / f"masks/{k}.png"), (fraction[:428] >= 0.5).astype(np.uint8) * 255)
    options: dict[str, Any] = {"root": str(root), "val_fraction": 0.0, "test_fraction": 0.0}
    files = open_data(Folder(cache_dir=None, **options)).source("train")
    cached = open_data(Folder(cache_dir=str(root / "cache"), **options)).source("train")
    order = [(0, index) for index in np.random.default_rng(0).permutation(count).tolist()]
    batches = [order[start : start + 8] for start in range(0, count, 8)]
    copy = np.zeros((8, 256, 256, 4), np.uint8)
    tasks = {
        "decode the files": lambda: [files.batch(batch, 0) for batch in batches],
        "memory map, a batch at once": lambda: [cached.batch(batch, 0) for batch in batches],
        "copy as many bytes": lambda: [copy.copy() for _ in batches],
    }
    return rows(tasks, count * repeats, repeats, "an image at 256x256: ")


def augmentation(repeats: int) -> list[Row]:
    """Change images of 256x256x3 at random, beside a copy of them."""
    image, fraction = SCENES["disc"].paint(np.random.default_rng(0), 256, 0.05, 1.0, 1.0)
    picture, mask = (np.clip(image, 0, 1) * 255).astype(np.uint8), (fraction >= 0.5).astype(np.uint8)
    light, strong = Light(), Strong()
    tasks = {
        "copy": lambda: [(picture.copy(), mask.copy()) for _ in range(50)],
        "augment=light": lambda: [light(picture, mask, (0, 0, k)) for k in range(50)],
        "augment=strong": lambda: [strong(picture, mask, (0, 0, k)) for k in range(50)],
    }
    return rows(tasks, 50 * repeats, repeats, "an image at 256x256: ")


def rows(tasks: Mapping[str, Callable[[], object]], per: int, repeats: int, prefix: str) -> list[Row]:
    """Time tasks in turn, so that what else the machine does falls on all alike; the first is the measure."""
    spent = dict.fromkeys(tasks, 0.0)
    if repeats > 1:
        for task in tasks.values():
            task()
    for _ in range(repeats):
        for name, task in tasks.items():
            start = time.process_time()
            task()
            spent[name] += 1000 * (time.process_time() - start) / per
    first = next(iter(tasks))
    return [Row(prefix + name, value, value / spent[first], first) for name, value in spent.items()]
