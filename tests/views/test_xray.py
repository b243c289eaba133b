"""The X-ray sums gradients as by hand, on predictions that improve, and warns of planted problems."""

import math
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from seglab.contract import ContractError
from seglab.data.datasets.synthetic import Synthetic
from seglab.engine.module import SegModule
from seglab.losses import BCE, Dice, Focal
from seglab.models.unet import UNet
from seglab.views.xray import (
    QUALITIES,
    measure,
    near_edge,
    object_sizes,
    on_empty,
    regions,
    simulated,
    soft_iou,
    typical_radius,
    view,
)
from seglab.views.xray_figures import warnings


def fresh():
    torch.manual_seed(0)
    optimizer = partial(torch.optim.SGD, lr=0.1)
    return SegModule(UNet(in_channels=3, base=4, depth=2), BCE(), optimizer, mean=[0.5], std=[0.25])


def batch():
    """Return an image with objects of 4 and 16 pixels, and an empty image."""
    target = torch.zeros(2, 1, 16, 16, dtype=torch.uint8)
    target[0, 0, 2:4, 2:4] = target[0, 0, 8:12, 8:12] = 1
    return {"image": torch.zeros(2, 3, 16, 16, dtype=torch.uint8), "target": target, "id": ["a", "b"]}


def test_small_and_large_objects_are_separated_by_their_pixels():
    sizes = object_sizes(batch()["target"])
    assert sizes.unique().tolist() == [0, 4, 16]
    assert typical_radius(sizes) == pytest.approx(math.sqrt(16 / math.pi))
    areas = regions(torch.zeros(2, 1, 16, 16), batch()["target"], 1)
    counted = {name: int(area.sum()) for name, area in areas.items()}
    assert counted["foreground"] == 20
    assert counted["background"] == 512 - 20
    assert (counted["small objects"], counted["large objects"]) == (4, 16)
    assert counted["empty images"] == 256
    assert counted["edge"] == 16 + (36 - 4)  # objects and rings around them, without the larger one's 2 x 2 core


def test_pixels_that_do_not_count_are_as_if_they_were_cut_off():
    seen = batch()
    logits = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    wider = {name: torch.nn.functional.pad(seen[name], (0, 8)) for name in ("image", "target")}
    wider["valid"] = torch.nn.functional.pad(torch.ones(2, 1, 16, 16, dtype=torch.bool), (0, 8))
    losses = {"bce": BCE(), "dice": Dice()}
    expected = measure(losses, {"now": logits}, seen, 2, 1)
    found = measure(losses, {"now": torch.nn.functional.pad(logits, (0, 8), value=5.0)}, wider, 2, 1)
    for name, table in expected.items():
        pd.testing.assert_frame_equal(found[name], table, rtol=1e-5)
    padded = torch.nn.functional.pad(logits, (0, 8))
    assert soft_iou(logits, seen["target"]) == pytest.approx(soft_iou(padded, wider["target"], wider["valid"]))


def test_the_edge_is_both_sides_of_the_outline():
    mask = torch.zeros(1, 1, 7, 7, dtype=torch.uint8)
    mask[..., 3:] = 1
    assert near_edge(mask, 1)[0, 0, 0].tolist() == [False, False, True, True, False, False, False]
    assert near_edge(mask, 2).float().mean().item() == pytest.approx(4 / 7)
    assert not near_edge(torch.zeros_like(mask), 2).any()
    assert not near_edge(torch.ones_like(mask), 2).any()
    assert not near_edge(mask, 2, mask > 0).any(), "beyond an object is padding, and no outline"


def test_simulated_predictions_get_better_and_are_repeatable():
    target = batch()["target"]
    made = [simulated(target, quality, 2.0, 1) for quality in QUALITIES.values()]
    overlap = [soft_iou(logits, target) for logits in made]
    assert overlap == sorted(overlap)
    assert overlap[-1] > 0.5
    assert torch.equal(made[0], simulated(target, 0.3, 2.0, 1))


def test_the_regions_and_the_concentration_of_cross_entropy_are_those_of_its_errors():
    seen = batch()
    logits = torch.full((2, 1, 16, 16), -2.0)
    tables = measure({"bce": BCE()}, {"x": logits}, seen, 2, 1)
    by_region, norms = tables["regions"].set_index("region"), tables["norms"]
    p = 1 / (1 + math.exp(2))
    whole = 20 * (1 - p) + 492 * p
    found = by_region["gradient"]
    assert found["foreground"] == pytest.approx(20 * (1 - p) / whole, rel=1e-6)
    assert found["hard"] == found["foreground"]
    assert found["background"] == pytest.approx(492 * p / whole, rel=1e-6)
    assert by_region["pixels"]["foreground"] == 20 / 512
    needed = 20 + math.ceil((0.9 * whole - 20 * (1 - p)) / p)
    assert norms["fraction_for_90_percent"].item() == pytest.approx(needed / 512, abs=1.5 / 512)
    first = [20 * (1 - p) ** 2 + 236 * p**2, 256 * p**2]
    assert norms["norm"].item() == pytest.approx(sum(math.sqrt(x) / 256 for x in first) / 2, rel=1e-5)


def test_an_empty_image_costs_what_the_closed_form_says():
    table = on_empty({"bce": BCE(), "skip": Dice(empty="skip"), "dice": Dice()}, batch()["target"]).set_index("loss")
    true_negative, false_positive = math.log1p(math.exp(-4)), -math.log(0.1)
    assert table.loc["bce", "without_fp"] == pytest.approx(true_negative, rel=1e-5)
    assert table.loc["bce", "with_fp"] == pytest.approx((236 * true_negative + 20 * false_positive) / 256, rel=1e-5)
    assert table.loc["bce", "fp_gradient"] == pytest.approx(0.9, rel=1e-5)
    assert list(table.loc["skip"]) == [0, 0, 0]
    assert table.loc["dice", "fp_gradient"] > 0
    with pytest.raises(ContractError, match=r"xray: expected an image with foreground, got none; raise xray\.images"):
        on_empty({"bce": BCE()}, torch.zeros(2, 1, 4, 4))


def test_a_planted_problem_gives_a_warning():
    losses = {"skip": Dice(empty="skip"), "focal": Focal(gamma=8.0), "dice": Dice(empty="formula")}
    target = batch()["target"]
    sure = (2.0 * target - 1) * 5  # right everywhere
    sure[0, 0, 15, 15] = 2.0  # except for one false positive
    predictions = {"untrained": torch.full((2, 1, 16, 16), 0.0), "half-trained": sure}
    found = " | ".join(warnings(measure(losses, predictions, batch(), 2, 1) | {"empty": on_empty(losses, target)}))
    assert "skip: no gradient against false positives on empty images (0; bce has 0.9)" in found
    assert "dice: costs 1 on an empty image that is predicted correctly" in found
    assert "focal, half-trained: 90 % of the gradient is on 0.2 % of the pixels" in found
    assert "skip, half-trained: 90 %" not in found


@pytest.mark.slow
def test_an_xray_without_a_warning_logs_no_empty_line(caplog):
    with caplog.at_level("INFO"):
        page = view({"dice": Dice()}, Synthetic(size=32, train=4, val=2, test=2), fresh(), 4, 2, 2, None, 1)
    assert "None." in page.sections[0].content
    assert [record.getMessage()[:5] for record in caplog.records] == ["data:"]


@pytest.mark.slow
def test_the_view_makes_its_tables_and_figures_without_a_trace_of_training():
    losses = {"bce": BCE(), "focal gamma=5": Focal(gamma=5.0)}
    module = fresh()
    before = [weight.clone() for weight in module.parameters()]
    page = view(losses, Synthetic(size=32, train=4, val=2, test=2), module, 4, 2, 2, None, 1)
    assert [part.name for part in page.sections if part.figure] == ["regions"]
    assert set(page.tables) == {"regions", "norms", "empty"}
    assert set(page.tables["regions"]["stage"]) == {"untrained", *QUALITIES}
    both = page.tables["regions"].pivot_table(index=["stage", "loss"], columns="region", values="gradient")
    assert np.allclose(both["foreground"] + both["background"], 1)
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
