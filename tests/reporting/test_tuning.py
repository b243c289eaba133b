"""The report describes how each loss was tuned, and the expected result of fewer trials."""

import json
from itertools import product

import numpy as np
import pytest

from seglab.reporting import tuning
from seglab.reporting.load_runs import collect
from seglab.reporting.write_report import page

VALUES = [0.3, 0.9, 0.5, 0.5]


@pytest.mark.parametrize(("mode", "best"), [("max", max), ("min", min)])
def test_the_expected_best_is_the_mean_over_all_draws_of_k_trials(mode, best):
    found = tuning.expected_best(VALUES, mode)
    for k in range(1, 5):
        assert found[k - 1] == pytest.approx(np.mean([best(drawn) for drawn in product(VALUES, repeat=k)]))


def search(sampler="quasirandom"):
    def tuned(title, seed, *values):
        trials = [{"setting": {"optimizer.lr": 0.1}, "epochs": 2, "value": value} for value in values]
        return {"title": title, "seed": seed, "trials": trials, "best": trials[0], "edges": []}

    tunings = [tuned("bce", 1, 0.5, None, 0.7), tuned("bce", 2, 0.1, 0.3, 0.2), tuned("dice <b>", 1, None)]
    tunings[2] |= {"best": None, "edges": ["widen it"]}
    about = {"sampler": sampler, "mode": "max", "monitor": "val/iou", "halving": None, "command": "python -m <b>"}
    return about | {"tunings": tunings}


def test_curves_are_means_over_repetitions_without_what_failed():
    assert tuning.curves(search()).keys() == {"bce"}
    expected = [(tuning.expected_best([0.5, 0.7])[k] + tuning.expected_best([0.1, 0.3, 0.2])[k]) / 2 for k in (0, 1)]
    assert tuning.curves(search())["bce"] == pytest.approx(expected)
    assert tuning.curves(search("tpe"))["bce"] == pytest.approx([0.3, 0.5])


def test_the_page_of_a_search_shows_its_trials(own):
    runs = collect([own]).runs
    assert "How the losses were tuned" not in page("x", [], [], runs, "")
    (own / "search.json").write_text(json.dumps(search()))
    html = page("x", [], [], runs, "")
    assert "<h2>How the losses were tuned</h2>" in html
    assert "python -m &lt;b&gt;" in html
    assert "widen it" in html
    assert "dice <b>" not in html


def test_an_incomplete_search_is_left_out_of_the_report(own):
    runs = collect([own]).runs
    for incomplete in ({"tunings": []}, [1]):
        (own / "search.json").write_text(json.dumps(incomplete))
        assert "How the losses were tuned" not in page("x", [], [], runs, "")
