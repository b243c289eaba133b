"""One checkpoint, one image, several losses: how the predictions diverge when each loss trains on from there."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import pandas as pd
import torch
from tqdm import tqdm

from seglab.contract import require
from seglab.data.loading import Batch
from seglab.engine.config import build
from seglab.engine.module import SegModule
from seglab.engine.snapshots import is_due
from seglab.engine.trained_run import TrainedRun
from seglab.losses.base import Loss
from seglab.views.pixel_figures import ImageHistory, Inspection, page
from seglab.views.pixels import SHOW, history, inspect
from seglab.views.run_inputs import fitted, forward, pick_images
from seglab.views.view_page import ViewPage

PROCEDURE = (
    "Each loss continues from the same weights, on this image alone, with the run's optimizer; BatchNorm was kept fixed"
)


def view(
    runs: list[TrainedRun],
    losses: dict[str, Loss],
    epoch: int | None,
    image: str | None,
    steps: int,
    show: str,
    colors: str,
) -> ViewPage:
    """Continue from one checkpoint on one test image with each loss, and show how the maps diverge; see `branches`.

    Args:
        image: id of the test image; None takes one with an object of medium size.
        show, colors: as for view=pixels.
    """
    require(show in SHOW, "fork", f"show as one of {', '.join(SHOW)}", show)
    require(len(runs) == 1, "fork", "one run", len(runs))
    (run,) = runs
    losses = fitted(losses, run)
    (batch,) = pick_images(run, list(losses.values()), 1 if image is None else [image])
    found, snapshots = branches(run, losses, batch, epoch, steps, show)
    title = f"A fork after {'the best epoch' if epoch is None else f'epoch {epoch}'}"
    return page(title, [found], SHOW[show].heading, f"{SHOW[show].caption}. {PROCEDURE}", snapshots, colors)


def branches(
    run: TrainedRun, losses: Mapping[str, Loss], batch: Batch, epoch: int | None, steps: int, show: str
) -> tuple[ImageHistory, pd.Series]:
    """A row per loss and a column after 0, 1, 2, 4, ... steps: the history, and the steps of its columns by name.

    BatchNorm uses the statistics of the checkpoint throughout, so that all rows begin alike and only what the loss
    changes is seen.

    Args:
        epoch: the snapshot to start from; None takes the best checkpoint.
        steps: of the run's optimizer.
    """
    require(steps >= 1, "fork", "at least one step", steps)
    known = run.snapshots if epoch is not None else {}
    require(epoch is None or epoch in known, "fork", f"epoch as one of {', '.join(map(str, known))}", epoch)
    module = run.module(known[epoch] if epoch is not None else None)
    columns = [step for step in range(steps + 1) if is_due(step, 2) or step == steps]
    rows = {
        name: branch(copy.deepcopy(module), loss, batch, columns, run, show)
        for name, loss in tqdm(losses.items(), "fork", unit="loss", disable=None)
    }
    names = [f"step {step}" for step in columns]
    return history(batch, names, rows), pd.Series(columns, names, name="step")


def branch(
    module: SegModule, loss: Loss, batch: Batch, columns: list[int], run: TrainedRun, show: str
) -> list[Inspection]:
    """Inspect the image after each of so many steps of one loss on it; the module's weights change."""
    optimizer = build(run.config["optimizer"])(module.model.parameters())
    maps = {need: batch[need] for need in loss.needs}
    seen = []
    for step in range(columns[-1] + 1):
        logits = forward(module, batch["image"], run.autocast)
        if step in columns:
            seen.append(inspect(logits.detach(), batch, loss, show, run.config["threshold"]))
        optimizer.zero_grad()
        loss(logits, batch["target"], **maps).mean().backward()
        require(bool(torch.isfinite(logits).all()), "fork", "finite logits", f"others at step {step} of {loss.name}")
        optimizer.step()
    return seen
