"""Shared by tests: one thread, small configurations, and runs that are trained once for all tests that read them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import settings
from omegaconf import DictConfig

settings.register_profile("any machine", deadline=None)  # durations mean nothing on a busy machine
settings.load_profile("any machine")

DATA = ("dataset.size=32", "dataset.train=8", "dataset.val=4", "dataset.test=6")
UNET = ("model.base=4", "model.depth=2")
SMALL = (*DATA, *UNET, "batch_size=4", "trainer.max_epochs=2", "trainer.accelerator=cpu", "trainer.precision=32-true")
SMALL += ("examples=1", "pictures=false")
"""Overrides for a run of about half a second, with the same digits on every processor."""
OF_FILES = tuple(word for word in SMALL if word not in DATA or "size" in word)
"""`SMALL` without the numbers of images, for a dataset read from files."""


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Limit torch to one thread: small tensors gain nothing from threads, which test processes would compete for.

    The limit applies to module fixtures too: a run trained on two threads differs in its last bits from one on one
    thread. SEGLAB_TEST_THREADS=8 shows that no test depends on the limit.
    """
    import torch

    torch.set_num_threads(int(os.environ.get("SEGLAB_TEST_THREADS", "1")))


@contextmanager
def configuration_read_once() -> Iterator[None]:
    """Cache the configuration files, which no test changes; reading them again takes half the time of a composition."""
    from hydra._internal.config_repository import ConfigRepository

    from seglab.engine.config import CONF

    read = ConfigRepository.load_config
    known: dict[tuple[str, ...], Any] = {}

    def load_config(repository: ConfigRepository, config_path: str) -> Any:
        places = tuple(source.path for source in repository.sources if source.scheme() == "file")
        if places != (str(CONF),):
            return read(repository, config_path)
        if config_path not in known:
            known[config_path] = read(repository, config_path)
        return deepcopy(known[config_path])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConfigRepository, "load_config", load_config)
        yield


@pytest.fixture(scope="session", autouse=True)
def _configuration_read_once() -> Iterator[None]:
    with configuration_read_once():
        yield


def compose(command: str, *overrides: str, folder: Path | None = None, **options: bool) -> DictConfig:
    """Compose `conf/<command>.yaml` with overrides, like the command line; `options` are passed to Hydra."""
    import hydra

    from seglab.engine.config import CONF

    place = [f"folder={folder}"] if folder else []
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(command, [*overrides, *place], **options)


def train_small(folder: Path, *overrides: str) -> Path:
    """Train a run with `SMALL` and further overrides; return its folder."""
    from seglab.train import train

    train(compose("train", *SMALL, *overrides, folder=folder), folder)
    return folder


def facts_of(folder: Path, name: str = "run.json") -> dict[str, Any]:
    return json.loads((folder / name).read_text())


def epochs_of(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "metrics.csv").drop(columns="seconds")


def weights_of(file: Path) -> dict[str, Any]:
    """Return the weights in a checkpoint."""
    import torch

    return torch.load(file, weights_only=True)["state_dict"]


def python(*words: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments and one thread in the folder `cwd`, in a new process with nothing imported."""
    command, variables = [sys.executable, *map(str, words)], os.environ | {"OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=400)


def assert_same_tables(one: Path, other: Path) -> None:
    """Assert that two runs have the same rows per image and per epoch, to the last digit."""
    assert (one / "per_image.csv").read_text() == (other / "per_image.csv").read_text()
    pd.testing.assert_frame_equal(epochs_of(one), epochs_of(other), check_exact=True)


@contextmanager
def killed(epoch: int, batch: int = 0) -> Iterator[None]:
    """Make training inside the block raise in the given step, as if its process had died."""
    from seglab.engine.module import SegModule

    step = SegModule.training_step

    def dies(self: SegModule, images: dict, batch_idx: int) -> Any:
        if (self.current_epoch, batch_idx) == (epoch, batch):
            raise RuntimeError("killed")
        return step(self, images, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SegModule, "training_step", dies)
        with pytest.raises(RuntimeError, match="killed"):
            yield


@pytest.fixture
def configure() -> Callable[..., DictConfig]:
    return compose


@pytest.fixture(scope="session")
def study_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from a precision to a study of two finished runs, `bce` and `dice`, with snapshots; read-only."""

    @cache
    def trained(precision: str) -> Path:
        study = tmp_path_factory.mktemp(f"study-{precision}")
        for loss in ("bce", "dice"):
            words = ("callbacks=snapshots", "callbacks.snapshots.every_n_epochs=1", f"trainer.precision={precision}")
            train_small(study / loss, f"loss={loss}", *words)
        return study

    return trained


@pytest.fixture(scope="session")
def trained_study(study_of: Callable[[str], Path]) -> Path:
    """The study of two runs in float32."""
    return study_of("32-true")


@pytest.fixture(scope="session", params=["32-true", "bf16-mixed"])
def study_in_each_precision(request: pytest.FixtureRequest, study_of: Callable[[str], Path]) -> Path:
    """The study in each precision, for tests that measure a run again, which must use the precision of the run."""
    return study_of(request.param)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; tests that need it are skipped if it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the real images in ../shared/data, which are not part of the project")
    return folder
