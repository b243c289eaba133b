"""A histogram gives the same counts at each threshold as counting the pixels again."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_average_precision

from seglab.contract import Task
from seglab.metrics.counts import counts, decide, histogram, scores
from seglab.reporting.class_rows import tuned_threshold
from seglab.reporting.thresholds import average_precision, best_threshold, calibration, scores_at


@pytest.fixture(scope="module")
def batch():
    """Six images with good and bad predictions, the first without foreground, the second without any prediction."""
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(6, 1, 30, 40, generator=generator) < torch.linspace(0, 0.5, 6).view(-1, 1, 1, 1)
    logits = 2 * torch.randn(target.shape, generator=generator) + target - 1
    logits[1] = -9
    return logits, target


@pytest.mark.parametrize("empty", ["correct", "skip"])
def test_scores_at_a_threshold_are_those_of_the_pixels(batch, empty):
    ours = scores_at(histogram(decide(*batch)).numpy(), empty)
    for step in (1, 64, 128, 200, 255):
        theirs = scores(counts(*batch, threshold=step / 256), empty)
        for name, values in ours.items():
            np.testing.assert_allclose(values[:, step], theirs[name].numpy(), rtol=1e-6)


def test_the_best_threshold_beats_every_other_one(batch):
    table = histogram(decide(*batch)).numpy()
    best = best_threshold(table)
    tried = [scores(counts(*batch, threshold=k / 256))["iou"].mean().item() for k in range(1, 256)]
    assert scores(counts(*batch, threshold=best))["iou"].mean().item() == pytest.approx(max(tried))


def test_equally_good_thresholds_give_the_one_nearest_to_one_half():
    table = np.zeros((1, 2, 256), int)
    table[0, 0, 10], table[0, 1, 250] = 5, 5  # every threshold from 11/256 to 250/256 is perfect
    assert best_threshold(table) == 0.5
    table[0, 0, 10], table[0, 0, 200] = 0, 5
    assert best_threshold(table) == 201 / 256
    assert best_threshold(np.zeros((2, 2, 256), int), empty="skip") == 0.5


def test_the_tuned_threshold_follows_the_policy_for_empty_images():
    table = np.zeros((2, 1, 2, 256), int)
    table[0, 0, 1, [140, 160]] = 5  # half the foreground of one image is below the false positive of the other
    table[1, 0, 0, 150] = 1
    assert tuned_threshold(table, Task(), "skip") == 0.5  # IoU 1
    assert tuned_threshold(table, Task(), "correct") == 151 / 256  # the mean of 1/2 and 1


def test_average_precision_is_torchmetrics_on_the_same_thresholds(batch):
    logits, target = batch
    theirs = binary_average_precision(logits.sigmoid(), target.long(), thresholds=torch.arange(256) / 256)
    assert average_precision(histogram(decide(*batch)).numpy().sum(0)) == pytest.approx(theirs.item(), abs=1e-6)


def test_the_reliability_diagram_counts_by_hand():
    table = np.zeros((2, 256), int)
    table[:, 31], table[:, 33], table[:, 100] = (3, 1), (0, 2), (1, 0)
    predicted, observed, number = (column[[1, 2, 6]].tolist() for column in calibration(table))
    assert predicted == [31.5 / 256, 33.5 / 256, 100.5 / 256]
    assert (observed, number) == ([0.25, 1.0, 0.0], [4, 2, 1])
    assert np.isnan(calibration(0 * table)[0]).all()
