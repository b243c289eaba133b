"""Losses over a plane of weights: several losses and the IoU on the same plane, from the same forward passes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from seglab.contract import require
from seglab.data.loading import Batch
from seglab.engine.module import SegModule
from seglab.engine.trained_run import TrainedRun
from seglab.losses.base import Loss
from seglab.views.landscape_figures import Surface, page
from seglab.views.landscape_grid import LandscapeGrid
from seglab.views.run_inputs import Autocast, fitted, same_data, samples, titles
from seglab.views.view_page import ViewPage
from seglab.views.weight_planes import Plane, lattice, path_plane, random_plane, solution_plane, weights_of

PLANES = ("random", "solutions", "path")
SPLITS = ("train", "val", "test")


def view(
    runs: list[TrainedRun],
    losses: dict[str, Loss],
    folder: Path,
    plane: str,
    points: int,
    span: float,
    split: str,
    images: int | None,
    seed: int,
) -> ViewPage:
    """Show the losses and the IoU of some images over planes around or through the weights of runs.

    Args:
        folder: where points.csv keeps every place that is measured, so that an interrupted view resumes.
        plane: `random` lays one around each run's best weights, `solutions` one through those of two or three runs,
            `path` one along the snapshots of the runs.
        points: places along each axis.
        span: how far a random plane reaches, in lengths of the weights; how much others reach beyond their marks.
        split, images: which images, spread evenly over the split; None takes all.
        seed: of random directions.
    """
    require(plane in PLANES, "landscape", f"plane as one of {', '.join(PLANES)}", plane)
    require(points >= 2, "landscape", "at least 2 points a side", points)
    require(span > 0, "landscape", "a span above 0", span)
    same_data(runs)
    losses = fitted(losses, runs[0])
    batches = evenly_spread(runs[0], losses, split, images)
    ids = [name for batch in batches for name in batch["id"]]
    trained = [[run.facts["identity"], run.facts.get("finished")] for run in runs]
    options = [trained, {name: repr(loss) for name, loss in losses.items()}, plane, seed, ids]
    fingerprint = hashlib.sha256(json.dumps(options).encode()).hexdigest()[:12]
    grid = LandscapeGrid(batches, losses, runs[0].config["threshold"], folder / "points.csv", fingerprint)
    surfaces = []
    for laid, module, autocast in lay(runs, plane, seed):
        first, second = lattice(laid, span, points)
        places = [(float(a), float(b)) for b in second for a in first]
        table = grid.measure(module, laid, [(0.0, 0.0), *laid.marks.values(), *places], autocast)
        values = {name: table[name].reindex(places).to_numpy().reshape(points, points) for name in grid.measured}
        center = {name: float(table[name].iloc[0]) for name in grid.measured}
        surfaces.append(Surface(laid.title, laid.note, first, second, values, laid.marks, laid.paths, center))
    return page(surfaces, f"Means over {len(ids)} {split} images; BatchNorm statistics move with the weights.")


def evenly_spread(run: TrainedRun, losses: Mapping[str, Loss], split: str, images: int | None) -> list[Batch]:
    """Batches of images spread evenly over a split of the run's data, without augmentation."""
    require(split in SPLITS, "landscape", f"split as one of {', '.join(SPLITS)}", split)
    found = samples(run, list(losses.values()), split)
    count = len(found) if images is None else min(images, len(found))
    require(count >= 1, "landscape", "at least one image", images)
    numbers = np.linspace(0, len(found) - 1, count).round().astype(int).tolist()
    size = run.config["batch_size"]
    return [found.__getitems__([(0, n) for n in numbers[k : k + size]]) for k in range(0, count, size)]


def lay(runs: list[TrainedRun], plane: str, seed: int) -> list[tuple[Plane, SegModule, Autocast]]:
    """The planes that are asked for, each with a module that its weights fit and the precision to run it in."""
    names = titles(runs)
    modules = [run.module() for run in runs]
    run, module = runs[0], modules[0]
    if plane == "random":
        return [
            (random_plane(name, m.model, seed), m, r.autocast) for name, m, r in zip(names, modules, runs, strict=True)
        ]
    for other in runs:
        same = other.config["model"] == run.config["model"]
        require(same, f"run {other.folder}", f"the model of {run.folder}", "another", "one model, one plane")
    if plane == "solutions":
        laid = solution_plane(names, [weights_of(m.model) for m in modules], module.model, seed)
    else:
        paths = {
            name: [weights_of(other.module(file).model) for file in other.snapshots.values()]
            for name, other in zip(names, runs, strict=True)
        }
        laid = path_plane(paths, module.model)
    return [(laid, module, run.autocast)]
