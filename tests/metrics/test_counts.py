"""Counts and scores agree with torchmetrics, with numbers computed by hand, and with themselves in any order."""

import math
from functools import partial

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
    "f2": partial(reference.binary_fbeta_score, beta=2.0),
}


def batch(seed=0, size=(3, 1, 20, 24), share=0.2):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator) * 2, (torch.rand(size, generator=generator) < share).to(torch.uint8)


def case(predicted, truth):
    """Return the scores of one image with pixels given as 1 and 0, predicted with certainty."""
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


def test_each_score_of_each_image_is_torchmetrics():
    for seed in range(3):
        logits, target = batch(seed)
        found = scores(counts(logits, target))
        for name, reference_of in SCORES.items():
            theirs = [reference_of(z.sigmoid(), t.long()) for z, t in zip(logits, target, strict=True)]
            torch.testing.assert_close(found[name], torch.stack(theirs), msg=name)
        for i, (z, t) in enumerate(zip(logits, target.bool(), strict=True)):
            assert found["foreground_confidence"][i].item() == pytest.approx(z[t].sigmoid().mean().item(), abs=1e-6)
            assert found["background_confidence"][i].item() == pytest.approx((-z[~t]).sigmoid().mean().item(), abs=1e-6)


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


@settings(max_examples=15)
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


def test_a_threshold_holds_on_the_probability_and_one_half_is_foreground():
    logits, target = batch(3)
    for threshold in (0.1, 0.3, 0.5, 0.9, 0.999):
        result = counts(logits, target, threshold)
        assert torch.equal(result.tp + result.fp, (logits.double().sigmoid() >= threshold).flatten(1).sum(1))
    result = counts(torch.tensor([0.0, -0.0, -1e-30]).view(1, 1, 1, 3), torch.ones(1, 1, 1, 3))
    assert (result.tp.item(), result.fn.item()) == (2, 1)
    with pytest.raises(ContractError, match="threshold"):
        counts(logits, target, threshold=1.0)


def test_targets_of_any_type_and_any_number_of_dimensions_count_the_same():
    logits, target = batch()
    expected = counts(logits, target)
    for dtype in (torch.bool, torch.int64, torch.float16, torch.float64):
        assert all(map(torch.equal, expected, counts(logits, target.to(dtype))))
    assert all(map(torch.equal, expected, counts(logits, 0.5 + 0.49 * (target - 0.01))))  # soft targets, split at 1/2
    for shape in ((3, 1, 480), (3, 1, 6, 5, 16)):
        assert all(map(torch.equal, expected[:4], counts(logits.reshape(shape), target.reshape(shape))[:4]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_summed_in_float32(dtype):
    logits = torch.full((1, 1, 512, 512), 3.0, dtype=dtype)
    result = counts(logits, torch.ones_like(logits))
    assert result.tp.item() == 512 * 512
    assert result.foreground_sum.item() == pytest.approx(512 * 512 * 0.9525741, rel=1e-5)


def test_sixteen_million_pixels_are_counted_to_the_last_one():  # more than float32 can count
    logits, target = torch.ones(1, 1, 4096, 4100), torch.ones(1, 1, 4096, 4100, dtype=torch.bool)
    logits[..., -1], target[0, 0, 0, 0] = -1, False
    result = counts(logits, target)
    assert [int(n) for n in result[:4]] == [4096 * 4099 - 1, 1, 4096, 0]
    assert result.foreground_sum.item() / (4096 * 4100) == pytest.approx(0.731, abs=1e-3)


@pytest.mark.parametrize("right", [1.0, -13.0])
def test_confidences_have_digits_where_only_a_few_pixels_are_background(right):
    logits, target = torch.full((1, 1, 512, 512), 4.0), torch.ones(1, 1, 512, 512)
    logits[..., 0, :9], target[..., 0, :9] = -right, 0
    found = scores(counts(logits, target))["background_confidence"].item()
    assert found > 0
    assert found == pytest.approx(1 / (1 + math.exp(-right)), abs=2e-7)


def test_shapes_that_do_not_fit_are_one_sentence():
    words = r"metrics: expected logits and target of the same shape \(b,1,\*spatial\), got 2x"
    for logits, target in (((2, 1, 4, 4), (2, 4, 4)), ((2, 3, 4, 4), (2, 3, 4, 4)), ((2, 1), (2, 1))):
        with pytest.raises(ContractError, match=words):
            counts(torch.zeros(logits), torch.zeros(target))
