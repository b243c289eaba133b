"""Predict images of any size with trained models: a probability map per class, at the image's own size.

Maps are uint16 (h, w), or (k, h, w) for several classes, where 65535 is a probability of 1. They take half the memory
of float32, fit into a 16-bit PNG, and are finer than any threshold.
"""

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seglab.contract import ContractError, Image, Task, require
from seglab.data.dataset import Dataset
from seglab.data.decode import convert, view_image
from seglab.data.facts import extent, range_warnings
from seglab.data.memo import on_disk
from seglab.engine.module import Normalize, SegModule
from seglab.engine.trained_run import TrainedRun
from seglab.images.image_io import is_volume
from seglab.images.resize import fit, require_bands, resize, to_units, unfit
from seglab.inference.tiling import slide

log = logging.getLogger(__name__)

FULL = 65535
"""The level of a map for a probability of 1."""

Symmetry = tuple[bool, tuple[int, ...]]
"""A symmetry of the square: whether to transpose the image, and which dimensions to flip afterwards."""

FLIPS: tuple[Symmetry, ...] = ((False, ()), (False, (2,)), (False, (3,)), (False, (2, 3)))
SYMMETRIES = {"none": FLIPS[:1], "flips": FLIPS, "d4": (*FLIPS, *((True, sides) for _, sides in FLIPS))}
"""Test-time augmentation: none, the four reflections, or all eight symmetries of the square."""


@dataclass(frozen=True)
class Predictor:
    """A model with the preprocessing of its images, at the scale of its training.

    A model trained on patches slides over the image at its own size (divided by `dataset.reduce`). A model trained on
    whole images gets the image at `dataset.size`, and its map is resized back. With a window any model slides.

    Args:
        module: the model, in eval mode.
        dataset: the dataset whose options say how images are read.
        autocast: makes the context manager of the run's precision, which is entered for each batch.
        window: the side of the tiles in pixels; None if the model gets the whole image at once.
        overlap, batch: see `slide`.
        tta: `none`, `flips` or `d4`; probabilities are averaged over these symmetries of the square.
    """

    module: SegModule
    dataset: Dataset
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    window: int | None = None
    overlap: float = 0.5
    tta: str = "none"
    batch: int = 4

    def __post_init__(self) -> None:
        side = self.window or self.dataset.size
        try:  # a side that does not fit fails here
            self.probability(np.zeros((1, side, side, self.dataset.channels), np.uint8))
        except ContractError as error:
            option = "dataset.size" if side == self.dataset.size else "window"
            raise ContractError(str(error).replace("dataset.size", option)) from None

    def of_file(self, path: str, page: int | None = None) -> np.ndarray:
        """Return the map of an image file, or of one of its pages: (h, w) or (k, h, w) uint16."""
        image = decoded(path, self.dataset, page)
        box = self.dataset.region(path)
        if box is None:
            return self.of_image(image)
        inside = self.of_image(image[box])
        levels = np.zeros((*inside.shape[:-2], *image.shape[:2]), np.uint16)
        levels[(..., *box)] = inside
        return levels

    def of_image(self, image: np.ndarray) -> np.ndarray:
        """Return the map of an image (h, w) or (h, w, bands) as decoded; it is 0 where a band has no data (NaN)."""
        height, width = image.shape[:2]
        small = view_image(image, replace(self.dataset, fit="patch"))  # reduced, but not yet resized to `size`
        levels = each_map(lambda map_: resize(map_, height, width), self.at_scale(small))
        levels[..., ~with_data(image)] = 0
        return levels

    def at_scale(self, image: np.ndarray) -> np.ndarray:
        """Return the map of an image that is already reduced."""
        height, width = image.shape[:2]
        image = convert(image, self.dataset)
        if self.window is None:
            size, how = self.dataset.size, self.dataset.fit
            probability = self.probability(fit(image, size, how).reshape(1, size, size, -1))
            return each_map(lambda map_: unfit(map_, height, width, how), to_levels(probability[0]))
        min_side = min(self.window, self.dataset.size)
        bands = slide(self.probability, image, self.window, self.overlap, self.batch, min_side)
        return np.concatenate([to_levels(band) for band in bands], axis=-2)

    @torch.inference_mode()
    def probability(self, tiles: np.ndarray) -> np.ndarray:
        """Return the probabilities of tiles (b, h, w, c): (b, h, w) float32, or (b, k, h, w) for several classes."""
        pixels = np.require(to_units(tiles), requirements="W")  # torch warns about arrays that are read-only
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(self.module.device)
        with self.autocast():
            maps = []
            for symmetry in SYMMETRIES[self.tta]:
                logits = self.module(transformed(images, symmetry)).float()  # bf16 has steps of 1/256 near 1
                probability = self.module.probability(logits)
                maps.append(transformed(probability, symmetry, inverse=True))
        mean = torch.stack(maps).mean(0).cpu().numpy()
        return mean[:, 0] if self.module.task.channels == 1 else mean


def with_data(image: np.ndarray) -> np.ndarray:
    """Return the pixels (h, w) bool in which all bands of an image (h, w) or (h, w, bands) are finite."""
    return np.isfinite(image.reshape(*image.shape[:2], -1)).all(2)


def each_map(make: Callable[[np.ndarray], np.ndarray], maps: np.ndarray) -> np.ndarray:
    """Apply a function of a map (h, w) to one map, or to each map of (k, h, w)."""
    return make(maps) if maps.ndim == 2 else np.stack([make(map_) for map_ in maps])


def transformed(images: Image, symmetry: Symmetry, inverse: bool = False) -> Image:
    """Apply a symmetry, or its inverse, to images (b, c, h, w)."""
    transpose, sides = symmetry
    if inverse:
        images = images.flip(sides)
        return images.transpose(2, 3) if transpose else images
    return (images.transpose(2, 3) if transpose else images).flip(sides)


def to_levels(probability: np.ndarray) -> np.ndarray:
    """Convert probabilities to uint16 levels."""
    return np.rint(probability * FULL).astype(np.uint16)


def class_masks(levels: np.ndarray, thresholds: Sequence[float], task: Task) -> list[np.ndarray]:
    """Return the mask (h, w) uint8 of each scored class: where it is the likeliest, or reaches its threshold."""
    if task.kind == "multiclass":
        likeliest = levels.argmax(0)
        return [(likeliest == k).astype(np.uint8) for k in task.scored]
    maps = levels.reshape(-1, *levels.shape[-2:])
    pairs = zip(maps, thresholds, strict=True)
    return [(map_ >= math.ceil(threshold * FULL)).astype(np.uint8) for map_, threshold in pairs]


def predictor(
    run: TrainedRun,
    window: int | None,
    overlap: float,
    tta: str,
    batch: int,
    device: str,
    dataset: Dataset | None = None,
) -> Predictor:
    """Create the predictor of a run with its best weights; without a window it slides only if trained on patches.

    dataset: says how images are read; defaults to the dataset whose files the run was trained on.
    """
    dataset = dataset or run.raw_dataset()
    side = window or (dataset.size if dataset.fit == "patch" else None)
    with torch.random.fork_rng(devices=[]):  # the first weights are random: keep the caller's random state
        module = run.module()
    module.normalize = Normalize(dataset.mean, dataset.std)
    gpu = torch.cuda.is_available()
    require(gpu or device != "cuda", "device", "a GPU for device=cuda", "none", "set device=cpu")
    device = "cuda" if gpu and device != "cpu" else "cpu"
    module = module.to(device, torch.float32)  # whatever torch.set_default_dtype says
    return Predictor(module, dataset, partial(run.autocast, device), side, overlap, tta, batch)


def ensemble_average(predictors: Sequence[Predictor], path: str, page: int | None = None) -> np.ndarray:
    """Return the mean map of several models, each with its own preprocessing, for an image file: uint16."""
    first, *others = predictors
    if not others:
        return first.of_file(path, page)
    total = first.of_file(path, page).astype(np.uint32)
    for other in others:
        total += other.of_file(path, page)
    return ((total + len(predictors) // 2) // len(predictors)).astype(np.uint16)  # rounded


def decoded(path: str, dataset: Dataset, page: int | None) -> np.ndarray:
    """Decode an image file as a dataset reads its files: (h, w) or (h, w, bands), red first, in the file's values."""
    return decoded_once(path, dataset, page, on_disk(path))


@lru_cache(maxsize=2)  # the models of an ensemble and the overlay use the same image
def decoded_once(path: str, dataset: Dataset, page: int | None, changed: tuple[int, int]) -> np.ndarray:
    """Decode a file or a page of it, once per state `changed` of the file, and warn about doubtful values."""
    image = dataset.decode(path, page)
    require_bands(path, image, dataset.channels)
    if page is None or not is_volume(path):  # volumes are checked as a whole: most have dark slices
        warn_of_range(f"{label_of(page)}{path}", image, dataset)
    return image


def checked(image: Any, up_to_1: bool) -> Any:
    """Return an image unchanged if `Run.predict` accepts it, as a path or an array; raise ContractError otherwise.

    up_to_1: whether 1 is white in float images, so that values above 1 are refused.
    """
    if isinstance(image, str | Path):
        return image
    kind = str(getattr(image, "dtype", type(image).__name__))  # a tensor or a list too, for the message
    shape = tuple(getattr(image, "shape", ()))
    fits = len(shape) in (2, 3) and 0 not in shape and kind in ("uint8", "uint16", "float32", "float64")
    expected, got = "paths, or arrays (h, w) or (h, w, bands)", f"{kind} {'x'.join(map(str, shape))}".strip()
    require(fits, "predict", f"{expected} of uint8, uint16 or floats", got)
    above = kind[0] == "f" and up_to_1 and bool((image > 1).any())
    require(not above, "predict", "floats from 0 to 1", "some above 1", "divide them by the value of a white pixel")
    return image


def label_of(page: int | None) -> str:
    """Return the prefix of a message about a page of a file, "" for a file with a single page."""
    return "" if page is None else f"page {page}: "


def warn_of_range(who: str, image: np.ndarray, dataset: Dataset) -> None:
    """Warn if an image, named `who`, is nearly black in the range of the dataset or cut off by it."""
    for sentence in range_warnings([{"depth": str(image.dtype), "extent": extent(image)}], dataset):
        log.warning("%s: %s", who, sentence)
    if not isinstance(dataset.range, str):
        _, white = dataset.range
        if (image > white).sum() > (image <= white).sum():  # pixels without data (NaN) are neither
            log.warning("%s: most values are above the range %g to %g and are clipped to white", who, *dataset.range)
    if image.dtype.kind == "f" and dataset.range == "full" and (image > 1).any():
        log.warning("%s: float values above 1 are clipped to white, which is 1 for dataset.range=full", who)
