"""A fork: all losses start from one prediction, and each goes its own way down."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from seglab.contract import ContractError
from seglab.engine.config import build_choices
from seglab.engine.trained_run import TrainedRun
from seglab.views.fork import branches, view
from seglab.views.run_inputs import logits_at, pick_images

LOSSES = build_choices("loss", ["bce", {"focal": {"gamma": 0}}, "dice"])


def test_losses_diverge_from_one_prediction_and_each_falls(run: TrainedRun) -> None:
    (batch,) = pick_images(run, list(LOSSES.values()), 1)
    history, steps = branches(run, LOSSES, batch, 1, 5, "attribution")
    assert list(steps) == [0, 1, 2, 4, 5]
    logits = logits_at(run, run.snapshots[1], [batch])[0]
    for row in history.rows.values():
        np.testing.assert_array_equal(row[0].probability, logits.sigmoid()[0, 0].numpy())
        assert row[-1].loss < row[0].loss
    bce, focal, dice = (row[-1].probability for row in history.rows.values())
    close = 1e-4 if run.config["trainer"]["precision"] == "32-true" else 2e-2
    np.testing.assert_allclose(bce, focal, atol=close)  # a gamma of 0 is cross-entropy
    assert abs(bce - dice).max() > 1e-3


def test_a_fork_starts_at_the_best_checkpoint_unless_an_epoch_is_given(runs: list[TrainedRun]) -> None:
    (batch,) = pick_images(runs[0], list(LOSSES.values()), 1)
    history, _ = branches(runs[0], {"bce": LOSSES["bce"]}, batch, None, 1, "gradient")
    logits = logits_at(runs[0], runs[0].best, [batch])[0]
    np.testing.assert_array_equal(history.rows["bce"][0].probability, logits.sigmoid()[0, 0].numpy())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"count": 2}, "fork: expected one run"),
        ({"epoch": 9}, "epoch as one of 0, 1, 2, got 9"),
        ({"image": "nobody"}, "ids of test images"),
        ({"steps": 0}, "at least one step"),
        ({"show": "color"}, "show as one of"),
    ],
)
def test_what_cannot_be_forked_is_one_sentence(runs: list[TrainedRun], changed: dict[str, Any], message: str) -> None:
    options = {"epoch": None, "image": None, "steps": 2, "show": "attribution", "colors": "log"} | changed
    count = options.pop("count", 1)
    with pytest.raises(ContractError, match=message):
        view(runs[:count], LOSSES, **options)
