"""Counts and scores agree with torchmetrics, with numbers computed by hand, and with themselves in any order."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional import classification as reference

from seglab.contract import ContractError
from seglab.metrics.counts import counts, scores

SCORES = {
    "iou": reference.binary_jaccard_index,
    "dice": reference.binary_f1_score,
    "accuracy": reference.binary_accuracy,
    "precision": reference.binary_precision,
    "recall": reference.binary_recall,
    "specificity": reference.binary_specificity,
}


def batch(
    seed: int = 0, size: tuple[int, ...] = (3, 1, 20, 24), share: float = 0.2
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator) * 2, (torch.rand(size, generator=generator) < share).to(torch.uint8)


def case(predicted: str, truth: str) -> dict[str, float]:
    """Score one image whose pixels are written as 1 and 0, certain to the last digit."""
    logits = torch.tensor([40.0 if c == "1" else -40.0 for c in predicted]).view(1, 1, 1, -1)
    target = torch.tensor([float(c) for c in truth]).view(1, 1, 1, -1)
    return {name: value.item() for name, value in scores(counts(logits, target)).items()}


def test_eight_pixels_give_the_scores_computed_by_hand():
    result = case("11100000", "10011000")  # tp 1, fp 2, fn 2, tn 3
    assert result == pytest.approx(
        {
            "iou": 1 / 5,
            "dice": 2 / 6,
            "f2": 5 / (5 + 8 + 2),
            "accuracy": 4 / 8,
            "precision": 1 / 3,
            "recall": 1 / 3,
            "specificity": 3 / 5,
            "foreground_confidence": 1 / 3,
            "background_confidence": 3 / 5,
        }
    )


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("seed", range(3))
def test_each_score_of_each_image_is_torchmetrics(name, seed):
    logits, target = batch(seed)
    ours = scores(counts(logits, target))[name]
    theirs = torch.stack([SCORES[name](z.sigmoid(), t.long()) for z, t in zip(logits, target, strict=True)])
    torch.testing.assert_close(ours, theirs)


def test_f2_is_torchmetrics_fbeta():
    logits, target = batch(5)
    theirs = [reference.binary_fbeta_score(z.sigmoid(), t.long(), 2.0) for z, t in zip(logits, target, strict=True)]
    torch.testing.assert_close(scores(counts(logits, target))["f2"], torch.stack(theirs))


def test_confidences_are_the_mean_probability_of_the_true_class():
    logits, target = batch(1)
    result = scores(counts(logits, target))
    for i, (z, t) in enumerate(zip(logits, target.bool(), strict=True)):
        assert result["foreground_confidence"][i].item() == pytest.approx(z[t].sigmoid().mean().item(), abs=1e-6)
        assert result["background_confidence"][i].item() == pytest.approx((-z[~t]).sigmoid().mean().item(), abs=1e-6)


@pytest.mark.parametrize(
    ("predicted", "truth", "overlap", "precision", "recall", "specificity"),
    [
        ("0000", "0000", 1.0, math.nan, math.nan, 1.0),
        ("1000", "0000", 0.0, 0.0, math.nan, 0.75),
        ("0000", "1000", 0.0, math.nan, 0.0, 1.0),
        ("1111", "1111", 1.0, 1.0, 1.0, math.nan),
    ],
)
def test_empty_and_full_masks_follow_the_policy(predicted, truth, overlap, precision, recall, specificity):
    result = case(predicted, truth)
    found = [result[name] for name in ("iou", "dice", "f2", "precision", "recall", "specificity")]
    assert found == pytest.approx([overlap] * 3 + [precision, recall, specificity], nan_ok=True)
    assert math.isnan(result["foreground_confidence"]) == ("1" not in truth)
    assert math.isnan(result["background_confidence"]) == ("0" not in truth)


def test_skip_leaves_out_empty_truth_and_nothing_else():
    logits, target = batch(2)
    target[1] = 0
    correct, skip = scores(counts(logits, target)), scores(counts(logits, target), empty="skip")
    for name in ("iou", "dice", "f2"):
        assert skip[name].isnan().tolist() == [False, True, False]
        assert correct[name][1] == 0
    assert all(torch.equal(skip[name], correct[name]) for name in ("accuracy", "precision", "specificity"))


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.floats(0.001, 0.999), st.floats(0.0, 1.0))
def test_counts_do_not_care_for_flips_order_company_or_their_sum(seed, threshold, share):
    logits, target = batch(seed, share=share)
    whole = torch.stack(counts(logits, target, threshold)[:4])
    order = [2, 0, 1]
    assert torch.equal(torch.stack(counts(logits[order], target[order], threshold)[:4]), whole[:, order])
    assert torch.equal(torch.stack(counts(logits.flip(-1), target.flip(-1), threshold)[:4]), whole)
    assert torch.equal(torch.stack(counts(logits.mT, target.mT, threshold)[:4]), whole)
    alone = [torch.stack(counts(logits[i : i + 1], target[i : i + 1], threshold)[:4]) for i in range(3)]
    assert torch.equal(torch.cat(alone, 1), whole)
    assert whole.sum(0).tolist() == [480] * 3


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.9, 0.999])
def test_a_threshold_holds_on_the_probability(threshold):
    logits, target = batch(3)
    probability = logits.double().sigmoid()
    result = counts(logits, target, threshold)
    assert torch.equal(result.tp + result.fp, (probability >= threshold).flatten(1).sum(1))


def test_a_probability_of_exactly_one_half_is_foreground():
    result = counts(torch.tensor([0.0, -0.0, -1e-30]).view(1, 1, 1, 3), torch.ones(1, 1, 1, 3))
    assert (result.tp.item(), result.fn.item()) == (2, 1)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float16, torch.float64])
def test_targets_of_any_type_count_the_same(dtype):
    logits, target = batch()
    assert all(torch.equal(a, b) for a, b in zip(counts(logits, target), counts(logits, target.to(dtype)), strict=True))


def test_soft_targets_are_foreground_from_one_half():
    target = torch.tensor([0.0, 0.49, 0.5, 1.0]).view(1, 1, 2, 2)
    result = counts(torch.ones(1, 1, 2, 2), target)
    assert (result.tp.item(), result.fp.item()) == (2, 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_summed_in_float32(dtype):
    logits = torch.full((1, 1, 512, 512), 3.0, dtype=dtype)
    result = counts(logits, torch.ones_like(logits))
    assert result.tp.item() == 512 * 512
    assert result.foreground_sum.item() == pytest.approx(512 * 512 * 0.9525741, rel=1e-5)


def test_sixteen_million_pixels_are_counted_to_the_last_one():
    logits = torch.ones(1, 1, 4096, 4100)
    logits[..., -1] = -1
    target = torch.ones(1, 1, 4096, 4100, dtype=torch.bool)
    target[0, 0, 0, 0] = False
    result = counts(logits, target)
    assert [int(n) for n in result[:4]] == [4096 * 4099 - 1, 1, 4096, 0]
    assert result.foreground_sum.item() / (4096 * 4100) == pytest.approx(0.731, abs=1e-3)


@pytest.mark.parametrize("size", [(2, 1, 50), (2, 1, 6, 5, 4)])
def test_any_number_of_spatial_dimensions_will_do(size):
    logits, target = batch(4, size)
    flat = counts(logits.reshape(2, 1, 1, -1), target.reshape(2, 1, 1, -1))
    assert all(torch.equal(a, b) for a, b in zip(counts(logits, target)[:4], flat[:4], strict=True))


@pytest.mark.parametrize(
    ("logits", "target"), [((2, 1, 4, 4), (2, 4, 4)), ((2, 3, 4, 4), (2, 3, 4, 4)), ((2, 1), (2, 1))]
)
def test_shapes_that_do_not_fit_are_one_sentence(logits, target):
    with pytest.raises(
        ContractError, match=r"metrics: expected logits and target of one shape \(b,1,\*spatial\), got 2x"
    ):
        counts(torch.zeros(logits), torch.zeros(target))


def test_unknown_policies_and_impossible_thresholds_are_refused():
    with pytest.raises(ContractError, match="correct or skip, got zero"):
        scores(counts(*batch()), empty="zero")
    with pytest.raises(ContractError, match="threshold"):
        counts(*batch(), threshold=1.0)


def test_counting_needs_no_gradient_and_keeps_none():
    logits, target = batch()
    assert not counts(logits.requires_grad_(), target).foreground_sum.requires_grad
