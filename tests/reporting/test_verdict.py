import dataclasses

import numpy as np
import pytest
from scipy.stats import nct, t

from seglab.reporting import verdict as v
from seglab.reporting.stats import Comparison, compare
from seglab.reporting.verdict import Noise, headline, judge, power
from tests.reporting.fabricate import a_cube

MEANS = {"first": "dice", "second": "bce", "mean_first": 0.85, "mean_second": 0.82, "difference": 0.03}
COUNTS = {"seeds": 4, "images": 50, "groups": 50}
INTERVALS = {"low": 0.02, "high": 0.04, "low_all": 0.015, "high_all": 0.045, "p": 0.001, "p_holm": 0.003}
PAIR = Comparison(**MEANS, **COUNTS, **INTERVALS, p_images=0.001, seed_variance=1e-5, image_variance=1e-5)
OPEN = dataclasses.replace(PAIR, p=0.1, p_holm=0.3, low=-0.01, high=0.07)
NONE = {"low": np.nan, "high": np.nan, "p": np.nan, "p_holm": np.nan}


def like(**fields: object) -> Comparison:
    return dataclasses.replace(PAIR, **fields)


def test_a_difference_beyond_chance_is_better_by_its_size_also_where_less_is_better():
    verdict = judge([PAIR])[0]
    assert verdict.kind == "better"
    assert verdict.words == "dice is better than bce by 0.030 (95% interval 0.020 to 0.040)."
    lower = judge([like(difference=-3.0, low=-4.0, high=-2.0)])[0]
    assert lower.words == "dice is better than bce by 3.000 (95% interval 2.000 to 4.000)."


def test_an_interval_inside_delta_is_equivalence_even_if_the_difference_is_certain():
    verdict = judge([like(difference=0.004, low=0.002, high=0.006)])[0]
    assert verdict.kind == "equivalent"
    assert "equivalent within 0.01" in verdict.words
    assert judge([like(difference=0.004, low=0.002, high=0.006)], delta=0.005)[0].kind == "better"


def test_an_open_question_says_how_many_more_seeds_would_decide():
    noisy, noisier = (judge([dataclasses.replace(OPEN, seed_variance=variance)])[0] for variance in (4e-4, 8e-4))
    assert noisy.kind == "unknown"
    assert 1 <= noisy.more_seeds <= 20
    assert f"about {noisy.more_seeds} more seed" in noisy.words
    assert noisier.more_seeds > noisy.more_seeds


def test_where_the_test_images_are_the_limit_more_seeds_would_not_decide():
    verdict = judge([like(p=0.4, p_holm=0.9, difference=0.011, low=-0.05, high=0.07, image_variance=9e-4)])[0]
    assert verdict.more_seeds is None
    assert "more test images" in verdict.words


def test_one_seed_or_one_test_image_gives_no_verdict():
    single = like(**NONE, seeds=1, seed_variance=np.nan)
    verdicts = judge([single])
    assert verdicts[0].kind == "none"
    assert "no verdict from one seed" in verdicts[0].words
    assert "no verdict" in headline(verdicts)
    assert v.usual_noise([single]) is None
    assert "one group of test images" in judge([like(**NONE, images=1, groups=1)])[0].words


def test_the_headline_sorts_the_rivals_of_the_leader():
    pairs = [
        PAIR,
        like(second="iou", difference=0.001, low=-0.002, high=0.004, p=0.5, p_holm=0.5),
        dataclasses.replace(OPEN, second="focal"),
        like(first="iou", second="bce"),
    ]
    expected = "dice is better than bce; it is equivalent within 0.01 to iou; it cannot be distinguished from focal."
    assert headline(judge(pairs)) == expected
    assert "nothing to compare" in headline([])


def test_power_grows_with_the_difference_and_the_seeds_and_is_alpha_at_none():
    noise = Noise(one_seed=3e-4, images=1e-5, groups=50)
    assert power(0.0, noise, seeds=4, alpha=0.05) <= 0.03  # half of the two sides
    assert power(0.02, noise, seeds=4, alpha=0.05) < power(0.04, noise, seeds=4, alpha=0.05)
    assert power(0.02, noise, seeds=4, alpha=0.05) < power(0.02, noise, seeds=8, alpha=0.05)


def test_power_without_image_noise_is_that_of_the_paired_t_test():
    noise = Noise(one_seed=4e-4, images=0.0, groups=50)
    for seeds, gap in ((5, 0.03), (8, 0.02), (12, 0.02)):
        exact = nct.sf(t.isf(0.025, seeds - 1), seeds - 1, gap / (0.02 / seeds**0.5))
        assert power(gap, noise, seeds=seeds, alpha=0.05) == pytest.approx(exact, abs=0.06)


@pytest.mark.slow
@pytest.mark.parametrize(("losses", "seeds"), [(2, 3), (3, 3), (4, 5)])
def test_a_difference_of_the_stated_size_is_found_at_the_stated_power(losses, seeds):
    images, seed, image, single = 50, 0.01, 0.04, 0.05
    pairs = losses * (losses - 1) // 2
    one_seed, through_images = 2 * (seed**2 + single**2 / images), 2 * image**2 / images
    noise = Noise(one_seed=one_seed, images=through_images, groups=images, prior=(losses - 2) / 2)
    gap = v.smallest_difference(noise, seeds=seeds, alpha=0.05 / pairs)
    rng, found = np.random.default_rng(2), 0
    for sweep in range(300):
        values = seed * rng.normal(size=(losses, seeds, 1)) + image * rng.normal(size=(losses, 1, images))
        values = values + single * rng.normal(size=(losses, seeds, images))
        values[0] += gap
        compared = {(pair.first, pair.second): pair for pair in compare(a_cube(values), resamples=600, seed=sweep)}
        found += ("l0", "l1") in compared and compared["l0", "l1"].p_holm <= 0.05
    assert 0.72 <= found / 300 <= 0.92


def test_a_difference_that_a_tuned_threshold_takes_away_or_reverses_is_a_warning():
    fixed = judge([PAIR])
    assert v.depends_on_threshold(fixed, fixed) == ""
    lost = judge([like(p=0.6, p_holm=0.6, low=-0.02, high=0.03)])
    reversed_ = judge([like(first="bce", second="dice")])
    for tuned in (lost, reversed_):
        assert v.depends_on_threshold(fixed, tuned).endswith("for dice against bce.")
    assert v.depends_on_threshold(lost, fixed) == ""
    assert v.depends_on_threshold(fixed, []) == ""
