"""One checkpoint, one image, several losses: how the prediction parts as each loss trains on from the same weights."""

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
from seglab.views.pixel_figures import Scene, sheet
from seglab.views.pixels import SHOW, Look, look, picture
from seglab.views.run_inputs import fitted, scenes
from seglab.views.view_page import Sheet

HELD = "Each loss trained on from the same weights, on this image alone, with the run's optimizer; BatchNorm was held"


def view(
    runs: list[TrainedRun],
    losses: dict[str, Loss],
    epoch: int | None,
    image: str | None,
    steps: int,
    show: str,
    colours: str,
) -> Sheet:
    """Train on from one checkpoint on one test image with each loss, and show how the maps part; see `branches`."""
    require(show in SHOW, "fork", f"show as one of {', '.join(SHOW)}", show)
    require(len(runs) == 1, "fork", "one run", len(runs))
    (run,) = runs
    losses = fitted(losses, run)
    (batch,) = scenes(run, list(losses.values()), 1 if image is None else [image])
    made, snapshots = branches(run, losses, batch, epoch, steps, show)
    title = f"A fork after {'the best epoch' if epoch is None else f'epoch {epoch}'}"
    return sheet(title, [made], f"{SHOW[show][1]}. {HELD}", snapshots, colours)


def branches(
    run: TrainedRun, losses: Mapping[str, Loss], batch: Batch, epoch: int | None, steps: int, show: str
) -> tuple[Scene, pd.Series]:
    """A row per loss and a column after 0, 1, 2, 4, ... steps: the scene, and the steps by their names.

    epoch: the snapshot to start from; None takes the best checkpoint. BatchNorm uses the statistics of the checkpoint
    throughout, so that all rows begin alike and only what the loss moves is seen.
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
    scene = Scene(batch["id"][0], picture(batch), batch["target"][0, 0].numpy(), names, rows)
    return scene, pd.Series(columns, names, name="step")


def branch(module: SegModule, loss: Loss, batch: Batch, columns: list[int], run: TrainedRun, show: str) -> list[Look]:
    """Looks at the image after so many steps of one loss on it; the module is used up."""
    optimizer = build(run.config["optimizer"])(module.model.parameters())
    maps = {need: batch[need] for need in loss.needs}
    seen = []
    for step in range(columns[-1] + 1):
        logits = module(batch["image"]).float()
        if step in columns:
            seen.append(look(logits.detach(), batch, loss, show, run.config["threshold"]))
        optimizer.zero_grad()
        loss(logits, batch["target"], **maps).mean().backward()
        require(bool(torch.isfinite(logits).all()), "fork", "finite logits", f"others at step {step} of {loss.name}")
        optimizer.step()
    return seen
