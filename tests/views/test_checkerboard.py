"""The grid of the upsampling, shown: the measure, spectra that hold the energy, nets that differ in one knob."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from seglab.contract import ContractError
from seglab.engine.trained_run import TrainedRun
from seglab.models.checkerboard import grid_energy
from seglab.views.checkerboard import look, untrained, view
from seglab.views.run_inputs import logits_at, scenes


def test_a_look_holds_the_logits_of_the_run_and_the_measure_of_all_images(runs: list[TrainedRun]) -> None:
    batches = scenes(runs[0], [runs[0].loss()], 3)
    grid = look("bce", runs[0].module(), batches, 2)
    logits = logits_at(runs[0], runs[0].best, batches)
    np.testing.assert_allclose(grid.maps["output"], logits[0][0, 0].numpy(), rtol=1e-5)
    assert grid.energy["output"] == pytest.approx(float(torch.cat([grid_energy(z) for z in logits]).mean()), rel=1e-4)
    share = grid_energy(logits[0]).item()
    assert grid.spectra["output"].sum() == pytest.approx(1, rel=1e-5)
    assert grid.spectra["output"][grid.counted].sum() == pytest.approx(share, rel=1e-4)
    assert not grid.counted[16, 16]  # frequency zero lies in the middle


def test_untrained_nets_differ_in_their_upsampling_alone(runs: list[TrainedRun]) -> None:
    transposed, resized, again = (untrained(runs[0], way, 1) for way in ("transpose", "resize", "transpose"))
    assert any(isinstance(layer, nn.ConvTranspose2d) for layer in transposed.modules())
    assert not any(isinstance(layer, nn.ConvTranspose2d) for layer in resized.modules())
    first, second = (net.model.down[0][0][0].weight for net in (transposed, resized))
    assert torch.equal(first, second)
    assert torch.equal(transposed.model.last.weight, again.model.last.weight)


@pytest.mark.slow
def test_the_sheet_has_a_row_per_run_and_per_way(runs: list[TrainedRun], tmp_path: Path) -> None:
    sheet = view(runs, ["transpose", "resize"], 1, 2, 1)
    nets = ["bce, transpose", "dice, transpose", "untrained, transpose", "untrained, resize"]
    assert list(sheet.tables["checkerboard"]["net"]) == nets
    sheet.write(tmp_path)
    assert (tmp_path / "checkerboard.png").exists()


def test_a_model_without_the_knob_is_one_sentence(runs: list[TrainedRun]) -> None:
    facts = {**runs[0].facts, "config": {**runs[0].config, "model": {"_target_": "smp"}}}
    with pytest.raises(ContractError, match=r"a model with the knob upsample, got smp; set checkerboard.upsample=\[\]"):
        untrained(TrainedRun(runs[0].folder, facts), "resize", 1)
