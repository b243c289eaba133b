"""Planes in the space of a model's weights: random, through solutions, or along the path of a training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from seglab.contract import require

Weights: TypeAlias = Mapping[str, Tensor]
"""Every floating-point parameter and buffer of a model, by name."""

Point: TypeAlias = tuple[float, float]

MIN_VARIANCE = 1e-12  # lower bound of a running variance before taking its logarithm


@dataclass(frozen=True)
class Plane:
    """The points center + a first + b second, and the marks to draw on this plane.

    Running variances move in their logarithm; otherwise they could become negative beyond two solutions.

    Attributes:
        note: how the plane was constructed, for the caption.
        marks: points by name: one for a run, a sequence for the path of a training.
    """

    title: str
    center: Weights
    first: Weights
    second: Weights
    note: str
    marks: Mapping[str, Sequence[Point]]

    def at(self, a: float, b: float) -> dict[str, Tensor]:
        """Return the weights at a point; (0, 0) gives the center bit for bit."""
        weights = {}
        for name, weight in self.center.items():
            step = a * self.first[name] + b * self.second[name]
            weights[name] = weight * step.exp() if name.endswith("running_var") else weight + step
        return weights


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of every floating-point parameter and buffer."""
    return {name: x.detach().clone() for name, x in model.state_dict().items() if x.is_floating_point()}


def random_plane(title: str, model: nn.Module, seed: int) -> Plane:
    """Return the plane of two random directions in which each filter has the norm of the model's own filter.

    Li et al. 2018, Visualizing the loss landscape of neural nets: only with this normalization can slopes be compared
    between networks of different scales. Biases, normalization layers and their statistics do not move.
    """
    rng = torch.Generator().manual_seed(seed)
    first, second = direction(model, rng), direction(model, rng)
    note = f"random directions, normalized filter by filter (seed {seed}); biases and norms are fixed"
    return Plane(title, weights_of(model), first, second, note, {"the run": [(0.0, 0.0)]})


def direction(model: nn.Module, rng: torch.Generator) -> dict[str, Tensor]:
    """Return a random direction in which every filter has the same norm as in the model."""
    steps = {name: torch.zeros_like(x) for name, x in weights_of(model).items()}
    for prefix, layer in model.named_modules():
        weight = getattr(layer, "weight", None)
        if not isinstance(weight, Tensor) or weight.ndim < 2:  # weights of normalization layers are vectors
            continue
        out = 1 if isinstance(layer, nn.ConvTranspose2d) else 0  # the dimension of the output channels
        others = [d for d in range(weight.ndim) if d != out]
        noise = torch.randn(weight.shape, generator=rng)
        weight_norm, noise_norm = (x.square().sum(others, keepdim=True).sqrt() for x in (weight.detach(), noise))
        steps[f"{prefix}.weight" if prefix else "weight"] = noise * weight_norm / noise_norm
    return steps


def solution_plane(names: Sequence[str], solutions: Sequence[Weights], model: nn.Module, seed: int) -> Plane:
    """Return the plane through three solutions, or through two solutions and along a random direction.

    The first solution is at (0, 0), the second at (1, 0). The second axis is orthogonal to the first and equally long,
    so that distances are true (Garipov et al. 2018, Loss surfaces, mode connectivity, and fast ensembling).
    """
    count = len(solutions)
    require(count in (2, 3), "landscape", "two or three runs for plane=solutions", count, "use plane=random or path")
    trained = {name for name, _ in model.named_parameters()}  # normalization statistics are not part of distances
    center = solutions[0]
    first = difference(solutions[1], center)
    other = difference(solutions[2], center) if count == 3 else direction(model, torch.Generator().manual_seed(seed))
    length = dot(first, first, trained)
    require(length > 0, "landscape", "solutions that differ", "identical ones")
    along = dot(other, first, trained) / length
    across = {name: other[name] - along * first[name] for name in other}
    size = (dot(across, across, trained) / length) ** 0.5
    require(size > 1e-6, "landscape", "three solutions that do not lie on one line", "collinear ones")
    second = {name: x / size for name, x in across.items()}
    marks = {name: [place] for name, place in zip(names, [(0.0, 0.0), (1.0, 0.0), (along, size)], strict=False)}
    through = ", ".join(names) + ("" if count == 3 else f" and a random direction (seed {seed})")
    return Plane(" / ".join(names), center, first, second, f"the plane through {through}", marks)


def path_plane(paths: Mapping[str, Sequence[Weights]], model: nn.Module) -> Plane:
    """Return the plane in which the snapshots of trainings vary most (PCA), centered at the end of the first training.

    Li et al. 2018, section 7. Snapshots are drawn at their projections onto the plane, and the note says how much of
    their squared distance it holds. Each axis has the length of the largest excursion of the weights along it.
    """
    trained = [name for name, _ in model.named_parameters()]
    center = next(iter(paths.values()))[-1]
    snapshots = [difference(weights, center) for path in paths.values() for weights in path]
    flat = torch.stack([torch.cat([step[name].flatten() for name in trained]).double() for step in snapshots])
    require(len(flat) > 2 and flat.norm() > 0, "landscape", "at least three snapshots for plane=path", len(flat))
    values, vectors = torch.linalg.eigh(flat @ flat.T)  # snapshots x snapshots, not weights x weights
    strength, mix = values[-2:].flip(0), vectors[:, -2:].flip(1)  # eigh sorts in ascending order
    require(strength[1] > 1e-9 * strength[0], "landscape", "snapshots that do not lie on one line", "collinear ones")
    places = mix * strength.sqrt()  # coordinates of each snapshot, as distances in weight space
    reach = places.abs().amax(0)
    first, second = (
        {name: sum(float(c) * step[name] for c, step in zip(column, snapshots, strict=True)) for name in center}
        for column in (mix / strength.sqrt() * reach).T
    )
    per_path = np.split((places / reach).numpy(), np.cumsum([len(path) for path in paths.values()])[:-1])
    rows = {title: [(float(a), float(b)) for a, b in path] for title, path in zip(paths, per_path, strict=True)}
    percent = 100 * float(strength.sum() / values.clamp(min=0).sum())  # rounding makes some slightly negative
    note = (
        f"the principal plane of the snapshots, which holds {percent:.0f} % of their squared distance from the end; "
        "each snapshot is drawn at its projection onto the plane"
    )
    return Plane(" / ".join(paths), center, first, second, note, rows)  # type: ignore[arg-type]


def difference(end: Weights, start: Weights) -> dict[str, Tensor]:
    """Return the step from `start` to `end`; running variances step in their logarithm."""
    steps = {}
    for name, x in start.items():
        steps[name] = end[name] - x
        if name.endswith("running_var"):
            steps[name] = (end[name].clamp(min=MIN_VARIANCE) / x.clamp(min=MIN_VARIANCE)).log()
    return steps


def dot(a: Weights, b: Weights, names: set[str]) -> float:
    """Return the inner product over the parameters `names`."""
    return float(sum((a[name].double() * b[name].double()).sum() for name in names))


def lattice(plane: Plane, span: float, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the points along both axes; the margin is `span` / 2 times the marks' extent, or `span` for one mark."""
    marked = [place for path in plane.marks.values() for place in path]
    low, high = np.min(marked, 0), np.max(marked, 0)
    margin = span / 2 * float((high - low).max()) or span  # a random plane has a single mark
    # rounded, since points are looked up by value: 0.0, not 1e-16 or -0.0
    first, second = (np.linspace(*end, points).round(10) + 0.0 for end in zip(low - margin, high + margin, strict=True))
    return first, second
