"""Landscapes are exact where the answer is known, and do not change the model."""

from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from seglab.contract import ContractError
from seglab.engine.config import build_choices
from seglab.engine.module import SegModule
from seglab.engine.trained_run import open_run
from seglab.losses import BCE
from seglab.losses.base import Loss
from seglab.plots import file_keys
from seglab.train import train
from seglab.views.landscape import Surface, contours, lowest_places, measure, page, view
from seglab.views.weight_planes import Plane, random_plane
from tests.conftest import OF_FILES, compose, facts_of
from tests.data.fabricate import write_image, write_scenes

OPTIONS = {"plane": "random", "points": 3, "span": 1.0, "split": "test", "images": None, "seed": 1}
LOSSES = build_choices("loss", ["bce", "dice"])


@dataclass(frozen=True, kw_only=True)
class Square(Loss):
    """The mean squared difference of logit and target."""

    def value(self, x):
        return (x.z - x.t).square().mean((1, 2))


def module(model):
    """Return a module that does not normalize its images."""
    torch.manual_seed(0)
    return SegModule(model, BCE(), torch.optim.SGD, mean=(0.0,), std=(1 / 255,)).eval()


def batches():
    rng = torch.Generator().manual_seed(0)
    images = [torch.randn(n, 3, 16, 16, generator=rng) for n in (2, 1)]
    made = [{"image": x, "target": (x[:, :1] > 0.5).float(), "id": ["i"] * len(x)} for x in images]
    return [batch | {"index": k} for batch, k in zip(made, torch.arange(3).split([2, 1]), strict=True)]


def test_the_landscape_of_a_linear_model_with_a_quadratic_loss_is_the_paraboloid():
    linear = module(nn.Conv2d(3, 1, 1, bias=False))
    plane = random_plane("linear", linear.model, 1)
    places = [(a, b) for a in (-1.0, 0.3, 2.0) for b in (-0.7, 0.0)]
    table = measure(linear, plane, places, batches(), {"square": Square()})
    x = torch.cat([b["image"].permute(0, 2, 3, 1).reshape(-1, 3) for b in batches()]).double()
    t = torch.cat([b["target"].flatten() for b in batches()]).double()
    w, u, v = (weights["weight"].flatten().double() for weights in (plane.center, plane.first, plane.second))
    gram, cross = x.T @ x / len(x), x.T @ t / len(x)
    for a, b in places:
        at = w + a * u + b * v
        expected = float(at @ gram @ at - 2 * cross @ at + (t @ t) / len(t))
        assert table["square"][a, b] == pytest.approx(expected, rel=1e-5)


def test_the_center_has_the_loss_and_iou_that_the_run_was_measured_with(run):
    found = view([run], LOSSES, **OPTIONS)
    tables = found.tables
    assert "BatchNorm" not in found.sections[0].caption, "norms do not move on a random plane"
    row, metrics = tables["lowest"].set_index("loss").loc["dice"], run.facts["metrics"]
    assert row["at center"] == pytest.approx(metrics["test/loss"], rel=1e-6)
    assert row["IoU at center"] == pytest.approx(metrics["test/iou"], abs=1e-6)
    assert tables["landscape"].set_index(["first", "second"])["dice"][0.0, 0.0] == row["at center"]


def test_the_center_of_a_run_on_patches_is_that_of_its_validation_by_the_policy_of_the_run(tmp_path):
    write_scenes(tmp_path / "data", 12, height=80, width=70, radius=12)
    write_image(tmp_path / "data/masks/03.png", np.zeros((80, 70)))
    words = ("dataset=folder", f"dataset.root={tmp_path / 'data'}", "dataset.cache_dir=null", "dataset.fit=patch")
    words += ("dataset.val_fraction=0.5", "empty=skip", "loss=dice", "seed=2")
    folder = tmp_path / "run"
    train(compose("train", *OF_FILES, *words, folder=folder), folder)
    found = view([open_run(folder)], LOSSES, **OPTIONS | {"split": "val"})
    row, facts = found.tables["lowest"].set_index("loss").loc["dice"], facts_of(folder)
    best = pd.read_csv(folder / "metrics.csv").set_index("epoch").loc[facts["monitor"]["epoch"]]
    assert row["at center"] == pytest.approx(best["val/loss"], rel=1e-6)
    assert row["IoU at center"] == pytest.approx(best["val/iou"], abs=1e-6)
    assert f"Means over {facts['data']['images']['val']} val images" in found.sections[0].caption


def test_the_lowest_place_is_listed_with_the_iou_there():
    places = square("p").places
    first, second = places["first"], places["second"]
    surface = square("p", a=(first - 1) ** 2 + second**2, IoU=1 - 0.1 * (first**2 + (second - 1) ** 2))
    row = lowest_places(surface).iloc[0]
    assert (row["first"], row["second"], row["lowest"]) == (1, 0, 0)
    assert row["IoU there"] == pytest.approx(0.8)
    assert row["best IoU"] == 1


def square(title, **columns):
    """Return a surface of nine points, each with a loss `a` and an IoU."""
    plane = Plane(title, {}, {}, {}, "", {"the run": [(0.0, 0.0)]})
    places = pd.DataFrame(product([-1.0, 0.0, 1.0], repeat=2), columns=["second", "first"])[["first", "second"]]
    return Surface(plane, places.assign(**columns), pd.Series({"a": 1.0, "IoU": 0.9}))


@pytest.mark.parametrize("lowest", [0.0, 0.5, -1.0])
def test_a_loss_that_overflows_far_out_is_drawn_where_it_is_finite(lowest):
    figure = contours(square("p", a=[lowest, 1, 2, 3, 4, 5, float("nan"), 7, float("inf")], IoU=0.5))
    assert figure.axes[0].get_title(loc="left") == "a"
    with pytest.raises(ContractError, match="landscape p: expected a finite a, got none; use a smaller"):
        contours(square("p", a=float("nan"), IoU=0.5))


def test_planes_whose_titles_have_the_same_letters_have_files_of_their_own():
    made = page([square(f"focal gamma={gamma}", a=1.0, IoU=0.5) for gamma in (-1, 1, 1.0)], "")
    names = [section.name for section in made.sections if section.name]
    assert names == ["landscape_focal-gamma-1", "landscape_focal-gamma-1_2", "landscape_focal-gamma-1-0"]
    assert [len(key) for key in file_keys(["a" * 300, "a" * 301])] == [100, 102]


@pytest.mark.slow
@pytest.mark.parametrize("plane", ["solutions", "path"])
def test_every_kind_of_plane_is_drawn(runs, tmp_path, plane):
    options = OPTIONS | {"plane": plane, "images": 2}
    found = view(runs, LOSSES, **options)
    found.write(tmp_path)
    assert "BatchNorm statistics move with the weights." in found.sections[0].caption
    assert list(tmp_path.glob("landscape_*.png"))
    assert len(pd.read_csv(tmp_path / "landscape.csv")) == 9


@pytest.mark.parametrize(
    ("shown", "changed", "message"),
    [
        ("bce other", {}, "expected the data of"),
        ("bce dice", {"plane": "flat"}, "plane as one of random"),
        ("bce", {"plane": "solutions"}, "two or three runs"),
        ("bce dice", {"images": 0}, "at least one image"),
    ],
)
def test_a_request_without_a_landscape_is_one_sentence(pick, shown, changed, message):
    with pytest.raises(ContractError, match=message):
        view(pick(shown), LOSSES, **OPTIONS | changed)
