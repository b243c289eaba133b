"""Damaged files: an interrupted run recovers and ends with the same numbers, a finished one is never trusted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from seglab.contract import ContractError
from seglab.engine.config import ConfigError
from seglab.engine.run import RESULTS, Run
from seglab.engine.trained_run import open_run
from seglab.files import archive_is_intact
from seglab.train import train
from tests.commands.damages import DAMAGES, LONGER, empty, garbage, gone, half, killed_in_the_third_epoch
from tests.conftest import SMALL, compose, train_small


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_small(tmp_path_factory.mktemp("undisturbed") / "run", *LONGER)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return killed_in_the_third_epoch(tmp_path_factory.mktemp("interrupted") / "run")


def table(file: Path) -> pd.DataFrame:
    return pd.read_csv(file).drop(columns="seconds", errors="ignore")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("checkpoints/last.ckpt", "garbage"),
        ("checkpoints/last.ckpt", "empty"),
        ("metrics.csv", "half"),
        ("metrics.csv", "gone"),
        ("run.json", "half"),
        ("run.json", "gone"),
    ],
)
def test_an_interrupted_run_recovers_and_ends_with_the_same_numbers(
    undisturbed: Path, interrupted: Path, tmp_path: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(interrupted, tmp_path / "run"))
    DAMAGES[damage](folder / name)
    (folder / "checkpoints" / ".last.12-34.partial.ckpt").write_text("left by a killed process")
    train_small(folder, *LONGER)
    for csv in ("per_image.csv", "metrics.csv"):
        pd.testing.assert_frame_equal(table(folder / csv), table(undisturbed / csv), check_exact=True)
    assert not list(folder.rglob(".*partial*"))
    if name.endswith("last.ckpt") and damage != "gone":
        assert "last.ckpt is damaged: the run starts over" in caplog.text


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", RESULTS)
def test_a_finished_run_with_damaged_results_is_never_trusted(
    undisturbed: Path, tmp_path: Path, name: str, damage: str
) -> None:
    folder = Path(shutil.copytree(undisturbed, tmp_path / "run"))
    DAMAGES[damage](folder / name)
    fault = "none" if damage == "gone" else "a file "
    with pytest.raises(ContractError, match=f"expected {name} as it was written, got {fault}.*rerun=true"):
        open_run(folder).file(name)
    if name.endswith(".ckpt") and damage == "garbage":
        return  # a sweep that skips finished runs compares the sizes of checkpoints only
    with pytest.raises(ContractError, match=f"expected {name} as it was written"):
        train(compose("train", *SMALL, *LONGER, folder=folder), folder)


def test_an_intact_archive_is_distinguished_from_a_damaged_one(undisturbed: Path, tmp_path: Path) -> None:
    for name in ("checkpoints/best.ckpt", "checkpoints/last.ckpt", "histograms.npz"):
        assert archive_is_intact(undisturbed / name)
        for damage in (half, garbage, empty, gone):
            copy = Path(shutil.copy(undisturbed / name, tmp_path / "copy"))
            damage(copy)
            assert not archive_is_intact(copy)


def test_a_run_that_failed_before_its_first_checkpoint_leaves_the_folder_free(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="size of at least 32"):
        train_small(tmp_path, "dataset.size=30")
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "failed"
    train_small(tmp_path, "trainer.max_epochs=1")
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "finished"


def test_more_epochs_for_a_finished_run_name_what_starts_from_its_weights(undisturbed: Path) -> None:
    with pytest.raises(ContractError, match=r"init_from=\S+ starts from its weights"):
        train_small(undisturbed, *LONGER, "trainer.max_epochs=5")


def test_a_checkpoint_of_another_experiment_is_refused_even_without_its_run_json(
    interrupted: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(interrupted, tmp_path / "run"))
    (folder / "run.json").unlink()
    with pytest.raises(ContractError, match=r"last\.ckpt: expected one of this experiment, got another"):
        train_small(folder, *LONGER, "seed=2")


def test_a_full_disk_at_the_end_of_a_run_leaves_it_unfinished(
    interrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Path
) -> None:
    folder = Path(shutil.copytree(interrupted, tmp_path / "run"))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "per_image.csv")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seglab.files.write_bytes", full)
        with pytest.raises(OSError, match="No space"):
            train_small(folder, *LONGER)
    assert Run(folder).known().get("status") != "finished"
    train_small(folder, *LONGER)
    pd.testing.assert_frame_equal(
        table(folder / "per_image.csv"), table(undisturbed / "per_image.csv"), check_exact=True
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A file system of its own whose size can be set, apart from the folder for temporary files."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk]).returncode:
        pytest.skip("needs the right to mount a tmpfs")

    def sized(size: str) -> Path:
        subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)
        return disk

    yield sized
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["40k", "100k", "150k"])
def test_a_full_disk_is_one_sentence_and_the_same_command_resumes(
    small_disk: Callable[[str], Path], size: str, undisturbed: Path
) -> None:
    folder = small_disk(size) / "run"
    with pytest.raises(OSError, match="No space left on device") as fault:
        train_small(folder, *LONGER)
    assert str(fault.value.filename).startswith(str(folder))
    assert Run(folder).known().get("status") != "finished"
    small_disk("20m")
    train_small(folder, *LONGER)
    for csv in ("per_image.csv", "metrics.csv"):
        pd.testing.assert_frame_equal(table(folder / csv), table(undisturbed / csv), check_exact=True)
    assert not list(folder.rglob(".*partial*"))


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_in_other_commands(
    small_disk: Callable[[str], Path], undisturbed: Path, tmp_path: Path
) -> None:
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "image.png")
    disk = small_disk("4k")
    study = shutil.copytree(undisturbed, tmp_path / "study/run").parent
    commands = {
        "predict": (f"run={undisturbed}", f"input={tmp_path / 'image.png'}", f"output={disk / 'predictions'}"),
        "report": (str(study), f"output={disk / 'report'}"),
        "export": (f"run={undisturbed}", "format=pt2", f"output={disk / 'model.pt2'}"),
        "prepare": (*(word for word in SMALL if word.startswith("dataset.")), f"hydra.run.dir={disk / 'prepared'}"),
    }
    for command, words in commands.items():
        done = subprocess.run(
            [sys.executable, "-m", f"seglab.{command}", *words], cwd=tmp_path, capture_output=True, text=True
        )
        last = done.stderr.strip().splitlines()[-1]
        assert done.returncode == 1, command
        assert "Traceback" not in done.stderr
        assert "No space left on device" in last
