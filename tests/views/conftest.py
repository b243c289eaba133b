"""A study of two small runs with snapshots, for all views of finished runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from seglab.engine.config import CONF
from seglab.engine.trained_run import TrainedRun, open_runs
from seglab.train import train

SMALL = ("dataset.size=32", "dataset.train=8", "dataset.val=4", "dataset.test=5", "model.base=4", "model.depth=2")
ALIKE = (*SMALL, "trainer.max_epochs=2", "trainer.accelerator=cpu", "batch_size=4")


def trained(folder: Path, *words: str) -> TrainedRun:
    """Train a small run in a folder."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [*ALIKE, f"folder={folder}", *words])
    train(cfg, folder)
    (run,) = open_runs([str(folder)])
    return run


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[TrainedRun]:
    """A run of bce and one of dice, twins but for the loss."""
    root = tmp_path_factory.mktemp("snapshots")
    return [trained(root / loss, f"loss={loss}", "callbacks=snapshots") for loss in ("bce", "dice")]


@pytest.fixture
def stranger(runs: list[TrainedRun], tmp_path: Path) -> TrainedRun:
    """A run of another model on other data, without snapshots; made up, since nobody looks at its weights."""
    facts = json.loads(json.dumps(runs[0].facts))
    facts["config"]["model"]["base"] = 8
    facts["data"]["fingerprint"] = "other"
    return TrainedRun(tmp_path / "stranger", facts)
