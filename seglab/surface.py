"""`python -m seglab.surface`: see what losses do, as curves, pixels, landscapes and gradients."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from seglab.contract import Task, require
from seglab.engine.cli import command
from seglab.engine.config import build, build_choices, check, to_container

if TYPE_CHECKING:
    from seglab.engine.trained_run import TrainedRun
    from seglab.views.view_page import ViewPage

log = logging.getLogger(__name__)


def surface(cfg: DictConfig, folder: Path) -> Path:
    """Make the view that `cfg.view` names in `folder`; returns surface.html."""
    views = {"curve": curve, "xray": xray, "pixels": pixels, "landscape": landscape}
    require(cfg.view in views, "surface", f"view as one of {', '.join(views)}", cfg.view)
    written = views[cfg.view](cfg).write(folder)
    log.info("%s", written)
    return written


def curve(cfg: DictConfig) -> ViewPage:
    """Value and gradient of each loss against probability and logit."""
    from seglab.views.curve import view

    return view(build_choices("loss", cfg.losses), **to_container(cfg.curve))


def xray(cfg: DictConfig) -> ViewPage:
    """Where the gradient of each loss would fall on a data set, before training."""
    from pytorch_lightning import seed_everything
    from torch.optim import SGD

    from seglab.engine.module import SegModule
    from seglab.losses import BCE
    from seglab.views.xray import view

    check(cfg)
    require(cfg.run is None or isinstance(cfg.run, str), "xray", "one run or none", cfg.run)
    seed_everything(cfg.xray.seed, verbose=False)
    dataset = build(cfg.dataset)
    require_one_class(dataset.task)
    module = SegModule(build(cfg.model), BCE(), SGD, mean=dataset.mean, std=dataset.std)
    return view(build_choices("loss", cfg.losses), dataset, module, run=cfg.run, **to_container(cfg.xray))


def pixels(cfg: DictConfig) -> ViewPage:
    """Errors and the gradient at each pixel at the saved snapshots of runs."""
    from seglab.views.pixels import view

    return view(opened(cfg), **to_container(cfg.pixels))


def landscape(cfg: DictConfig) -> ViewPage:
    """Losses and IoU over a plane of weights, around runs, through them or along their path."""
    from seglab.views.landscape import view

    return view(opened(cfg), build_choices("loss", cfg.losses), **to_container(cfg.landscape))


def opened(cfg: DictConfig) -> list[TrainedRun]:
    """The runs that a view shows."""
    from seglab.engine.trained_run import open_runs

    require(bool(cfg.runs), "surface", f"run=outputs/STUDY/RUN for view={cfg.view}", "none")
    runs = open_runs(to_container(cfg.runs), to_container(cfg.trust))
    for run in runs:
        require_one_class(run.dataset().task)
    return runs


def require_one_class(task: Task) -> None:
    """Views show what one class against the rest does to a loss."""
    remedy = "look at a run on one of them (dataset.target, dataset.mask_value)"
    require(task.kind == "binary", "surface", "data of one class", ", ".join(task.classes), remedy)


main = command("surface")(surface)

if __name__ == "__main__":
    main()
