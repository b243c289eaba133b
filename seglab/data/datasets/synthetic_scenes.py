"""Painted scenes that imitate an eye, an organ, a breast and the sea, with what makes them hard for a loss.

Each painter takes a generator and returns an image (size, size, 3), float in about 0..1, and the foreground fraction of
each pixel: (size, size), or (size, size, foreground classes). `fraction` is the desired foreground fraction of the
image (0: none); `contrast` and `noise` are factors on the scene's own.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from seglab.contract import Task

BINARY = Task()
Rng = np.random.Generator
Painted = tuple[np.ndarray, np.ndarray]
Painter = Callable[[Rng, int, float, float, float], Painted]


@dataclass(frozen=True)
class Scene:
    """A painter, its range of foreground fractions (log-uniform), its fraction of empty images, and its task."""

    paint: Painter
    foreground: tuple[float, float]
    empty: float
    task: Task = BINARY


def clouds(rng: Rng, size: int, *cells: int) -> np.ndarray:
    """Paint a smooth random field of mean 0 and standard deviation 1: one octave per number of cells across."""
    field = np.zeros((size, size), np.float32)
    for k, n in enumerate(cells):  # finer ones are weaker
        grid = rng.standard_normal((n + 1, n + 1), dtype=np.float32)
        field += cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC) / (k + 1)
    return (field - field.mean()) / (field.std() + 1e-6)


def grid(size: int, center: tuple[float, float], angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates of each pixel, in pixels, along two rotated axes through a center."""
    y, x = np.mgrid[:size, :size].astype(np.float32)
    y, x = y - center[0], x - center[1]
    cos, sin = np.cos(angle), np.sin(angle)
    return x * cos + y * sin, y * cos - x * sin


def point(rng: Rng, low: float, high: float) -> tuple[float, float]:
    """Draw a random row and column."""
    row, column = rng.uniform(low, high, 2).tolist()
    return row, column


def edge(signed: np.ndarray, softness: float = 1.0) -> np.ndarray:
    """Convert a signed distance in pixels (positive inside) to a fraction in 0..1, over a rim of `softness` pixels."""
    return np.clip(0.5 + signed / softness, 0, 1)


def ellipse(size: int, center: tuple[float, float], radius: float, ratio: float, angle: float) -> np.ndarray:
    """Return the approximate signed distance in pixels (positive inside) to an ellipse with the area of a circle."""
    u, v = grid(size, center, angle)
    return radius - np.hypot(u / ratio, v * ratio)  # exact for circles: softness in pixels is about right


def vessels(rng: Rng, size: int, center: tuple[float, float], count: int) -> np.ndarray:
    """Draw winding lines that start at a center, as a mask in 0..1."""
    canvas = np.zeros((size, size), np.uint8)
    steps = 24
    for _ in range(count):
        bend = np.cumsum(rng.normal(0, 0.18, steps)) + rng.uniform(0, 2 * np.pi)
        path = np.cumsum(np.stack([np.cos(bend), np.sin(bend)], 1) * size / 28, 0) + np.array(center[::-1])
        points = (path * 16).astype(np.int32).reshape(-1, 1, 2)  # fixed point of 4 fractional bits, see `polylines`
        width = max(1, round(size / rng.uniform(64, 160)))
        cv2.polylines(canvas, [points], False, int(rng.uniform(120, 255)), width, cv2.LINE_AA, 4)
    return canvas.astype(np.float32) / 255


def disc(rng: Rng, size: int, fraction: float, contrast: float, noise: float) -> Painted:
    """Paint an eye whose disc is the foreground, see `disc_cup`."""
    image, truth = disc_cup(rng, size, fraction, contrast, noise)
    return image, truth[..., 0]


def disc_cup(rng: Rng, size: int, fraction: float, contrast: float, noise: float) -> Painted:
    """Paint an eye: a bright disc with a brighter cup, vessels across it, uneven light, and bright distractors."""
    radius = size * np.sqrt(fraction / np.pi)
    low, high = radius + 2, max(radius + 3, size - radius - 2)  # the whole disc lies in the image
    center = point(rng, low, high)
    rim = ellipse(size, center, radius, rng.uniform(0.9, 1.1), rng.uniform(0, np.pi))
    inside = edge(rim) if fraction else np.zeros((size, size), np.float32)
    glow = edge(rim, radius * rng.uniform(0.1, 0.5) + 1) if fraction else inside
    inner = ellipse(size, center, 0.5 * radius, 1, 0)
    cup, cup_truth = (edge(inner, 0.3 * radius + 1), edge(inner)) if fraction else (inside, inside)
    light = 0.42 + 0.10 * clouds(rng, size, 2, 4) + 0.02 * clouds(rng, size, 16, 32)
    for _ in range(rng.integers(2, 7)):
        spot = point(rng, 0, size)
        ratio, angle = rng.uniform(0.6, 1.6), rng.uniform(0, np.pi)
        blob = ellipse(size, spot, radius * rng.uniform(0.2, 0.7), ratio, angle)
        light += rng.uniform(0.05, 0.2) * edge(blob, size / 12) * (1 - inside)
    light += contrast * rng.uniform(0.12, 0.28) * (0.5 * inside + 0.6 * glow + 0.4 * cup)
    light *= 1 - 0.4 * vessels(rng, size, center, int(rng.integers(8, 14)))
    color = np.array([1.25, 0.75, 0.4], np.float32) * (1 + 0.1 * rng.standard_normal(3, dtype=np.float32))
    image = light[..., None] * color + 0.04 * noise * rng.standard_normal((size, size, 3), dtype=np.float32)
    distance = np.hypot(*grid(size, (size / 2, size / 2), 0))
    return image * edge(0.66 * size - distance, 4)[..., None], np.stack([inside, cup_truth], axis=-1)


def organ(rng: Rng, size: int, fraction: float, contrast: float, noise: float) -> Painted:
    """Paint an organ of a sixth of the image in streaky tissue, with a small, slightly brighter lesion: classes 1, 2.

    `fraction` is that of the lesion, a class so rare that a model can ignore it at almost no cost in cross-entropy.
    """
    radius = size * np.sqrt(rng.uniform(0.12, 0.2) / np.pi)
    center = point(rng, 0.35 * size, 0.65 * size)
    rough = 0.12 * radius * clouds(rng, size, 5, 10)
    body = edge(ellipse(size, center, radius, rng.uniform(0.8, 1.25), rng.uniform(0, np.pi)) + rough)
    angle, offset = rng.uniform(0, 2 * np.pi), 0.6 * radius * np.sqrt(rng.uniform())
    spot = (center[0] + offset * np.sin(angle), center[1] + offset * np.cos(angle))
    inside = ellipse(size, spot, size * np.sqrt(fraction / np.pi), rng.uniform(0.8, 1.25), rng.uniform(0, np.pi))
    lesion_truth = edge(inside) * body if fraction else np.zeros_like(body)
    image = 0.3 + 0.05 * clouds(rng, size, 3, 6, 12) + 0.2 * body + contrast * 0.15 * lesion_truth
    image += 0.04 * noise * rng.standard_normal((size, size), dtype=np.float32)
    return np.repeat(image[..., None], 3, 2), np.stack([body - lesion_truth, lesion_truth], axis=-1)


def lesion(rng: Rng, size: int, fraction: float, contrast: float, noise: float) -> Painted:
    """Paint a mammogram: faint irregular lumps in streaky tissue, with round bright spots and lines as distractors."""
    tissue = 0.35 + 0.07 * clouds(rng, size, 3, 6, 12) + 0.035 * clouds(rng, size, 24, 48)
    lump = np.zeros((size, size), np.float32)
    for weight in rng.dirichlet(np.full(rng.integers(1, 3), 4.0)) if fraction else ():
        radius = size * np.sqrt(weight * fraction / np.pi)
        center = point(rng, 0.12 * size, 0.88 * size)
        ratio, angle = rng.uniform(0.75, 1.35), rng.uniform(0, np.pi)
        rough = 0.28 * radius * clouds(rng, size, max(4, round(size / radius)), max(8, round(2 * size / radius)))
        lump = np.maximum(lump, edge(ellipse(size, center, radius, ratio, angle) + rough))
    soft = cv2.GaussianBlur(lump, (0, 0), size / 100)
    for _ in range(rng.integers(2, 6)):  # distractors: round, smooth and fainter
        spot = point(rng, 0, size)
        ratio, angle = rng.uniform(0.5, 2), rng.uniform(0, np.pi)
        blob = ellipse(size, spot, size * rng.uniform(0.03, 0.09), ratio, angle)
        tissue += rng.uniform(0.03, 0.09) * edge(blob, size / 8) * (1 - lump)
    tissue += 0.06 * vessels(rng, size, (size * rng.uniform(0, 1), 0.0), 6)
    image = tissue + contrast * rng.uniform(0.10, 0.22) * soft
    image += 0.03 * noise * rng.standard_normal((size, size), dtype=np.float32)
    return np.repeat(image[..., None], 3, 2), lump


def ships(rng: Rng, size: int, fraction: float, contrast: float, noise: float) -> Painted:
    """Paint the sea: a few thin rotated boxes among waves, wakes, foam and clouds."""
    u, v = grid(size, (0, 0), rng.uniform(0, np.pi))
    swell = np.sin(u / size * rng.uniform(30, 90) + 2 * clouds(rng, size, 3, 6)) * edge(clouds(rng, size, 3), 2)
    sea = 0.28 + 0.03 * swell + 0.05 * clouds(rng, size, 2, 5) + 0.02 * clouds(rng, size, size // 4)
    sea += 0.25 * np.clip(clouds(rng, size, 3, 6, 12) - rng.uniform(1.2, 2.6), 0, 1)  # haze
    specks = np.zeros((size, size), np.float32)
    rows, columns = rng.integers(0, size, (2, rng.integers(5, 40)))
    specks[rows, columns] = rng.uniform(0.2, 1, len(rows))
    sea += 0.6 * cv2.GaussianBlur(specks, (0, 0), 0.7)  # foam
    truth = np.zeros((size, size), np.float32)
    for weight in rng.dirichlet(np.full(rng.integers(1, 5), 3.0)) if fraction else ():
        area, ratio = weight * fraction * size * size, rng.uniform(2.5, 5)
        length, width = np.sqrt(area * ratio), np.sqrt(area / ratio)
        center = point(rng, 0.06 * size, 0.94 * size)
        u, v = grid(size, center, rng.uniform(0, np.pi))
        hull = edge(length / 2 - np.abs(u)) * edge(width / 2 - np.abs(v))
        behind = u - length / 2
        wake = edge(width * 0.5 - np.abs(v), width) * np.clip(1 - behind / (3 * length), 0, 1) * (behind > 0)
        tone = rng.uniform(0.15, 0.5) * (1 if rng.random() < 0.85 else -0.5)
        sea += 0.1 * rng.random() * wake + contrast * tone * hull * (1 + 0.3 * np.sign(u))
        truth = np.maximum(truth, hull)
    color = np.array([0.7, 0.95, 1.1], np.float32) * (1 + 0.08 * rng.standard_normal(3, dtype=np.float32))
    return sea[..., None] * color + 0.025 * noise * rng.standard_normal((size, size, 3), dtype=np.float32), truth


SCENES: dict[str, Scene] = {
    "disc": Scene(disc, (0.03, 0.10), 0.0),
    "disc_cup": Scene(disc_cup, (0.03, 0.10), 0.0, Task("multilabel", ("disc", "cup"))),
    "organ": Scene(organ, (0.002, 0.004), 0.2, Task("multiclass", ("background", "organ", "lesion"))),
    "lesion": Scene(lesion, (0.004, 0.025), 0.3),
    "ships": Scene(ships, (0.001, 0.01), 0.6),
}
