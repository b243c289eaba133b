"""The grid of the upsampling: the measure finds grids and nothing else, spectra hold the energy, nets differ."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from seglab.contract import ContractError
from seglab.engine.trained_run import TrainedRun
from seglab.views.checkerboard import grid_energy, measure, output_and_gradient, untrained, view
from seglab.views.run_inputs import logits_at, pick_images


def smooth():
    coarse = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, size=(64, 64), mode="bicubic")


def board(stride):
    phase = torch.arange(64) % stride == 0
    return (phase[:, None] ^ phase).float().expand(2, 1, 64, 64)


@pytest.mark.parametrize("stride", [2, 4])
def test_a_checkerboard_is_all_grid_also_where_it_follows_an_image(stride):
    assert grid_energy(board(stride), stride).min() > 0.99
    assert grid_energy((board(stride) - board(stride).mean()) * (3 + smooth()), stride).min() > 0.9


def test_smooth_and_constant_maps_have_no_grid():
    assert grid_energy(smooth()).max() < 1e-3
    assert grid_energy(torch.full((1, 1, 32, 32), 7.0)).item() == 0


def test_white_noise_scores_the_fraction_of_the_frequencies_counted():
    noise = torch.randn(4, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    assert grid_energy(noise, 2, 1 / 16).mean().item() == pytest.approx(3 / 64, rel=0.1)


def test_the_measure_does_not_care_for_scale_shift_or_flips_and_grows_with_the_grid():
    maps = smooth() + 0.1 * board(2)
    for other in (3 * maps, maps + 5, maps.flip(-1), maps.mT):
        torch.testing.assert_close(grid_energy(other), grid_energy(maps), atol=1e-4, rtol=1e-3)
    scores = [grid_energy(smooth() + strength * board(2)).mean().item() for strength in (0, 0.1, 0.3, 1)]
    assert scores == sorted(scores)


def test_overlapping_transposed_convolutions_leave_a_grid_where_resizing_leaves_none():
    transposed = nn.ConvTranspose2d(1, 1, 3, stride=2, padding=1, output_padding=1, bias=False)
    resized = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(1, 1, 3, padding=1, bias=False))
    for weight in (*transposed.parameters(), *resized.parameters()):
        nn.init.ones_(weight)
    image = 5 + F.interpolate(smooth(), size=(32, 32), mode="bicubic")
    assert grid_energy(output_and_gradient(transposed, image)["output"]).min() > 0.5
    assert grid_energy(output_and_gradient(resized, image)["output"]).max() < 0.05


def test_a_grid_holds_the_logits_of_the_run_and_the_measure_of_all_images(run):
    batches = pick_images(run, [run.loss()], 3)
    grid = measure("dice", run.module(), batches, 2, run.autocast)
    logits = logits_at(run, run.best, batches)
    np.testing.assert_allclose(grid.maps["output"], logits[0][0, 0].numpy(), rtol=1e-5)
    assert grid.energy["output"] == pytest.approx(float(torch.cat([grid_energy(z) for z in logits]).mean()), rel=1e-4)
    assert grid.spectra["output"].sum() == pytest.approx(1, rel=1e-5)
    assert grid.spectra["output"][grid.counted].sum() == pytest.approx(grid_energy(logits[0]).item(), rel=1e-4)
    assert not grid.counted[16, 16]  # frequency zero lies in the middle


def test_untrained_nets_differ_in_their_upsampling_alone(runs):
    transposed, resized, again = (untrained(runs[0], way, 1) for way in ("transpose", "resize", "transpose"))
    assert any(isinstance(layer, nn.ConvTranspose2d) for layer in transposed.modules())
    assert not any(isinstance(layer, nn.ConvTranspose2d) for layer in resized.modules())
    first, second = (net.model.down[0][0][0].weight for net in (transposed, resized))
    assert torch.equal(first, second)
    assert torch.equal(transposed.model.last.weight, again.model.last.weight)


@pytest.mark.slow
def test_the_page_has_a_row_per_run_and_per_way(runs, tmp_path):
    page = view(runs, ["transpose", "resize"], 1, 2, 1)
    nets = ["bce, resize", "dice, resize", "untrained, transpose", "untrained, resize"]
    assert list(page.tables["checkerboard"]["net"]) == nets
    page.write(tmp_path)
    assert (tmp_path / "checkerboard.png").exists()


def test_what_has_no_measure_is_one_sentence(runs):
    with pytest.raises(ContractError, match=r"maps \(b,c,h,w\), got 4x4"):
        grid_energy(torch.zeros(4, 4))
    with pytest.raises(ContractError, match="width"):
        grid_energy(torch.zeros(1, 1, 4, 4), stride=8, width=0.1)
    facts = {**runs[0].facts, "config": {**runs[0].config, "model": {"_target_": "smp"}}}
    with pytest.raises(ContractError, match=r"the parameter upsample, got smp; set checkerboard.upsample=\[\]"):
        untrained(TrainedRun(runs[0].folder, facts), "resize", 1)
