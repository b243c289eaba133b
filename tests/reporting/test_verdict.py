import dataclasses

import numpy as np
import pytest

from seglab.reporting.stats import Comparison, compare, errors
from seglab.reporting.verdict import headline, judge, ranks
from tests.reporting.fabricate import a_cube

SIZES = {"replicates": 4, "images": 50, "groups": 50}
PAIR = Comparison(first="dice", second="bce", difference=0.03, **SIZES, spread=4e-5, image_variance=1e-5, p=0.01)
"""A difference of 0.03 with a standard error of 0.0045: the interval is +-0.012 at 5 %."""


def like(**fields):
    """Return PAIR with some fields replaced, and the p-value that follows from them."""
    pair = dataclasses.replace(PAIR, **fields)
    return dataclasses.replace(pair, p=float(2 * errors([pair]).above(abs(pair.difference))[0]))


def three(*levels, seed=0.004):
    """Return all pairs of losses with these means, with noise over 4 seeds and 50 images."""
    rng = np.random.default_rng(3)
    values = np.array(levels)[:, None, None] + seed * rng.normal(size=(len(levels), 4, 1))
    return compare(a_cube(values + 0.01 * rng.normal(size=(len(levels), 4, 50))))


def test_a_difference_beyond_chance_is_better_by_its_size_also_where_lower_is_better():
    found = judge([like()])[0]
    assert found.kind == "better"
    assert found.words == "dice is better than bce by 0.030 (0.018 to 0.042)."
    lower = judge([like(difference=-0.03)], lower_is_better=True)[0]
    assert lower.words == found.words


def test_the_loss_that_is_ahead_on_the_common_seeds_is_named_first():
    found = judge([like(difference=-0.03)])[0]
    assert (found.pair.first, found.pair.second, found.gap) == ("bce", "dice", 0.03)


def test_the_leader_is_ahead_on_the_common_seeds_whatever_the_mean_over_others():
    values = np.array([[0.9, 0.5, 0.52], [np.nan, 0.6, 0.64]])[..., None] + 0.01 * np.arange(4)
    [found] = judge(compare(a_cube(values)), question="best")
    assert found.pair.first == "l1"  # though l0 has the better mean over all its seeds
    assert found.words.startswith("l0 may be the best (0.110 behind l1, ")
    easy = 0.1 * np.array([1, 1, 1, -1, -1])[:, None] + 0.05 * np.random.default_rng(3).normal(size=20)
    values = np.stack([0.53 + easy, 0.50 + easy, 0.45 + easy]) + 1e-3 * np.random.default_rng(4).normal(size=(3, 5, 20))
    values[1:, 3:] = np.nan  # only l0 has the hard seeds, and so the worst mean
    assert headline(judge(compare(a_cube(values)), question="best")).startswith("l0 is the best; l1 and l2 are worse")


def test_a_loss_that_shares_no_seed_with_the_leader_may_be_the_best():
    values = np.full((3, 4, 20), np.nan)
    seeds = np.array([0.1, 0.1, 0, 0])[:, None] + 1e-3 * np.random.default_rng(0).normal(size=(4, 20))
    values[0, :2], values[1, 2:], values[2] = (0.51 + seeds)[:2], (0.55 + seeds)[2:], 0.5 + seeds
    found = judge(compare(a_cube(values)), question="best")
    assert headline(found, apart=["l1"]).startswith("The best may be l0 or l1; l2 is worse")


def test_one_seed_of_one_loss_hides_nothing_of_the_others():
    values = 0.1 * np.array([9, 8, 6])[:, None, None] + 1e-3 * np.random.default_rng(0).normal(size=(3, 3, 20))
    values[0, 1:] = np.nan
    pairs = compare(a_cube(values))
    found = judge(pairs, question="best")
    assert headline(found) == "The best may be l1 or l0; another loss is at least as good as l2."
    assert {each.pair.second: each.name for each in found} == {"l0": "one seed", "l2": "not best"}
    assert headline(judge(pairs)) == "l0 has no verdict against l1 and l2."
    assert headline(judge(pairs, question="against", against="l2"), "l2") == (
        "Compared with l2: l1 is better; no verdict on l0."
    )


def test_the_headline_of_all_pairs_is_about_a_loss_that_no_other_is_better_than():
    ahead = {"ab": 0.05, "ca": 0.03, "cb": 0.08}
    pairs = [like(first=one, second=other, difference=gap, spread=1e-6) for (one, other), gap in ahead.items()]
    assert headline(judge(pairs)) == "c is better than a and b."


def test_the_interval_of_a_better_loss_leaves_0_out_although_the_steps_find_more_than_it():
    gaps = {"ab": 0.021, "ac": 0.9, "bc": 0.9}
    pairs = [like(first=one, second=other, difference=gap, spread=1e-5) for (one, other), gap in gaps.items()]
    found = judge(pairs, alpha=1.01 * pairs[0].p)[0]
    assert found.kind == "better"
    assert found.low == 0


def test_all_pairs_are_judged_by_the_steps_of_shaffer():
    gaps = {"ab": 0.9, "ac": 0.021, "bc": 0.0205}
    pairs = [like(first=one, second=other, difference=gap, spread=1e-5) for (one, other), gap in gaps.items()]
    kinds = [
        each.kind for each in judge(pairs, alpha=1.5 * pairs[2].p)
    ]  # with Holm, the smaller of two would be doubled
    assert kinds == ["better"] * 3


def test_losses_are_equivalent_as_soon_as_the_interval_lies_within_delta():
    pair = like(difference=0.004)
    end = 0.004 + errors([pair]).reach(0.05)[0]
    assert [judge([pair], delta=delta)[0].kind for delta in (0.999 * end, 1.001 * end)] == ["unknown", "equivalent"]


def test_an_interval_inside_delta_is_equivalence_even_if_the_difference_is_certain():
    small = like(difference=0.004, spread=1e-6, image_variance=1e-7)
    assert small.p < 0.05
    found = judge([small])[0]
    assert found.kind == "equivalent"
    assert "equivalent within 0.01" in found.words
    assert judge([small], delta=0.004)[0].kind == "better"


def test_equivalence_is_judged_for_all_pairs_together():
    pairs = [like(first=name, difference=0.0, spread=3.2e-5, image_variance=0.0) for name in "abcdefgh"]
    assert judge(pairs[:1])[0].kind == "equivalent"
    assert {found.kind for found in judge(pairs)} == {"unknown"}


def test_the_probabilities_of_the_answers_add_up_and_are_those_of_the_errors():
    found = judge([like(difference=0.012)])[0]
    errors_ = errors([like()])
    assert sum(found.chances) == pytest.approx(1)
    assert found.chances[0] == pytest.approx(1 - errors_.above(0.002)[0])
    assert found.chances[2] == pytest.approx(errors_.above(0.022)[0])


def test_an_open_question_says_how_many_more_seeds_would_decide_as_a_range():
    found = judge([like(difference=0.012, spread=4e-4)])[0]
    fewest, most = found.more_seeds
    assert found.kind == "unknown"
    assert 1 <= fewest < (most or 51)
    assert f"{fewest} to {most or 'over 50'} more seeds would probably decide" in found.words
    later = judge([like(difference=0.012, spread=4e-4)], next_alpha=0.005)[0]
    assert later.more_seeds[0] > fewest  # tested at the level of the next look


def test_a_range_that_begins_with_the_most_seeds_that_are_tried_has_no_end():
    found = judge([like(difference=0.012, spread=4e-4)])[0]
    found.__dict__["more_seeds"] = (50, None)  # where cached_property stores it
    assert found.words.endswith("; about 50 or more additional seeds would probably decide.")


def test_where_the_test_images_are_the_limit_more_seeds_would_not_decide():
    found = judge([like(difference=0.011, image_variance=9e-4)])[0]
    assert found.more_seeds == (None, None)
    assert "more test images" in found.words


def test_where_the_seeds_are_the_limit_more_test_images_are_not_advised():
    pair = like(difference=0.0, replicates=3, spread=3 * 0.02**2, image_variance=0.003**2)
    found = judge([pair], next_alpha=0.0075)[0]
    assert found.more_seeds == (None, None)
    assert found.words.endswith("; it would take more than 50 more seeds to decide.")


def test_an_interval_that_is_wide_since_two_losses_share_fewer_seeds_says_so():
    values = 0.5 + 0.02 * np.random.default_rng(2).normal(size=(4, 3, 1)) + np.zeros(40)
    values[3, 2] = np.nan

    def few(question, values):
        judged = judge(compare(a_cube(values)), question=question, delta=0.001)
        words = "share only 2 seeds, which widens the interval: train any missing runs first."
        return {frozenset((found.pair.first, found.pair.second)) for found in judged if words in found.words}

    assert few("pairs", values) == {frozenset((loss, "l3")) for loss in ("l0", "l1", "l2")}
    assert len(few("best", values)) == 3  # l3 may be the best, with the others far behind
    assert not few("best", values[:3])
    assert not few("best", values[:, :2])
    values[3], values[3, 2], values[0, 2] = np.nan, 0.5, np.nan
    values[1] += 0.01  # it leads; l0 and l3 share no seed
    judged = judge(compare(a_cube(values[[0, 1, 3]])), question="best")
    assert any("share no seed, which" in found.words for found in judged)
    assert any("an unknown amount behind the best" in found.words for found in judged)


def test_one_seed_or_one_test_image_gives_no_verdict():
    nothing = {"spread": np.nan, "image_variance": np.nan}
    single = like(**nothing, replicates=1)
    for question in ("best", "pairs"):
        found = judge([single], question=question)
        assert found[0].kind == "none"
        assert "no verdict from one seed" in found[0].words
        assert "no verdict" in headline(found)
    level = judge([like(**nothing, replicates=1, difference=0.0)], question="best")
    assert headline(level) == "dice and bce share the best mean, but one seed per loss gives no verdict."
    assert level[0].words == "dice against bce: no verdict from one seed (equal means); add a second."
    assert "one group of test images" in judge([like(**nothing, images=1, groups=1)])[0].words


def test_the_best_is_among_the_losses_that_none_is_clearly_ahead_of():
    pairs = three(0.9, 0.897, 0.8)
    found = {each.pair.second: each for each in judge(pairs, question="best", delta=0.002)}
    assert {name: each.kind for name, each in found.items()} == {"l1": "unknown", "l2": "better"}
    assert headline(list(found.values())) == f"The best may be l0 or l1; l2 is worse by at least {found['l2'].low:.3f}."
    assert found["l2"].words.startswith("l2 is worse than the best by at least 0.0")


def test_how_far_a_loss_is_behind_the_best_follows_from_the_intervals_of_all_that_may_be_best():
    pairs = three(0.9, 0.897, 0.8)
    reach = errors(pairs).reach(0.05 / 2)
    by_names = {(p.first, p.second): (p.difference - r, p.difference + r) for p, r in zip(pairs, reach, strict=True)}
    found = judge(pairs, question="best")[-1]
    assert found.low == pytest.approx(min(by_names["l0", "l2"][0], by_names["l1", "l2"][0]))
    assert found.high == pytest.approx(max(by_names["l0", "l2"][1], by_names["l1", "l2"][1]))


def test_a_loss_that_only_some_candidates_are_ahead_of_is_not_the_best_by_an_unknown_amount():
    gaps = {"ab": 0.006, "ac": 0.018, "bc": 0.012}
    pairs = [like(first=first, second=second, difference=gap) for (first, second), gap in gaps.items()]
    found = judge(pairs, question="best")
    assert [each.kind for each in found] == ["unknown", "not best"]
    assert found[1].low == 0
    assert headline(found) == "The best may be a or b; another loss is at least as good as c."
    assert found[1].words == "c is not the best: another loss is at least as good (0.018 behind a)."
    worse = dataclasses.replace(found[1], kind="better", low=0.0004)
    assert headline([*found, worse]) == "The best may be a or b; another loss is at least as good as c; c is worse."
    assert worse.words == "c is worse than the best (0.018 behind a)."


def test_one_that_is_ahead_of_all_is_the_best_and_what_is_close_to_it_is_as_good():
    apart = judge(three(0.9, 0.8, 0.7), question="best")
    assert headline(apart).startswith("l0 is the best; l1 and l2 are worse by at")
    close = judge(three(0.9, 0.9001, 0.7, seed=0.0), question="best", delta=0.02)
    assert headline(close).startswith("l1 and l0 are equally good within 0.02; l2 is worse by at least 0.1")
    assert "is as good as the best within 0.02" in close[0].words


def test_losses_that_all_may_be_the_best_are_only_counted():
    pairs = [like(first=a, second=b, difference=1e-4, spread=1.0) for a, b in ("ab", "ac", "bc")]
    found = judge(pairs, question="best")
    assert headline(found) == "Any of the 3 losses may be the best; a has the best mean."
    assert found[0].high > 1
    clipped = judge([found[0].pair], question="best", largest=1.0)[0]
    assert (clipped.low, clipped.high) == (0, 1)


def test_each_loss_beside_a_baseline_needs_fewer_comparisons_than_all_pairs():
    pairs = three(0.9, 0.85, 0.8, 0.75)
    beside = judge(pairs, question="against", against="l2")
    assert [(each.pair.first, each.pair.second) for each in beside] == [("l0", "l2"), ("l1", "l2"), ("l2", "l3")]
    assert headline(beside, "l2") == "Compared with l2: l0 and l1 are better; l3 is worse."
    everything = {(e.pair.first, e.pair.second): e for e in judge(pairs, question="pairs")}
    assert all(everything[each.pair.first, each.pair.second].low < each.low for each in beside)
    nothing = judge(pairs, question="against", against="l9")
    assert headline(nothing, "l9") == "There is nothing to compare: l9 has no finished run with a seed in common."


def test_the_headline_of_all_pairs_sorts_the_rivals_of_the_leader():
    pairs = [
        like(),
        like(second="iou", difference=0.001, spread=1e-6, image_variance=1e-7),
        like(second="focal", difference=0.01, spread=1e-3),
        like(first="iou"),
    ]
    expected = "dice is better than bce; it is equivalent within 0.01 to iou; it cannot be distinguished from focal."
    assert headline(judge(pairs)) == expected
    assert "nothing to compare" in headline([])


def test_ranks_are_bounded_by_what_is_better():
    assert ranks(judge(three(0.9, 0.897, 0.8))) == {"l0": (1, 2), "l1": (1, 2), "l2": (3, 3)}
