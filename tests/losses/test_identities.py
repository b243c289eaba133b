"""Formulas that equal another one for certain parameters, and tasks that equal another one for certain logits."""

import pytest
import torch

from seglab.contract import Task
from tests.losses.conftest import of, scene

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
    ("sce", {"ce_weight": 1.0, "log_zero": -2.0}, "poly1", {"epsilon": 2.0}),
    ("mbls", {"weight": 0.0}, "bce", {}),
    ("nacl", {"weight": 0.0}, "bce", {}),
    ("l1_ace", {"weight": 0.0}, "bce", {}),
    ("region_size", {"weight": 0.0}, "bce", {}),
    ("logit_adjusted", {"strength": 0.0}, "bce", {}),
    ("bce_dice", {"dice_weight": 0.0}, "bce", {}),
]


@pytest.mark.parametrize(("name", "parameters", "other", "others"), SAME)
def test_a_loss_with_these_parameters_equals_another(make, name, parameters, other, others):
    for task in ("binary", "multiclass"):
        one, two = make(name, task, **parameters), make(other, task, **others)
        z, target = scene(task)
        z.requires_grad_()
        torch.testing.assert_close(one(z, target), two(z, target))
        gradients = [torch.autograd.grad(loss(z, target).sum(), z)[0] for loss in (one, two)]
        torch.testing.assert_close(*gradients, atol=1e-8, rtol=1e-5)


def test_wasserstein_dice_of_one_class_is_dice(make, logits, target):
    torch.testing.assert_close(make("generalized_wasserstein_dice")(logits, target), make("dice")(logits, target))


@of(lambda case: case.task == "multiclass" and case.name != "lovasz_softmax")
def test_a_softmax_of_two_classes_with_logits_0_and_z_is_a_sigmoid_of_z(case):
    from tests.losses.conftest import Case, build

    name = {} if case.name != "external" else {"function": {"_target_": "torch.nn.BCEWithLogitsLoss"}}
    logits, target = scene("binary")
    binary = Case(case.name, "binary", build(case.name, **name))
    two = Case(case.name, "multiclass", binary.loss.with_task(Task("multiclass", ("background", "foreground"))))
    if case.name == "external":
        two = Case(case.name, "multiclass", case.loss)
    z = logits.double()
    pair = torch.cat([0 * z, z], 1) if case.name != "nacl" else torch.cat([1 - z, 1 + z], 1) / 2
    torch.testing.assert_close(two(pair, target), binary(z, target))
    if case.name not in {"weight_map", "nacl"}:  # their slopes differ: two maps, half the logit
        torch.testing.assert_close(two.gradient(pair, target)[:, 1:], binary.gradient(z, target))
    if case.loss.soft and not case.loss.needs:
        soft = torch.rand(z.shape, generator=torch.Generator().manual_seed(2)).double()
        torch.testing.assert_close(two.loss(pair, torch.cat([1 - soft, soft], 1)), binary.loss(z, soft))


@of(lambda case: case.task == "multilabel" and not case.fitted)
def test_channels_are_scored_apart_and_averaged_last(case, logits, target):
    alone = type(case)(case.name, "binary", case.loss.with_task(Task()))
    each = [alone(logits[:, c : c + 1], target[:, c : c + 1]) for c in range(2)]
    torch.testing.assert_close(case(logits, target), torch.stack(each).mean(0))


def test_class_weights_weigh_the_mean_of_channels_and_of_classes(make):
    logits, target = scene("multilabel")
    for name in ("dice", "bce", "boundary", "lovasz_sigmoid"):
        loss, maps = make(name, "multilabel"), {"distance": torch.randn(logits.shape)}
        maps = {need: maps[need] for need in loss.needs}
        each = loss.per_class(logits, target, **maps)
        weighted = type(loss)(task="multilabel", class_weights=(3.0, 1.0))(logits, target, **maps)
        torch.testing.assert_close(weighted, (3 * each[:, 0] + each[:, 1]) / 4)
    logits, target = scene("multiclass")
    each = make("dice", "multiclass").per_class(logits, target)
    weighted = make("dice", "multiclass", class_weights={"background": 9, "kidney": 0, "liver": 1, "spleen": 3})
    torch.testing.assert_close(weighted(logits, target), (each[:, 0] + 3 * each[:, 1]) / 4)
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    cost = torch.nn.functional.cross_entropy(logits, target[:, 0].long(), reduction="none")
    expected = (weights[target[:, 0].long()] * cost).mean((1, 2))
    torch.testing.assert_close(make("bce", "multiclass", class_weights=[1, 2, 3, 4])(logits, target), expected)


def test_classes_that_are_auto_weigh_by_their_frequency(make):
    loss = make("bce", "multiclass", class_weights="auto")
    assert loss.class_weights == pytest.approx([1 / (4 * f) for f in (0.6, 0.2, 0.15, 0.05)])
    assert make("weighted_bce", "multiclass").pos_weight == pytest.approx((3.0, 4.0, 12.0))
    assert make("weighted_bce", "multilabel").pos_weight == pytest.approx((9.0, 3.0))
    assert make("exp_log").pos_weight == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("name", "one", "other", "scale"),
    [
        ("focal", {"alpha": 0.3}, {"alpha": 0.7}, 1),
        ("focal", {"alpha": 0.3, "gamma": 0.0}, {"alpha": 0.7, "gamma": 0.0}, 1),
        ("weighted_bce", {"pos_weight": 0.25}, {"pos_weight": 4.0}, 0.25),
        ("class_weighted_ce", {"foreground_weight": 1.0, "background_weight": 3.0}, {"foreground_weight": 3.0}, 1),
    ],
)
def test_foreground_and_background_may_change_places_with_their_weights(make, name, one, other, scale, logits, target):
    z = logits.requires_grad_()
    values = make(name, **one)(z, target), scale * make(name, **other)(-z, 1 - target)
    torch.testing.assert_close(*values)
    gradients = [torch.autograd.grad(value.sum(), z)[0] for value in values]
    torch.testing.assert_close(*gradients, atol=1e-8, rtol=1e-5)


def test_for_equal_classes_balanced_ce_is_bce_and_generalized_dice_the_mean_of_both_dices(make, logits):
    half = torch.zeros(3, 1, 12, 12, dtype=torch.uint8)
    half[:, :, :6] = 1
    torch.testing.assert_close(make("balanced_ce")(logits, half), make("bce")(logits, half))
    error = (logits.sigmoid() - half).abs().sum((1, 2, 3))
    torch.testing.assert_close(make("generalized_dice")(logits, half), error / 144)


def test_minus_dice_of_the_ships_keeps_its_offset(make, logits, target):
    loss, score = make("bce_dice", bce_weight=1e-3, offset=-1.0), 1 - make("dice")(logits, target)
    torch.testing.assert_close(loss(logits, target), 1e-3 * make("bce")(logits, target) - score)
    assert float(loss((target[:1] * 2.0 - 1) * 50, target[:1])) == pytest.approx(-1)


@of(lambda case: case.local)
def test_volumes_and_rows_cost_what_their_pixels_cost(case, logits, target):
    flat = case(logits, target)
    for space in ((4, 3, 12), (144,)):
        torch.testing.assert_close(case(logits.reshape(3, -1, *space), target.reshape(3, -1, *space)), flat)


def test_with_many_classes_a_pixel_counts_the_narrowest_gap(make):
    logits, target = scene("multiclass")
    gap = torch.rand(3, 4, 12, 12, generator=torch.Generator().manual_seed(1)) * 20
    cost = torch.nn.functional.cross_entropy(logits, target[:, 0].long(), reduction="none")
    border = 10 * torch.exp(-(gap[:, 1:].amin(1) ** 2) / 50)
    torch.testing.assert_close(
        make("weight_map", "multiclass")(logits, target, gap=gap), ((1 + border) * cost).mean((1, 2))
    )
