"""Masks without foreground and absent classes: the effect of each policy, per image."""

import pytest
import torch

from seglab.contract import ContractError
from tests.losses.conftest import of, scene

POLICY = ["dice", "iou", "tversky", "focal_tversky", "squared_dice", "dice_plus_plus", "noise_robust_dice", "jml"]
POLICY += ["log_cosh_dice", "lovasz_hinge", "lovasz_sigmoid", "mcc", "generalized_dice", "asymmetric_focal_tversky"]
POLICY += ["bce_dice", "combo", "exp_log", "unified_focal", "cldice", "boundary_dou"]
POLICY += ["generalized_wasserstein_dice", "lovasz_softmax"]
BINARY = POLICY[:-1]


def test_the_complement_scores_the_background(make, logits):
    empty, q = torch.zeros(3, 1, 12, 12, dtype=torch.uint8), 1 - logits.sigmoid()
    inside, beside = q.sum((1, 2, 3)), (1 - q).sum((1, 2, 3))
    torch.testing.assert_close(make("iou")(logits, empty), 1 - inside / 144)
    torch.testing.assert_close(make("dice")(logits, empty), beside / (2 * inside + beside))
    tversky = make("tversky", fp_weight=0.2, fn_weight=0.8)(logits, empty)
    torch.testing.assert_close(tversky, 0.8 * beside / (inside + 0.8 * beside))
    torch.testing.assert_close(make("mcc")(logits, empty), 1 - (inside / 144).sqrt())
    squared = (1 - q).square().sum((1, 2, 3)) / (q.square().sum((1, 2, 3)) + 144)
    torch.testing.assert_close(make("squared_dice")(logits, empty), squared)
    torch.testing.assert_close(make("lovasz_hinge")(logits, empty), (1 + logits).clamp(min=0).mean((1, 2, 3)))
    torch.testing.assert_close(make("lovasz_sigmoid")(logits, empty), logits.sigmoid().mean((1, 2, 3)))


def test_the_formula_is_taken_literally(make, logits):
    empty, mass = torch.zeros(3, 1, 12, 12, dtype=torch.uint8), logits.sigmoid().sum((1, 2, 3))
    torch.testing.assert_close(make("dice", empty="formula", smooth=1.0)(logits, empty), mass / (mass + 1))
    torch.testing.assert_close(make("dice", empty="formula")(logits, empty), torch.ones(3))
    torch.testing.assert_close(make("iou", empty="formula", smooth=2.0)(logits, empty), mass / (mass + 2))
    torch.testing.assert_close(make("lovasz_hinge", empty="formula")(logits, empty), 1 + logits.amax((1, 2, 3)))
    torch.testing.assert_close(make("mcc", empty="formula")(logits, empty), torch.ones(3))


@pytest.mark.parametrize("name", ["dice", "mcc", "lovasz_hinge", "squared_dice", "jml", "generalized_dice", "cldice"])
def test_a_skipped_image_is_left_out_of_the_mean_and_never_counted_as_right(make, name, logits, target):
    skip, keep, kept = make(name, empty="skip"), make(name), [0, 2]  # the second image of the target is empty
    torch.testing.assert_close(skip(logits, target).mean(), keep(logits[kept], target[kept]).mean())
    z = logits.requires_grad_()
    (gradient,) = torch.autograd.grad(skip(z, target).mean(), z)
    assert (gradient[1] == 0).all()
    assert (gradient[kept] != 0).any()
    nothing = skip(z, torch.zeros_like(target))
    assert torch.equal(nothing, torch.zeros(3))
    assert (torch.autograd.grad(nothing.sum(), z)[0] == 0).all()
    assert skip.per_class(logits, target)[1].isnan().all()


@pytest.mark.parametrize("name", ["dice", "iou", "jml"])
def test_with_many_classes_the_policy_applies_to_each(make, name):
    logits, target = scene("multiclass")  # the third image has only classes 0 and 1
    each = make(name, "multiclass").per_class(logits, target)
    torch.testing.assert_close(make(name, "multiclass")(logits, target), each.mean(1))
    skipped = make(name, "multiclass", empty="skip")(logits, target)
    torch.testing.assert_close(skipped, torch.stack([each[0].mean(), torch.tensor(0.0), each[2, 0]]) * 1.5)
    everything = make(name, "multiclass", empty="skip", classes="all")(logits, target)
    every = make(name, "multiclass", classes="all").per_class(logits, target)
    torch.testing.assert_close(everything, torch.stack([every[0].mean(), every[1, 0], every[2, :2].mean()]))


def test_an_absent_class_is_scored_by_the_rest_of_the_image(make):
    logits, target = scene("multiclass")
    p = logits.softmax(1)[2, 3].sum()  # the third image lacks class 3
    each = make("dice", "multiclass").per_class(logits, target)
    torch.testing.assert_close(each[2, 2], p / (2 * (144 - p) + p))
    literal = make("dice", "multiclass", empty="formula", smooth=1.0).per_class(logits, target)
    torch.testing.assert_close(literal[2, 2], p / (p + 1))


@of(lambda case: case.name in POLICY and case.task != "multilabel")
def test_every_policy_is_finite_on_every_mask(case, make):
    sizes = torch.tensor([-1e4, -20.0, 0.0, 20.0, 1e4]).view(5, 1, 1, 1)
    target = torch.arange(2, dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 1, 8, 8).repeat(5, 1, 1, 1)
    for policy in ("complement", "formula", "skip"):
        z = sizes.repeat_interleave(2, 0).expand(10, 1, 8, 8).clone().requires_grad_()
        many = z if case.task == "binary" else torch.cat([-z, z, 0 * z, 0 * z], 1)
        value = make(case.name, case.task, empty=policy)(many, target)
        assert value.isfinite().all()
        assert torch.autograd.grad(value.sum(), z)[0].isfinite().all()


def test_an_unknown_policy_is_refused(make):
    for name in BINARY:
        with pytest.raises(Exception, match="empty to be complement or formula or skip, got 'zero'") as caught:
            make(name, empty="zero")
        assert isinstance(caught.value.__cause__ or caught.value, ContractError), name


def test_balanced_ce_of_one_class_is_the_mean_over_that_class(make, logits):
    for target in (torch.zeros(3, 1, 12, 12, dtype=torch.uint8), torch.ones(3, 1, 12, 12, dtype=torch.uint8)):
        torch.testing.assert_close(make("balanced_ce")(logits, target), make("bce")(logits, target))
