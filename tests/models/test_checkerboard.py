"""The measure of grid artefacts finds grids, and nothing in maps that have none."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from seglab.contract import ContractError
from seglab.models.checkerboard import checkerboards, grid_energy
from seglab.models.fcn import FCN


def smooth(seed: int = 0) -> torch.Tensor:
    coarse = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=(64, 64), mode="bicubic")


def board(stride: int) -> torch.Tensor:
    phase = torch.arange(64) % stride == 0
    return (phase[:, None] ^ phase).float().expand(2, 1, 64, 64)


@pytest.mark.parametrize("stride", [2, 4])
def test_a_checkerboard_is_all_grid_also_where_it_follows_an_image(stride):
    assert grid_energy(board(stride), stride).min() > 0.99
    assert grid_energy((board(stride) - board(stride).mean()) * (3 + smooth()), stride).min() > 0.9


def test_smooth_and_constant_maps_have_no_grid():
    assert grid_energy(smooth()).max() < 1e-3
    assert grid_energy(torch.full((1, 1, 32, 32), 7.0)).item() == 0


def test_white_noise_scores_the_share_of_the_frequencies_counted():
    noise = torch.randn(4, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    assert grid_energy(noise, 2, 1 / 16).mean().item() == pytest.approx(3 / 64, rel=0.1)


def test_the_measure_does_not_care_for_scale_shift_or_flips():
    maps = smooth() + 0.1 * board(2)
    for other in (3 * maps, maps + 5, maps.flip(-1), maps.mT):
        torch.testing.assert_close(grid_energy(other), grid_energy(maps), atol=1e-4, rtol=1e-3)


def test_a_grid_drowned_in_an_image_grows_with_its_strength():
    scores = [grid_energy(smooth() + strength * board(2)).mean().item() for strength in (0, 0.1, 0.3, 1)]
    assert scores == sorted(scores)


def test_overlapping_transposed_convolutions_leave_a_grid_where_resizing_leaves_none():
    transposed = nn.ConvTranspose2d(1, 1, 3, stride=2, padding=1, output_padding=1, bias=False)
    nn.init.ones_(transposed.weight)
    resized = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(1, 1, 3, padding=1, bias=False))
    nn.init.ones_(resized[1].weight)
    image = 5 + F.interpolate(smooth(), size=(32, 32), mode="bicubic")
    assert checkerboards(transposed, image)["output"].min() > 0.5
    assert checkerboards(resized, image)["output"].max() < 0.05


def test_the_untrained_mammography_net_shows_more_grid_when_it_upsamples_by_transposed_convolutions():
    found = {}
    for upsample in ("transpose", "bilinear"):
        torch.manual_seed(0)
        net = FCN(1, base=8, upsample=upsample).eval()
        found[upsample] = checkerboards(net, torch.randn(4, 1, 128, 128))
    assert found["transpose"]["output"].mean() > 2 * found["bilinear"]["output"].mean()
    assert all(0 <= value <= 1 for value in found["bilinear"]["gradient"])


def test_impossible_measures_are_refused():
    with pytest.raises(ContractError, match=r"maps \(b,c,h,w\), got 4x4"):
        grid_energy(torch.zeros(4, 4))
    with pytest.raises(ContractError, match="width"):
        grid_energy(torch.zeros(1, 1, 4, 4), stride=8, width=0.1)
