"""Damaged files: an interrupted run recovers and ends with the same numbers, a finished one is never trusted."""

import os
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from seglab.contract import ContractError
from seglab.engine.config import ConfigError
from seglab.engine.run import Run
from seglab.files import archive_is_intact
from tests.commands.conftest import DAMAGES, LONGER
from tests.commands.forked import run
from tests.conftest import DATA, assert_same_tables, epochs_of, facts_of, killed, train_small


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
    with pytest.raises(ContractError, match=r"last\.ckpt: expected one of this experiment, got another"):
        train_small(folder, *LONGER, "seed=2")


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
def small_disk(tmp_path):
    """A file system of its own whose size can be set, apart from the folder for temporary files."""
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
