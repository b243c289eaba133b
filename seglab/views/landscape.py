"""Losses over a plane in weight space: several losses and the IoU on the same plane, from the same forward passes."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from textwrap import fill
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tqdm import tqdm

from seglab.contract import require
from seglab.data.loading import Batch
from seglab.engine.module import SegModule
from seglab.engine.trained_run import TrainedRun
from seglab.losses.base import Loss
from seglab.metrics.segmentation import SegmentationMetrics, mean_loss
from seglab.plots import COLORS, file_keys, styled
from seglab.reporting.html import note
from seglab.views.run_inputs import Autocast, forward, same_data, samples, thinned, titles
from seglab.views.view_page import Section, ViewPage, legend_below, number_table, panels
from seglab.views.weight_planes import Plane, Point, lattice, path_plane, random_plane, solution_plane, weights_of

PLANES = ("random", "solutions", "path")
SPLITS = ("train", "val", "test")
AXES = ["first", "second"]
SCORE = "IoU"  # the only surface where higher is better; the others are losses
CUT = 1000  # the color scale of a loss ends at this multiple of its lowest value


class Surface(NamedTuple):
    """The points of a plane, one row each with `first`, `second`, losses and IoU, and the values at its center."""

    plane: Plane
    places: pd.DataFrame
    center: pd.Series


def view(
    runs: list[TrainedRun],
    losses: dict[str, Loss],
    plane: str,
    points: int,
    span: float,
    split: str,
    images: int | None,
    seed: int,
) -> ViewPage:
    """Show the losses and the IoU of some images over planes around or through the weights of runs.

    Args:
        plane: `random` (around each run's best weights), `solutions` (through 2 or 3 runs) or `path` (along snapshots).
        points: number of points along each axis.
        span: extent of a random plane on each side, relative to the norm of the weights; other planes extend beyond
            their marks by half of `span` times the extent of the marks.
        split, images: the split, and the number of its images, evenly spread; None takes all.
        seed: seed of the random directions.
    """
    require(plane in PLANES, "landscape", f"plane as one of {', '.join(PLANES)}", plane)
    require(points >= 2, "landscape", "at least 2 points per axis", points)
    require(span > 0, "landscape", "a span above 0", span)
    same_data(runs)
    foreground = [runs[0].facts["data"]["foreground"]]
    losses = {name: loss.with_class_frequency(foreground) for name, loss in losses.items()}
    batches = evenly_spread(runs[0], losses, split, images)
    threshold, empty, surfaces = runs[0].config["threshold"], runs[0].config["empty"], []
    for surface_plane, module, autocast in planes_of(runs, plane, seed):
        first, second = lattice(surface_plane, span, points)
        places = [(float(a), float(b)) for b in second for a in first]
        # the center comes first: it may not be on the lattice
        table = measure(module, surface_plane, [(0.0, 0.0), *places], batches, losses, threshold, empty, autocast)
        surfaces.append(Surface(surface_plane, table.reindex(places).reset_index(), table.iloc[0]))
    count = len({name for batch in batches for name in batch["id"]})
    statistics = "" if plane == "random" else "; BatchNorm statistics move with the weights"
    tiles = ", computed on tiles as during training" if runs[0].config["dataset"]["fit"] == "patch" else ""
    return page(surfaces, f"Means over {count} {split} images{tiles}{statistics}.")


def evenly_spread(run: TrainedRun, losses: Mapping[str, Loss], split: str, images: int | None) -> list[Batch]:
    """Return batches of images, or of all their tiles, spread evenly over a split of the data, without augmentation."""
    require(split in SPLITS, "landscape", f"split as one of {', '.join(SPLITS)}", split)
    data = samples(run, list(losses.values()), split)
    count = len(data.ids) if images is None else min(images, len(data.ids))
    require(count >= 1, "landscape", "at least one image", images)
    chosen = set(np.linspace(0, len(data.ids) - 1, count).round().astype(int).tolist())
    numbers = [k for k in range(len(data)) if data.source.number(k) in chosen]
    size = run.config["batch_size"]
    return [data[[(0, n) for n in numbers[k : k + size]]] for k in range(0, len(numbers), size)]  # of epoch 0


def planes_of(runs: list[TrainedRun], plane: str, seed: int) -> list[tuple[Plane, SegModule, Autocast]]:
    """Return the requested planes, each with a module that its weights fit and the precision to run it in."""
    names, modules = titles(runs), [run.module() for run in runs]
    run, model = runs[0], modules[0].model
    if plane == "random":
        of_runs = zip(names, modules, runs, strict=True)
        return [(random_plane(name, module.model, seed), module, run.autocast) for name, module, run in of_runs]
    for other in runs:
        same = other.config["model"] == run.config["model"]
        remedy = "use runs of one model"
        require(same, f"run {other.folder}", f"the model of {run.folder}", "a different one", remedy)
    if plane == "solutions":
        laid_plane = solution_plane(names, [weights_of(module.model) for module in modules], model, seed)
    else:
        files = [[run.snapshots[epoch] for epoch in thinned(list(run.snapshots))] for run in runs]
        paths = [[weights_of(run.module(file).model) for file in path] for run, path in zip(runs, files, strict=True)]
        laid_plane = path_plane(dict(zip(names, paths, strict=True)), model)
    return [(laid_plane, modules[0], run.autocast)]


@torch.no_grad()
def measure(
    module: SegModule,
    plane: Plane,
    places: Sequence[Point],
    batches: Sequence[Batch],
    losses: Mapping[str, Loss],
    threshold: float = 0.5,
    empty: str = "correct",
    autocast: Autocast = nullcontext,
) -> pd.DataFrame:
    """Return the mean of each loss and the mean IoU over some images, indexed by the points (first, second) of a plane.

    The module keeps the weights of the last point. Points are measured one by one: a row at once, by torch.func.vmap,
    took twice as long on a CPU.
    """
    rows, image_numbers = {}, torch.cat([batch["index"] for batch in batches]).unique(return_inverse=True)[1]
    metrics = SegmentationMetrics(threshold, empty)
    for a, b in tqdm(dict.fromkeys(places), f"landscape {plane.title}", unit="point", disable=None):  # each point once
        module.model.load_state_dict(plane.at(a, b), strict=False)  # not strict: a plane has no integer counters
        values = [list[torch.Tensor]() for _ in losses]
        for batch in batches:
            logits, target, valid = forward(module, batch["image"], autocast), batch["target"], batch.get("valid")
            for loss, batch_losses in zip(losses.values(), values, strict=True):
                batch_losses.append(loss(logits, target, valid, **{name: batch[name] for name in loss.needs}))
            metrics.update(logits, target, batch["index"], valid)
        pixels = torch.cat(metrics.counted)[:, 0, :4].sum(1)
        means = [mean_loss(torch.cat(batch_losses), pixels, image_numbers) for batch_losses in values]
        rows[a, b] = [float(value) for value in (*means, metrics.compute()["iou"])]
        metrics.reset()
    return pd.DataFrame(list(rows.values()), pd.MultiIndex.from_tuples(rows, names=AXES), [*losses, SCORE])


def page(surfaces: Sequence[Surface], words: str) -> ViewPage:
    """Return the page of some planes: contours, and the point at which each loss is lowest."""
    sections, titles = [], [surface.plane.title for surface in surfaces]
    for surface, title, key in zip(surfaces, titles, file_keys(titles), strict=True):
        caption = (
            f"Plane: {surface.plane.note}. {words} The color scale of a loss that spans more than a factor of 20 is "
            f"logarithmic and ends at {CUT} times the lowest value."
        )
        sections.append(Section(title, figure=contours(surface), name=f"landscape_{key}", caption=caption))
    lowest = pd.concat([lowest_places(surface) for surface in surfaces], ignore_index=True)
    labeled = lowest.assign(loss=lowest["plane"] + ": " + lowest["loss"]).drop(columns="plane")
    labeled = labeled.rename(columns={"IoU there": "IoU at lowest"})
    where = number_table(labeled) + note("first and second are coordinates in the plane.")
    sections.append(Section("Where each loss is lowest", where))
    rows = pd.concat([surface.places for surface in surfaces], keys=titles, names=["plane"])
    return ViewPage("Landscapes", sections, {"landscape": rows.reset_index("plane"), "lowest": lowest})


def lowest_places(surface: Surface) -> pd.DataFrame:
    """Return, for each loss, its value at the center, its lowest point, the IoU at both, and the plane's best IoU."""
    places, rows = surface.places, []
    iou = {"IoU at center": surface.center[SCORE], "best IoU": places[SCORE].max()}
    for name in places.columns.drop([*AXES, SCORE]):
        lowest = places.iloc[places[name].argmin()]
        row = {"plane": surface.plane.title, "loss": name, "at center": surface.center[name], "lowest": lowest[name]}
        rows.append(row | {"first": lowest["first"], "second": lowest["second"], "IoU there": lowest[SCORE], **iou})
    return pd.DataFrame(rows)


@styled
def contours(surface: Surface) -> Figure:
    """Draw each loss and the IoU as contours over one plane, with the best point, the runs and the paths."""
    names = surface.places.columns.drop(AXES)
    figure, axes = panels(len(names), 3, 3.5, 3.3)
    for axis, name in zip(axes, names, strict=True):
        grid = surface.places.pivot(index="second", columns="first", values=name)
        values = grid.columns, grid.index, grid
        finite = surface.places[name][np.isfinite(surface.places[name])]  # logits may overflow far from the center
        require(len(finite) > 0, f"landscape {surface.plane.title}", f"a finite {name}", "none", "use a smaller span")
        low, high = finite.min(), finite.max()
        log = name != SCORE and 0 < 20 * low < high  # on a linear scale its valley would be invisible
        levels = np.geomspace(low, min(high, CUT * low), 16) if log else np.linspace(low, max(high, low + 1e-6), 16)
        options: dict[str, Any] = {"levels": levels, "norm": "log" if log else "linear"}
        options["extend"] = "max" if high > levels[-1] else "neither"
        filled = axis.contourf(*values, cmap="viridis", **options)
        axis.contour(*values, colors="#ffffff", linewidths=0.3, **options)
        bar = figure.colorbar(filled, ax=axis, shrink=0.9, format="%.3g")
        bar.ax.tick_params(labelsize=6.5)
        bar.ax.minorticks_off()
        bar.set_ticks(levels[::3].tolist())
        best = surface.places[name].argmax() if name == SCORE else surface.places[name].argmin()
        mark(axis, surface.plane, surface.places[AXES].iloc[best])
        axis.set(xlabel="first", ylabel="second", title=name + (", log scale" if log else ""))
        axis.grid(False)
    across = min(3, len(axes))  # panels per row
    legend_below(figure, axes[0], 3 * across, fontsize=6.5)
    figure.suptitle(fill(f"{surface.plane.title}: {surface.plane.note}", 50 * across), fontsize=8.5, x=0.01, ha="left")
    return figure


def mark(axis: Axes, plane: Plane, best: pd.Series) -> None:
    """Mark the runs, the paths of trainings, and the best measured point."""
    for k, (name, path) in enumerate(plane.marks.items(), 1):
        color = COLORS[k % len(COLORS)]
        if len(path) > 1:
            axis.plot(*zip(*path, strict=True), "-o", color=color, ms=3, lw=1.2, label=f"{name}, start to end")
            axis.plot(*path[0], "s", color=color, ms=5)
        else:
            axis.plot(*path[0], "o", color=color, ms=6, markeredgecolor="#ffffff", label=name)
    axis.plot(*best, "x", color="#d6006c", ms=7, mew=1.8, label="best point on the plane")
