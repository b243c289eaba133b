"""Small trained runs with snapshots, for all views of finished runs."""

import json

import pytest

from seglab.engine.trained_run import TrainedRun, open_run


@pytest.fixture(scope="session")
def runs(trained_study):
    """A run with bce and one with dice, which differ only in the loss."""
    return [open_run(trained_study / loss) for loss in ("bce", "dice")]


@pytest.fixture(scope="session")
def run(study_in_each_precision):
    """A run with dice in each precision, on every machine, whose measurements must be reproducible."""
    return open_run(study_in_each_precision / "dice")


@pytest.fixture
def pick(runs, tmp_path):
    """A function that returns runs by name: bce, dice, and `other`, with another model and data and without weights."""
    facts = json.loads(json.dumps(runs[0].facts))
    facts["config"]["model"]["base"] = 8
    facts["data"]["fingerprint"] = "other"
    known = {"bce": runs[0], "dice": runs[1], "other": TrainedRun(tmp_path / "other", facts)}
    return lambda names: [known[name] for name in names.split()]
