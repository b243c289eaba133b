"""Planes of weights: the scale of their directions, and that they contain the points that define them."""

import pytest
import torch

from seglab.contract import ContractError
from seglab.models.unet import UNet
from seglab.views.weight_planes import path_plane, random_plane, solution_plane, weights_of


@pytest.fixture
def net():
    torch.manual_seed(0)
    return UNet(1, base=4, depth=1, upsample="transpose")


def test_every_filter_of_a_random_direction_is_as_long_as_the_models_and_its_seed_alone_fixes_it(net):
    plane, weights = random_plane("x", net, 1), weights_of(net)
    for moved in (plane.first, plane.second):
        transposed = [name for name in weights if name.startswith("grow") and weights[name].ndim == 4]
        assert transposed
        for name, weight in weights.items():
            if weight.ndim < 2:
                assert not moved[name].any(), name
                continue
            ours, theirs = (x.transpose(0, 1) if name in transposed else x for x in (weight, moved[name]))
            torch.testing.assert_close(theirs.flatten(1).norm(dim=1), ours.flatten(1).norm(dim=1))
    assert not torch.equal(plane.first["last.weight"], plane.second["last.weight"])
    again, other = (random_plane("x", net, seed).first["last.weight"] for seed in (1, 2))
    assert torch.equal(plane.first["last.weight"], again)
    assert not torch.equal(plane.first["last.weight"], other)


def others(net, count):
    rng = torch.Generator().manual_seed(3)
    start = weights_of(net)
    return [{name: x + torch.rand(x.shape, generator=rng) for name, x in start.items()} for _ in range(count)]


def on_a_line(net):
    return [{name: x + k for name, x in weights_of(net).items()} for k in range(3)]


@pytest.mark.parametrize("count", [2, 3])
def test_a_plane_passes_through_its_solutions(net, count):
    solutions = others(net, count)
    plane = solution_plane(["A", "B", "C"][:count], solutions, net, 1)
    assert list(plane.marks) == ["A", "B", "C"][:count]
    for (place,), weights in zip(plane.marks.values(), solutions, strict=True):
        for name, weight in plane.at(*place).items():
            torch.testing.assert_close(weight, weights[name], rtol=1e-4, atol=1e-5)
    trained = [name for name, _ in net.named_parameters()]
    first, second = (torch.cat([axis[name].flatten() for name in trained]) for axis in (plane.first, plane.second))
    assert abs(torch.dot(first, second)) < 1e-3 * first.norm() * second.norm()
    torch.testing.assert_close(first.norm(), second.norm(), rtol=1e-4, atol=0)


def test_the_center_of_a_plane_is_the_model_to_the_last_bit(net):
    for plane in (random_plane("x", net, 1), solution_plane(["A", "B"], [weights_of(net), *others(net, 1)], net, 1)):
        assert all(torch.equal(x, plane.at(0, 0)[name]) for name, x in weights_of(net).items())


def test_a_path_that_lies_in_a_plane_is_drawn_where_it_is(net):
    end, (u, v) = weights_of(net), others(net, 2)
    move = {name: (lambda x, w: x * w.exp()) if "var" in name else torch.add for name in end}
    turns = [(2.0, 1.0), (1.0, -0.5), (0.3, 0.4), (0.0, 0.0)]
    path = [{name: move[name](end[name], a * u[name] + b * v[name]) for name in end} for a, b in turns]
    plane = path_plane({"run": path}, net)
    assert "100 %" in plane.note
    for place, weights in zip(plane.marks["run"], path, strict=True):
        for name, weight in plane.at(*place).items():
            torch.testing.assert_close(weight, weights[name], rtol=1e-3, atol=1e-3)
    assert max(abs(x) for place in plane.marks["run"] for x in place) == pytest.approx(1)


def test_variances_stay_above_0_far_beyond_two_solutions(net):
    solutions = [weights_of(net), *others(net, 1)]
    plane = solution_plane(["A", "B"], solutions, net, 1)
    for a in (-9.0, 9.0):
        assert all(x.min() > 0 for name, x in plane.at(a, 0).items() if "var" in name)


@pytest.mark.parametrize(
    ("lay", "message"),
    [
        (lambda net: solution_plane(["A"], [weights_of(net)], net, 1), "two or three runs"),
        (lambda net: solution_plane(["A", "B"], [weights_of(net)] * 2, net, 1), "solutions that differ"),
        (lambda net: solution_plane(["A", "B", "C"], on_a_line(net), net, 1), "do not lie on one line"),
        (lambda net: path_plane({"A": [weights_of(net)] * 3}, net), "at least three snapshots"),
    ],
)
def test_a_degenerate_plane_is_one_sentence(net, lay, message):
    with pytest.raises(ContractError, match=message):
        lay(net)
