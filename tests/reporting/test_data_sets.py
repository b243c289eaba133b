import numpy as np
import pandas as pd
import pytest
from scipy import stats as reference

from seglab.contract import ContractError
from seglab.files import read_json
from seglab.reporting.data_sets import NAME
from seglab.reporting.study import Question
from seglab.reporting.write_report import answer, markdown, page
from tests.reporting.fabricate import FakeLoss, change, write_run

SKILLS = {"disc": (1.5, 0.6), "organ": (1.2, 0.8), "lesions": (1.0, 0.9)}


@pytest.fixture
def roots(tmp_path):
    """Three datasets on which dice is ahead by decreasing amounts; focal was trained on one of them."""
    for number, (data, skills) in enumerate(SKILLS.items()):
        losses = [FakeLoss("dice", skills[0]), FakeLoss("bce", skills[1])] + [FakeLoss("focal")] * (data == "disc")
        for k, loss in enumerate(losses):
            for seed in (1, 2):
                facts = {"extra": {"dataset": {"scene": data, "root": data}}, "data": {"fingerprint": f"{number}abcde"}}
                write_run(tmp_path / data, loss, seed, 10 + number, k, **facts)
    return [tmp_path / data for data in SKILLS]


def test_each_dataset_is_one_value_of_a_t_test(roots):
    _, studies, over = answer(roots, Question())
    gaps = [study.means["dice"] - study.means["bce"] for study in studies]
    (found,) = over.verdicts
    expected = reference.ttest_1samp(gaps, 0)
    low, high = expected.confidence_interval(1 - over.look.error)
    assert (found.pair.kind, found.pair.replicates, found.pair.p) == ("datasets", 3, pytest.approx(expected.pvalue))
    assert (found.low, found.high) == pytest.approx((max(low, 0), high))
    assert over.labels == ["dice", "bce"]
    assert over.headline.startswith("Over 3 datasets: ")
    assert over.table.loc["dice", "mean"] == pytest.approx(np.mean([study.means["dice"] for study in studies]))


def test_two_datasets_get_a_caution_and_one_dataset_no_verdict_over_all(roots):
    assert "Two datasets say little" in answer(roots[1:], Question())[2].headline
    assert answer(roots[:1], Question())[2] is None


def test_a_dataset_without_the_baseline_has_no_verdict_and_is_left_out_of_the_one_over_all(roots):
    found = answer(roots, Question(against="focal"))
    assert [study.no_verdict for study in found[1]] == [
        "",
        *["No verdict: no run of focal has finished on these data."] * 2,
    ]
    assert found[2] is None
    for seed in (1, 2):
        options = {"dataset": {"scene": "organ", "root": "organ"}}
        change(write_run(roots[1], FakeLoss("focal"), seed, 11, extra=options), data={"fingerprint": "1abcde"})
    over = answer(roots, Question(against="focal"))[2]
    assert [study.title for study in over.studies] == ["synthetic scene=disc", "synthetic scene=organ"]
    assert over.headline.startswith("Over 2 datasets: Compared with focal: ")
    assert over.headline.endswith("synthetic scene=lesions is left out, since it has no run of focal.")
    with pytest.raises(ContractError, match="report: against: expected one of bce, dice, focal, got fokal"):
        answer(roots, Question(against="fokal"))


def test_other_targets_of_the_same_images_are_no_datasets_of_their_own(roots):
    for folder in roots[2].iterdir():
        config = read_json(folder / "run.json")["config"]
        change(folder, config=config | {"dataset": config["dataset"] | {"root": "disc"}})
    over = answer(roots, Question())[2]
    assert [study.title for study in over.studies] == ["synthetic scene=disc", "synthetic scene=organ"]
    said = "synthetic scene=lesions is left out, since it shares test images with synthetic scene=disc."
    assert over.headline.endswith(said)
    assert answer([roots[0], roots[2]], Question())[2] is None


def test_a_dataset_without_a_verdict_of_its_own_is_left_out_and_named(roots):
    file = next(roots[1].iterdir()) / "per_image.csv"
    pd.read_csv(file).iloc[1:].to_csv(file, index=False)
    over = answer(roots, Question())[2]
    assert [study.title for study in over.studies] == ["synthetic scene=disc", "synthetic scene=lesions"]
    assert over.verdicts
    said = "synthetic scene=organ is left out, since its runs were tested on different images."
    assert over.headline.endswith(said)


def test_a_run_that_is_not_finished_puts_off_the_verdict_over_all(roots):
    change(next(roots[1].iterdir()), status="running")
    over = answer(roots, Question())[2]
    assert over.headline.startswith("Over 3 datasets: No verdict yet: ")
    assert not over.verdicts


def test_one_more_dataset_is_another_look_and_the_same_ones_are_not(roots):
    first, again = (answer(roots[:2], Question())[2].look for _ in range(2))
    assert (first.number, again.number, answer(roots, Question())[2].look.number) == (1, 1, 2)
    assert len(read_json(roots[0] / "looks.json")[NAME]) == 2


def test_a_verdict_that_is_given_counts_although_another_dataset_has_no_finished_run_yet(roots):
    for run in roots[2].iterdir():
        change(run, status="running")
    assert answer(roots, Question())[2].verdicts
    assert len(read_json(roots[0] / "looks.json").get(NAME, [])) == 1


def test_the_report_says_first_what_holds_over_all_datasets(roots):
    sweep, studies, over = answer(roots, Question(metric="dice"))
    html = page("x", studies, [{}] * 3, sweep.runs, "", (over, {}))
    assert html.index('id="all"') < html.index('class="index"') < html.index('id="b0-verdict"')
    assert markdown(studies, sweep.runs, over).startswith("**Over 3 datasets: ")
    assert list(over.figures()) == ["forest"]
