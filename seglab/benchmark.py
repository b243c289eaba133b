"""`python -m seglab.benchmark`: time a part of the program against its alternatives, as ratios in one process."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from seglab.contract import Task, require
from seglab.engine.cli import command
from seglab.engine.config import CONF, build, to_container

log = logging.getLogger(__name__)


def benchmark(cfg: DictConfig, folder: Path) -> str:
    """Measure `cfg.what`, write its table to `folder` as CSV and Markdown, and return the Markdown."""
    import pandas as pd

    parts = {"losses": losses, "sweep": sweep, "gpu": gpu}
    require(cfg.what in parts, "benchmark", f"what as one of {', '.join(parts)}", cfg.what)
    table = pd.DataFrame(parts[cfg.what](cfg))
    cells = table.map(lambda value: f"{value:.3g}" if isinstance(value, float) else str(value)).replace("nan", "")
    lines = [list(table.columns), ["---"] * table.shape[1], *cells.to_numpy().tolist()]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    table.to_csv(folder / f"{cfg.what}.csv", index=False)
    (folder / f"{cfg.what}.md").write_text(text)
    log.info("%s\n%s/%s.csv", text, folder, cfg.what)
    return text


def losses(cfg: DictConfig) -> Sequence[Any]:
    """Time the forward and backward pass of each loss against torch, smp, MONAI and kornia."""
    import torch
    from omegaconf import OmegaConf

    from seglab.benchmarks.losses import measure

    settings = cfg.losses
    remedy = "losses.only=[dice,iou] selects losses"
    require(OmegaConf.is_dict(settings), "losses", "losses.OPTION=VALUE", f"losses={settings}", remedy)
    gpu = settings.device == "cpu" or torch.cuda.is_available()
    require(gpu, "losses.device", "a GPU", "none here", "use losses.device=cpu")
    torch.set_num_threads(settings.threads)
    kind, count, fraction = settings.task, settings.shape[1], settings.foreground
    task = Task(kind, tuple(f"class {k}" for k in range(count)))
    frequency = [fraction] * count
    if kind == "multiclass":  # the background first; the other classes share the rest equally
        frequency = [1 - fraction, *[fraction / (count - 1)] * (count - 1)]
    available = sorted(file.stem for file in (CONF / "loss").glob("*.yaml"))
    names = settings.only or available
    require(set(names) <= set(available), "losses.only", f"names among {', '.join(available)}", list(names))
    built = {name: build(OmegaConf.load(CONF / "loss" / f"{name}.yaml")) for name in names}
    supported = {name: loss.with_task(task) for name, loss in built.items() if kind in loss.tasks}
    fitted = {name: loss.with_class_frequency(frequency) for name, loss in supported.items()}
    require(bool(fitted), "losses.only", f"a loss for {kind} tasks", list(names))
    require(settings.masks in ("uint8", "float"), "losses.masks", "uint8 or float", settings.masks)
    options = {name: settings[name] for name in ("foreground", "repeats", "compile", "step", "device", "masks")}
    return measure(fitted, shape=list(settings.shape), **options)


def gpu(cfg: DictConfig) -> Sequence[Any]:
    """Time a training step, its data and the overhead of the trainer on a GPU, or at a smaller size on a CPU."""
    import torch

    from seglab.benchmarks.gpu import measure

    small = {} if torch.cuda.is_available() else {"size": 64, "base": 8, "images": 32, "steps": 4}
    return measure(**{**cfg.gpu, **small})


def sweep(cfg: DictConfig) -> Sequence[Any]:
    """Time a sweep against a plain Lightning script that is started once per run."""
    from seglab.benchmarks.sweep import measure

    return measure(**to_container(cfg.sweep))


main = command("benchmark")(benchmark)

if __name__ == "__main__":
    main()
