"""The guarantees of the verdict in simulated studies; docs/findings/verdict.md has the full tables."""

import pytest

from tests.reporting.simulate import (
    GRADES,
    QUESTIONS,
    best_ruled_out,
    false_better,
    false_equivalent,
    found_better,
    of_patients,
    ranks_are_covered,
    with_folds,
    wrong,
)

pytestmark = pytest.mark.slow
STUDIES = 300
BOUND = 0.05 + 1.65 * (0.05 * 0.95 / STUDIES) ** 0.5
"""The bound that a true share of 5 % exceeds in 5 % of simulations of this size; their seeds are fixed."""


@pytest.mark.parametrize("user", ["by advice", "one by one"])  # "once" is their first look
@pytest.mark.parametrize(("losses", "questions"), [(2, ["pairs"]), (4, QUESTIONS)])  # all are equal for two losses
def test_false_better_is_rare_however_often_one_looks_and_whatever_one_asks(losses, questions, user):
    shares = wrong(false_better, [0.0] * losses, user, STUDIES, questions)
    assert {question: share for question, share in shares.items() if share > BOUND} == {}


def test_an_erratic_loss_does_not_invent_differences():
    assert wrong(false_better, [0.0] * 4, "one by one", STUDIES, ["pairs"], erratic=5.0)["pairs"] <= BOUND


@pytest.mark.parametrize("means", [[0.0] * 4, GRADES], ids=["equal", "graded"])
def test_the_true_best_is_rarely_ruled_out(means):
    assert wrong(best_ruled_out, means, "by advice", 150, ["best"])["best"] <= 0.05


def test_true_ranks_lie_in_their_sets():
    assert ranks_are_covered(GRADES[:6], "by advice", 150) >= 0.95


def test_losses_that_differ_by_delta_are_rarely_called_equivalent():
    shares = wrong(false_equivalent, [0.04, 0.0, 0.0, 0.0], "by advice", STUDIES, ["best", "pairs"], delta=0.04)
    assert max(shares.values()) <= BOUND


@pytest.mark.parametrize("sizes", [(40, 2, 2, 2), (27, *[2] * 9), (20, 10, 10, 5, 5, 3, 2, 2, 2, 1)])
def test_patients_of_unequal_size_invent_no_differences(sizes):
    assert of_patients(sizes, STUDIES) <= BOUND


@pytest.mark.parametrize("losses", [2, 4])
def test_folds_invent_no_differences_though_training_data_matter_twice_as_much_as_seeds(losses):
    assert with_folds([0.0] * losses, STUDIES, shared=0.04) <= BOUND


def test_the_best_set_of_twelve_losses_is_smaller_than_the_one_from_all_pairs():
    assert found_better(GRADES, "best", 3, 100)[1] < found_better(GRADES, "pairs", 3, 100)[1] - 0.2
