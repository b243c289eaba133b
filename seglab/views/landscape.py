"""Losses over a plane of weights: several losses and the IoU on the same plane, from the same forward passes."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from seglab.contract import require
from seglab.data.loading import Batch
from seglab.engine.module import SegModule
from seglab.engine.trained_run import TrainedRun
from seglab.files import write_text
from seglab.losses.base import Loss
from seglab.metrics.counts import counts, scores
from seglab.views.landscape_figures import SCORE, Surface, page
from seglab.views.run_inputs import Autocast, fitted, forward, same_data, samples, thinned, titles
from seglab.views.view_page import ViewPage
from seglab.views.weight_planes import Plane, Point, lattice, path_plane, random_plane, solution_plane, weights_of

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
        names = [*losses, SCORE]
        values = {name: table[name].reindex(places).to_numpy().reshape(points, points) for name in names}
        center = {name: float(table[name].iloc[0]) for name in names}
        surfaces.append(Surface(laid, first, second, values, center))
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
    names, modules = titles(runs), [run.module() for run in runs]
    run, model = runs[0], modules[0].model
    if plane == "random":
        planes = [random_plane(name, module.model, seed) for name, module in zip(names, modules, strict=True)]
        return [(p, module, run.autocast) for p, module, run in zip(planes, modules, runs, strict=True)]
    for other in runs:
        same = other.config["model"] == run.config["model"]
        require(same, f"run {other.folder}", f"the model of {run.folder}", "another", "one model, one plane")
    if plane == "solutions":
        laid = solution_plane(names, [weights_of(module.model) for module in modules], model, seed)
    else:
        shown = [[run.snapshots[epoch] for epoch in thinned(list(run.snapshots))] for run in runs]
        paths = [[weights_of(run.module(file).model) for file in files] for run, files in zip(runs, shown, strict=True)]
        laid = path_plane(dict(zip(names, paths, strict=True)), model)
    return [(laid, modules[0], run.autocast)]


@dataclass(frozen=True)
class LandscapeGrid:
    """Measures a module on some batches at places of planes, and writes a row for each place to a file as it comes.

    Places follow one another: all of a row at once, by torch.func.vmap, took twice as long on a CPU.

    Attributes:
        threshold: of the IoU.
        file: a CSV file; its first line is the fingerprint.
        fingerprint: of all that is measured; rows of the same one are kept and not measured again.
    """

    batches: Sequence[Batch]
    losses: Mapping[str, Loss]
    threshold: float
    file: Path
    fingerprint: str

    def known(self) -> pd.DataFrame:
        """The rows that are there already, without a truncated last line."""
        first, *lines = self.file.read_text(encoding="utf-8").split("\n") if self.file.exists() else [""]
        rows = [line.split(",") for line in lines[1:-1]] if first == f"# {self.fingerprint}" else []
        numbers = ["a", "b", *self.losses, SCORE]
        return pd.DataFrame(rows, columns=["plane", *numbers]).astype(dict.fromkeys(numbers, float))

    def measure(
        self, module: SegModule, plane: Plane, places: Sequence[Point], autocast: Autocast = nullcontext
    ) -> pd.DataFrame:
        """A row for each place, with index (a, b): the mean of each loss over the images, and the mean IoU.

        The weights of the last place stay in the module.
        """
        table = self.known()
        kept = table.to_csv(index=False, lineterminator="\n", float_format="%.17g")
        write_text(self.file, f"# {self.fingerprint}\n{kept}")
        title, places = plane.title.replace(",", ";"), list(dict.fromkeys(places))
        done = set(table.loc[table["plane"] == title, ["a", "b"]].itertuples(index=False, name=None))
        missing = [place for place in places if place not in done]
        with self.file.open("a", encoding="utf-8") as out:
            for a, b in tqdm(missing, f"landscape {title}", unit="place", disable=None):
                values = self.at(module, plane, a, b, autocast)
                out.write(",".join([title, *(f"{value:.17g}" for value in (a, b, *values))]) + "\n")
                out.flush()
        table = self.known()
        return table[table["plane"] == title].set_index(["a", "b"])[[*self.losses, SCORE]].reindex(places)

    @torch.no_grad()
    def at(self, module: SegModule, plane: Plane, a: float, b: float, autocast: Autocast) -> list[float]:
        """The means at one place."""
        module.model.load_state_dict(plane.at(a, b), strict=False)
        total = torch.zeros(len(self.losses) + 1, dtype=torch.float64)
        for batch in self.batches:
            logits, target = forward(module, batch["image"], autocast), batch["target"]
            needed = ((loss, {name: batch[name] for name in loss.needs}) for loss in self.losses.values())
            values = [loss(logits, target, **maps) for loss, maps in needed]
            values.append(scores(counts(logits, target, self.threshold))["iou"])
            total += torch.stack([value.double().sum() for value in values])
        return (total / sum(len(batch["id"]) for batch in self.batches)).tolist()
