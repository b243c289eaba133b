"""Losses over a plane of weights: several losses and the IoU on the same plane, from the same forward passes."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from seglab.contract import require
from seglab.data.loading import Batch
from seglab.engine.module import SegModule
from seglab.engine.trained_run import TrainedRun
from seglab.losses.base import Loss
from seglab.views.landscape_figures import Surface, sheet
from seglab.views.landscape_grid import BATCHNORM, LandscapeGrid, preserve_state
from seglab.views.run_inputs import fitted, same_data, samples, titles
from seglab.views.sharpness import sharpness
from seglab.views.view_page import Sheet
from seglab.views.weight_planes import Plane, lattice, path_plane, random_plane, solution_plane, weights_of

log = logging.getLogger(__name__)

PLANES = ("random", "solutions", "path")


def view(
    runs: list[TrainedRun],
    losses: dict[str, Loss],
    folder: Path,
    plane: str,
    points: int,
    span: float,
    part: str,
    images: int | None,
    batchnorm: str,
    seed: int,
    curvature: int,
    snapshots: bool,
) -> Sheet:
    """Show the losses and the IoU of some images over planes around or through the weights of runs.

    plane: `random` lays one around each run's best weights, `solutions` one through those of two or three runs, `path`
    one along the snapshots of the runs. points: places along each axis. span: how far a random plane reaches, in
    lengths of the weights; how much others reach beyond what is marked on them. part, images: which images, spread
    evenly over the part; null takes all. batchnorm: see `BATCHNORM`. seed: of random directions. curvature: at most so
    many steps for the largest eigenvalue of each loss's Hessian; 0 leaves it out. snapshots: lay the random directions
    of one run through each of its snapshots, as a film.
    """
    require(plane in PLANES, "landscape", f"plane as one of {', '.join(PLANES)}", plane)
    require(points >= 2, "landscape", "at least 2 points a side", points)
    require(span > 0, "landscape", "a span above 0", span)
    require(batchnorm in BATCHNORM, "landscape", f"batchnorm as one of {', '.join(BATCHNORM)}", batchnorm)
    same_data(runs)
    losses = fitted(losses, runs[0])
    batches = pick(runs[0], losses, part, images)
    ids = [name for batch in batches for name in batch["id"]]
    trained = [[run.facts["identity"], run.facts.get("finished")] for run in runs]
    asked = [trained, {name: repr(loss) for name, loss in losses.items()}, plane, seed, BATCHNORM[batchnorm], ids]
    mark = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:12]
    survey = LandscapeGrid(batches, losses, batchnorm, runs[0].config["threshold"], folder / "points.csv", mark)
    surfaces, bends = [], []
    for made, module in lay(runs, plane, seed, snapshots):
        first, second = lattice(made, span, points)
        grid = [(float(a), float(b)) for b in second for a in first]
        table = survey.measure(module, made, [(0.0, 0.0), *made.marks.values(), *grid]).set_index(["a", "b"])
        values = {name: table.loc[grid, name].to_numpy().reshape(points, points) for name in survey.measured}
        here = table.loc[(0.0, 0.0), survey.measured].to_dict()
        surfaces.append(Surface(made.title, made.note, first, second, values, made.marks, made.paths, here))
        for name, loss in tqdm(losses.items() if curvature else (), f"curvature {made.title}", disable=None):
            with at_centre(module, made):
                bends.append([made.title, name, sharpness(module, loss, batches, curvature)])
    log.info("%s", survey.cost())
    words = f"Means over {len(ids)} {part} images; {BATCHNORM[batchnorm]}. {survey.cost()}"
    return sheet(surfaces, words, pd.DataFrame(bends, columns=["plane", "loss", "largest eigenvalue"]), snapshots)


def pick(run: TrainedRun, losses: Mapping[str, Loss], part: str, images: int | None) -> list[Batch]:
    """Batches of images spread evenly over a part of the run's data, without augmentation."""
    require(part in ("train", "val", "test"), "landscape", "part as one of train, val, test", part)
    found = samples(run, list(losses.values()), part)
    count = len(found) if images is None else min(images, len(found))
    require(count >= 1, "landscape", "at least one image", images)
    numbers = np.linspace(0, len(found) - 1, count).round().astype(int).tolist()
    size = run.config["batch_size"]
    return [found.__getitems__([(0, n) for n in numbers[k : k + size]]) for k in range(0, count, size)]


def lay(runs: list[TrainedRun], plane: str, seed: int, snapshots: bool) -> list[tuple[Plane, SegModule]]:
    """The planes that are asked for, each with a module that its weights fit."""
    names = titles(runs)
    modules = [run.module() for run in runs]
    if snapshots:
        fits = plane == "random" and len(runs) == 1
        require(fits, "landscape", "plane=random of one run for snapshots", f"plane={plane} of {len(runs)}")
        (run,), (module,) = runs, modules
        still = random_plane(names[0], module.model, seed)
        states = {epoch: weights_of(run.module(file).model) for epoch, file in run.snapshots.items()}
        return [(replace(still, title=f"epoch {epoch}", centre=state), module) for epoch, state in states.items()]
    if plane == "random":
        return [(random_plane(name, m.model, seed), m) for name, m in zip(names, modules, strict=True)]
    for run in runs:
        same = run.config["model"] == runs[0].config["model"]
        require(same, f"run {run.folder}", f"the model of {runs[0].folder}", "another", "one model, one plane")
    if plane == "solutions":
        return [(solution_plane(names, [weights_of(m.model) for m in modules], modules[0].model, seed), modules[0])]
    paths = {
        name: [weights_of(run.module(file).model) for file in run.snapshots.values()]
        for name, run in zip(names, runs, strict=True)
    }
    return [(path_plane(paths, modules[0].model), modules[0])]


@contextmanager
def at_centre(module: SegModule, plane: Plane) -> Iterator[None]:
    """The module with the weights of a plane's centre, for a while."""
    with preserve_state(module):
        module.model.load_state_dict(plane.at(0, 0), strict=False)
        yield
