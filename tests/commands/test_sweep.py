"""Sweeps in real processes, as users start them: no job ends another, and repeating the command finishes them.

SLURM has its own test, `make test-slurm`.
"""

import contextlib
import os
import signal
import sys
import time

import pytest
from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig

from seglab.engine import cli
from seglab.engine.sweep import JOURNAL, died_together, exclusive_slot
from seglab.files import is_held
from tests.commands.forked import begin, command_line, end, kill_group, run
from tests.conftest import SMALL, assert_same_tables, compose, facts_of, python, train_small

BOMBS = """
import os, signal, sys, time
from dataclasses import dataclass
from pathlib import Path
from seglab.losses import BCE

@dataclass(frozen=True, kw_only=True)
class Bomb(BCE):
    how: str = "kill"

    def __call__(self, logits, target, *valid, **maps):
        if self.how == "late":
            while not list(Path("outputs/default").glob("bomb_how-slow_*/checkpoints/last.ckpt")):
                time.sleep(0.1)  # until the neighbor is in the middle of its work
        if self.how in ("kill", "late"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "exit":
            sys.exit(3)
        if self.how == "raise":
            raise MemoryError("no room")
        if self.how == "slow":
            time.sleep(0.3)
        return super().__call__(logits, target, *valid, **maps)
"""


@pytest.fixture
def place(tmp_path):
    """A user's folder with a custom loss: one Python file and one YAML file."""
    (tmp_path / "bombs.py").write_text(BOMBS)
    (tmp_path / "myconf/loss").mkdir(parents=True)
    (tmp_path / "myconf/loss/bomb.yaml").write_text("_target_: bombs.Bomb\nhow: kill\n")
    return tmp_path


SWEEP = ("--config-dir", "myconf", "-m", *SMALL)
THREADS = {"OMP_NUM_THREADS": "8"}  # as many as there are cores, so that a run chooses its own number


def start(place, *words):
    return begin(command_line, "train", [*SWEEP, *words], place, THREADS)


def sweep(place, *words):
    return run("train", [*SWEEP, *words], place, THREADS)


def sweep_from_nothing(place, *words):
    """Run a sweep in new processes with nothing imported, like a user's; they exit like Python."""
    done = python("-m", "seglab.train", *SWEEP, *words, cwd=place, **THREADS)
    return done.returncode, done.stdout + done.stderr


def runs_of(place):
    return {path.parent.name.rsplit("-", 1)[0]: facts_of(path.parent) for path in place.glob("outputs/*/*/run.json")}


def ended(place):
    return {
        name.removesuffix("_unet_synthetic_s1"): (facts["status"], (facts["error"] or {}).get("message"))
        for name, facts in runs_of(place).items()
    }


def composed(*words):
    return compose("train", "hydra.mode=MULTIRUN", *words, return_hydra_config=True)


@pytest.mark.filterwarnings("ignore:(?s).*validated against ConfigStore schema")  # as in cli.py
@pytest.mark.parametrize("launcher", ["basic", "local", "ray", "slurm"])
def test_each_launcher_says_whether_its_jobs_share_a_process_and_a_screen(launcher, monkeypatch):
    if launcher in cli.PLUGINS:
        pytest.importorskip(f"hydra_plugins.{cli.PLUGINS[launcher]}", reason="an optional launcher")
    cfg = composed(f"hydra/launcher={launcher}")
    monkeypatch.setattr(HydraConfig.instance(), "cfg", cfg)
    assert cli.shares_process() == (launcher != "slurm")
    assert cli.runs_in_parallel() == (launcher != "basic")
    assert cli.job_prefix(cfg) == ""  # the job has no number yet
    cfg.hydra.job.num = 3
    assert cli.job_prefix(cfg) == ("" if launcher == "basic" else "#4 ")


@pytest.mark.parametrize(
    ("word", "who", "package", "extra"),
    [
        ("hydra/launcher=ray", "hydra/launcher=ray", "hydra-ray-launcher", "ray"),
        ("logger=mlflow", "train", "mlflow", "mlflow"),
    ],
)
def test_a_missing_package_is_one_sentence_with_the_remedy_before_a_sweep(monkeypatch, word, who, package, extra):
    monkeypatch.setattr(cli, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["train", "-m", word, "seed=1,2"])
    with pytest.raises(SystemExit) as stop:
        cli.command("train")(lambda cfg, folder: None)()
    assert stop.value.code == f'{who}: expected the package {package}, got none; pip install "seglab[{extra}]"'


def test_a_slurm_that_does_not_answer_is_one_sentence(tmp_path, monkeypatch):
    for name, code in (("srun", 0), ("sinfo", 1)):
        (tmp_path / name).write_text(f"#!/bin/sh\necho error >&2; echo fatal: no host >&2; exit {code}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(sys, "argv", ["train", "-m", "hydra/launcher=slurm", "seed=1,2"])
    with pytest.raises(SystemExit, match=r"got one that does not respond \(fatal: no host\); run the command where"):
        cli.command("train")(lambda cfg, folder: None)()


def test_the_local_launcher_is_the_default_and_prints_all_lines_of_one_run_at_a_time():
    for n_jobs, level in (("1", "INFO"), ("2", "WARNING"), ("auto", "WARNING")):
        cfg = composed(f"hydra.launcher.n_jobs={n_jobs}")
        assert cfg.hydra.launcher._target_ == "hydra_plugins.seglab_launcher.LocalLauncher"
        assert cli.console_level(cfg) == level


def test_jobs_that_died_together_take_turns_until_each_has_ended(tmp_path, monkeypatch):
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
    (tmp_path / "a/run.json").write_text('{"status": "failed"}')
    with exclusive_slot(), free:
        pass


@pytest.mark.slow
def test_a_sweep_stops_at_the_first_failure_or_survives_jobs_that_raise_exit_or_die_and_tries_them_again(place):
    words = ("loss=bomb", "loss.how=raise,exit,kill,no")
    code, said = sweep(place, *words, "on_fail=stop", "hydra.launcher.n_jobs=1")
    assert code == 1
    assert ended(place) == {"bomb_how-raise": ("failed", "no room")}
    assert "MemoryError" in runs_of(place)["bomb_how-raise_unet_synthetic_s1"]["error"]["traceback"]
    assert "left: 4" in said
    (place / "bombs.py").write_text(BOMBS.replace('raise MemoryError("no room")', "pass"))
    code, said = sweep(place, *words)
    assert ended(place) == {
        "bomb_how-raise": ("finished", None),
        "bomb_how-exit": ("failed", "3"),
        "bomb": ("failed", "the process died with signal 9 (SIGKILL)"),
        "bomb_how-no": ("finished", None),
    }
    assert "4 runs: 2 finished, 2 failed" in said
    assert code == 1


@pytest.mark.slow
def test_a_run_that_dies_leaves_its_neighbors_alone(place):
    code, said = sweep(place, "hydra.launcher.n_jobs=2", "loss=bomb", "loss.how=slow,late")
    died = ("failed", "the process died with signal 9 (SIGKILL)")
    assert ended(place) == {"bomb_how-slow": ("finished", None), "bomb_how-late": died}
    assert "2 runs: 1 finished, 1 failed" in said
    assert "resuming after epoch" not in said
    assert code == 1


@pytest.mark.slow
def test_runs_at_once_have_the_rows_of_runs_one_after_the_other_and_a_plan_changes_nothing(place):
    beside = ("evaluation_processes=1", "pictures=true")
    code, said = sweep_from_nothing(place, "loss=bce,dice,bce", "hydra.launcher.n_jobs=2", *beside)  # bce runs once
    assert code == 0, said
    assert "2 runs: 2 finished" in said
    assert len(list(place.glob("outputs/default/*/*.png"))) == 4
    assert "run 2 of 2" in said
    assert ("epoch 2/2" in said, "about" in said) == (False, True), "the lines of several runs are mixed"
    assert "leaked" not in said  # reported by triton if a process ends without garbage collection
    assert [one["host"]["threads"] for one in runs_of(place).values()] == [1, 1]
    for loss in ("bce", "dice"):
        (mine,), alone = place.glob(f"outputs/default/{loss}_*"), train_small(place / loss, f"loss={loss}")
        assert "epoch 2/2" in (mine / "train.log").read_text()
        assert_same_tables(mine, alone)
    before = {file: file.read_bytes() for file in place.glob("outputs/default/*/**/*") if file.is_file()}
    _, said = sweep(place, "loss=bce", "plan=True", "rerun=true")
    assert "waiting outputs/default/bce_" in said
    assert "1 waiting" in said
    _, said = sweep(place, "loss=bce,iou", "plan=true", "rerun=false")
    assert {file: file.read_bytes() for file in place.glob("outputs/default/*/**/*") if file.is_file()} == before
    assert "waiting outputs/default/iou_" in said
    assert "finished outputs/default/bce_" in said
    assert "left: 1" in said
    facts = runs_of(place)["bce_unet_synthetic_s1"]
    given = {"--config-dir=myconf", *SMALL, "loss=bce", *beside} - {"pictures=false"}
    assert {word.lower() for word in facts["overrides"]} == given


def files(place):
    """Return the names and modification times of the files of all runs."""
    found = set()
    for folder, _, names in os.walk(place / "outputs"):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                found.add((name, os.stat(os.path.join(folder, name)).st_mtime_ns))
    return frozenset(found)


@pytest.mark.slow
def test_a_sweep_killed_at_many_moments_ends_like_an_undisturbed_one(place, tmp_path_factory):
    other, words = tmp_path_factory.mktemp("undisturbed"), ("loss=bce,dice", "trainer.max_epochs=3")
    for changes in (1, 10):  # the sweep is killed after this many changes of its files, mostly right after a write
        begun, seen = start(place, *words), {files(place)}
        while begun[0].is_alive() and len(seen) <= changes:
            seen.add(files(place))
        kill_group(begun)
    code, said = sweep(place, *words)
    assert code == 0, said
    for loss in ("bce", "dice"):
        (mine,) = place.glob(f"outputs/default/{loss}_*")
        assert_same_tables(mine, train_small(other / loss, f"loss={loss}", "trainer.max_epochs=3"))


def is_gone(group):
    """Whether all processes of a group end; a helper that is still starting needs a moment to see that it is alone."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_a_sweep_that_is_asked_to_stop_or_killed_leaves_no_process_behind_and_counts_what_has_not_begun(place, asked):
    words = ("loss=bce,dice,iou", "trainer.max_epochs=5000", "evaluation_processes=1")
    begun = start(place, "hydra.launcher.n_jobs=2", *words)
    while len(list(place.glob("outputs/*/*/metrics.csv"))) < 2 and begun[0].is_alive():
        time.sleep(0.05)
    code, killed = end(begun, 0, asked), asked == signal.SIGKILL
    assert code == (-asked if killed else 128 + asked)
    said = (place / "said.txt").read_text()
    assert killed or "3 runs: 2 interrupted, 1 waiting" in said
    assert killed or "left: 3, 2 at once; run the same command again to resume them" in said
    assert is_gone(begun[0].pid)
    assert not any(is_held(path.parent) for path in place.glob("outputs/*/*/run.json"))
    assert {facts["status"] for facts in runs_of(place).values()} == {"interrupted"}


@pytest.mark.slow
def test_a_sweep_that_would_lose_a_run_is_refused(place):
    """Two folders of data in experiments share a run folder; a glob may match nothing; a file cannot start a sweep."""
    (place / "myconf/experiment").mkdir()
    for name in ("A", "B"):
        (place / name).mkdir()
        text = f"# @package _global_\ndataset: {{root: {name}}}\n"
        (place / f"myconf/experiment/on_{name}.yaml").write_text(text)
    (place / "myconf/experiment/many.yaml").write_text("# @package _global_\nhydra: {mode: MULTIRUN}\n")
    data = [word for word in SWEEP if word.partition("=")[0] not in ("dataset.train", "dataset.val", "dataset.test")]
    refused = {
        ("dataset=folder", "experiment=on_A,on_B"): "sweep: expected a folder for each run, got ",
        ("loss=glob(zz*)",): "sweep: expected at least one value for each option, got none",
    }
    for words, said in refused.items():
        code, output = run("train", [*data, *words, "plan=true"], place)
        assert (code, output.splitlines()[-1][: len(said)]) == (1, said)
    code, output = run("train", ["--config-dir", "myconf", "experiment=many"], place)
    assert (code, output.partition(",")[0]) == (1, "hydra.mode: expected -m on the command line of a sweep")
    code, output = run("train", [*data, "dataset=folder", "++dataset.root=A,B", "plan=true"], place)
    assert (code, "2 runs: 2 waiting" in output) == (0, True)


def summed_up_slowly(words, out):
    """Run a sweep whose summary takes half a second."""
    from seglab.engine import sweep

    summary = sweep.summary

    def slow(*given):
        (out / "summing").touch()
        time.sleep(0.5)
        return summary(*given)

    sweep.summary = slow
    command_line("train", words, out)


@pytest.mark.slow
def test_ctrl_c_while_a_sweep_is_summed_up_changes_nothing(tmp_path):
    begun = begin(summed_up_slowly, ["-m", *SMALL, "plan=true"], tmp_path)
    while not (tmp_path / "summing").exists() and begun[0].is_alive():
        time.sleep(0.02)
    assert end(begun, 0, signal.SIGINT) == 0
    said = (tmp_path / "said.txt").read_text()
    assert "sweep: 1 runs: 1 waiting" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_ray_finishes_a_sweep_with_the_threads_it_was_given(place):
    pytest.importorskip("ray", reason="an optional launcher")
    words = ["hydra/launcher=ray", "hydra.launcher.ray.remote.num_gpus=0", "hydra.launcher.ray.remote.num_cpus=1"]
    code, said = sweep_from_nothing(place, "loss=bce,dice", *words)
    assert code == 0, said
    assert "2 runs: 2 finished" in said
    assert [one["host"]["threads"] for one in runs_of(place).values()] == [1, 1]
