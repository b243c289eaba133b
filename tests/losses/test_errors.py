"""Bad input is answered in one sentence that names the loss and the parameter."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from seglab.contract import ContractError
from seglab.losses.combine import Sum
from seglab.losses.external import External

LIMITS = [
    ("weighted_bce", "pos_weight", 0.0),
    ("weighted_bce", "pos_weight", "much"),
    ("class_weighted_ce", "foreground_weight", -1.0),
    ("class_weighted_ce", "background_weight", 0.0),
    ("label_smoothing", "smoothing", 0.5),
    ("focal", "gamma", -0.1),
    ("focal", "alpha", 1.5),
    ("asymmetric_focal", "alpha", -0.5),
    ("poly1", "epsilon", -2.0),
    ("topk", "fraction", 0.0),
    ("weight_map", "sigma", 0.0),
    ("weight_map", "border_weight", -1.0),
    ("weight_map", "pos_weight", -1.0),
    ("dice", "smooth", -1.0),
    ("tversky", "fp_weight", 0.0),
    ("tversky", "fn_weight", -1.0),
    ("focal_tversky", "exponent", 0.0),
    ("sensitivity_specificity", "sensitivity_weight", 1.1),
    ("dice_plus_plus", "exponent", 0.5),
    ("noise_robust_dice", "exponent", 2.5),
    ("jml", "fp_weight", 0.0),
    ("asymmetric_focal_tversky", "gamma", 1.0),
    ("hausdorff", "exponent", 0.0),
    ("cldice", "iterations", -1),
    ("cldice", "smooth", 0.0),
    ("cldice", "dice_weight", 2.0),
    ("bce_dice", "bce_weight", -1.0),
    ("combo", "alpha", 2.0),
    ("combo", "beta", 0.0),
    ("exp_log", "smooth", 0.0),
    ("exp_log", "exponent", 0.0),
    ("unified_focal", "weight", -0.1),
    ("unified_focal", "delta", 1.0),
    ("unified_focal", "gamma", 1.0),
]


@pytest.mark.parametrize(("name", "parameter", "value"), LIMITS)
def test_a_parameter_out_of_range_is_named(make, name: str, parameter: str, value: object) -> None:
    kind = type(make(name))
    with pytest.raises(ContractError, match=rf"^{kind.__name__}: expected {parameter} .*, got {value}"):
        kind(**{parameter: value})


def test_shapes_that_differ_are_both_named(case, logits: Tensor, target: Tensor) -> None:
    for wrong in (target[:, 0], target[:2], target[..., :6], target.expand(3, 2, 12, 12)):
        with pytest.raises(ContractError, match=r"\(3, 1, 12, 12\) and \(") as caught:
            case.loss(logits, wrong)
        assert str(caught.value).startswith(type(case.loss).__name__)


def test_an_image_without_a_batch_or_with_integers_is_refused(case) -> None:
    with pytest.raises(ContractError, match="one shape"):
        case.loss(torch.zeros(8, 8), torch.zeros(8, 8))
    with pytest.raises(ContractError, match="one shape"):
        case.loss(torch.zeros(0, 1, 8, 8), torch.zeros(0, 1, 8, 8))
    with pytest.raises(ContractError, match=r"floating-point logits, got torch\.int64"):
        case.loss(torch.zeros(1, 1, 8, 8, dtype=torch.int64), torch.zeros(1, 1, 8, 8))


def test_a_missing_map_is_named(case, logits: Tensor, target: Tensor) -> None:
    if not case.loss.needs:
        pytest.skip("needs no map")
    with pytest.raises(ContractError, match=f"a map '{case.loss.needs[0]}' shaped like the target, got none"):
        case.loss(logits, target)


def test_numbers_that_are_none_and_targets_out_of_range_are_named(case, logits: Tensor, target: Tensor) -> None:
    broken = logits.clone()
    broken[0, 0, 0, :2] = torch.nan
    with pytest.raises(ContractError, match="expected logits that are numbers, got 2 NaN of 432"):
        case.loss.check(broken, target)
    with pytest.raises(ContractError, match=r"expected a target in \[0, 1\], got 0 to 255; divide masks of 255 by 255"):
        case.loss.check(logits, target * 255)
    with pytest.raises(ContractError, match="got -1 to 0"):
        case.loss.check(logits, target.float() - 1)
    case.loss.check(logits, target)


def test_a_nan_is_found_at_the_call_itself(case, logits: Tensor, target: Tensor) -> None:
    broken = logits.clone()
    broken[1, 0, 3, 3] = torch.nan
    maps = case.maps(target)
    with pytest.raises(ContractError, match="1 NaN of 432"):
        case.loss(broken, target, **maps)


def test_soft_labels_are_refused_where_they_are_undefined(case, logits: Tensor, target: Tensor) -> None:
    soft, maps = target * 0.7 + 0.1, case.maps(target)
    if case.loss.soft:
        case.loss.check(logits, soft)
        assert case.loss(logits, soft, **maps).isfinite().all()
    else:
        with pytest.raises(ContractError, match="expected a target of 0 and 1, got 432 soft labels; threshold"):
            case.loss(logits, soft, **maps)


def test_only_the_losses_named_in_the_contract_refuse_soft_labels(case) -> None:
    hard = {"lovasz_hinge", "lovasz_sigmoid", "boundary", "hausdorff", "cldice", "sum"}
    assert case.loss.soft == (case.name not in hard)


def test_a_weight_that_is_still_auto_says_what_to_do(make, logits: Tensor, target: Tensor) -> None:
    loss = type(make("weighted_bce"))()
    with pytest.raises(ContractError, match=r"got auto; call fitted\(foreground\) first"):
        loss(logits, target)
    assert loss.fitted(0.2).pos_weight == pytest.approx(4)
    assert loss.fitted(0.2).fitted(0.5).pos_weight == pytest.approx(4)
    with pytest.raises(ContractError, match="masks with both classes, got a foreground share of 0"):
        loss.fitted(0.0)
    assert type(make("exp_log"))().fitted(0.2).pos_weight == pytest.approx(2)


def test_a_sum_fits_its_terms_and_is_hard_where_one_of_them_is(make) -> None:
    loss = make(
        "sum",
        terms={
            "w": {
                "_target_": "seglab.losses.combine.Term",
                "weight": 2.0,
                "loss": {"_target_": "seglab.losses.pixel.WeightedBCE"},
            }
        },
    )
    assert loss.terms["w"].loss.pos_weight == pytest.approx(9)
    assert not loss.soft
    with pytest.raises(ContractError, match="at least one term"):
        Sum(terms={})


def test_a_foreign_function_must_give_a_tensor(logits: Tensor, target: Tensor) -> None:
    with pytest.raises(ContractError, match="External: expected a tensor from its function, got float"):
        External(function=lambda z, t: 1.0)(logits, target)
    with pytest.raises(ContractError, match="External: expected function that can be called"):
        External(function=3)  # type: ignore[arg-type]


def test_a_foreign_function_sees_one_image_or_the_batch_in_float32(logits: Tensor, target: Tensor) -> None:
    seen = []

    def function(z: Tensor, t: Tensor) -> Tensor:
        seen.append((len(z), z.dtype, t.dtype))
        return (z - t).square().mean()

    each = External(function=function)(logits.half(), target)
    assert seen == [(1, torch.float32, torch.float32)] * 3
    once = External(function=function, image_by_image=False)(logits.half(), target)
    assert seen[3:] == [(3, torch.float32, torch.float32)]
    torch.testing.assert_close(once, each.mean().expand(3))


def test_a_foreign_function_may_give_one_number_per_image_or_per_pixel(logits: Tensor, target: Tensor) -> None:
    def each(z: Tensor, t: Tensor) -> Tensor:
        return (z - t).square()

    def per_image(z: Tensor, t: Tensor) -> Tensor:
        return each(z, t).flatten(1).mean(1)

    expected = per_image(logits, target.float())
    assert expected.std() > 0
    for function in (each, per_image, lambda z, t: per_image(z, t).view(-1, 1, 1, 1)):
        for image_by_image in (True, False):
            loss = External(function=function, image_by_image=image_by_image)(logits, target)
            torch.testing.assert_close(loss, expected)
    with pytest.raises(ContractError, match=r"one number, or one per image \(3,\) from its function, got \(2,\)"):
        External(function=lambda z, t: per_image(z, t)[:2], image_by_image=False)(logits, target)


def test_a_foreign_function_of_probabilities_gets_them(make, logits: Tensor, target: Tensor) -> None:
    loss = External(function=torch.nn.BCELoss(), takes="probabilities")
    torch.testing.assert_close(loss(logits, target), make("bce")(logits, target))
    with pytest.raises(ContractError, match="External: expected takes either logits or probabilities, got scores"):
        External(function=torch.nn.BCELoss(), takes="scores")  # type: ignore[arg-type]


def test_a_foreign_function_has_the_card_its_user_writes() -> None:
    plain = External(function=torch.nn.BCELoss(), takes="probabilities").card
    assert (plain.title, plain.formula, plain.family) == ("BCELoss (torch)", "f(p,t)", "external")
    assert External(function=partial(F.mse_loss, reduction="mean")).card.title == "mse_loss (torch)"
    own = External(function=torch.nn.BCELoss(), title="Mine", paper="Me 2026", formula="x^2").card
    assert (own.title, own.paper, own.formula) == ("Mine", "Me 2026", "x^2")
