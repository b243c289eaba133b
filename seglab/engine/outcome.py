"""Whether a configuration's run is finished already, on the data and weights that lie on disk now."""

import contextlib
import functools
import json
from pathlib import Path

from omegaconf import DictConfig

from seglab.data.prepare_data import select_items
from seglab.engine.config import build, identity, to_container
from seglab.engine.initial_weights import unchanged
from seglab.engine.run import Run


def show_plan(cfg: DictConfig, folder: Path) -> float:
    """Print whether the run in `folder` is finished, interrupted or waiting, and change nothing there."""
    run = Run(folder)
    done = not cfg.rerun and known_value(cfg, run) is not None
    print("finished" if done else "waiting" if cfg.rerun else run.known().get("status", "waiting"), run)
    with contextlib.suppress(OSError):
        folder.rmdir()  # Hydra has made it; one with files in it stays
    return float("nan")


def known_value(cfg: DictConfig, run: Run) -> float | None:
    """The best value of `cfg.monitor` if this very run is finished; see Run.outcome."""
    data_now = functools.partial(fingerprint_now, json.dumps(to_container(cfg.dataset), sort_keys=True))
    weights_now = unchanged if cfg.init_from else lambda initial: True
    return run.outcome(identity(cfg), data_now, weights_now, cfg.stop_after)


@functools.cache
def fingerprint_now(dataset: str) -> str:
    """The fingerprint of a data set, written as JSON, as it lies on disk now; computed once in a sweep's process."""
    return select_items(build(json.loads(dataset))).fingerprint
