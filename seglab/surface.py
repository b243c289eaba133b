"""`python -m seglab.surface`: see what losses do, as curves, pixels, landscapes and gradients."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from seglab.contract import Task, require
from seglab.engine.cli import command
from seglab.engine.config import build, build_choices, check, overridden, overrides, to_container

if TYPE_CHECKING:
    from seglab.data.dataset import Dataset
    from seglab.engine.module import SegModule
    from seglab.engine.trained_run import TrainedRun

log = logging.getLogger(__name__)
VIEWS = ("curve", "xray", "pixels", "landscape")


def surface(cfg: DictConfig, folder: Path) -> Path:
    """Write the view named by `cfg.view` to `folder`; return the path of surface.html."""
    require(cfg.view in VIEWS, "surface", f"view as one of {', '.join(VIEWS)}", cfg.view)
    from seglab.views import curve, landscape, pixels, xray

    options = to_container(cfg[cfg.view])
    if cfg.view == "pixels":
        page = pixels.view(opened(cfg), **options)
    elif cfg.view == "landscape":
        page = landscape.view(opened(cfg), build_choices("loss", cfg.losses), **options)
    elif cfg.view == "xray":
        run = run_beside(cfg)
        page = xray.view(build_choices("loss", cfg.losses), *untrained(cfg), run=run, **options)
    else:
        page = curve.view(build_choices("loss", cfg.losses), **options)
    file = page.write(folder)
    log.info("%s", file)
    return file


def run_beside(cfg: DictConfig) -> TrainedRun | None:
    """Return the run to show in an X-ray, if any; unless `dataset=` is given, `cfg.dataset` becomes the run's data."""
    from seglab.engine.trained_run import open_run

    require(cfg.run is None or isinstance(cfg.run, str), "xray", "one run or none", cfg.run)
    run = open_run(cfg.run, to_container(cfg.trust)) if cfg.run else None
    if run and not any(word.startswith("dataset=") for word in overrides()):
        changed = {key: value for key, value in to_container(cfg.dataset).items() if key in overridden("dataset")}
        cfg.dataset = run.dataset_options | changed
    return run


def untrained(cfg: DictConfig) -> tuple[Dataset, SegModule]:
    """Return the dataset and an untrained model for an X-ray."""
    from pytorch_lightning import seed_everything
    from torch.optim import SGD

    from seglab.engine.module import SegModule
    from seglab.losses import BCE

    check(cfg)
    seed_everything(cfg.xray.seed, verbose=False)
    dataset = build(cfg.dataset)
    require_one_class(dataset.task)
    return dataset, SegModule(build(cfg.model), BCE(), SGD, mean=dataset.mean, std=dataset.std)


def opened(cfg: DictConfig) -> list[TrainedRun]:
    """Open the runs to show in a view."""
    from seglab.engine.trained_run import open_runs

    require(bool(cfg.runs), "surface", f"run=outputs/STUDY/RUN for view={cfg.view}", "none")
    runs = open_runs(to_container(cfg.runs), to_container(cfg.trust))
    for run in runs:
        require_one_class(run.dataset().task)
    return runs


def require_one_class(task: Task) -> None:
    """Raise ContractError unless the task is binary; views show one class against the rest."""
    remedy = "select one of them by dataset.target or dataset.mask_value"
    require(task.kind == "binary", "surface", "data of one class", ", ".join(task.classes), remedy)


main = command("surface")(surface)

if __name__ == "__main__":
    main()
