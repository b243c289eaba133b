"""Sweeps of several runs at once, on this machine and by Ray; SLURM has a test of its own, `make test-slurm`."""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from seglab.engine import cli, config
from seglab.engine.run import Run
from seglab.engine.sweep import JOURNAL, died_together, exclusive_slot
from tests.conftest import SMALL, train_small

BOMB = """
import os, signal, time
from dataclasses import dataclass
from pathlib import Path
from seglab.losses import BCE

@dataclass(frozen=True, kw_only=True)
class Bomb(BCE):
    how: str = "kill"

    def __call__(self, logits, target, *valid, **maps):
        if self.how == "kill":
            while not list(Path("outputs/default").glob("bomb_how-no_*/checkpoints/last.ckpt")):
                time.sleep(0.1)  # until the neighbor is in the middle of its work
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.3)
        return super().__call__(logits, target, *valid, **maps)
"""


def sweep(place: Path, *words: str, **environment: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "seglab.train", "-m", *words, *SMALL]
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        command, cwd=place, env=inherited | environment, capture_output=True, text=True, timeout=600, check=False
    )
    return done.returncode, done.stdout + done.stderr


def runs(place: Path) -> dict[str, dict]:
    found = place.glob("outputs/*/*/run.json")
    return {path.parent.name.rsplit("-", 1)[0]: json.loads(path.read_text()) for path in found}


def composed(*words: str) -> DictConfig:
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        return compose("train", ["hydra.mode=MULTIRUN", *words], return_hydra_config=True)


@pytest.mark.filterwarnings("ignore:(?s).*validated against ConfigStore schema")  # as cli.py asks of Python
@pytest.mark.parametrize("launcher", ["basic", "local", "ray", "slurm"])
def test_each_launcher_says_whether_its_jobs_share_a_process_and_a_screen(
    launcher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = cli.PLUGINS.get(launcher, "").replace("-", "_")
    if plugin:
        pytest.importorskip(f"hydra_plugins.{plugin}", reason="an optional launcher")
    cfg = composed(f"hydra/launcher={launcher}")
    monkeypatch.setattr(HydraConfig.instance(), "cfg", cfg)
    assert cli.shares_process() == (launcher != "slurm")
    assert cli.runs_in_parallel() == (launcher != "basic")
    assert cli.job_prefix(cfg) == ""  # no number yet
    cfg.hydra.job.num = 3
    assert cli.job_prefix(cfg) == ("" if launcher == "basic" else "#3 ")


def test_a_launcher_that_is_not_installed_is_one_sentence_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    monkeypatch.setattr(sys, "argv", ["train", "-m", "hydra/launcher=ray", "seed=1,2"])
    with pytest.raises(SystemExit) as said:
        cli.command("train")(lambda cfg, folder: None)()
    assert said.value.code == (
        'hydra/launcher=ray: expected the package hydra-ray-launcher, got none; pip install "seglab[ray]"'
    )


@pytest.mark.parametrize(("n_jobs", "parallel"), [("1", False), ("2", True), ("auto", True)])
def test_the_local_launcher_is_the_default_and_prints_all_lines_of_one_run_at_a_time(
    n_jobs: str, parallel: bool
) -> None:
    cfg = composed(f"hydra.launcher.n_jobs={n_jobs}")
    assert cfg.hydra.launcher._target_ == "hydra_plugins.seglab_launcher.LocalLauncher"
    assert cli.console_level(cfg) == ("WARNING" if parallel else "INFO")


def test_jobs_that_died_together_take_turns_until_each_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from filelock import FileLock, Timeout

    book = tmp_path / "book"
    monkeypatch.setenv(JOURNAL, str(book))
    free = FileLock(f"{book}.turn", timeout=0)
    with exclusive_slot(), free:
        pass
    (tmp_path / "book.died").write_text(f"{tmp_path / 'a'}\n")
    (tmp_path / "a").mkdir()
    assert died_together(book) == [tmp_path / "a"]
    with exclusive_slot(), pytest.raises(Timeout), free:
        pass
    (tmp_path / "a/run.json").write_text('{"status": "finished"}')
    with exclusive_slot(), free:
        pass


@pytest.mark.slow
def test_runs_at_once_have_the_rows_of_runs_one_after_the_other(tmp_path: Path) -> None:
    code, said = sweep(tmp_path, "loss=bce,dice", "hydra.launcher.n_jobs=2")
    assert code == 0, said
    assert "2 runs: 2 finished" in said
    assert "run 2 of 2" in said
    assert ("epoch 2/2" in said, "about" in said) == (False, True), "the lines of several runs are mixed"
    assert [run["host"]["threads"] for run in runs(tmp_path).values()] == [1, 1]
    for loss in ("bce", "dice"):
        (mine,), alone = tmp_path.glob(f"outputs/default/{loss}_*"), train_small(tmp_path / loss, f"loss={loss}")
        assert "epoch 2/2" in (mine / "train.log").read_text()
        assert (mine / "per_image.csv").read_text() == (alone / "per_image.csv").read_text()


@pytest.mark.slow
def test_a_run_that_dies_leaves_its_neighbors_alone(tmp_path: Path) -> None:
    (tmp_path / "bombs.py").write_text(BOMB)
    (tmp_path / "myconf/loss").mkdir(parents=True)
    (tmp_path / "myconf/loss/bomb.yaml").write_text("_target_: bombs.Bomb\nhow: kill\n")
    words = ("--config-dir", "myconf", "hydra.launcher.n_jobs=2", "loss=bomb", "loss.how=no,kill")
    code, said = sweep(tmp_path, *words, PYTHONPATH=f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    ended = {name: (facts["status"], (facts["error"] or {}).get("message")) for name, facts in runs(tmp_path).items()}
    assert ended == {
        "bomb_how-no_unet_synthetic_s1": ("finished", None),
        "bomb_unet_synthetic_s1": ("failed", "the process died with signal 9 (SIGKILL)"),
    }
    assert "2 runs: 1 finished, 1 failed" in said
    assert "resuming after epoch" not in said
    assert code == 1


@pytest.mark.slow
@pytest.mark.parametrize(("number", "whole_group", "code"), [(signal.SIGINT, True, 130), (signal.SIGTERM, False, 143)])
def test_a_sweep_that_is_asked_to_stop_leaves_no_process_behind_and_counts_what_has_not_begun(
    tmp_path: Path, number: int, whole_group: bool, code: int
) -> None:
    words = ("hydra.launcher.n_jobs=2", "loss=bce,dice,iou", *SMALL, "trainer.max_epochs=5000")
    with (tmp_path / "said.txt").open("w") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "seglab.train", "-m", *words],
            cwd=tmp_path,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    deadline = time.monotonic() + 200
    while len(list(tmp_path.glob("outputs/*/*/metrics.csv"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, number) if whole_group else process.send_signal(number)
    assert process.wait(timeout=60) == code
    summary = (tmp_path / "said.txt").read_text()
    assert "3 runs: 2 interrupted, 1 waiting" in summary
    assert "left: 3, 2 at once; the same command resumes them" in summary
    assert not any(Run(path.parent).held() for path in tmp_path.glob("outputs/*/*/run.json"))
    assert {facts["status"] for facts in runs(tmp_path).values()} == {"interrupted"}


@pytest.mark.slow
def test_ray_finishes_a_sweep_with_the_threads_it_was_given(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="an optional launcher")
    words = ("hydra/launcher=ray", "hydra.launcher.ray.remote.num_gpus=0", "hydra.launcher.ray.remote.num_cpus=1")
    code, said = sweep(tmp_path, "loss=bce,dice", *words)
    assert code == 0, said
    assert "2 runs: 2 finished" in said
    assert [run["host"]["threads"] for run in runs(tmp_path).values()] == [1, 1]
