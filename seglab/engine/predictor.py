"""What trained models say of images of any size: one probability map in the image's own size.

Maps are uint16, 65535 standing for a probability of 1: half the memory of floats, what a 16-bit PNG holds, and finer
than any threshold.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from seglab.contract import Image, require
from seglab.data.dataset import Dataset
from seglab.data.decode import convert
from seglab.data.resize import fit, resize, to_units, unfit
from seglab.engine.module import Normalize, SegModule
from seglab.engine.tiling import slide
from seglab.engine.trained_run import TrainedRun

FULL = 65535

Turn = tuple[bool, tuple[int, ...]]
"""A symmetry of the square: whether to transpose the image, and then which of its sides to flip."""

FLIPS: tuple[Turn, ...] = ((False, ()), (False, (2,)), (False, (3,)), (False, (2, 3)))
TURNS = {"none": FLIPS[:1], "flips": FLIPS, "d4": (*FLIPS, *((True, sides) for _, sides in FLIPS))}
"""Test-time augmentation: as it is, its four reflections, or all eight symmetries of the square."""


@dataclass(frozen=True)
class Predictor:
    """A model with all that its images must go through, at the scale that it was trained at.

    Trained on patches, it slides over the image's own pixels, less `dataset.reduce`; trained on whole images, it sees
    the image as then, brought to `dataset.size`, and its map is brought back. A window makes any model slide.

    Args:
        module: in eval mode.
        dataset: how its training images were read.
        window: side of the tiles in pixels, None where the model sees the whole image at once.
        overlap, batch: see slide.
        tta: `none`, `flips` or `d4`: the mean probability over symmetries of the square.
    """

    module: SegModule
    dataset: Dataset
    window: int | None = None
    overlap: float = 0.5
    tta: str = "none"
    batch: int = 4

    def __post_init__(self) -> None:
        require(self.tta in TURNS, "predict", f"tta as one of {', '.join(TURNS)}", self.tta)
        side = self.window or self.dataset.size
        self.look(np.zeros((1, side, side, self.dataset.channels), np.uint8))  # what does not fit is said at once

    def of_file(self, path: str) -> np.ndarray:
        """Map an image file (PNG, JPEG, TIFF, PGM, DICOM): (h, w) uint16."""
        image = decoded(path, self.dataset)
        box = self.dataset.region(path)
        if box is None:
            return self.of_image(image)
        levels = np.zeros(image.shape[:2], np.uint16)
        levels[box] = self.of_image(image[box])
        return levels

    def of_image(self, image: np.ndarray) -> np.ndarray:
        """Map an image as its file has it, (h, w) or (h, w, 3): (h, w) uint16."""
        height, width = image.shape[:2]
        small = (max(1, n // self.dataset.reduce) for n in (height, width))
        return resize(self.at_scale(resize(image, *small)), height, width)

    def at_scale(self, image: np.ndarray) -> np.ndarray:
        """Map an image that is reduced already: (h, w) uint16."""
        height, width = image.shape[:2]
        image = convert(image, self.dataset)
        if self.window is None:
            size, how = self.dataset.size, self.dataset.fit
            seen = self.look(fit(image, size, how).reshape(1, size, size, -1))
            return unfit(to_levels(seen[0]), height, width, how)
        levels, top = np.empty((height, width), np.uint16), 0
        least = min(self.window, self.dataset.size)
        for band in slide(self.look, image, self.window, self.overlap, self.batch, least):
            levels[top : top + len(band)] = to_levels(band)
            top += len(band)
        return levels

    @torch.inference_mode()
    def look(self, tiles: np.ndarray) -> np.ndarray:
        """Say the probability of each pixel of tiles (b, h, w, c): (b, h, w) float32."""
        images = torch.from_numpy(to_units(tiles)).permute(0, 3, 1, 2).to(self.module.device)
        turns = TURNS[self.tta]
        seen = [turned(self.module(turned(images, turn)).float().sigmoid(), turn, back=True) for turn in turns]
        return torch.stack(seen).mean(0)[:, 0].cpu().numpy()


def turned(images: Image, turn: Turn, back: bool = False) -> Image:
    """Turn images (b, c, h, w) by a symmetry, or back."""
    transpose, sides = turn
    if back:
        images = images.flip(sides)
    images = images.transpose(2, 3) if transpose else images
    return images if back else images.flip(sides)


def to_levels(probability: np.ndarray) -> np.ndarray:
    """Write probabilities as uint16."""
    return np.rint(probability * FULL).astype(np.uint16)


def cut(levels: np.ndarray, threshold: float) -> np.ndarray:
    """Mark what reaches a threshold: (h, w) uint8 of 0 and 1."""
    return (levels >= math.ceil(threshold * FULL)).astype(np.uint8)


def predictor(
    run: TrainedRun,
    window: int | None,
    overlap: float,
    tta: str,
    batch: int,
    device: str,
    dataset: Dataset | None = None,
) -> Predictor:
    """Open a run for prediction with its best weights; without a window it slides only if it was trained on patches.

    dataset: how images are read, where that is not as in training.
    """
    dataset = dataset or run.dataset()
    side = window or (dataset.size if dataset.fit == "patch" else None)
    module = run.module()
    module.normalize = Normalize(dataset.mean, dataset.std)
    return Predictor(module.to(chosen_device(device)), dataset, side, overlap, tta, batch)


def chosen_device(name: str) -> str:
    """Give the device of a name: `auto` is a GPU where there is one."""
    gpu = torch.cuda.is_available()
    require(name in ("auto", "cpu", "cuda"), "device", "auto, cpu or cuda", name)
    require(gpu or name != "cuda", "device", "a GPU", "none here", "use device=cpu")
    return "cuda" if gpu and name != "cpu" else "cpu"


def agree(predictors: Sequence[Predictor], path: str) -> np.ndarray:
    """Map an image file by the mean probability of several models, each looking in its own way: (h, w) uint16."""
    first, *others = predictors
    if not others:
        return first.of_file(path)
    total = first.of_file(path).astype(np.uint32)
    for other in others:
        total += other.of_file(path)
    return ((total + len(predictors) // 2) // len(predictors)).astype(np.uint16)


@functools.lru_cache(maxsize=2)  # the models of an ensemble, and the overlay, look at the same image
def decoded(path: str, dataset: Dataset) -> np.ndarray:
    """Decode an image file as a data set reads its own: (h, w) or (h, w, 3) in RGB order, uint8 or uint16."""
    return dataset.decode(path)
