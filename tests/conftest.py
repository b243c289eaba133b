"""What every test shares: one thread, and a way to compose a command's configuration without a command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from omegaconf import DictConfig

settings.register_profile("any machine", deadline=None)  # how long an example takes says nothing on a busy one
settings.load_profile("any machine")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small tensors gain nothing from threads, and two test processes with two threads each would fight.

    From the first fixture of a module on: a run trained on two threads differs in its last bits from one on one.
    """
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def configure() -> Callable[..., DictConfig]:
    """Compose `conf/<verb>.yaml` with overrides, as the command line would."""
    from hydra import compose, initialize_config_dir

    from seglab.engine.config import CONF

    def composed(verb: str, *overrides: str, folder: Path | None = None) -> DictConfig:
        place = [f"folder={folder}"] if folder else []
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose(verb, [*overrides, *place])

    return composed


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; tests that need it are skipped where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the real images in ../shared/data, which are not part of the project")
    return folder
