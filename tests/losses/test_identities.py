"""Where one formula is another with certain parameters."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

SAME = [
    ("tversky", {"fp_weight": 0.5, "fn_weight": 0.5}, "dice", {}),
    ("tversky", {"fp_weight": 1.0, "fn_weight": 1.0}, "iou", {}),
    ("tversky", {"fp_weight": 0.5, "fn_weight": 0.5, "smooth": 2.0}, "dice", {"smooth": 4.0}),
    ("focal_tversky", {"exponent": 1.0}, "tversky", {}),
    ("focal", {"gamma": 0.0}, "bce", {}),
    ("asymmetric_focal", {"gamma": 0.0, "alpha": None}, "bce", {}),
    ("poly1", {"epsilon": 0.0}, "bce", {}),
    ("label_smoothing", {"smoothing": 0.0}, "bce", {}),
    ("topk", {"fraction": 1.0}, "bce", {}),
    ("weighted_bce", {"pos_weight": 1.0}, "bce", {}),
    ("class_weighted_ce", {"foreground_weight": 3.0, "background_weight": 3.0}, "bce", {}),
    ("noise_robust_dice", {"exponent": 2.0}, "squared_dice", {}),
    ("dice_plus_plus", {}, "squared_dice", {}),
    ("dice_plus_plus", {"exponent": 1.0}, "dice", {}),
    ("jml", {}, "iou", {}),
    ("jml", {"fp_weight": 0.5, "fn_weight": 0.5}, "dice", {}),
    ("unified_focal", {"weight": 0.0}, "asymmetric_focal_tversky", {}),
    ("unified_focal", {"weight": 1.0}, "asymmetric_focal", {"alpha": 0.6, "gamma": 0.5}),
    ("combo", {"alpha": 0.0}, "dice", {}),
    ("bce_dice", {"bce_weight": 0.0}, "dice", {}),
    ("bce_dice", {"dice_weight": 0.0}, "bce", {}),
]


@pytest.mark.parametrize(("name", "parameters", "other", "others"), SAME)
def test_one_is_the_other(make, name, parameters, other, others, logits: Tensor, target: Tensor) -> None:
    one, two = make(name, **parameters), make(other, **others)
    z = logits.requires_grad_()
    torch.testing.assert_close(one(z, target), two(z, target))
    gradients = [torch.autograd.grad(loss(z, target).sum(), z)[0] for loss in (one, two)]
    torch.testing.assert_close(*gradients, atol=1e-8, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "one", "other", "scale"),
    [
        ("focal", {"alpha": 0.3}, {"alpha": 0.7}, 1),
        ("focal", {"alpha": 0.3, "gamma": 0.0}, {"alpha": 0.7, "gamma": 0.0}, 1),
        ("weighted_bce", {"pos_weight": 0.25}, {"pos_weight": 4.0}, 0.25),
        ("class_weighted_ce", {"foreground_weight": 1.0, "background_weight": 3.0}, {"foreground_weight": 3.0}, 1),
    ],
)
def test_classes_may_change_places_with_their_weights(
    make, name, one, other, scale, logits: Tensor, target: Tensor
) -> None:
    z = logits.requires_grad_()
    values = make(name, **one)(z, target), scale * make(name, **other)(-z, 1 - target)
    torch.testing.assert_close(*values)
    gradients = [torch.autograd.grad(value.sum(), z)[0] for value in values]
    torch.testing.assert_close(*gradients, atol=1e-8, rtol=1e-5)


def test_balanced_ce_of_equal_classes_is_bce(make, logits: Tensor) -> None:
    half = torch.zeros(3, 1, 12, 12, dtype=torch.uint8)
    half[:, :, :6] = 1
    torch.testing.assert_close(make("balanced_ce")(logits, half), make("bce")(logits, half))


def test_generalised_dice_of_equal_classes_is_the_mean_of_both_dices(make, logits: Tensor) -> None:
    half = torch.zeros(3, 1, 12, 12, dtype=torch.uint8)
    half[:, :, :6] = 1
    error = (logits.sigmoid() - half).abs().sum((1, 2, 3))
    torch.testing.assert_close(make("generalised_dice")(logits, half), error / 144)


def test_half_of_combo_at_equal_weights_is_a_quarter_of_ce_plus_half_of_dice(
    make, logits: Tensor, target: Tensor
) -> None:
    expected = make("bce")(logits, target) / 4 + make("dice")(logits, target) / 2
    torch.testing.assert_close(make("combo")(logits, target), expected)


def test_minus_dice_of_the_ships_keeps_its_offset(make, logits: Tensor, target: Tensor) -> None:
    loss = make("bce_dice", bce_weight=1e-3, offset=-1.0)
    score = 1 - make("dice")(logits, target)
    torch.testing.assert_close(loss(logits, target), 1e-3 * make("bce")(logits, target) - score)
    assert float(loss((target[:1] * 2.0 - 1) * 50, target[:1])) == pytest.approx(-1)


def test_a_batchwise_loss_is_that_of_one_tall_image(make, logits: Tensor, target: Tensor) -> None:
    tall = make("dice")(logits.reshape(1, 1, 36, 12), target.reshape(1, 1, 36, 12))
    torch.testing.assert_close(make("batchwise")(logits, target), tall.expand(3))


def test_the_power_of_focal_tversky_comes_before_the_mean(make, logits: Tensor, target: Tensor) -> None:
    powered = make("tversky")(logits, target) ** 0.75
    torch.testing.assert_close(make("focal_tversky")(logits, target).mean(), powered.mean())


def test_channels_are_scored_apart_and_averaged_last(make, logits: Tensor, target: Tensor) -> None:
    for name in ("bce", "dice", "mcc", "focal_tversky", "generalised_dice", "lovasz_hinge", "topk", "squared_dice"):
        loss = make(name)
        both = loss(torch.cat([logits, logits.flip(0)], 1), torch.cat([target, target.flip(0)], 1))
        torch.testing.assert_close(both, (loss(logits, target) + loss(logits.flip(0), target.flip(0))) / 2)


def test_volumes_and_rows_cost_what_their_pixels_cost(make, logits: Tensor, target: Tensor) -> None:
    for name in ("bce", "dice", "focal", "unified_focal", "lovasz_sigmoid", "jml"):
        loss = make(name)
        flat = loss(logits, target)
        torch.testing.assert_close(loss(logits.view(3, 1, 4, 3, 12), target.view(3, 1, 4, 3, 12)), flat)
        torch.testing.assert_close(loss(logits.view(3, 1, 144), target.view(3, 1, 144)), flat)


def test_lovasz_of_equal_errors_is_the_error(make, target: Tensor) -> None:
    torch.testing.assert_close(make("lovasz_hinge")(torch.zeros(target.shape), target), torch.ones(3))
    torch.testing.assert_close(make("lovasz_sigmoid")(torch.zeros(target.shape), target), torch.full((3,), 0.5))


def test_the_exponent_of_the_foreground_is_one_minus_gamma(make, logits: Tensor, target: Tensor) -> None:
    flat, steep = (make("asymmetric_focal_tversky", gamma=g)(logits[:1], target[:1]) for g in (0.0, 0.8))
    foreground = make("tversky", fp_weight=0.4, fn_weight=0.6)(logits[:1], target[:1])
    torch.testing.assert_close(steep - flat, (foreground**0.2 - foreground) / 2)


def test_pooling_keeps_channels_apart(make, logits: Tensor, target: Tensor) -> None:
    pooled = make("batchwise")
    both = pooled(torch.cat([logits, logits.flip(1, 2)], 1), torch.cat([target, 1 - target], 1))
    apart = pooled(logits, target), pooled(logits.flip(1, 2), 1 - target)
    torch.testing.assert_close(both, (apart[0] + apart[1]) / 2)
