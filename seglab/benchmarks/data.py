"""What a sample costs: decoding it, mapping it, and changing it at random."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from seglab.benchmarks.table import Row
from seglab.data.augment import Augment, Chain
from seglab.data.batch_augment import Light, Strong
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
    """Change batches of eight images of 256x256x3 at random, beside a copy of them and beside albumentations."""
    image, fraction = SCENES["disc"].paint(np.random.default_rng(0), 256, 0.05, 1.0, 1.0)
    picture, mask = (np.clip(image, 0, 1) * 255).astype(np.uint8), (fraction >= 0.5).astype(np.uint8)
    images, masks = np.stack([picture] * 8), np.stack([mask] * 8)

    def batches(augment: Augment) -> Callable[[], object]:
        image, target = torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(masks)[:, None]
        pairs = [[(k, index) for index in range(8)] for k in range(6)]
        return lambda: [augment(image.clone(), target, None, 0, chosen) for chosen in pairs]

    tasks: dict[str, Callable[[], object]] = {"copy": lambda: [(images.copy(), masks.copy()) for _ in range(6)]}
    for name, ours, theirs in (("light", Light(), light_chain()), ("strong", Strong(), strong_chain())):
        tasks |= {f"augment={name}": batches(ours), f"augment={name} by albumentations": batches(theirs)}
    return rows(tasks, 48 * repeats, repeats, "an image at 256x256: ")


def light_chain() -> Chain:
    """The changes of Light as albumentations makes them."""
    import albumentations as A

    tone = A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.2, p=0.5)
    steps = [A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5), A.RandomRotate90(p=0.5), tone]
    return Chain(steps={type(step).__name__: step for step in steps})


def strong_chain() -> Chain:
    """The changes of Strong as albumentations makes them."""
    import albumentations as A

    steps = [
        A.Affine(scale=(0.8, 1.2), rotate=(-30, 30), shear=(-5, 5), p=0.5),
        A.ElasticTransform(alpha=50, sigma=8, p=0.2),
        A.RandomGamma(p=0.2),
        A.GaussNoise(std_range=(0.01, 0.05), p=0.2),
        A.GaussianBlur(p=0.1),
    ]
    return Chain(steps=light_chain().steps | {type(step).__name__: step for step in steps})


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
