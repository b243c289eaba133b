"""Landscapes: exact where the answer is known, harmless to the model, and going on where they were stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from seglab.analysis.landscapes import Surface, height, lowest_places, sheet
from seglab.contract import ContractError
from seglab.engine.config import chosen
from seglab.engine.module import SegModule
from seglab.engine.saved import Saved
from seglab.losses import BCE, Dice
from seglab.losses.base import Loss
from seglab.losses.pixels import Pixels
from seglab.views.landscape import lay, view
from seglab.views.plane import random_plane
from seglab.views.sharpness import sharpness
from seglab.views.survey import Survey, recompute, unharmed

KNOBS = {
    "points": 3,
    "span": 1.0,
    "part": "test",
    "images": None,
    "batchnorm": "moved",
    "seed": 1,
    "curvature": 0,
    "moments": False,
}
LOSSES = chosen("loss", ["bce", "dice"])


@dataclass(frozen=True, kw_only=True)
class Square(Loss):
    """The mean square of logit minus target."""

    def value(self, x: Pixels) -> Tensor:
        return (x.z - x.t).square().mean((1, 2))


def module(model: nn.Module) -> SegModule:
    """A module whose images go into the model as they are."""
    torch.manual_seed(0)
    return SegModule(model, BCE(), torch.optim.SGD, mean=(0.0,), std=(1 / 255,)).eval()


def batches(channels: int = 3) -> list[dict[str, Any]]:
    rng = torch.Generator().manual_seed(0)
    images = [torch.randn(n, channels, 16, 16, generator=rng) for n in (2, 1)]
    return [{"image": x, "target": (x[:, :1] > 0.5).float(), "id": ["i"] * len(x)} for x in images]


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.Conv2d(4, 1, 1))


def survey(file: Path, batchnorm: str = "moved", losses: dict[str, Loss] | None = None, mark: str = "m") -> Survey:
    return Survey(batches(), losses or {"bce": BCE(), "dice": Dice()}, batchnorm, 0.5, file, mark)


def test_the_landscape_of_a_linear_model_with_a_quadratic_loss_is_the_paraboloid(tmp_path: Path) -> None:
    linear = module(nn.Conv2d(3, 1, 1, bias=False))
    plane = random_plane("linear", linear.model, 1)
    places = [(a, b) for a in (-1.0, 0.3, 2.0) for b in (-0.7, 0.0)]
    table = survey(tmp_path / "p.csv", losses={"square": Square()}).measure(linear, plane, places)
    x = torch.cat([b["image"].permute(0, 2, 3, 1).reshape(-1, 3) for b in batches()]).double()
    t = torch.cat([b["target"].flatten() for b in batches()]).double()
    w, u, v = (weights["weight"].flatten().double() for weights in (plane.centre, plane.first, plane.second))
    gram, cross = x.T @ x / len(x), x.T @ t / len(x)
    for row in table.itertuples():
        at = w + row.a * u + row.b * v
        assert row.square == pytest.approx(float(at @ gram @ at - 2 * cross @ at + (t @ t) / len(t)), rel=1e-5)


def test_the_centre_has_the_loss_and_iou_that_the_run_was_measured_with(runs: list[Saved], tmp_path: Path) -> None:
    tables = view(runs, LOSSES, tmp_path, plane="random", **KNOBS).tables
    rows = tables["lowest"].set_index(["plane", "loss"])
    for name, run in zip(("bce", "dice"), runs, strict=True):
        metrics = run.facts["metrics"]
        assert rows.loc[(name, name), "at centre"] == pytest.approx(metrics["test/loss"], rel=1e-6)
        assert rows.loc[(name, name), "IoU at centre"] == pytest.approx(metrics["test/iou"], rel=1e-6)
        grid = tables["landscape"].set_index(["plane", "first", "second"])
        assert grid.loc[(name, 0.0, 0.0), name] == rows.loc[(name, name), "at centre"]


def test_the_centre_is_exactly_what_the_module_gives(tmp_path: Path) -> None:
    ours = module(net())
    table = survey(tmp_path / "p.csv").measure(ours, random_plane("x", ours.model, 1), [(1.0, 0.5), (0.0, 0.0)])
    with torch.no_grad():
        total = sum(BCE()(ours(b["image"]), b["target"]).double().sum() for b in batches())
    assert table["bce"][1] == float(total) / 3


@pytest.mark.parametrize("batchnorm", ["moved", "kept", "recomputed"])
def test_weights_and_buffers_come_back_to_the_last_bit(tmp_path: Path, batchnorm: str) -> None:
    ours = module(net())
    before = {name: x.clone() for name, x in ours.state_dict().items()}
    survey(tmp_path / "p.csv", batchnorm).measure(ours, random_plane("x", ours.model, 1), [(1.0, 0.5), (-1.0, 0.2)])
    sharpness(ours, BCE(), batches(), 3)
    assert all(torch.equal(x, ours.state_dict()[name]) for name, x in before.items())
    assert not any(layer.training for layer in ours.modules() if isinstance(layer, nn.BatchNorm2d))
    assert all(layer.momentum == 0.1 for layer in ours.modules() if isinstance(layer, nn.BatchNorm2d))
    assert all(w.grad is None for w in ours.parameters())


def test_weights_come_back_even_from_a_failure() -> None:
    ours = module(net())
    before = {name: x.clone() for name, x in ours.state_dict().items()}

    def spoil() -> None:
        with unharmed(ours):
            ours.model[0].weight.data.fill_(3)
            raise KeyError

    with pytest.raises(KeyError):
        spoil()
    assert all(torch.equal(x, ours.state_dict()[name]) for name, x in before.items())


def test_recomputed_statistics_are_the_mean_over_the_batches() -> None:
    ours = module(net())
    with torch.no_grad():
        recompute(ours, batches())
        seen = [ours.model[0](b["image"]).mean((0, 2, 3)) for b in batches()]
    torch.testing.assert_close(ours.model[1].running_mean, torch.stack(seen).mean(0))


def test_a_survey_that_was_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = module(net())
    plane, places = random_plane("x, y", ours.model, 1), [(a / 4, 0.0) for a in range(6)]
    whole = survey(tmp_path / "whole.csv").measure(ours, plane, places)
    one, seen = Survey.one, []

    def watched(self: Survey, module: SegModule, plane: object, a: float, b: float) -> list[float]:
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append((a, b))
        return one(self, module, plane, a, b)  # type: ignore[arg-type]

    monkeypatch.setattr(Survey, "one", watched)
    with pytest.raises(KeyboardInterrupt):
        survey(tmp_path / "p.csv").measure(ours, plane, places)
    with (tmp_path / "p.csv").open("a") as file:
        file.write("x; y,0.75,0,0.12")  # a line that was torn
    seen.clear()
    pd.testing.assert_frame_equal(survey(tmp_path / "p.csv").measure(ours, plane, places), whole, check_exact=True)
    assert seen == places[3:]
    seen.clear()
    with pytest.raises(KeyboardInterrupt):
        survey(tmp_path / "p.csv", mark="other").measure(ours, plane, places)
    assert seen == places[:3]


@pytest.mark.parametrize("loss", [BCE(), Dice()])
def test_the_largest_eigenvalue_is_that_of_the_whole_hessian(loss: Loss) -> None:
    torch.manual_seed(1)
    small = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Tanh(), nn.Conv2d(3, 1, 1))
    ours = module(small.double()).double()
    data = [{**b, "image": b["image"].double(), "target": b["target"].double()} for b in batches()]
    names = [name for name, _ in ours.model.named_parameters()]
    shapes = [w.shape for w in ours.model.parameters()]
    buffers = dict(ours.model.named_buffers())

    def mean(flat: Tensor) -> Tensor:
        parts = [part.view(shape) for part, shape in zip(flat.split([s.numel() for s in shapes]), shapes, strict=True)]
        weights = dict(zip(names, parts, strict=True)) | buffers
        values = [loss(torch.func.functional_call(ours.model, weights, b["image"]), b["target"]).sum() for b in data]
        return sum(values) / 3

    flat = torch.cat([w.detach().flatten() for w in ours.model.parameters()])
    dense = torch.linalg.eigvalsh(torch.autograd.functional.hessian(mean, flat))
    largest = float(dense[dense.abs().argmax()])
    assert sharpness(ours, loss, data, 200, 1e-9) == pytest.approx(largest, rel=1e-3)


def test_the_lowest_place_is_told_with_the_iou_there() -> None:
    axis = np.array([-1.0, 0.0, 1.0])
    first, second = np.meshgrid(axis, axis)
    values = {"a": (first - 1) ** 2 + second**2, "IoU": 1 - 0.1 * (first**2 + (second - 1) ** 2)}
    row = lowest_places(Surface("p", "", axis, axis, values, {}, {}, {"a": 1.0, "IoU": 0.9})).iloc[0]
    assert (row["first"], row["second"], row["lowest"]) == (1, 0, 0)
    assert row["IoU there"] == pytest.approx(0.8)
    assert row["best IoU"] == 1
    assert height(Surface("p", "", axis, axis, values, {}, {}, {}), values["a"], 0.5, 0.5) == pytest.approx(1.0)


@pytest.mark.slow
@pytest.mark.parametrize("plane", ["random", "solutions", "path"])
def test_every_kind_of_plane_is_drawn(runs: list[Saved], tmp_path: Path, plane: str) -> None:
    knobs = KNOBS | {"curvature": 2, "images": 2}
    page = view(runs, LOSSES, tmp_path, plane=plane, **knobs).write(tmp_path).read_text()
    assert "plotly-graph-div" in page
    assert list(tmp_path.glob("landscape_*.png"))
    assert len(pd.read_csv(tmp_path / "landscape.csv")) == 9 * (2 if plane == "random" else 1)
    assert pd.read_csv(tmp_path / "lowest.csv")["largest eigenvalue"].notna().all()


def test_the_planes_of_the_moments_share_their_directions_and_lie_at_the_moments(runs: list[Saved]) -> None:
    planes = [plane for plane, _ in lay(runs[:1], "random", 1, True)]
    assert [plane.title for plane in planes] == ["epoch 0", "epoch 1", "epoch 2"]
    for plane, file in zip(planes, runs[0].moments.values(), strict=True):
        assert plane.first is planes[0].first
        state = runs[0].module(file).model.state_dict()
        assert all(torch.equal(x, state[name]) for name, x in plane.at(0, 0).items())


def test_a_film_of_planes_has_one_scale_for_each_loss() -> None:
    axis = np.array([-1.0, 0.0, 1.0])
    first, second = np.meshgrid(axis, axis)
    values = [{"a": k + first**2, "IoU": 1 - second**2} for k in (1, 9)]
    planes = [Surface(f"epoch {k}", "", axis, axis, v, {}, {}, {"a": 1.0, "IoU": 1.0}) for k, v in enumerate(values)]
    film = sheet(planes, "", pd.DataFrame(), moving=True).films["landscape"]
    spans = {drawn.get_clim() for figure in film.frames.values() for drawn in figure.axes[0].collections[:1]}
    assert list(film.frames) == ["epoch 0", "epoch 1"]
    assert spans == {(1.0, 10.0)}


@pytest.mark.parametrize(
    ("looked", "said"),
    [
        (lambda runs, other, at: view([runs[0], other], LOSSES, at, "random", **KNOBS), "expected the data of"),
        (lambda runs, other, at: view(runs, LOSSES, at, "flat", **KNOBS), "plane as one of random"),
        (lambda runs, other, at: view(runs, LOSSES, at, "random", **KNOBS | {"moments": True}), "random of one run"),
        (lambda runs, other, at: view(runs[:1], LOSSES, at, "solutions", **KNOBS), "two or three runs"),
        (lambda runs, other, at: view(runs, LOSSES, at, "random", **KNOBS | {"part": "all"}), "part as one of train"),
        (lambda runs, other, at: view(runs, LOSSES, at, "random", **KNOBS | {"images": 0}), "at least one image"),
        (lambda runs, other, at: view(runs, LOSSES, at, "random", **KNOBS | {"batchnorm": "x"}), "batchnorm as one of"),
        (lambda runs, other, at: view(runs, LOSSES, at, "random", **KNOBS | {"points": 1}), "at least 2 points"),
    ],
)
def test_what_has_no_landscape_is_one_sentence(
    runs: list[Saved], stranger: Saved, tmp_path: Path, looked: Callable[[list[Saved], Saved, Path], object], said: str
) -> None:
    with pytest.raises(ContractError, match=said):
        looked(runs, stranger, tmp_path)
