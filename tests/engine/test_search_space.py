"""The space of a search: the settings of trials, their number of epochs, and errors for an invalid space."""

import math

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from seglab.contract import ContractError
from seglab.engine.search_space import Option, TreeParzen, Trial, Tuning, read_space, rungs, settings

RATE = Option(1e-4, 1e-2, log=True)
GAMMA = Option(0, 4)


def test_trials_lie_in_their_ranges_and_fill_them_evenly():
    tried = settings({"optimizer.lr": RATE, "loss.gamma": GAMMA}, 27, seed=3)
    shares = sorted(math.log(one["optimizer.lr"] / 1e-4) / math.log(100) for one in tried)
    assert len(tried) == 27
    assert all(0 <= one["loss.gamma"] <= 4 for one in tried)
    gaps = [b - a for a, b in zip([0, *shares], [*shares, 1], strict=True)]
    assert max(gaps) < 3 / 27  # the largest gap of 27 random draws has a mean of 4/27


def test_more_trials_begin_with_the_same_ones_and_losses_share_the_values_of_what_they_share():
    space = {"optimizer.lr": RATE, "loss.gamma": GAMMA}
    assert settings(space, 20, seed=1)[:7] == settings(space, 7, seed=1)
    assert settings(space, 7, seed=2) != settings(space, 7, seed=1)
    alone = settings({"optimizer.lr": RATE}, 7, seed=1)
    assert [one["optimizer.lr"] for one in settings(space, 7, seed=1)] == [one["optimizer.lr"] for one in alone]


def test_lists_are_tried_each_once():
    lists = {"optimizer.lr": Option(choices=(1e-4, 1e-3, 1e-2)), "loss.gamma": Option(choices=(1, 2))}
    for trials, distinct in ((4, 4), (6, 6), (12, 6)):
        tried = [tuple(one.values()) for one in settings(lists, trials, seed=1)]
        assert len(tried) == len(set(tried)) == distinct
    assert settings({}, 12, seed=1) == [{}]


def test_a_range_of_few_numbers_of_three_digits_gives_each_of_them_once():
    tried = [one["ema"] for one in settings({"ema": Option(0.99, 0.999)}, 30, seed=1)]
    assert sorted(tried) == [0.99, 0.991, 0.992, 0.993, 0.994, 0.995, 0.996, 0.997, 0.998, 0.999]


def test_a_choice_may_be_a_list():
    betas = Option(choices=([0.9, 0.99], [0.8, 0.9]))
    tried = settings({"optimizer.betas": betas, "optimizer.lr": RATE}, 8, seed=1)
    assert {tuple(one["optimizer.betas"]) for one in tried} == {(0.9, 0.99), (0.8, 0.9)}
    assert Option(choices=([1], [2], [3])).edge([1]) == ""


@given(trials=st.integers(1, 200), epochs=st.integers(1, 500), halving=st.integers(2, 5), every=st.integers(1, 3))
def test_halving_trains_fewer_for_longer_and_one_to_the_end(trials, epochs, halving, every):
    steps = rungs(trials, epochs, halving, every)
    counts, lengths = zip(*steps, strict=True)
    assert counts[0] == trials
    assert 1 <= counts[-1] < halving
    assert lengths[-1] == epochs
    assert list(lengths) == sorted(lengths)
    assert all(length % every == 0 or length == epochs for length in lengths)


def test_a_range_of_an_option_of_whole_numbers_is_the_list_of_these():
    assert read_space({"batch_size": {"low": 4, "high": 6}}) == {"batch_size": Option(choices=range(4, 7))}
    assert read_space({"loss": {"gamma": {"low": 1, "high": 3}}}) == {"loss.gamma": Option(1, 3)}
    with pytest.raises(ContractError, match=r"space.batch_size: expected a list of whole numbers, such as \[4,8,16\]"):
        read_space({"batch_size": {"low": 4, "high": 64, "log": True}})
    with pytest.raises(ContractError, match=r"space.batch_size: expected a range that contains a whole number"):
        read_space({"batch_size": {"low": 4.2, "high": 4.8}})


def test_halving_by_hand():
    assert rungs(12, 27, 3) == [(12, 3), (4, 9), (1, 27)]
    assert rungs(12, 27, None) == [(12, 27)]


def test_a_best_value_at_the_end_of_its_range_is_said():
    three, two, words = Option(choices=(1e-4, 1e-3, 1e-2)), Option(choices=(1, 2)), Option(choices=("a", "b", "c"))
    assert [RATE.edge(value) for value in (1.1e-4, 1e-3, 9e-3)] == ["lower", "", "upper"]
    assert [three.edge(value) for value in (1e-3, 1e-2)] == ["", "upper"]
    assert [GAMMA.edge(3.9), two.edge(1), words.edge("a")] == ["upper", "", ""]
    assert Option(choices=(0.1, 0.1, 0.1)).edge(0.1) == ""


def test_those_that_failed_or_were_stopped_early_are_not_ahead():
    trials = [Trial({}, 3, 0.9), Trial({}, 9, math.nan), Trial({}, 9, 0.4), Trial({}, 9, 0.6)]
    tuning = Tuning("dice", ["loss=dice"], {}, 1, [], trials)
    assert [trial.value for trial in tuning.ahead(3, "max")] == [0.6, 0.4]
    assert [trial.value for trial in tuning.ahead(1, "min")] == [0.4]
    for trial in trials[2:]:
        trial.value = math.nan
    assert tuning.ahead(3, "max") == trials[:1]  # all promoted trials have failed


def test_a_choice_reaches_the_command_line_as_it_is():
    trial = Trial({"dataset.names": ["\u00e4", 'a "b"'], "loss.gamma": 1.5, "augment": None})
    words = Tuning("dice", ["loss=dice"], {}, 1, [], []).overrides(trial)
    read = OverridesParser.create().parse_overrides(words[1:])
    assert {each.key_or_group: each.value() for each in read} == trial.setting


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (0.1, r"space.optimizer.lr: expected \{low: NUMBER, high: NUMBER.*got 0.1"),
        ({"low": 1}, "space.optimizer.lr: expected"),
        ({"low": 1, "high": 0.1}, "space.optimizer.lr: expected low < high"),
        ({"low": 0, "high": 1, "log": True}, "low above 0 on a logarithmic scale"),
        ([], "space.optimizer.lr: expected at least one value, got none"),
    ],
)
def test_a_bad_range_is_one_sentence(node, said):
    with pytest.raises(ContractError, match=said):
        read_space({"optimizer": {"lr": node}})


def test_proposals_follow_from_the_values_before_them_and_approach_the_best():
    pytest.importorskip("optuna")

    def proposals(count):
        parzen, proposed = TreeParzen({"optimizer.lr": RATE, "loss.gamma": GAMMA}, "max", 1), []
        for number in range(count):
            proposed.append(parzen.propose(number))
            off = (math.log10(proposed[-1]["optimizer.lr"]) + 3) ** 2 + (proposed[-1]["loss.gamma"] - 3) ** 2
            parzen.tell(number, -off if number != 2 else math.nan)
        return proposed

    first, again = proposals(30), proposals(8)  # again: after a kill and a restart
    assert first[:8] == again
    assert len({setting["loss.gamma"] for setting in first}) > 20
    gammas = [abs(setting["loss.gamma"] - 3) for setting in first]
    assert sum(gammas[-10:]) < sum(gammas[:10])
