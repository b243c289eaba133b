import dataclasses

import numpy as np
import pytest
from scipy.stats import nct, t

from seglab.reporting.power import Noise, power, smallest_difference, usual_noise
from seglab.reporting.stats import compare
from seglab.reporting.verdict import judge
from tests.reporting.fabricate import a_cube


def test_power_grows_with_the_difference_and_the_seeds_and_is_half_of_alpha_at_none():
    noise = Noise(spread=3e-4, images=1e-5, groups=50)
    assert power(0.0, noise, seeds=4, alpha=0.05) == pytest.approx(0.025, abs=0.005)
    assert power(0.02, noise, seeds=4, alpha=0.05) < power(0.04, noise, seeds=4, alpha=0.05)
    assert power(0.02, noise, seeds=4, alpha=0.05) < power(0.02, noise, seeds=8, alpha=0.05)


@pytest.mark.parametrize(("seeds", "gap"), [(5, 0.03), (8, 0.02), (12, 0.02)])
def test_power_without_image_noise_is_that_of_the_paired_t_test(seeds, gap):
    noise = Noise(spread=4e-4, images=0.0, groups=50)
    exact = nct.sf(t.isf(0.025, seeds - 1), seeds - 1, gap / (0.02 / seeds**0.5))
    assert power(gap, noise, seeds=seeds, alpha=0.05) == pytest.approx(exact, abs=0.02)


def test_the_smallest_difference_is_the_one_found_four_times_out_of_five():
    noise = Noise(spread=4e-4, images=1e-5, groups=50, lent=0.5)
    gap = smallest_difference(noise, seeds=4, alpha=0.01)
    assert power(gap, noise, seeds=4, alpha=0.01) == pytest.approx(0.8, abs=0.001)


def test_without_a_second_seed_the_noise_is_unknown():
    values = np.random.default_rng(0).normal(size=(2, 3, 9))
    assert usual_noise(compare(a_cube(values[:, :1]))) is None
    pair = compare(a_cube(values))[0]
    assert usual_noise([pair]) == Noise(pair.spread, pair.image_variance, 9, 0.0)
    assert usual_noise([dataclasses.replace(pair, kind="folds")]) is None


@pytest.mark.slow
@pytest.mark.parametrize(("losses", "seeds"), [(2, 3), (3, 3), (4, 5)])
def test_a_difference_of_the_stated_size_is_found_at_the_stated_power(losses, seeds):
    images, seed, image, single = 50, 0.01, 0.04, 0.05
    pairs = losses * (losses - 1) // 2
    spread, through_images = 2 * (seed**2 + single**2 / images), 2 * image**2 / images
    noise = Noise(spread=spread, images=through_images, groups=images, lent=(losses - 2) / 2)
    gap = smallest_difference(noise, seeds=seeds, alpha=0.05 / pairs)
    rng, found = np.random.default_rng(2), 0
    for _ in range(300):
        values = seed * rng.normal(size=(losses, seeds, 1)) + image * rng.normal(size=(losses, 1, images))
        values = values + single * rng.normal(size=(losses, seeds, images))
        values[0] += gap
        found += any(
            f.kind == "better" and (f.pair.first, f.pair.second) == ("l0", "l1")
            for f in judge(compare(a_cube(values)), delta=1e-9)
        )
    assert 0.72 <= found / 300 <= 0.92
