"""A search gives every loss the same budget, sees no test image before its end, and can be killed at any time."""

import itertools
import signal
import sys
import time
from collections import Counter

import pandas as pd
import pytest

from seglab.engine.run import JOURNAL
from seglab.search import FairSearch, main
from tests.commands.forked import begin, command_line, end, kill_group, run
from tests.conftest import SMALL, facts_of

RATE = "space.optimizer.lr={low: 1e-4, high: 1e-2, log: true}"
GAMMA = "space.loss.gamma={low: 0, high: 4}"
Job = dict[str, str]


@pytest.fixture
def simulate(tmp_path, monkeypatch):
    """Run a search in this process with runs whose values are a function of their overrides; return its launches."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(JOURNAL, str(tmp_path / "journal"))  # like the child of a sweep, which starts no child
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*words, reached=lambda job: float(job["optimizer.lr"])):
        launches = []

        def launch(self, jobs):
            launches.append([dict(word.split("=", 1) for word in job) for job in jobs])
            return [reached(job) if "stop_after" in job else 0.5 for job in launches[-1]]

        monkeypatch.setattr(FairSearch, "launch", launch)
        monkeypatch.setattr(sys, "argv", ["search", "study=x", *words])
        main()
        return launches

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def found(place):
    return facts_of(place / "outputs/x", "search.json")


def test_every_loss_has_the_same_budget_the_same_seeds_and_its_own_options(simulate, tmp_path):
    trials, best = simulate("loss=bce,focal,dice", "trials=7", RATE, GAMMA, "trainer.max_epochs=9")
    assert Counter(job["loss"] for job in trials) == {"bce": 7, "focal": 7, "dice": 7}
    assert {(job["seed"], job["stop_after"]) for job in trials} == {("1", "9")}
    rates = {loss: [job["optimizer.lr"] for job in trials if job["loss"] == loss] for loss in ("bce", "focal", "dice")}
    assert rates["bce"] == rates["focal"] == rates["dice"]
    assert {job["loss"] for job in trials if "loss.gamma" in job} == {"focal"}
    assert sorted((job["loss"], job["seed"]) for job in best) == list(itertools.product(sorted(rates), "234"))
    assert {job["optimizer.lr"] for job in best} == {max(rates["bce"], key=float)}
    assert {job["tuned"] for job in best} == {"[optimizer.lr]", "[optimizer.lr,loss.gamma]"}
    assert not {"stop_after", "trials"} & set(best[0])
    assert [len(tuning["trials"]) for tuning in found(tmp_path)["tunings"]] == [7, 7, 7]


def test_halving_gives_every_loss_as_many_epochs_and_goes_on_with_its_best_trials(simulate):
    *rungs, _ = simulate("loss=bce,dice", "trials=9", "halving=3", RATE, "trainer.max_epochs=9")
    shapes = [Counter((job["loss"], job["stop_after"]) for job in rung) for rung in rungs]
    assert shapes == [{(loss, epochs): n for loss in ("bce", "dice")} for epochs, n in (("1", 9), ("3", 3), ("9", 1))]
    for earlier, later in itertools.pairwise(rungs):
        for loss in ("bce", "dice"):
            before = sorted((float(job["optimizer.lr"]) for job in earlier if job["loss"] == loss), reverse=True)
            assert [float(job["optimizer.lr"]) for job in later if job["loss"] == loss] == before[: len(before) // 3]


def test_repeated_tuning_tries_other_settings_and_ends_on_seeds_of_its_own(simulate):
    trials, best = simulate("loss=bce,dice", "trials=4", "tuning_repeats=3", RATE, "seed=10")
    tried = {seed: {job["optimizer.lr"] for job in trials if job["seed"] == seed} for seed in ("10", "11", "12")}
    assert [len(values) for values in tried.values()] == [4, 4, 4]
    assert not set.intersection(*tried.values())
    ended = sorted((job["loss"], job["seed"]) for job in best)
    assert ended == list(itertools.product(("bce", "dice"), ("13", "14", "15")))


def test_a_loss_whose_trials_all_fail_has_no_best_and_a_best_at_the_edge_is_said(simulate, tmp_path, capsys):
    def reached(job):
        return float("nan") if job["loss"] == "dice" else float(job["optimizer.lr"])

    *_, best = simulate("loss=bce,dice", "space.optimizer.lr=[1e-4,1e-3,1e-2]", "trials=3", reached=reached)
    assert {job["loss"] for job in best} == {"bce"}
    bce, dice = found(tmp_path)["tunings"]
    assert bce["edges"] == ["the best optimizer.lr=0.01 lies at the upper end of its range: widen space.optimizer.lr"]
    assert (dice["best"], [trial["value"] for trial in dice["trials"]]) == (None, [None] * 3)
    said = capsys.readouterr()
    assert "dice: all 3 trials failed" in said.out + said.err
    fails = iter([float("nan"), 0.1, 0.2])
    simulate("loss=bce", "space.optimizer.lr=[1e-4,1e-3,1e-2]", "trials=3", reached=lambda job: next(fails))
    said = capsys.readouterr()
    assert "the best of 2 trials" in said.out + said.err


def test_tree_parzen_proposes_one_trial_of_each_loss_at_a_time(simulate):
    pytest.importorskip("optuna")
    *steps, _ = simulate("loss=bce,dice", "trials=4", "sampler=tpe", RATE, "trainer.max_epochs=2")
    assert [sorted(job["loss"] for job in step) for step in steps] == [["bce", "dice"]] * 4
    assert len({job["optimizer.lr"] for step in steps for job in step if job["loss"] == "bce"}) == 4
    again = simulate("loss=bce,dice", "trials=4", "sampler=tpe", RATE, "trainer.max_epochs=2")
    assert again[:-1] == steps


@pytest.mark.parametrize("sampler", ["quasirandom", "tpe"])
def test_a_plan_writes_nothing_and_looks_as_far_as_the_values_of_trials_are_known(simulate, tmp_path, sampler):
    if sampler == "tpe":
        pytest.importorskip("optuna")
    words = ("loss=bce,dice", "trials=3", f"sampler={sampler}", RATE)
    [trials] = simulate(*words, "plan=true", reached=lambda job: float("nan"))
    assert not (tmp_path / "outputs/x/search.json").exists()
    launches = simulate(*words)
    assert len(trials) == len(launches[0])
    before = (tmp_path / "outputs/x/search.json").read_text()
    assert list(map(len, simulate(*words, "plan=true"))) == list(map(len, launches))
    assert (tmp_path / "outputs/x/search.json").read_text() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "space: expected options to tune, got none; write 'space.optimizer.lr={low: 1e-4"),
        (["space.loss.gamme=[1,2]"], "space.loss.gamme: expected an option of the training, or of one of the"),
        ([RATE, "sampler=tpe", "halving=3"], "halving: expected sampler=quasirandom with it, got tpe"),
        ([RATE, "monitor=val/loss,val/iou"], "monitor: expected one value for the whole search, got several"),
        ([RATE, "trials=2,3"], "trials: expected one value for the whole search, got several"),
        ([RATE, "stop_after=1"], "stop_after: expected none, since a search sets it for its trials, got a value"),
        (["space.empty=[skip,correct]", "space.monitor=[val/iou,val/dice]"], "empty, monitor: expected one value"),
        ([RATE, "loss=bce,dise"], "loss: expected a choice such as dice"),
    ],
)
def test_bad_input_is_one_sentence(simulate, words, said):
    with pytest.raises(SystemExit) as ended:
        simulate("loss=bce,focal", *words) if "loss=bce,dise" not in words else simulate(*words)
    assert str(ended.value).startswith(said)
    assert "\n" not in str(ended.value)


def test_the_sampler_without_its_package_names_the_extra(simulate, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SystemExit, match=r'search: expected the package optuna, got none; pip install "seglab'):
        simulate("loss=bce", "sampler=tpe", RATE)


@pytest.mark.slow
def test_a_search_that_is_killed_and_repeated_has_the_trials_of_an_undisturbed_one(tmp_path):
    words = ["study=x", *SMALL, "loss=dice", "trials=2", "halving=2", "fresh_seeds=1", RATE, "trainer.max_epochs=4"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for place in (whole, broken):
        place.mkdir()
    begun = begin(command_line, "search", words, broken)
    while len(list(broken.glob("outputs/x/.search/*/metrics.csv"))) < 2 and begun[0].is_alive():
        time.sleep(0.02)  # the last trial of the first rung is still training
    kill_group(begun)
    for place in (whole, broken):
        code, said = run("search", words, place)
        assert code == 0, said
    assert found(broken) == found(whole)
    epochs = [sum(trial["epochs"] for trial in tuning["trials"]) for tuning in found(whole)["tunings"]]
    assert epochs == [6]
    trials = list(tmp_path.glob("whole/outputs/x/.search/*/run.json"))
    assert {facts_of(file.parent)["status"] for file in trials} == {"paused"}
    assert not list(tmp_path.glob("*/outputs/x/.search/*/per_image.csv"))  # no trial is tested
    best = sorted(tmp_path.glob("whole/outputs/x/*/per_image.csv"))
    assert len(best) == 1
    for file in best:
        pd.testing.assert_frame_equal(pd.read_csv(file), pd.read_csv(str(file).replace("/whole/", "/broken/")))


@pytest.mark.slow
def test_two_copies_of_a_search_at_once_wait_for_each_others_runs_and_choose_the_same(tmp_path):
    words = [*SMALL, "loss=dice", "trials=3", "fresh_seeds=1", RATE, f"hydra.sweep.dir={tmp_path}/x"]
    for copy in ("first", "second"):
        (tmp_path / copy).mkdir()
    copies = [begin(command_line, "search", words, tmp_path / copy) for copy in ("first", "second")]
    assert [end(copy, 300) for copy in copies] == [0, 0]
    [tuning] = facts_of(tmp_path / "x", "search.json")["tunings"]
    assert None not in [trial["value"] for trial in tuning["trials"]]
    assert len(list(tmp_path.glob("x/*/per_image.csv"))) == 1
