"""The advised number of seeds is the one at which the paired t-test has a power of 0.8."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import nct, t

from seglab.reporting.power import MORE_SEEDS, images_forbid, more_seeds
from seglab.reporting.stats import Comparison

ABOUT = {"first": "a", "second": "b", "images": 50, "groups": 50}
PAIR = Comparison(**ABOUT, difference=0.02, replicates=3, spread=4e-4, image_variance=1e-12)


@pytest.mark.parametrize("level", [0.05, 0.01])
@pytest.mark.parametrize("difference", [0.02, 0.03, 0.05])
def test_the_range_of_further_seeds_has_the_power_of_the_paired_t_test(difference, level):
    found = more_seeds(replace(PAIR, difference=difference), 1e-9, level)
    half = t.ppf(0.75, 2) * (PAIR.spread / 3) ** 0.5
    for gap, more in ((difference + half, found[0]), (abs(difference - half), found[1])):
        if more is not None:
            seeds = 3 + np.array([more, MORE_SEEDS[MORE_SEEDS.index(more) - 1] if more > 1 else 0])
            exact = nct.sf(t.isf(level / 2, seeds - 1), seeds - 1, gap / (PAIR.spread / seeds) ** 0.5)
            assert exact[0] > 0.78
            assert more == 1 or exact[1] < 0.82


def test_a_difference_of_nothing_is_decided_by_equivalence_and_images_may_forbid_both():
    nothing = replace(PAIR, difference=0.0)
    few, many = (more_seeds(nothing, delta, 0.05)[0] for delta in (0.1, 0.02))
    assert few < many
    assert more_seeds(replace(PAIR, difference=0.02, image_variance=4e-3), 0.01, 0.05) == (None, None)


@pytest.mark.parametrize("seeds", [1e-9, 0.02])
def test_images_forbid_an_answer_where_the_interval_through_them_alone_exceeds_delta(seeds):
    level, scale = 0.05, 0.003
    pair = replace(PAIR, difference=0.0, spread=3 * seeds**2, image_variance=scale**2)
    reach = t.isf(level / 2, PAIR.groups - 1) * scale
    assert not images_forbid(pair, 1.02 * reach, level)
    if seeds < scale:  # else a true difference may be detectable
        assert images_forbid(pair, 0.98 * reach, level)
