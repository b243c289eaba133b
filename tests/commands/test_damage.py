"""Damaged files: an interrupted run recovers and ends with the same numbers; those of a finished run are never used."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from seglab.contract import ContractError
from seglab.engine.config import ConfigError
from seglab.engine.run import PICTURES, Run
from seglab.engine.sweep import _journal
from seglab.files import archive_is_intact, write_json
from seglab.train import fingerprint_now, train
from tests.commands.conftest import DAMAGES, LONGER
from tests.commands.forked import run
from tests.conftest import DATA, OF_FILES, SMALL, assert_same_tables, compose, epochs_of, facts_of, killed, train_small
from tests.data.fabricate import write_scenes


def test_an_intact_archive_is_distinguished_from_a_damaged_one(undisturbed, tmp_path):
    for name in ("checkpoints/last.ckpt", "histograms.npz"):
        assert archive_is_intact(undisturbed / name)
        for damage in DAMAGES.values():
            copy = shutil.copy(undisturbed / name, tmp_path / "copy")
            damage(copy)
            assert not archive_is_intact(copy)


def test_a_run_that_failed_before_its_first_checkpoint_leaves_the_folder_free(tmp_path):
    with pytest.raises(ConfigError, match="size of at least 32"):
        train_small(tmp_path, "dataset.size=30")
    assert facts_of(tmp_path)["status"] == "failed"
    train_small(tmp_path, "trainer.max_epochs=1")
    assert facts_of(tmp_path)["status"] == "finished"


def test_more_epochs_for_a_finished_run_name_what_starts_from_its_weights(undisturbed):
    with pytest.raises(ContractError, match=r"init_from=\S+ starts from its weights"):
        train_small(undisturbed, *LONGER, "trainer.max_epochs=5")


def test_a_checkpoint_of_another_experiment_is_refused_even_without_its_run_json(interrupted, tmp_path):
    folder = shutil.copytree(interrupted, tmp_path / "run")
    (folder / "run.json").unlink()
    with pytest.raises(ContractError, match=r"last\.ckpt: expected one of this experiment, got one of another"):
        train_small(folder, *LONGER, "seed=2")


def test_a_run_does_not_resume_on_another_division_by_its_split_file(interrupted, tmp_path):
    split, words = facts_of(interrupted, "split.json"), (*LONGER, f"dataset.split_file={tmp_path / 'split.json'}")
    write_json(tmp_path / "split.json", split)
    with killed(epoch=2):
        train_small(tmp_path / "run", *words)
    split["train"][0], split["test"][0] = split["test"][0], split["train"][0]
    write_json(tmp_path / "split.json", split)
    with pytest.raises(
        ContractError, match="expected the data that it was started with, got different or changed data"
    ):
        train_small(tmp_path / "run", *words)


def test_a_run_that_was_never_validated_resumes_without_a_best_checkpoint(tmp_path, caplog):
    words = ("trainer.max_epochs=4", "trainer.check_val_every_n_epoch=3")
    with killed(epoch=2):
        train_small(tmp_path / "killed", *words)
    assert not (tmp_path / "killed/checkpoints/best.ckpt").exists()
    caplog.set_level("INFO")
    train_small(tmp_path / "killed", *words)
    assert "resuming after epoch 2 of" in caplog.text
    assert "damaged" not in caplog.text
    assert_same_tables(tmp_path / "killed", train_small(tmp_path / "undisturbed", *words))


@pytest.mark.parametrize("content", [b"\xff\xfe", b"epoch,step,val/iou_pooled\n0,2,much\n", b""])
def test_a_paused_run_writes_its_damaged_table_again(tmp_path, content, caplog):
    folder = train_small(tmp_path / "run", "stop_after=1")
    whole = epochs_of(folder)
    (folder / "metrics.csv").write_bytes(content)
    caplog.set_level("INFO")
    train_small(folder, "stop_after=1")
    assert "resuming after epoch 1 of" in caplog.text
    pd.testing.assert_frame_equal(epochs_of(folder), whole)


@pytest.fixture
def photographed(tmp_path):
    """Train a run on photographs, with pictures; return its folder and a function that trains it again."""
    write_scenes(tmp_path / "data", 12, height=40, width=40, radius=8)

    def again(*words):
        files = ("dataset=folder", f"dataset.root={tmp_path / 'data'}", "dataset.cache_dir=null", *OF_FILES)
        cfg = compose("train", *files, "pictures=true", *words, folder=tmp_path / "run")
        fingerprint_now.cache_clear()
        return train(cfg, tmp_path / "run")

    again()
    return tmp_path / "run", again


def content_of(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_run_that_cannot_be_trained_again_stays_finished_and_one_that_fails_later_keeps_no_picture(photographed):
    folder, again = photographed
    before, image = content_of(folder), folder.parent / "data/images/03.png"
    assert before.keys() >= {folder / name for name in PICTURES}
    right, other = image.read_bytes(), shutil.copytree(folder.parent / "data", folder.parent / "other")
    image.write_text("hello")
    with pytest.raises(ContractError, match="expected a readable image"):
        again("rerun=true")
    image.write_bytes(right)
    with pytest.raises(ContractError, match="divisible by 4"):
        again("rerun=true", "dataset.size=30")
    assert content_of(folder) == before
    Image.fromarray(255 - np.asarray(Image.open(image))).save(other / "images/03.png")
    with pytest.raises(ContractError, match=rf"got data in {other} instead of {folder.parent / 'data'}; set rerun=tr"):
        again(f"dataset.root={other}")
    with killed(epoch=1):
        again("rerun=true")
    assert facts_of(folder)["status"] == "failed"
    assert not any((folder / name).exists() for name in PICTURES)


def test_a_rerun_killed_while_it_removes_old_results_leaves_a_finished_run_or_one_that_starts_over(
    undisturbed, tmp_path, monkeypatch
):
    facts, unlink, states = facts_of(undisturbed), Path.unlink, []

    def dies(path, **options):
        if moments.pop() == 0:
            raise SystemError
        unlink(path, **options)

    for moment in range(10):
        folder, moments = shutil.copytree(undisturbed, tmp_path / str(moment)), list(range(moment + 1))
        again = Run(folder)
        assert again.replace()
        monkeypatch.setattr(Path, "unlink", dies)
        with pytest.raises(SystemError):
            again.begin({})
        monkeypatch.undo()
        left = Run(folder)
        states.append(left.outcome(facts["identity"], lambda: facts["data"]["fingerprint"]))
        assert (left.known() == facts) == (states[-1] is not None)
        assert left.last is None or states[-1] is not None
    assert states == [facts["monitor"]["value"]] * 2 + [None] * 8


def trained_bce(place):
    """Train a run by a sweep in the folder `place`; return the folder of the run."""
    assert run("train", ["-m", *SMALL, "loss=bce", f"hydra.sweep.dir={place}"], place.parent)[0] == 0
    return next(place.glob("bce*"))


@pytest.fixture
def small_disk(tmp_path):
    """A function that sets the size of a separate small file system and returns its folder."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk]).returncode:
        pytest.skip("needs the right to mount a tmpfs")

    def sized(size):
        subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)
        return disk

    yield sized
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["40k", "150k"])
def test_a_full_disk_is_one_sentence_and_the_same_command_resumes(small_disk, size, undisturbed):
    folder = small_disk(size) / "run"
    with pytest.raises(OSError, match="No space left on device") as fault:
        train_small(folder, *LONGER)
    assert str(fault.value.filename).startswith(str(folder))
    assert Run(folder).known().get("status") != "finished"
    small_disk("20m")
    train_small(folder, *LONGER)
    assert_same_tables(folder, undisturbed)
    assert not list(folder.rglob(".*partial*"))


@pytest.mark.slow
@pytest.mark.parametrize("command", ["predict", "prepare"])
def test_a_full_disk_is_one_sentence_in_other_commands(small_disk, undisturbed, tmp_path, command):
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "image.png")
    out = small_disk("4k") / "out"
    words = {
        "predict": [f"run={undisturbed}", "input=image.png", f"output={out}"],
        "prepare": [*DATA, f"hydra.run.dir={out}"],
    }[command]
    code, said = run(command, words, tmp_path)
    assert code == 1
    assert "Traceback" not in said
    assert "No space left on device" in said.strip().splitlines()[-1]


@pytest.mark.slow
def test_a_study_that_may_only_be_read_is_finished_already_and_reported_elsewhere(small_disk, tmp_path, monkeypatch):
    disk = small_disk("20m")
    trained_bce(disk)
    small_disk("20m,ro")
    for words in (["loss=bce"], ["loss=bce", "plan=true"]):
        code, said = run("train", ["-m", *SMALL, *words, f"hydra.sweep.dir={disk}"], tmp_path)
        assert code == 0, said
        assert "finished" in said
    assert run("train", ["-m", *SMALL, "loss=bce,dice", f"hydra.sweep.dir={disk}"], tmp_path)[1].count("refused: ") == 1
    said = run("report", [str(disk)], tmp_path)[1]
    assert said.endswith("got Read-only file system; choose another folder (output=DIR)\n")
    monkeypatch.chdir(disk)
    with _journal(temporary=False) as journal:
        journal.touch()


def test_a_plan_leaves_no_file(tmp_path):
    code, said = run("train", ["-m", *SMALL, "loss=bce,dice", "plan=true"], tmp_path)
    assert code == 0
    assert "2 runs: 2 waiting" in said
    assert {path.name for path in tmp_path.iterdir()} == {"said.txt", "began"}
