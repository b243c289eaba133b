"""A run opened from its folder equals the run that was measured; other folders raise errors of one sentence."""

import shutil

import pandas as pd
import pytest
import torch

from seglab.contract import ContractError
from seglab.engine.run import Run
from seglab.engine.trained_run import TrainedRun, open_run, open_runs
from seglab.files import write_json
from tests.conftest import facts_of
from tests.reporting.fabricate import change


def test_an_opened_run_gives_the_losses_it_was_measured_with(study_in_each_precision):
    run = open_run(study_in_each_precision / "bce")
    module, rows = run.module(), pd.read_csv(run.folder / "per_image.csv")
    with torch.no_grad(), run.autocast():
        losses = torch.cat([module.step(batch)[0] for batch in run.data().loader("test")])
    assert losses.tolist() == pytest.approx(list(rows["loss"]), rel=1e-5)


def test_a_study_and_a_pattern_open_their_finished_runs(trained_study, tmp_path):
    study = tmp_path / "study"
    (study / "figures").mkdir(parents=True)
    (study / "table.csv").write_text("")
    for loss in ("bce", "dice"):
        (study / loss).symlink_to(trained_study / loss)
    assert [run.name for run in open_runs(f"{study}/*")] == ["bce", "dice"]
    assert [run.name for run in open_runs(str(study))] == ["bce", "dice"]
    assert [run.name for run in open_runs(f"{study}/d*")] == ["dice"]
    assert [run.name for run in open_runs([str(study / "dice"), str(study)])] == ["dice", "bce"]


def test_a_folder_with_brackets_in_its_name_is_no_pattern_and_a_number_is_a_name(trained_study, tmp_path, monkeypatch):
    for name in ("[old]", "2024"):
        shutil.copytree(trained_study / "bce", tmp_path / name / "bce")
    assert [run.name for run in open_runs(f"{tmp_path}/[old]/bce")] == ["bce"]
    assert [run.name for run in open_runs([f"{tmp_path}/[old]"])] == ["bce"]
    monkeypatch.chdir(tmp_path)
    assert [run.name for run in open_runs(2024)] == ["bce"]


def test_a_run_that_has_not_finished_or_cannot_be_read_is_named_beside_others(trained_study, tmp_path, caplog):
    for name in "abc":
        shutil.copytree(trained_study / "bce", tmp_path / name)
    change(tmp_path / "a", status="interrupted")
    (tmp_path / "d/run.json").mkdir(parents=True)  # not readable, even by root
    assert [run.name for run in open_runs(str(tmp_path / "a"))] == ["a"]
    for several in (str(tmp_path), f"{tmp_path}/*"):
        caplog.clear()
        assert [run.name for run in open_runs(several)] == ["b", "c"]
        assert caplog.messages == [
            f"{tmp_path}/d/run.json cannot be read (Is a directory)",
            f"{several}: skipped a (not finished)",
        ]
    for other, said in (("a", "a finished run, got interrupted; run its command again"), ("d", "the run.json of a fi")):
        with pytest.raises(ContractError, match=said):
            open_runs([str(tmp_path / "b"), str(tmp_path / other)])


def test_a_run_of_version_1_is_one_sentence_and_left_out_beside_others(trained_study, tmp_path):
    for loss in ("bce", "dice"):
        shutil.copytree(trained_study / loss, tmp_path / loss)
    facts = facts_of(tmp_path / "bce")
    del facts["overrides"], facts["versions"]["seglab"]
    write_json(tmp_path / "bce/run.json", facts)
    said = "one made by seglab 1, whose runs this version cannot open; init_from=RUN/checkpoints/best.ckpt loads its "
    for refused in (open_run, open_runs, lambda folder: Run(folder).outcome("another", str)):
        with pytest.raises(ContractError, match=said):
            refused(tmp_path / "bce")
    assert [run.name for run in open_runs(tmp_path)] == ["dice"]
    assert [run.name for run in open_runs(f"{tmp_path}/*")] == ["dice"]


def test_a_folder_that_is_no_run_is_one_sentence(tmp_path):
    for folder, words in ((tmp_path / "gone", "the folder of a run"), (tmp_path, "a run.json written by")):
        with pytest.raises(ContractError, match=words):
            open_run(folder)
    with pytest.raises(ContractError, match=r"the run\.json of a finished run at"):
        open_runs(str(tmp_path))


def test_weights_of_another_model_and_a_run_that_has_not_finished_are_one_sentence(trained_study, tmp_path):
    facts = facts_of(trained_study / "dice")
    facts["config"]["model"]["base"] = 8
    write_json(tmp_path / "run.json", facts)
    with pytest.raises(ContractError, match="a finished run, got running"):
        _ = TrainedRun(tmp_path, facts | {"status": "running"}).outcome
    with pytest.raises(ContractError, match="the weights of UNet"):
        open_run(tmp_path).module(trained_study / "dice" / "checkpoints" / "best.ckpt")
