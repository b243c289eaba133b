"""A fabricated study, made once: three losses with known skills, each with the seeds 1, 2 and 3."""

import shutil
from pathlib import Path

import pytest

from seglab.reporting.load_runs import Sweep, collect
from seglab.reporting.study import Question, Study
from seglab.reporting.write_report import answer, write
from tests.reporting.fabricate import FakeLoss, write_sweep


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the study, which tests must not change."""
    losses = [FakeLoss("bce", 0.6), FakeLoss("dice", 1.5), FakeLoss("focal", 0.9, 0.1, {"gamma": 2.0, "tag": "<b>"})]
    return write_sweep(tmp_path_factory.mktemp("study"), losses, [1, 2, 3])


@pytest.fixture(scope="session")
def sweep(folder: Path) -> Sweep:
    return collect([folder])


@pytest.fixture(scope="session")
def study(sweep: Sweep) -> Study:
    return Study("synthetic", sweep, Question())


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> Path:
    """A copy of the runs of bce and dice with the seeds 1 and 2, which a test may change."""
    for run in ("bce_s1", "bce_s2", "dice_s1", "dice_s2"):
        shutil.copytree(folder / run, tmp_path / "own" / run)
    return tmp_path / "own"


@pytest.fixture(scope="session")
def report(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report on the study after one run has lost its per_image.csv."""
    out = tmp_path_factory.mktemp("report")
    shutil.copytree(folder, out / "my <sweep>")
    (out / "my <sweep>" / "bce_s3" / "per_image.csv").unlink()
    roots = [out / "my <sweep>"]
    write(roots, Question(), answer(roots, Question()), out)
    return out
