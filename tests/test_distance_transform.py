"""The distance transform is exact, and has the same digits at every memory address."""

import numpy as np
from scipy.ndimage import distance_transform_edt

from seglab.distance_transform import distance_to_zero


def plane():
    """Return a mask of one value with two boxes of the other."""
    made = np.ones((33, 37), np.uint8)
    made[9:20, 8:17] = made[25:30, 22:31] = 0
    return made


def test_it_agrees_with_scipy_to_the_last_digit():
    np.testing.assert_array_equal(distance_to_zero(plane()), distance_transform_edt(plane()))


def test_some_pixels_are_those_of_the_whole():
    where = np.random.default_rng(0).random((33, 37)) < 0.2
    np.testing.assert_array_equal(distance_to_zero(plane(), where), distance_to_zero(plane())[where])


def test_it_has_the_same_digits_wherever_its_memory_lies():
    first = distance_to_zero(plane())
    for size in range(1, 200):
        kept = np.ones(37 * size, np.uint8)  # moves the next allocation
        assert np.array_equal(distance_to_zero(plane()), first)
        del kept
