from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import special
from scipy import stats as reference

from seglab.contract import ContractError
from seglab.reporting.cube import cube
from seglab.reporting.stats import (
    compare,
    components,
    errors,
    inverse_trigamma,
    moderate,
    possibly_equal,
    replicated,
    step_down,
    variances,
)
from tests.reporting.fabricate import a_cube


def interval(pair, confidence=0.95):
    reach = errors([pair]).reach(1 - confidence)[0]
    return pair.difference - reach, pair.difference + reach


def noise(rng, losses=3, seeds=3, images=50, seed=0.01, image=0.04, single=0.05, gap=0.0):
    """Draw a sweep: images differ, seeds shift each loss on all its images, and single predictions vary."""
    values = 0.8 + 0.1 * rng.normal(size=images) + 0.01 * rng.normal(size=(1, seeds, 1))
    values = values + seed * rng.normal(size=(losses, seeds, 1)) + image * rng.normal(size=(losses, 1, images))
    values = values + single * rng.normal(size=(losses, seeds, images))
    values[0] += gap
    return values


def test_step_down_gives_the_values_of_holm_worked_out_by_hand():
    # sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 = 0.02, 0.03, 0.06, 0.04; made monotonic: 0.02, 0.03, 0.06, 0.06
    assert step_down([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert step_down([0.6, 0.5]) == [1.0, 1.0]
    assert step_down([0.02, np.nan, 0.03]) == pytest.approx([0.04, np.nan, 0.04], nan_ok=True)


@pytest.mark.parametrize("losses", [2, 3, 4, 5, 6])
def test_how_many_pairs_may_be_equal_is_what_trying_all_partitions_gives(losses):
    def equal_pairs(parts):
        return sum(parts.count(part) * (parts.count(part) - 1) // 2 for part in set(parts))

    counts = {equal_pairs(parts) for parts in product(range(losses), repeat=losses)}
    pairs = losses * (losses - 1) // 2
    expected = [max(count for count in counts if count <= pairs - known) for known in range(pairs)]
    assert possibly_equal(losses) == expected


def test_the_pairs_of_hundreds_of_losses_are_counted_at_once():
    assert possibly_equal(300)[:3] == [44850, 44551, 44551]  # one apart from 299 others


def test_the_steps_for_five_losses_are_those_of_shaffer():
    assert possibly_equal(5) == [10, 6, 6, 6, 6, 4, 4, 3, 2, 1]
    assert step_down([0.004, 0.007, 0.5], [3, 1, 1]) == pytest.approx([0.012, 0.012, 0.5])


def test_variances_of_a_hand_made_table():
    # two seeds, two images: seed means 1 and 3, image means 1 and 3, no remaining interaction
    found = variances(np.array([[0.0, 2.0], [2.0, 4.0]]), np.array([0, 1]))
    assert found.seeds == pytest.approx(1.0)  # var(1, 3) = 2, over 2 seeds
    assert found.images == pytest.approx(1.0)
    assert found.single == pytest.approx(0.0)
    # pure interaction: the margins are constant, and no variance may be negative
    interaction = np.array([[[1.0, -1.0], [-1.0, 1.0]], np.zeros((2, 2))])
    assert variances(interaction[0], np.array([0, 1])) == (0.0, 0.0, 1.0)
    assert compare(a_cube(interaction))[0].image_variance == 0.0


@pytest.mark.parametrize("images", [2, 3, 4])
def test_few_patients_and_many_seeds_do_not_make_equal_losses_differ(images):
    rng = np.random.default_rng(7)
    studies = [noise(rng, losses=2, seeds=10, images=images, image=0.05) for _ in range(800)]
    wrong = np.mean([compare(a_cube(study))[0].p < 0.035 for study in studies])
    assert wrong < 0.055  # 3.5 % plus three standard errors; it was 5 to 11 %


def test_components_of_the_variance_are_found_without_bias():
    # the estimates are quadratic in the values, so their mean for an effect of variance 1 is their sum over the columns
    # of its design: exactly 1 for this effect and 0 for the others
    losses, seeds, images = np.indices((2, 3, 4))
    effects = {
        "images": images,
        "losses": losses,
        "losses on images": 4 * losses + images,
        "seeds": 3 * losses + seeds,
        "rest": 12 * losses + 4 * seeds + images,
    }
    for name, code in effects.items():
        columns = [components((code == level).astype(float)) for level in range(code.max() + 1)]
        expected = {other: float(other == name) for other in effects}
        assert {key: sum(column[key] for column in columns) for key in expected} == pytest.approx(expected, abs=1e-12)


def test_variances_add_up_to_the_true_variance_of_the_mean():
    rng = np.random.default_rng(3)
    runs = [noise(rng, losses=1, seeds=4, images=30)[0] - 0.8 for _ in range(3000)]
    base = 0.1**2 / 30 + 0.01**2 / 4  # added equally to every loss by `noise`
    expected = 0.01**2 / 4 + 0.04**2 / 30 + 0.05**2 / 120 + base
    assert np.var([run.mean() for run in runs]) == pytest.approx(expected, rel=0.08)
    parts = [variances(run, np.arange(30)) for run in runs]
    assert np.mean([part.seeds + part.images - part.single for part in parts]) == pytest.approx(expected, rel=0.08)


def test_images_of_one_group_count_as_one_draw():
    effect = np.repeat(np.random.default_rng(0).normal([[0.0], [0.1], [0.2]], 0.1, (3, 10)) + np.arange(10), 4, axis=1)
    grouped = variances(effect, np.repeat(np.arange(10), 4))
    assert grouped == pytest.approx(variances(effect[:, ::4], np.arange(10)))
    assert variances(effect, np.arange(40)).images < grouped.images / 2


def test_groups_of_unequal_size_weigh_by_their_images_and_vary_as_their_means_do():
    effect = np.array([[0.0, 0.0, 0.0, 4.0], [0.0, 0.0, 0.0, 4.0]])
    # weights 3/4 and 1/4: the variance of the mean is (9 + 1) / 16 that of a group, here 8 (from 0 and 4)
    assert variances(effect, np.array([0, 0, 0, 1])) == (0.0, pytest.approx(5.0), 0.0)
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(6), [20, 6, 2, 1, 1, 1])
    runs = 0.1 * rng.normal(size=(2000, 3, 6))[..., groups] + 0.3 * rng.normal(size=(2000, 1, 6))[..., groups]
    parts = [variances(run, groups) for run in runs]
    true, single = 0.3**2 * (np.bincount(groups) ** 2).sum() / 31**2, 0.1**2 * (np.bincount(groups) ** 2).sum() / 31**2
    assert np.mean([each.single for each in parts]) == pytest.approx(single / 3, rel=0.05)
    assert np.mean([each.images - each.single for each in parts]) == pytest.approx(true, rel=0.05)


def test_one_patient_gives_no_interval():
    values = np.random.default_rng(0).normal(size=(2, 3, 8))
    [pair] = compare(a_cube(values, groups=["p"] * 8))
    assert (pair.groups, pair.images) == (1, 8)
    assert np.isnan(pair.p)


def test_with_no_image_noise_the_interval_is_student_t_over_the_seeds():
    values = np.array([0.80, 0.83, 0.85, 0.81])[:, None] * np.ones((1, 20))
    pair = compare(a_cube(np.stack([values, np.full((4, 20), 0.8)])))[0]
    expected = reference.ttest_rel([0.80, 0.83, 0.85, 0.81], [0.8] * 4)
    assert pair.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert interval(pair) == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-9)


def test_with_no_seed_noise_the_interval_is_that_of_the_image_mean():
    effect = np.random.default_rng(1).normal(0.01, 0.05, 200)
    values = np.stack([np.tile(effect, (3, 1)), np.zeros((3, 200))])
    expected = reference.t.interval(0.95, 199, effect.mean(), effect.std(ddof=1) / 200**0.5)
    assert interval(compare(a_cube(values))[0]) == pytest.approx(expected, rel=1e-9)


def test_losses_that_gave_the_same_numbers_do_not_differ():
    run = noise(np.random.default_rng(0), losses=1)
    pair = compare(a_cube(np.concatenate([run, run])))[0]
    assert (pair.difference, pair.p, *interval(pair)) == (0, 1, 0, 0)


def test_one_seed_gives_a_difference_but_no_interval_and_no_p_value():
    pairs = compare(a_cube(noise(np.random.default_rng(0), seeds=1)))
    assert len(pairs) == 3
    assert all(np.isnan(pair.p) and np.isfinite(pair.difference) for pair in pairs)
    assert interval(pairs[0]) == (-np.inf, np.inf)


def test_the_loss_that_looks_better_comes_first():
    values = np.stack([np.full((2, 5), mean) + 0.001 * np.arange(5) for mean in (0.5, 0.9, 0.7)])
    assert [(p.first, p.second) for p in compare(a_cube(values))] == [("l1", "l2"), ("l1", "l0"), ("l2", "l0")]
    assert compare(a_cube(values), lower_is_better=True)[0].first == "l0"


def test_the_order_is_that_of_the_means_over_runs_where_values_are_undefined():
    values = np.full((2, 2, 10), 0.5)
    values[1, 0], values[1, 1] = 0.3, 0.8
    values[1, 1, 1:] = np.nan  # the mean over all values is 0.345, over runs 0.55
    data = a_cube(values)
    assert data.means == pytest.approx({"l0": 0.5, "l1": 0.55})
    assert compare(data)[0].first == "l1"
    assert replicated([data, data], "datasets")[0].first == "l1"
    folds = data._replace(fold=np.array([0] + [1] * 9), of_folds=2)
    assert folds.means == pytest.approx({"l0": 0.5, "l1": (0.3 + 0.3 + 0.8) / 3})
    values[0] = np.nan
    assert replicated([data, a_cube(np.ones((2, 2, 10)))], "datasets")[0].first == "l0"


def test_a_pair_uses_the_seeds_and_images_that_both_have():
    values = noise(np.random.default_rng(0), losses=2, seeds=4, images=20)
    values[0, 0] = np.nan  # a failed run
    values[1, :, 3] = np.nan  # an image on which the metric is undefined
    pair = compare(a_cube(values))[0]
    assert (pair.replicates, pair.images) == (3, 19)
    kept = np.delete(values[:, 1:], 3, axis=2)
    assert abs(pair.difference) == pytest.approx(abs((kept[0] - kept[1]).mean()))


def test_variances_that_differ_widely_are_not_moderated_and_hide_no_difference():
    alike, prior = moderate(np.full(6, 4.0), np.full(6, 2), 4)
    assert prior == 2  # half the degrees of freedom of two further losses
    assert alike == pytest.approx(4.0, rel=0.5)
    _, prior = moderate(np.exp([1.5, -1.5] * 3), np.full(6, 2), 4)  # within the noise of so few replicates
    assert prior == 2
    measured = np.array([1e-6, 1e-5, 1.0, 1e-4, 2.0, 3e-2])
    unlike, prior = moderate(measured, np.full(6, 2), 4)
    assert prior < 1
    explained = special.polygamma(1, 1.0)  # variance of the log of an estimate with two degrees of freedom
    assert special.polygamma(1, prior / 2) == pytest.approx(np.log(measured).var(ddof=1) - explained)
    assert unlike[0] < 1e-3
    assert np.all(unlike >= measured)


def test_the_inverse_of_trigamma():
    for x in (1e-3, 0.2, 1.0, 7.5, 400.0):
        assert inverse_trigamma(float(special.polygamma(1, x))) == pytest.approx(x, rel=1e-12)


def test_losses_of_other_settings_lend_nothing():
    values = noise(np.random.default_rng(0), losses=6)
    data = a_cube(values)._replace(labels=["a", "b", "a · epochs=1", "b · epochs=1", "c · epochs=1", "d · epochs=1"])
    alone = compare(a_cube(values[:2])._replace(labels=["a", "b"]))[0]
    among = {frozenset((pair.first, pair.second)): pair for pair in compare(data)}
    pair = among[frozenset("ab")]
    assert (pair.first, pair.spread, pair.prior) == (alone.first, alone.spread, 0)
    assert pair.p == pytest.approx(alone.p)
    assert among[frozenset(("a · epochs=1", "b · epochs=1"))].prior > 0
    assert among[frozenset(("a", "b · epochs=1"))].prior == 0


def test_folds_are_replicates_whose_training_sets_overlap():
    values = np.random.default_rng(0).normal(size=(2, 3, 50))
    data = a_cube(values)._replace(fold=np.repeat(np.arange(5), 10), of_folds=5)
    pair = compare(data)[0]
    first, second = (values[int(name[1])] for name in (pair.first, pair.second))
    gaps = (first - second).reshape(3, 5, 10).mean(axis=(0, 2))
    assert (pair.kind, pair.replicates, pair.images) == ("folds", 5, 50)
    assert pair.difference == pytest.approx(gaps.mean())
    error = (np.var(gaps, ddof=1) * (1 / 5 + 3 / 4)) ** 0.5  # two training sets share 3 of 4 parts
    assert pair.p == pytest.approx(2 * reference.t.sf(gaps.mean() / error, 4))


def test_the_spread_between_folds_beyond_that_of_seeds_and_images_is_due_to_training_data():
    values = np.random.default_rng(0).normal(size=(2, 3, 50))
    values[0] += np.repeat([9.0, -9.0, 5.0, -5.0, 0.0], 10)
    data = a_cube(values)._replace(fold=np.repeat(np.arange(5), 10), of_folds=5)
    assert 2.95 < compare(data)[0].overlap < 3
    assert compare(data._replace(values=values[:, :1], seeds=[0]))[0].overlap == 3 / 4  # a single seed


def test_datasets_are_replicates_and_their_number_counts():
    rng = np.random.default_rng(0)
    sets = [
        a_cube(0.5 + rng.normal(size=(2, 3, size)) + np.array([gap, 0])[:, None, None])
        for size, gap in ((9, 1), (40, 2), (20, 3))
    ]
    pair = replicated(sets, "datasets")[0]
    gaps = [part.values[0].mean() - part.values[1].mean() for part in sets]
    expected = reference.ttest_1samp(gaps, 0)
    assert (pair.first, pair.kind, pair.replicates) == ("l0", "datasets", 3)
    assert pair.p == pytest.approx(expected.pvalue)
    assert interval(pair) == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_cube_arranges_rows_and_leaves_gaps_undefined():
    rows = pd.DataFrame({"label": list("aabb"), "seed": [2, 1, 1, 1], "id": list("xxxy"), "iou": [0.2, 0.1, 0.3, 0.4]})
    rows["group"] = ["g", "g", "g", None]
    data = cube(rows, "iou")
    assert (data.labels, data.seeds, data.ids, data.groups.tolist()) == (["a", "b"], [1, 2], ["x", "y"], ["g", "y"])
    assert np.array_equal(data.values[0], [[0.1, np.nan], [0.2, np.nan]], equal_nan=True)
    assert np.array_equal(data.values[1], [[0.3, 0.4], [np.nan, np.nan]], equal_nan=True)


@pytest.mark.parametrize("asked", ["loss", "pixels", "foreground", "tp", "tn", "foreground_sum", "objects", "other"])
def test_an_unknown_score_is_refused_with_a_list_of_the_scores(asked):
    columns = ["label", "seed", "id", "group", "fn", "iou", *({asked} - {"other"})]
    expected = rf"report: metric: expected a score of per_image\.csv, one of fn, iou, got {asked}$"
    with pytest.raises(ContractError, match=expected):
        cube(pd.DataFrame(columns=columns), asked)
