import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt, label

from seglab.data.distance_maps import FAR, distance, gap


@pytest.fixture
def blobs():
    rng = np.random.default_rng(4)
    mask = np.zeros((60, 70), np.uint8)
    for _ in range(5):
        y, x = rng.integers(5, 50, 2)
        mask[y : y + rng.integers(2, 9), x : x + rng.integers(2, 9)] = 1
    return mask


def test_distance_agrees_with_scipy(blobs):
    expected = np.where(blobs, 1 - distance_transform_edt(blobs), distance_transform_edt(1 - blobs))
    np.testing.assert_allclose(distance(blobs), expected, atol=1e-4)


def test_distance_of_a_row_is_counted_from_the_boundary_pixels():
    row = np.array([[0, 0, 1, 1, 1, 0]], np.uint8)
    assert distance(row).tolist() == [[2, 1, 0, -1, 0, 1]]


@pytest.mark.parametrize("value", [0, 1])
def test_distance_without_a_boundary_is_zero(value):
    assert not distance(np.full((8, 8), value, np.uint8)).any()


def test_gap_is_the_sum_of_the_two_smallest_distances(blobs):
    labels, count = label(blobs, np.ones((3, 3)))
    away = np.sort([distance_transform_edt(labels != k) for k in range(1, count + 1)], axis=0)
    np.testing.assert_allclose(gap(blobs), away[0] + away[1], atol=1e-4)


def test_gap_is_far_with_fewer_than_two_objects():
    one = np.zeros((8, 8), np.uint8)
    one[2:4, 2:4] = 1
    assert (gap(one) == FAR).all()
    assert (gap(0 * one) == FAR).all()
