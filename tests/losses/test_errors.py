"""Bad input raises an error of one sentence that names the loss and the parameter."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from seglab.contract import ContractError, Task
from seglab.losses import (
    BCE,
    Dice,
    External,
    Focal,
    GeneralizedWassersteinDice,
    LovaszSoftmax,
    PerComponent,
    Sum,
    Switch,
    Term,
    WeightedBCE,
)
from tests.losses.conftest import of, scene

LIMITS = {
    "weighted_bce": {"pos_weight": [0.0, "much"]},
    "class_weighted_ce": {"foreground_weight": [-1.0], "background_weight": [0.0]},
    "bce": {"class_weights": [(1.0, -1.0), (1.0, float("inf")), (0.0, 0.0), "much"]},
    "label_smoothing": {"smoothing": [0.5]},
    "focal": {"gamma": [-0.1, None], "alpha": [1.5]},
    "asymmetric_focal": {"alpha": [-0.5]},
    "poly1": {"epsilon": [-2.0]},
    "topk": {"fraction": [0.0]},
    "weight_map": {"sigma": [0.0], "border_weight": [-1.0], "pos_weight": [-1.0]},
    "dice": {"smooth": [-1.0], "classes": ["some"], "task": ["many"]},
    "tversky": {"fp_weight": [0.0], "fn_weight": [-1.0]},
    "focal_tversky": {"exponent": [0.0]},
    "sensitivity_specificity": {"sensitivity_weight": [1.1]},
    "dice_plus_plus": {"exponent": [0.5]},
    "noise_robust_dice": {"exponent": [2.5]},
    "jml": {"fp_weight": [0.0]},
    "asymmetric_focal_tversky": {"gamma": [1.0]},
    "hausdorff": {"exponent": [0.0]},
    "cldice": {"iterations": [-1, 2.5, None], "smooth": [0.0], "dice_weight": [2.0]},
    "bce_dice": {"bce_weight": [-1.0], "offset": ["x", None, float("nan")]},
    "combo": {"alpha": [2.0], "beta": [0.0]},
    "exp_log": {"smooth": [0.0], "exponent": [0.0]},
    "unified_focal": {"weight": [-0.1], "delta": [1.0], "gamma": [1.0]},
    "gce": {"exponent": [0.0]},
    "sce": {"log_zero": [1.0]},
    "t_loss": {"nu": [0.0]},
    "mbls": {"margin": [-1.0]},
    "nacl": {"weight": [-0.1]},
    "l1_ace": {"bins": [1, 20.5], "binning": ["none"]},
    "region_size": {"distance": ["l2"]},
    "logit_adjusted": {"prior": [0.0, "often"]},
    "generalized_wasserstein_dice": {"distances": [[[0, float("inf")], [1, 0]]]},
    "lovasz_hinge": {"task": ["multiclass"]},
}
"""Parameters of losses, and values that are refused for each."""


def some(case):
    """Whether the case is one of a selection: all losses check their input in the same place."""
    names = {"bce", "dice", "boundary", "lovasz_hinge", "lovasz_softmax", "sum", "external", "focal_tversky", "exp_log"}
    return case.name in names


def test_a_parameter_out_of_range_is_named(make):
    for name, refused in LIMITS.items():
        kind = type(make(name))
        for parameter, values in refused.items():
            for value in values:
                with pytest.raises(ContractError) as fault:
                    kind(**{parameter: value})
                assert str(fault.value).startswith(f"{kind.__name__}: expected {parameter} ")
                assert str(fault.value).endswith(f", got {value!r}")


@of(some)
def test_shapes_that_differ_are_both_named(case, logits, target):
    for wrong in (target[:, 0], target[:2], target[..., :6], target.expand(3, -1, 12, 12).repeat(1, 3, 1, 1)):
        with pytest.raises(ContractError, match=r"got \(3, ., 12, 12\) and \(") as caught:
            case.loss(logits, wrong)
        assert str(caught.value).startswith(type(case.loss).__name__)


def test_an_argument_that_a_loss_does_not_take_is_named(make, logits, target):
    for name, taken in (("dice", "logits, target, valid"), ("boundary", "logits, target, valid, distance")):
        maps = {need: torch.zeros(logits.shape) for need in make(name).needs}
        with pytest.raises(ContractError, match=f"expected only the arguments {taken}, got mask, weight$"):
            make(name)(logits, target, **maps, mask=target > 0, weight=target)
        with pytest.raises(ContractError, match=f"expected only the arguments {taken}, got mask$"):
            make(name).as_module()(logits, target, mask=target > 0, **maps)


def test_channels_that_do_not_fit_the_task_are_named(make):
    two, ids = torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    with pytest.raises(ContractError, match=r"Dice: expected logits \(b, 1, \*spatial\) .* for task=binary, got"):
        make("dice")(two, two)
    with pytest.raises(ContractError, match=r"\(b, k > 1, \*spatial\) .* or integer class ids .* for task=multiclass"):
        make("dice", "multiclass")(two[:, :1], ids)
    with pytest.raises(ContractError, match=r"or integer class ids .* for task=multiclass, got .* of torch.float32"):
        make("dice", "multiclass")(two, ids.float())


@of(some)
def test_an_image_without_a_batch_or_with_integers_is_refused(case):
    with pytest.raises(ContractError, match="a target of the same shape"):
        case.loss(torch.zeros(8, 8), torch.zeros(8, 8))
    with pytest.raises(ContractError, match=r"at least one image and one pixel, got logits of shape \(0, 1, 8, 8\)"):
        case.loss(torch.zeros(0, 1, 8, 8), torch.zeros(0, 1, 8, 8))
    with pytest.raises(ContractError, match=r"floating-point logits, got torch\.int64"):
        case.loss(torch.zeros(1, 1, 8, 8, dtype=torch.int64), torch.zeros(1, 1, 8, 8))


def test_an_argument_that_is_not_a_tensor_is_named_and_ids_of_16_bits_are_read():
    logits, target = scene("multiclass")
    loss = BCE(task="multiclass")
    for wrong, types in (
        ((logits.numpy(), target), "ndarray and Tensor"),
        ((logits, target.numpy()), "Tensor and ndarray"),
        ((logits, None), "Tensor and NoneType"),
    ):
        with pytest.raises(ContractError, match=f"^BCE: expected logits and target to be tensors, got {types}$"):
            loss(*wrong)
    with pytest.raises(ContractError, match="BCE: expected logits and target on the same device, got meta and cpu"):
        loss(logits.to("meta"), target)
    with pytest.raises(ContractError, match=r"got \(\) and \(\)"):
        loss(torch.tensor(1.0), torch.tensor(1))
    torch.testing.assert_close(loss(logits, target.to(torch.uint16)), loss(logits, target))


@of(lambda case: bool(case.loss.needs))
def test_a_missing_map_is_named(case, logits, target):
    with pytest.raises(ContractError, match=f"a map '{case.loss.needs[0]}' of the same shape as the logits, got none"):
        case.loss(logits, target)


@of(some)
def test_nan_logits_and_targets_out_of_range_are_named(case, logits, target):
    broken, maps = logits.clone(), case.maps(target, logits)
    broken[0, 0, 0, :2] = torch.tensor([torch.nan, torch.inf])
    for call in (case.loss.check, lambda *pair: case.loss(*pair, **maps)):
        with pytest.raises(
            ContractError, match=f"expected finite logits, got 2 of {logits.numel()} that are NaN or infinite"
        ):
            call(broken, target)
        for wrong, low, high in ((target * 85, 0, 255), (target.long() - 1, -1, 0)):
            remedy = r"(divide masks with 0 and 255 by 255, or )?exclude pixels without a label with `valid`$"
            with pytest.raises(ContractError, match=rf"in \[0, [13]\], got {low} to \d+; {remedy}") as caught:
                call(logits, wrong * (255 if high == 255 and case.task != "multiclass" else 1))
            assert ("divide" in str(caught.value)) == (case.task != "multiclass")
    case.loss.check(logits, target)


def test_no_loss_fails_on_nan_logits(case, logits, target):
    logits[0, 0, 0, :2] = torch.nan
    with pytest.raises(ContractError, match=r"expected finite logits, got 2 of \d+ that are NaN or infinite"):
        case(logits, target)


@of(lambda case: case.task != "multilabel")
def test_soft_labels_are_refused_where_they_are_undefined(case, logits, target):
    maps, soft = case.maps(target, logits), torch.full(logits.shape, 0.25)
    if case.loss.soft:
        case.loss.check(logits, soft)
        assert case.loss(logits, soft, **maps).isfinite().all()
    else:
        with pytest.raises(ContractError, match=f"a target of only 0 and 1, got {soft.numel()} soft labels; threshold"):
            case.loss(logits, soft, **maps)


def test_shares_of_classes_that_exclude_each_other_sum_to_one_where_pixels_count():
    loss, logits, shares = BCE(task="multiclass"), torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 1 / 3)
    loss.check(logits, shares.half())
    shares[..., 0] = 0.4
    with pytest.raises(ContractError, match=r"BCE: expected shares that sum to 1 over the classes, got 1 to 1\.2$"):
        loss.check(logits, shares)
    loss.check(logits, shares, torch.arange(4).expand(1, 1, 4, 4) > 0)


def test_class_ids_for_foreign_code_are_not_made_of_shares():
    shares = torch.full((1, 3, 4, 4), 1 / 3)
    ids = External(function=F.cross_entropy, labels="ids", task="multiclass")
    with pytest.raises(ContractError, match="External: expected a target of only 0 and 1, got 48 soft labels"):
        ids(shares, shares)
    assert External(function=F.cross_entropy, task="multiclass")(shares, shares).isfinite().all()


def test_an_inner_loss_that_is_not_a_loss_is_named(target):
    terms = r"Sum: expected terms=\{NAME: Term\(loss=..., weight=...\), ...\}, got "
    for wrong in ([BCE()], {"a": BCE()}):
        with pytest.raises(ContractError, match=terms):
            Sum(terms=wrong)
    for wrong in ("1", None, float("nan")):
        with pytest.raises(ContractError, match=f"^Term: expected weight to be a finite number, got {wrong!r}$"):
            Term(loss=BCE(), weight=wrong)
    inside = "expected inner losses to be seglab losses, got"
    with pytest.raises(ContractError, match=rf"Switch: {inside} str, str; wrap a function in External\(function=...\)"):
        Switch(first="bce", second="dice")
    with pytest.raises(ContractError, match=f"PerComponent: {inside} NoneType"):
        PerComponent(loss=None)
    with pytest.raises(ContractError, match=f"Sum: {inside} BCEWithLogitsLoss"):
        Sum(terms={"a": Term(loss=torch.nn.BCEWithLogitsLoss(), weight=1.0)})
    for epochs in ({"at": 1.5}, {"patience": 2.5}, {"patience": None}):
        with pytest.raises(ContractError, match=r"Switch: expected \w+ to be an integer in \[1, inf\)"):
            Switch(first=BCE(), second=Dice(), **epochs)


@of(lambda case: case.task == "binary")
def test_a_task_is_no_text(case):
    with pytest.raises(
        ContractError, match=r"expected a seglab\.contract\.Task, got 'multiclass'; pass one, or set task=\.\.\.$"
    ):
        case.loss.with_task("multiclass")


@pytest.mark.parametrize("make_array", [torch.tensor, np.array, lambda x: torch.tensor(x).double()])
def test_parameters_may_be_arrays(make_array):
    loss = BCE(task="multiclass", class_weights=make_array([1.0, 2.0]))
    assert loss == BCE(task="multiclass", class_weights=[1.0, 2.0])
    assert WeightedBCE(task="multilabel", pos_weight=make_array([1.0, 2.0])).pos_weight == [1.0, 2.0]
    assert Focal(gamma=make_array(2.5)) == Focal(gamma=2.5)
    far = GeneralizedWassersteinDice(distances=make_array([[0.0, 1.0], [1.0, 0.0]]))
    assert far.distances == [[0.0, 1.0], [1.0, 0.0]]
    with pytest.raises(ContractError, match=r"BCE: expected class_weights .*, got \[1.0, -1.0\]"):
        BCE(class_weights=make_array([1.0, -1.0]))


def test_the_number_of_frequencies_fits_the_task():
    for loss in (WeightedBCE(), Dice(), BCE()):
        with pytest.raises(ContractError, match=r"expected one frequency for the foreground, got \[0.97, 0.03\]"):
            loss.with_class_frequency([0.97, 0.03])
    for task, given in (("multilabel", []), ("multiclass", [0.1])):
        with pytest.raises(ContractError, match="one frequency for every class, including a background, got"):
            WeightedBCE(task=task).with_class_frequency(given)
    logits, target = scene("multiclass")  # four classes
    with pytest.raises(ContractError, match="WeightedBCE: expected 3 weights, one for each class, got 1"):
        WeightedBCE(task="multiclass").with_class_frequency([0.5, 0.5])(logits, target)
    assert WeightedBCE().with_class_frequency(torch.tensor([0.2])).pos_weight == pytest.approx(4)


def test_distances_are_between_all_classes_of_the_data(make):
    far = [[0, 1, 1], [1, 0, 0.5], [1, 0.5, 0]]
    with pytest.raises(
        ContractError, match="GeneralizedWassersteinDice: expected distances to have 4 rows, one for each class, got 3"
    ):
        make("generalized_wasserstein_dice", "multiclass", distances=far)
    asymmetric = [[0, 1, 1], [1, 0, 0.5], [1, 0.6, 0]]
    for wrong in ([[0, 1], [1]], [[1, 1], [1, 0]], [[0, -1], [1, 0]], [[0, 0], [0, 0]], asymmetric):
        with pytest.raises(ContractError, match="expected distances to be symmetric with a zero diagonal, or null"):
            GeneralizedWassersteinDice(distances=wrong)
    assert GeneralizedWassersteinDice(distances=[[0, 0.1 + 0.2], [0.3, 0]]).distances  # equal except for rounding


def test_a_weight_that_is_still_auto_says_what_to_do(make, logits, target):
    loss = type(make("weighted_bce"))()
    with pytest.raises(
        ContractError, match=r"expected a numeric pos_weight, got auto; call with_class_frequency\(frequency\) first"
    ):
        loss(logits, target)
    assert loss.with_class_frequency([0.2]).pos_weight == pytest.approx(4)
    for number in (np.float32(4), np.int64(4)):
        assert torch.equal(type(loss)(pos_weight=number)(logits, target), type(loss)(pos_weight=4)(logits, target))
    assert loss.with_class_frequency([0.2]).with_class_frequency([0.5]).pos_weight == pytest.approx(4)
    with pytest.raises(
        ContractError, match=r"inside and outside every class, got class frequencies of \(0.0,\); set pos_weight$"
    ):
        loss.with_class_frequency([0.0])
    assert type(make("exp_log"))().with_class_frequency([0.2]).pos_weight == pytest.approx(2)


def test_a_prior_leaves_some_of_the_frequency_to_the_background(make):
    cases = ((0.2, 0.3, 0.4), "multiclass", True), ((0.2, 0.3, 0.5), "multiclass", False), (0.9, "binary", True)
    for shares, task, fits in (*cases, (1.0, "binary", False)):
        loss = make("logit_adjusted", task, prior=shares)
        with (
            nullcontext() if fits else pytest.raises(ContractError, match="LogitAdjusted: expected a prior that leaves")
        ):
            assert loss(*scene(task)).isfinite().all()


def test_class_weights_that_do_not_fit_the_task_are_named(make):
    logits, target = scene("multiclass")
    kind = type(make("dice"))
    with pytest.raises(ContractError, match="Dice: expected no class_weights for a binary task"):
        kind(class_weights=(1.0,))(*scene())
    for name in ("dice", "focal", "topk", "balanced_ce"):
        with pytest.raises(ContractError, match=r"expected no class_weights for a binary task, got .*weighted_bce"):
            make(name, class_weights=(1.0, 5.0)).with_task(Task())
    with pytest.raises(ContractError, match="class_weights for background, liver, spleen, kidney, got liver, lung"):
        make("dice", "multiclass", class_weights={"liver": 1, "lung": 2})
    with pytest.raises(ContractError, match="Dice: expected 3 class_weights, one each for a, b, c, got 2"):
        kind(class_weights=(1.0, 2.0)).with_task(Task("multiclass", ("a", "b", "c")))
    with pytest.raises(ContractError, match="Dice: expected 4 weights, one for each class, got 2"):
        kind(task="multiclass", class_weights=(1.0, 2.0))(logits, target)
    with pytest.raises(ContractError, match=r"numeric class_weights, got auto; call with_task\(task\) and w"):
        kind(task="multiclass", class_weights="auto")(logits, target)
    with pytest.raises(ContractError, match=r"contain every class, got class frequencies of \(0.9, .*; set class_w"):
        kind(task="multiclass", class_weights="auto").with_class_frequency((0.9, 0.1, 0.0))


def test_a_loss_that_is_not_a_mean_over_classes_has_no_values_by_class(make):
    for name in ("bce", "bce_dice", "sum"):
        loss, (logits, target) = make(name, "multiclass"), scene("multiclass")
        maps = {need: torch.zeros(logits.shape) for need in loss.needs}
        with pytest.raises(ContractError, match="expected a mean over classes, as per_class requires; call the loss"):
            loss.per_class(logits, target, **maps)


def test_losses_of_planes_say_so_for_volumes(make):
    logits = torch.randn(1, 1, 4, 4, 4)
    target = (logits > 1).to(torch.uint8)
    with pytest.raises(ContractError, match=r"CLDice: expected logits \(b, k, h, w\), got 3 spatial dimensions"):
        make("cldice")(logits, target)
    with pytest.raises(ContractError, match=r"BoundaryDoU: expected logits \(b, k, h, w\)"):
        make("boundary_dou")(logits, target)
    with pytest.raises(ContractError, match=r"Hausdorff: expected logits \(b, k, h, w\), .*; set prediction=false"):
        make("hausdorff")(logits, target, distance=torch.zeros(logits.shape))
    make("hausdorff", prediction=False)(logits, target, distance=torch.zeros(logits.shape))


def test_a_task_says_what_is_scored():
    with pytest.raises(ContractError, match="LovaszSoftmax: expected task to be multiclass, got 'binary'"):
        LovaszSoftmax(task="binary")
    assert (Task().channels, Task().scored) == (1, (0,))
    disc = Task("multilabel", ["disc", "cup"])
    assert (disc.channels, disc.scored, disc.classes) == (2, (0, 1), ("disc", "cup"))
    assert Task("multiclass", ("background", "a", "b")).scored == (1, 2)
    for kind, classes in (
        ("ternary", ("a",)),
        ("binary", ("a", "b")),
        ("multiclass", ("a",)),
        ("multilabel", ("a", "a")),
    ):
        with pytest.raises(ContractError, match=r"^Task: expected "):
            Task(kind, classes)
