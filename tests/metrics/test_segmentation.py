"""Metrics of a dataset are means over images and scores over all pixels, however the images are tiled."""

import pytest
import torch

from seglab.metrics.counts import counts, decide, histogram, scores
from seglab.metrics.segmentation import SegmentationMetrics


def images(number=7, seed=0):
    """Return logits and targets of images with increasing foreground, the first one empty."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.linspace(0, 0.6, number).view(-1, 1, 1, 1)
    target = (torch.rand(number, 1, 12, 16, generator=generator) < share).to(torch.uint8)
    return torch.randn(target.shape, generator=generator) + 2 * target - 1, target


def measured(*batches, **options):
    metric = SegmentationMetrics(**options)
    for batch in batches:
        metric.update(*batch)
    return {name: value.item() for name, value in metric.compute().items()}


@pytest.mark.parametrize("empty", ["correct", "skip"])
def test_a_score_is_the_mean_over_the_images_where_it_is_defined(empty):
    logits, target = images()
    logits[3] = -5  # nothing predicted: no precision
    result = measured((logits, target), empty=empty)
    for name, values in scores(counts(logits, target), empty).items():
        assert result[name] == pytest.approx(values.nanmean().item(), abs=1e-6), name


def test_pooled_scores_are_those_of_one_image_of_all_pixels():
    logits, target = images(seed=1)
    result = measured((logits, target))
    for name, value in scores(counts(logits.view(1, 1, -1, 16), target.view(1, 1, -1, 16))).items():
        assert result[f"{name}_pooled"] == pytest.approx(value.item(), abs=1e-6), name


def test_images_are_judged_by_whether_they_hold_any_foreground():
    target = torch.zeros(5, 1, 4, 4)
    target[:3, :, 0, 0] = 1
    logits = torch.full((5, 1, 4, 4), -1.0)
    logits[[0, 1, 4], :, 3, 3] = 1.0  # two found (at other pixels), one missed, one false positive, one empty
    result = measured((logits, target))
    assert result["image_accuracy"] == pytest.approx(3 / 5)
    assert result["image_recall"] == pytest.approx(2 / 3)


def test_cutting_into_batches_and_their_order_change_no_digit():
    logits, target = images(9)
    whole = measured((logits, target))
    parts = [(logits[i : i + 2], target[i : i + 2]) for i in (4, 0, 8, 2, 6)]
    assert measured(*parts) == pytest.approx(whole, abs=0, nan_ok=True)


def test_the_loss_of_an_image_is_that_of_its_tiles_by_the_pixels_that_count():
    valid = torch.zeros(5, 1, 2, 4, dtype=torch.bool)
    valid[0], valid[1, ..., :1], valid[2] = True, True, True  # 8 and 2 pixels of image 7, 8 of image 3, none of image 5
    metric, number = SegmentationMetrics(), torch.tensor([7, 7, 3, 5, 5])
    for some in ([1, 2, 3], [0, 4]):  # the tiles of an image may be in several batches
        logits, losses = torch.zeros(len(some), 1, 2, 4), torch.tensor([1.0, 6.0, 4.0, 2.0, 3.0])[some]
        metric.update(logits, logits, number[some], valid[some], losses=losses)
    assert metric.compute()["loss"].item() == pytest.approx(((8 * 1 + 2 * 6) / 10 + 4 + 2.5) / 3)


def tiles(logits, target):
    """Cut images of 12x16 into four tiles each, in batches of five that hold tiles of several images."""
    number = torch.arange(len(logits)).repeat_interleave(4)
    z, t = (x.unfold(2, 6, 6).unfold(3, 8, 8).reshape(-1, 1, 6, 8) for x in (logits, target))
    return [(z[k : k + 5], t[k : k + 5], number[k : k + 5]) for k in range(0, len(z), 5)]


@pytest.mark.parametrize("empty", ["correct", "skip"])
def test_the_tiles_of_an_image_are_scored_as_the_image(empty):
    logits, target = images(9)
    whole = measured((logits, target), empty=empty)
    parts = tiles(logits, target)
    assert measured(*parts, empty=empty) == pytest.approx(whole, abs=1e-6, nan_ok=True)
    assert measured(*parts[::-1], empty=empty) == pytest.approx(measured(*parts, empty=empty), abs=0, nan_ok=True)
    assert measured(*(part[:2] for part in parts), empty=empty)["iou"] != pytest.approx(whole["iou"], abs=1e-3)


def test_nan_logits_count_as_background_and_break_nothing():
    logits, target = images()
    logits[2:4] = torch.nan
    result = measured((logits, target), (logits[:2], target[:2]))
    assert all(0 <= value <= 1 for value in result.values())
    assert result["recall"] < measured(images())["recall"]
    assert histogram(decide(logits, target))[2, :, 1:].sum() == 0
