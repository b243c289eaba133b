import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from seglab.metrics.objects import THRESHOLDS, components, object_scores


def boxes(*corners, size=40):
    mask = np.zeros((size, size), np.uint8)
    for top, left, bottom, right in corners:
        mask[top:bottom, left:right] = 1
    return mask


def f2(found, true):
    return object_scores(found, true)["object_f2"]


def object_dice(found, true):
    return object_scores(found, true)["object_dice"]


def naive_f2(predicted, true):
    """Compute the score of the ship challenge, object by object and threshold by threshold."""
    mine, yours = (ndimage.label(mask, np.ones((3, 3))) for mask in (predicted, true))
    if not mine[1] and not yours[1]:
        return 1.0
    values = []
    for threshold in THRESHOLDS:
        tp = 0
        for t in range(1, yours[1] + 1):
            for p in range(1, mine[1] + 1):
                a, b = mine[0] == p, yours[0] == t
                tp += (a & b).sum() / (a | b).sum() > threshold
        fp, fn = mine[1] - tp, yours[1] - tp
        values.append(5 * tp / (5 * tp + 4 * fn + fp))
    return float(np.mean(values))


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_f2_agrees_with_the_rule_written_out(seed):
    rng = np.random.default_rng(seed)
    true = ndimage.binary_opening(rng.random((24, 24)) < 0.6)
    predicted = np.roll(true, rng.integers(0, 2), 0) ^ (rng.random((24, 24)) < 0.01)
    assert f2(components(predicted), components(true)) == pytest.approx(naive_f2(predicted, true), abs=1e-12)


def test_a_shifted_box_is_found_up_to_its_iou():
    # 10 x 10 shifted by 2: overlap 80, union 120, IoU 2/3: found at 0.50, 0.55, 0.60, 0.65
    assert f2(components(boxes((5, 5, 15, 15))), components(boxes((5, 7, 15, 17)))) == pytest.approx(0.4)
    assert f2(components(boxes((5, 5, 15, 15))), components(boxes((5, 5, 15, 15)))) == 1
    half = object_scores(components(boxes((0, 0, 5, 10))), components(boxes((0, 0, 10, 10))))
    assert (half["objects"], half["objects_predicted"], half["objects_found"]) == (1, 1, 0)  # IoU exactly 1/2


def test_a_false_negative_weighs_four_times_a_false_positive_and_nothing_in_an_empty_truth_is_right():
    corners = (1, 1, 4, 4), (8, 8, 12, 12)
    nothing, one, two = (components(boxes(*corners[:count])) for count in range(3))
    assert f2(one, two) == pytest.approx(5 / 9)
    assert f2(two, one) == pytest.approx(5 / 6)
    assert (f2(nothing, nothing), f2(one, nothing), f2(nothing, one)) == (1, 0, 0)


def test_diagonal_neighbors_are_one_object_and_small_ones_are_removed():
    mask = boxes((0, 0, 2, 2), (2, 2, 4, 4), (10, 10, 11, 12), (20, 20, 25, 25))
    assert components(mask).max() == 3
    kept = components(mask, smallest=3)
    assert kept.max() == 2
    assert not kept[10, 10]
    assert set(np.unique(kept)) == {0, 1, 2}


def test_objects_that_touch_can_be_distinguished_by_their_numbers():
    two = np.zeros((10, 10), np.int32)
    two[:5], two[5:] = 1, 2
    assert object_scores(two, two)["objects_found"] == 2
    assert object_scores(components(two > 0), two)["objects_found"] == 0  # a merged object covers each by half only


def test_the_dice_of_objects_is_that_of_each_one_by_itself():
    true, found = np.zeros((20, 20), int), np.zeros((20, 20), int)
    true[1:5, 1:5], true[10:14, 1:5] = 1, 2
    found[1:5, 1:3], found[1:5, 4:6] = 1, 2  # two parts of the first: 12 of 16 pixels found, 4 outside
    found[15:18, 15:18] = 3  # touches nothing; the second true object is not found
    assert object_dice(found, true) == pytest.approx((2 * 12 / (16 + 16) + 0 + 0) / 3)
    assert object_dice(true, true) == 1
    assert object_dice(0 * found, 0 * true) == 1
    assert object_dice(found, 0 * true) == object_dice(0 * found, true) == 0


def test_the_dice_of_objects_is_that_of_a_walk_over_them():
    for seed in range(5):
        rng = np.random.default_rng(seed)
        true, found = (components(ndimage.gaussian_filter(rng.normal(size=(40, 40)), 2) > 0.2) for _ in range(2))
        scores = []
        for k in range(1, true.max() + 1):
            touching = np.isin(found, [n for n in np.unique(found[true == k]) if n])
            scores.append(2 * (touching & (true == k)).sum() / (touching.sum() + (true == k).sum()))
        scores += [0.0 for n in range(1, found.max() + 1) if not true[found == n].any()]
        assert object_dice(found, true) == pytest.approx(np.mean(scores))


def test_noise_over_many_objects_takes_no_table_of_all_pairs():
    true = components(np.kron(np.ones((96, 96)), boxes((0, 0, 4, 4), size=6)))  # 9216 objects
    found = components(np.random.default_rng(0).random(true.shape) < 0.1)
    tracemalloc.start()
    scores = object_scores(found, true)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (scores["objects"], scores["objects_found"]) == (9216, 0)
    assert peak < 20 * true.nbytes  # a table of 10,000 x 20,000 numbers alone would take 1,200
