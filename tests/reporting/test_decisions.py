"""The mask of best expected score compared with all masks of a small image, and calibration with its definition."""

from itertools import product

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error

from seglab.metrics.counts import decide, histogram
from seglab.reporting.decisions import (
    best_expected,
    calibration_scores,
    fitted_temperature,
    isotonic,
    outer_means,
    rebinned,
    scaled,
)
from seglab.reporting.load_runs import collect
from seglab.reporting.study import Question, Study
from seglab.reporting.thresholds import MIDDLES


def expected_scores(p, score):
    """Return the exact expected scores, over all truths, of the masks of the 0, 1, 2, ... most probable pixels."""
    truths = np.array(list(product([0, 1], repeat=len(p))))
    chance = np.prod(np.where(truths, p, 1 - p), axis=1)
    values = []
    for size in range(len(p) + 1):
        mask = np.arange(len(p)) < size
        hits, true = (truths & mask).sum(1), truths.sum(1)
        below = size + true - hits if score == "iou" else (size + true) / 2
        values.append(chance @ np.where(below == 0, 1.0, hits / np.maximum(below, 0.5)))
    return np.array(values)


@pytest.mark.parametrize("score", ["iou", "dice"])
def test_the_mask_of_best_expected_score_is_that_of_all_truths_of_small_images(score):
    rng, lost = np.random.default_rng(0), []
    for _ in range(40):
        bins = np.sort(rng.choice(256, 10))[::-1] if rng.random() < 0.7 else np.sort(rng.choice(16, 10))[::-1]
        pixels = np.bincount(bins, minlength=256)[None].astype(np.float32)
        exact = expected_scores(MIDDLES[bins], score)
        edge = best_expected(pixels, MIDDLES, score)[0]
        lost.append(exact.max() - exact[(bins >= edge).sum()])
    assert np.mean(lost) < 0.005
    assert max(lost) < 0.03


def test_an_image_that_is_probably_empty_gets_an_empty_mask_unless_empty_images_do_not_count():
    pixels = np.zeros((1, 256), np.float32)
    pixels[0, [0, 90]] = 1000, 1
    nearly_nothing = np.r_[1e-6, MIDDLES[1:-1], 0.999]
    assert best_expected(pixels, nearly_nothing)[0] == 256
    assert best_expected(pixels, MIDDLES, outer=nearly_nothing[None, [0, -1]])[0] == 256
    assert best_expected(pixels, MIDDLES)[0] < 256  # a thousand pixels of 1 / 512 amount to two
    assert best_expected(pixels, nearly_nothing, empty="skip")[0] <= 90


def test_the_means_of_the_outer_bins_come_from_the_confidences():
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(3, 1, 40, 40, generator=generator) < 0.3
    target[2] = False
    logits = 9 * (2.0 * target - 1) + torch.randn(target.shape, generator=generator)
    p = logits.sigmoid().double().numpy()[:, 0]
    truth = target.numpy()[:, 0]
    confidences = [
        [part[i][mask[i]].mean() if mask[i].any() else np.nan for i in range(3)]
        for part, mask in ((p, truth), (1 - p, ~truth))
    ]
    found = outer_means(histogram(decide(logits, target)).numpy(), *np.array(confidences))
    first = [each[each < 1 / 256].mean() for each in p]
    assert found[:, 0] == pytest.approx(first, rel=0.02)
    assert 1 - found[:2, 1] == pytest.approx([1 - each[each >= 255 / 256].mean() for each in p[:2]], rel=0.02)
    assert found[2, 1] == 1 - 1 / 512  # no such pixel


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_temperature_that_spoiled_probabilities_is_found(temperature):
    given = np.full(256, 1000.0)
    said, true = MIDDLES, scaled(MIDDLES, temperature)
    table = np.stack([given * (1 - true), given * true])
    assert fitted_temperature(table, said) == pytest.approx(temperature, rel=1e-3)
    before, after = (calibration_scores(table, p) for p in (said, true))
    assert after["ece"] == pytest.approx(0, abs=1e-12)
    assert after["nll"] < before["nll"]
    assert after["brier"] < before["brier"]
    assert fitted_temperature(0 * table, said) == 1


def test_pixels_move_to_the_bin_of_their_scaled_probability():
    table = np.random.default_rng(0).poisson(3, (2, 256))
    assert rebinned(table, MIDDLES) == pytest.approx(table)
    cold = rebinned(table, scaled(MIDDLES, 0.5))
    assert cold.sum(1) == pytest.approx(table.sum(1))
    assert cold[:, 128:].sum(1) == pytest.approx(table[:, 128:].sum(1))  # 1/2 stays 1/2
    assert cold[1, -1] == table[1, scaled(MIDDLES, 0.5) >= 255 / 256].sum()
    sharp = rebinned(table, (MIDDLES > 0.5).astype(float))  # a temperature near 0 rounds to 0 and 1
    np.testing.assert_array_equal(sharp[:, [0, -1]], np.stack([half.sum(1) for half in np.split(table, 2, 1)], 1))


def test_calibration_scores_are_those_of_the_pixels():
    generator = torch.Generator().manual_seed(1)
    target = torch.rand(1, 1, 60, 60, generator=generator) < 0.4
    logits = torch.randn(target.shape, generator=generator) + target
    found = calibration_scores(histogram(decide(logits, target)).numpy()[0], MIDDLES)
    nll = torch.nn.functional.binary_cross_entropy_with_logits(logits, target.float()).item()
    assert found["nll"] == pytest.approx(nll, abs=2e-3)
    assert found["brier"] == pytest.approx(((logits.sigmoid() - target.float()) ** 2).mean().item(), abs=2e-3)
    theirs = binary_calibration_error(logits.sigmoid(), target.long(), n_bins=16, norm="l1").item()
    assert found["ece"] == pytest.approx(theirs, abs=1 / 512)  # half a bin of the histogram


def test_isotonic_calibration_rises_and_keeps_the_number_of_true_pixels():
    rng = np.random.default_rng(0)
    table = rng.poisson(4, (2, 256))
    table[:, 100:120] = 0
    fitted = isotonic(table)
    assert (np.diff(fitted) >= 0).all()
    assert table.sum(0) @ fitted == pytest.approx(table[1].sum(), rel=1e-6)


def test_the_table_of_decisions_holds_each_loss_under_each_rule(own):
    study = Study("data", collect([own]), Question())
    assert list(study.decisions) == ["fixed", "tuned", "optimal", "scaled", "calibrated"]
    assert study.decisions["fixed"].to_dict() == pytest.approx(study.means)
    assert study.decisions["tuned"].to_dict() == pytest.approx(study.tuned.means)
    under = Study("data", collect([own]), Question(rule="calibrated"))
    assert under.means == pytest.approx(study.decisions["calibrated"].to_dict())
