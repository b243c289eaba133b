import json
from dataclasses import replace

import pytest

from seglab.contract import ContractError
from seglab.reporting.looks import FILE, Look, known_looks, remember, spent
from seglab.reporting.study import Question
from seglab.reporting.write_report import answer
from tests.reporting.fabricate import FakeLoss, change, write_run

ASKED = {"metric": "iou", "delta": 0.01}
RUNS = {"bce_s1": "a", "bce_s2": "b"}


def look(known, runs=RUNS, **asked):
    return Look.at(known, ASKED | asked, runs, 0.05)


def taken(*runs):
    return [{"when": str(k), "asked": ASKED, "runs": each, "said": f"said {k}"} for k, each in enumerate(runs)]


def test_all_looks_together_spend_the_error_and_no_more():
    levels = [spent(number, 0.05) for number in range(1, 60)]
    assert levels[:3] == pytest.approx([0.035, 0.0075, 0.00375])
    assert sum(levels) == pytest.approx(0.05)


def test_a_look_at_other_runs_is_a_new_one_and_at_the_same_runs_the_old_one():
    first = look([])
    assert (first.number, first.error, first.next_error, first.is_new) == (1, spent(1, 0.05), spent(2, 0.05), True)
    again = look(taken(RUNS))
    assert (again.number, again.error, again.next_error, again.is_new) == (1, spent(1, 0.05), spent(2, 0.05), False)
    more = look(taken(RUNS), RUNS | {"bce_s3": "c"})
    assert (more.number, more.is_new, [entry["said"] for entry in more.earlier]) == (2, True, ["said 0"])
    back = look(taken(RUNS, RUNS | {"bce_s3": "c"}))
    assert (back.number, back.next_error, back.is_new, len(back.earlier)) == (1, spent(3, 0.05), False, 0)


def test_runs_that_are_gone_or_changed_since_a_look_are_named():
    assert look(taken(RUNS), RUNS | {"bce_s3": "c"}).changed == ""
    assert look(taken(RUNS), {"bce_s1": "a"}).changed == "bce_s2 of look 1 is missing."
    assert look(taken(RUNS), RUNS | {"bce_s2": "other"}).changed == "bce_s2 has different scores than at look 1."
    many = {f"run{k}": "x" for k in range(9)}
    assert look(taken(many), {}).changed.endswith("run2 of look 1 is missing; and 6 more.")


def test_another_question_than_the_first_is_exploratory_and_costs_nothing():
    other = look(taken(RUNS), RUNS | {"bce_s3": "c"}, metric="dice")
    assert (other.instead, other.is_new) == ("metric=iou", False)


def test_the_first_look_fixes_the_class(study):
    asked = study.look.entry["asked"]
    before = {"asked": asked | {"class": "cup"}, "runs": {}, "when": "2026", "said": ""}
    assert replace(study, known=[before]).look.instead == "class=cup"


def test_every_folder_remembers_and_what_several_remember_counts_once(tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    remember(folders, "ships", look([]), "dice is the best.")
    remember(folders[:1], "ships", look(known_looks(folders, "ships"), {}), "nothing.")
    assert [entry["said"] for entry in known_looks(folders, "ships")] == ["dice is the best.", "nothing."]
    assert len(known_looks(folders[1:], "ships")) == 1
    assert known_looks(folders, "eyes") == []


def test_two_reports_at_the_same_time_are_one_look(tmp_path):
    for first in (look([]), look([])):  # neither knows of the other
        remember([tmp_path, tmp_path], "ships", first, "dice is the best.")
    assert len(known_looks([tmp_path], "ships")) == 1
    assert look(known_looks([tmp_path], "ships"), RUNS | {"bce_s3": "c"}).number == 2


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(path, data):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("seglab.reporting.looks.write_json", refuse)
    remember([tmp_path], "ships", look([]), "dice is the best.")
    assert "this look cannot be recorded, so later looks will not count it (Permission denied)" in caplog.text


@pytest.mark.parametrize("content", ['{"ships": [', "[1]"])
def test_a_damaged_memory_stops_the_report_in_one_sentence(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    with pytest.raises(ContractError, match=r"looks\.json"):
        known_looks([tmp_path], "ships")


def study(folder, **asked):
    """Look at the runs of a folder; return the study."""
    return answer([folder], Question(**asked))[1][0]


def test_a_study_spends_one_look_for_each_set_of_runs(own):
    first, again = study(own), study(own)
    assert (first.look.number, again.look.number) == (1, 1)
    said = "Look 1 at this study, tested at an error rate of 3.5 % so that all looks together err in at most 5 %"
    assert first.look_words.startswith(said)
    write_run(own, FakeLoss("dice", 1.5), 3)
    write_run(own, FakeLoss("bce", 0.6), 3)
    second = study(own)
    assert (second.look.number, second.look.earlier[0]["said"]) == (2, first.headline)
    exploratory = "Exploratory: errors are controlled only for the first look at this study, which used "
    assert study(own, metric="dice").look_words == f"{exploratory}metric=iou."
    assert study(own, against="bce").look_words == f"{exploratory}against=null."
    saved = json.loads((own / FILE).read_text())
    assert [len(entry["runs"]) for entry in saved["synthetic 0ad80a"]] == [4, 6]


def test_runs_of_one_name_in_two_folders_are_two_runs(tmp_path):
    for folder, extra in (("a", {}), ("b", {"optimizer": {"lr": 0.1}})):
        for name in ("bce", "dice"):
            for seed in (1, 2):
                write_run(tmp_path / folder, FakeLoss(name), seed, number=len(folder + name), extra=extra)
        found = study(tmp_path)
    assert (found.look.number, found.look.changed) == (2, "")
    assert sorted(found.digests)[:4] == ["b/bce_s1", "b/bce_s2", "b/dice_s1", "b/dice_s2"]


@pytest.mark.parametrize("status", ["running", "interrupted"])
@pytest.mark.parametrize("asked", [{}, {"against": "bce"}, {"question": "pairs", "against": "bce"}])
def test_an_unfinished_sweep_gets_numbers_and_no_verdict_and_costs_nothing(own, status, asked):
    change(own / "bce_s2", status=status)
    unfinished = study(own, **asked)
    assert unfinished.headline == "No verdict yet: 1 of 4 runs have not finished (bce_s2)."
    assert len(unfinished.spread) == 2
    assert not (own / FILE).exists()


def test_runs_without_a_second_seed_say_nothing_that_could_be_wrong_and_cost_nothing(own):
    for name in ("bce_s2", "dice_s2"):
        change(own / name, status="failed")
    assert study(own).look_words == ""
    assert not (own / FILE).exists()
