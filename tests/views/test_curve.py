"""The curves equal the loss: values by hand for a pixel, closed forms for an image, and finite differences."""

import math

import numpy as np
import pytest
import torch

from seglab.losses import BCE, Dice
from seglab.views.curve import curve, is_additive, pixel_curves, two_discs, view
from seglab.views.gradients import loss_and_gradient
from tests.losses.conftest import NAMES
from tests.losses.conftest import build as make


def test_whether_a_loss_is_a_mean_over_pixels_is_found_by_calling_it():
    additive = {"bce": True, "focal": True, "class_weighted_ce": False, "topk": False, "dice": False}
    assert {name: is_additive(make(name)) for name in additive} == additive  # weights are normalized per image


@pytest.mark.parametrize("gamma", [0.0, 2.0, 5.0])
def test_a_pixel_under_focal_loss_costs_what_the_paper_says(gamma):
    table = pixel_curves({"focal": make("focal", gamma=gamma)}, 21)
    p = table["p"]
    assert np.allclose(table["value"], -((1 - p) ** gamma) * np.log(p), atol=1e-12)
    by_hand = gamma * (1 - p) ** (gamma - 1) * np.log(p) - (1 - p) ** gamma / p
    assert np.allclose(table["by_p"], by_hand, rtol=1e-6)
    sign = np.where(table["pixel"] == "foreground", 1, -1)
    assert np.allclose(table["by_logit"], sign * by_hand * p * (1 - p), atol=1e-9)
    assert np.allclose(1 / (1 + np.exp(-sign * table["logit"])), p)


def test_an_image_moves_as_its_closed_form_says():
    """For Dice with n1 foreground pixels at p and n0 background pixels at 0.8, fp = 0.2 n0 and fn = (1 - p) n1."""
    target = two_discs(0.1, 20)
    margin = torch.linspace(-5, 5, 11, dtype=torch.float64)
    found = curve(Dice(), target, "foreground", margin, 0.8)
    n1, n0 = 40, 360
    assert int(target.sum()) == n1
    fn, fp = (1 - found["p"]) * n1, 0.2 * n0
    assert np.allclose(found["value"], (fn + fp) / (2 * (n1 - fn) + fn + fp))
    assert np.allclose(curve(BCE(), target, "background", margin, 0.8)["by_logit"], 1 - found["p"])


@pytest.mark.parametrize("name", ["dice", "lovasz_hinge", "boundary", "hausdorff", "weight_map", "cldice", "topk"])
def test_the_gradient_of_an_image_is_the_slope_of_its_curve(name):
    """Moving n pixels together by dz changes the loss by the sum of their gradients."""
    target = two_discs(0.1, 16)
    for side, margin in (("foreground", -2.0), ("background", -2.0), ("foreground", 1.3), ("background", 3.1)):
        around = torch.tensor([margin - 1e-3, margin, margin + 1e-3]).double()
        found = curve(make(name), target, side, around, 0.9)
        moving = int((target == (side == "foreground")).sum())
        slope = (found["value"][2] - found["value"][0]) / (found["logit"][2] - found["logit"][0])
        assert found["by_logit"][1] == pytest.approx(slope * 256 / moving, rel=1e-3, abs=1e-6)


def test_every_loss_has_a_finite_curve_that_moves_wrong_pixels_towards_the_truth():
    for name in NAMES:
        for side, sign in (("foreground", -1), ("background", 1)):
            found = curve(make(name), two_discs(0.1, 12), side, torch.tensor([-3.0, -1.0, 3.0]).double(), 0.9)
            assert np.isfinite(found["value"]).all(), name
            assert np.isfinite(found["by_logit"]).all(), name
            assert sign * found["by_logit"][1] > 0, f"{name}: dL/dz is below 0 on foreground and above 0 on background"


def test_an_image_is_weighed_by_its_own_fraction():
    table = view({"w": make("weighted_bce")}, 0.25, 0.9, 12, 3).tables["image"]  # weight (0.75 / 0.25)^2
    wrong = table.loc[table["pixel"] == "foreground", "value"].iloc[0]
    assert len(table) == 6
    assert wrong == pytest.approx(0.25 * 9 * math.log1p(math.exp(5)) - 0.75 * math.log(0.9))


def test_a_view_has_a_figure_and_a_table_for_each_thing_it_shows_and_one_color_for_each_loss():
    """This holds also if a loss has no value for a single pixel."""
    page = view({name: make(name) for name in ("bce", "dice", "focal", "boundary")}, 0.05, 0.8, 8, 3)
    assert [part.name for part in page.sections] == list(page.tables) == ["pixel", "image"]
    assert list(page.tables["pixel"]["loss"].unique()) == ["bce", "focal"]
    assert list(page.tables["image"]["loss"].unique()) == ["bce", "dice", "focal", "boundary"]
    assert "dice, boundary: not defined for a single pixel" in page.sections[0].content
    pixel, image = (section.figure.axes[0].lines for section in page.sections)
    colors = {line.get_label(): line.get_color() for line in image}
    assert {line.get_label(): line.get_color() for line in pixel} == {name: colors[name] for name in ("bce", "focal")}


def test_the_gradient_at_the_logits_is_the_textbook_one_and_float32():
    z = torch.tensor([[[[2.0, -1.0]]]], dtype=torch.float16)
    losses, gradient = loss_and_gradient(BCE(), z, torch.tensor([[[[1, 0]]]]), {})
    torch.testing.assert_close(gradient, (z.float().sigmoid() - torch.tensor([[[[1.0, 0.0]]]])) / 2)
    assert losses.shape == (1,)
