"""A sweep is finished by running it again, and no job takes another down; run in real processes, as a user would."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import SMALL, train_small

BOMBS = """
import os, signal, sys
from dataclasses import dataclass
from seglab.losses import BCE

@dataclass(frozen=True, kw_only=True)
class Bomb(BCE):
    how: str = "kill"

    def __call__(self, logits, target, *valid, **maps):
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "exit":
            sys.exit(3)
        if self.how == "raise":
            raise MemoryError("no room")
        return super().__call__(logits, target, *valid, **maps)
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A user's folder with a loss of his own: one Python file and one yaml."""
    (tmp_path / "bombs.py").write_text(BOMBS)
    (tmp_path / "myconf/loss").mkdir(parents=True)
    (tmp_path / "myconf/loss/bomb.yaml").write_text("_target_: bombs.Bomb\nhow: kill\n")
    return tmp_path


def start(place: Path, *words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": f"{place}:{os.environ.get('PYTHONPATH', '')}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "seglab.train", "--config-dir", "myconf", "-m", *SMALL, *words]
    return subprocess.Popen(
        command,
        cwd=place,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def sweep(place: Path, *words: str) -> tuple[int, str]:
    process = start(place, *words)
    said, heard = process.communicate(timeout=400)
    return process.returncode, said + heard


def files(place: Path) -> frozenset[tuple[str, int]]:
    """The names of the files of all runs, and when each was written."""
    found = set()
    for folder, _, names in os.walk(place / "outputs"):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                found.add((name, os.stat(os.path.join(folder, name)).st_mtime_ns))
    return frozenset(found)


def runs(place: Path) -> dict[str, dict]:
    found = place.glob("outputs/*/*/run.json")
    return {path.parent.name.rsplit("-", 1)[0]: json.loads(path.read_text()) for path in found}


@pytest.mark.slow
def test_a_sweep_survives_jobs_that_raise_exit_or_die_and_tries_them_again_the_second_time(place: Path) -> None:
    code, said = sweep(place, "loss=bomb", "loss.how=raise,exit,kill,no")
    ended = {name: (facts["status"], (facts["error"] or {}).get("message")) for name, facts in runs(place).items()}
    assert ended == {
        "bomb_how-raise_unet_synthetic_s1": ("failed", "no room"),
        "bomb_how-exit_unet_synthetic_s1": ("failed", "3"),
        "bomb_unet_synthetic_s1": ("failed", "the process died with signal 9 (SIGKILL)"),
        "bomb_how-no_unet_synthetic_s1": ("finished", None),
    }
    before = runs(place)
    assert "MemoryError" in before["bomb_how-raise_unet_synthetic_s1"]["error"]["traceback"]
    assert "4 runs: 1 finished, 3 failed" in said
    assert code == 1
    (place / "bombs.py").write_text(BOMBS.replace('raise MemoryError("no room")', "pass"))
    code, said = sweep(place, "loss=bomb", "loss.how=raise,no")
    after = runs(place)
    assert code == 0, said
    assert {after[f"bomb_how-{how}_unet_synthetic_s1"]["status"] for how in ("raise", "no")} == {"finished"}
    name = "bomb_how-no_unet_synthetic_s1"
    assert after[name]["started"] == before[name]["started"]


@pytest.mark.slow
def test_a_sweep_may_stop_at_the_first_failure(place: Path) -> None:
    code, said = sweep(place, "loss=bomb", "loss.how=raise,no", "on_fail=stop", "hydra.launcher.n_jobs=1")
    assert code == 1
    assert list(runs(place)) == ["bomb_how-raise_unet_synthetic_s1"]
    assert "left: 2" in said


@pytest.mark.slow
def test_a_plan_starts_and_changes_nothing(place: Path) -> None:
    sweep(place, "loss=bce")
    before = {file: file.read_bytes() for file in place.glob("outputs/default/*/**/*") if file.is_file()}
    _, said = sweep(place, "loss=bce,dice", "plan=true", "rerun=false")
    after = {file: file.read_bytes() for file in place.glob("outputs/default/*/**/*") if file.is_file()}
    assert after == before  # nor is there a new folder
    assert list(runs(place)) == ["bce_unet_synthetic_s1"]
    assert "waiting outputs/default/dice_" in said
    assert "finished outputs/default/bce_" in said
    assert "left: 1" in said
    facts = json.loads(next(place.glob("outputs/default/bce*/run.json")).read_text())
    assert [word.lower() for word in facts["overrides"]] == [*SMALL, "loss=bce"]


@pytest.mark.slow
def test_a_sweep_killed_at_many_moments_ends_like_an_undisturbed_one(
    place: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("undisturbed") / "outputs/default"
    for loss in ("bce", "dice"):
        train_small(other / loss, f"loss={loss}", "trainer.max_epochs=3")
    words = ("loss=bce,dice", "trainer.max_epochs=3")
    for changes in (1, 3, 6, 10, 16):  # of the files, after which it is killed: most are the moment after a write
        process, seen = start(place, *words), {files(place)}
        while process.poll() is None and len(seen) <= changes:
            seen.add(files(place))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    code, said = sweep(place, *words)
    assert code == 0, said
    theirs, ours = (sorted(path.glob("*/per_image.csv")) for path in (other, place / "outputs/default"))
    assert [path.parent.name.split("_")[0] for path in ours] == [path.parent.name for path in theirs]
    for mine, true in zip(ours, theirs, strict=True):
        assert mine.read_text() == true.read_text()
        tables = [pd.read_csv(path.parent / "metrics.csv").drop(columns="seconds") for path in (mine, true)]
        pd.testing.assert_frame_equal(*tables, check_exact=True)
