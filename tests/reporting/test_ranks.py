import numpy as np
import pytest
from scipy import stats as reference

from seglab.reporting.ranks import cliques, mean_ranks, rank_shares, signed_rank
from tests.reporting.fabricate import a_cube


def test_cliques_are_the_longest_stretches_without_a_found_difference():
    order = ["a", "b", "c", "d"]
    assert cliques(order, set()) == [(0, 3)]
    assert cliques(order, {frozenset("ad")}) == [(0, 2), (1, 3)]
    assert cliques(order, {frozenset("ab"), frozenset("ac"), frozenset("ad")}) == [(1, 3)]
    assert cliques(order, {frozenset((x, y)) for x in order for y in order if x != y}) == []


def test_mean_ranks_share_ties_and_count_one_as_best():
    data = a_cube(np.array([[[0.9, 0.5]], [[0.1, 0.5]]]))
    assert mean_ranks(data).to_dict() == {"l0": 1.25, "l1": 1.75}
    assert mean_ranks(data, lower_is_better=True).to_dict() == {"l1": 1.25, "l0": 1.75}


def test_rank_shares_are_certain_where_every_seed_and_image_agrees():
    values = np.stack([np.full((3, 6), mean) for mean in (0.1, 0.9, 0.5)])
    shares = rank_shares(a_cube(values), resamples=50)
    assert shares.index.tolist() == ["l1", "l2", "l0"]
    assert np.diag(shares).tolist() == [1, 1, 1]
    assert rank_shares(a_cube(values), resamples=50, lower_is_better=True).index[0] == "l0"


@pytest.mark.parametrize("count", [2, 8, 11, 14, 50, 51, 200])
@pytest.mark.parametrize("digits", [9, 1], ids=["distinct", "ties and zeros"])
def test_the_signed_rank_test_is_that_of_scipy(count, digits):
    differences = np.random.default_rng(count).normal(0.2, 0.4, count).round(digits)
    assert signed_rank(differences) == pytest.approx(reference.wilcoxon(differences).pvalue, rel=1e-9)


def test_no_difference_at_all_has_a_p_value_of_one():
    assert signed_rank(np.zeros(3)) == 1.0
