"""Small trained runs with snapshots, for all views of finished runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from seglab.engine.config import CONF
from seglab.engine.trained_run import TrainedRun, open_runs
from seglab.train import train

SMALL = ("dataset.size=32", "dataset.train=8", "dataset.val=4", "dataset.test=5", "model.base=4", "model.depth=2")
SHORT = (*SMALL, "trainer.max_epochs=2", "trainer.accelerator=cpu", "batch_size=4", "callbacks=snapshots")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], TrainedRun]:
    """Train a small run with a loss, in a precision."""

    def made(loss: str, precision: str) -> TrainedRun:
        folder = tmp_path_factory.mktemp("run") / loss
        with initialize_config_dir(str(CONF), version_base="1.3"):
            words = (f"folder={folder}", f"loss={loss}", f"trainer.precision={precision}")
            cfg = compose("train", [*SHORT, *words])
        train(cfg, folder)
        (run,) = open_runs([str(folder)])
        return run

    return made


@pytest.fixture(scope="session")
def runs(trained: Callable[[str, str], TrainedRun]) -> list[TrainedRun]:
    """A run of bce and one of dice that share everything but the loss."""
    return [trained(loss, "32-true") for loss in ("bce", "dice")]


@pytest.fixture(scope="session", params=["32-true", "bf16-mixed"])
def run(
    request: pytest.FixtureRequest, runs: list[TrainedRun], trained: Callable[[str, str], TrainedRun]
) -> TrainedRun:
    """A run of dice, in both precisions whatever the machine: what it measured can be measured again."""
    return runs[1] if request.param == "32-true" else trained("dice", request.param)


@pytest.fixture
def pick(runs: list[TrainedRun], tmp_path: Path) -> Callable[[str], list[TrainedRun]]:
    """Runs by name: bce, dice, and `other`, of another model on other data without weights or snapshots."""
    facts = json.loads(json.dumps(runs[0].facts))
    facts["config"]["model"]["base"] = 8
    facts["data"]["fingerprint"] = "other"
    known = {"bce": runs[0], "dice": runs[1], "other": TrainedRun(tmp_path / "other", facts)}
    return lambda names: [known[name] for name in names.split()]
