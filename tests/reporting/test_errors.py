import numpy as np
import pytest
from scipy import integrate, stats

from seglab.reporting.errors import Errors, Student


def errors_of(*parts):
    """Build Errors from (scale of seeds, degrees of freedom, scale of images, degrees of freedom) of each part."""
    seeds, free, images, images_free = np.array(parts, float).T
    return Errors(Student(seeds, free), Student(images, images_free))


@pytest.mark.parametrize(
    ("parts", "value"),
    [
        ((1, 2, 1, 20), 2.0),
        ((1, 2, 1, 20), 50.0),
        ((0.3, 1, 1, 9), 4.3),
        ((1, 5, 0.3, 49), 0.5),
        ((0.1, 2, 1, 49), 2.0),
        ((1, 1, 1, 3), -6.0),
        ((1, 2, 1, 2), 40.0),
        ((10, 9, 1, 2), 55.0),
    ],
)
def test_the_tail_of_the_sum_of_two_students_is_that_of_adaptive_integration(parts, value):
    seeds, free, images, images_free = parts

    def inside(y):
        return stats.t.pdf(y, images_free) * stats.t.sf((value - images * y) / seeds, free)

    expected = integrate.quad(inside, -np.inf, np.inf, limit=500)[0]
    assert errors_of(parts).above(value)[0] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("value", [0.1, 3.0, 50.0, 1e4])
def test_two_parts_of_one_degree_of_freedom_are_one_whose_scale_is_their_sum(value):
    assert errors_of((1, 1, 3, 1)).above(value)[0] == pytest.approx(stats.cauchy.sf(value / 4), rel=3e-3)


def test_one_part_alone_is_student_t_whichever_it_is():
    for parts, free in (((2, 3, 0, 9), 3), ((0, 3, 2, 9), 9)):
        assert errors_of(parts).above(5.0)[0] == pytest.approx(stats.t.sf(2.5, free))
        assert errors_of(parts).reach(0.01)[0] == pytest.approx(2 * stats.t.isf(0.005, free))


@pytest.mark.parametrize("level", [0.5, 0.05, 1e-3, 1e-6])
def test_an_error_reaches_beyond_its_reach_with_the_stated_probability(level):
    errors = errors_of((1, 2, 1, 20), (1, 5, 0.3, 49), (0.3, 1, 1, 9), (1e-9, 2, 0.04, 49))
    assert 2 * errors.above(errors.reach(level)) == pytest.approx(level, rel=1e-6)


def test_an_unknown_error_reaches_everywhere_and_an_absent_one_nowhere():
    errors = errors_of((np.nan, np.nan, 1, 9), (0, 2, 0, 9))
    assert errors.reach(0.05).tolist() == [np.inf, 0]
    np.testing.assert_equal(errors.above(0.0), [np.nan, 0.5])
    np.testing.assert_equal(errors.above([0.1, 0.1]), [np.nan, 0.0])
