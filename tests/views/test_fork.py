"""A fork: all losses start from one prediction, and each goes its own way down."""

from __future__ import annotations

import numpy as np
import pytest

from seglab.contract import ContractError
from seglab.engine.config import build_choices
from seglab.engine.trained_run import TrainedRun
from seglab.views.fork import branches, view
from seglab.views.run_inputs import logits_at, scenes

LOSSES = build_choices("loss", ["bce", {"focal": {"gamma": 0}}, "dice"])


def test_losses_part_from_one_prediction_and_each_falls(runs: list[TrainedRun]) -> None:
    (batch,) = scenes(runs[0], list(LOSSES.values()), 1)
    scene, steps = branches(runs[0], LOSSES, batch, 1, 5, "share")
    assert list(steps) == [0, 1, 2, 4, 5]
    logits = logits_at(runs[0], runs[0].snapshots[1], [batch])[0]
    for looks in scene.rows.values():
        np.testing.assert_array_equal(looks[0].probability, logits.sigmoid()[0, 0].numpy())
        assert looks[-1].value < looks[0].value
    bce, focal, dice = (looks[-1].probability for looks in scene.rows.values())
    np.testing.assert_allclose(bce, focal, atol=1e-4)  # a gamma of 0 is cross-entropy
    assert abs(bce - dice).max() > 1e-3


def test_a_fork_starts_at_the_best_checkpoint_unless_told(runs: list[TrainedRun]) -> None:
    (batch,) = scenes(runs[0], list(LOSSES.values()), 1)
    scene, _ = branches(runs[0], {"bce": LOSSES["bce"]}, batch, None, 1, "gradient")
    logits = logits_at(runs[0], runs[0].best, [batch])[0]
    np.testing.assert_array_equal(scene.rows["bce"][0].probability, logits.sigmoid()[0, 0].numpy())


def test_what_cannot_be_forked_is_one_sentence(runs: list[TrainedRun], stranger: TrainedRun) -> None:
    for given, said in (
        ((runs, LOSSES, None, None, 2, "share", "log"), "fork: expected one run"),
        ((runs[:1], LOSSES, 9, None, 2, "share", "log"), "epoch as one of 0, 1, 2, got 9"),
        ((runs[:1], LOSSES, None, "nobody", 2, "share", "log"), "ids of test images"),
        ((runs[:1], LOSSES, None, None, 0, "share", "log"), "at least one step"),
        ((runs[:1], LOSSES, None, None, 2, "colour", "log"), "show as one of"),
    ):
        with pytest.raises(ContractError, match=said):
            view(*given)
