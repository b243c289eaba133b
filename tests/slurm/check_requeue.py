"""A sweep on a real SLURM with preempted jobs ends as on one machine; `make test-slurm` runs this."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest

from tests.slurm.conftest import until

SMALL = (
    "dataset.size=32",
    "dataset.train=8",
    "dataset.val=4",
    "dataset.test=4",
    "model.base=4",
    "model.depth=2",
    "batch_size=4",
    "trainer.accelerator=cpu",
    "trainer.precision=32-true",
    "examples=1",
)
SLURM = ("hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.timeout_min=30")
EPOCHS = 300  # enough for a fast machine to be still training when jobs are preempted
SWEEP = ("loss=bce,dice", "seed=1,2", f"trainer.max_epochs={EPOCHS}")
PREEMPTED = {"0": "scontrol requeue", "1": "scancel --signal=USR2"}
"""Commands for the first two jobs of the array: SLURM takes the node back, and the job's time is nearly up."""


@contextmanager
def sweep(place: Path, *words: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run a sweep in the background, which is asked to stop at the end of the block."""
    command = [sys.executable, "-m", "seglab.train", "-m", *SMALL, *words]
    with (place / "said.txt").open("w") as said:  # an unread pipe would fill up
        process = subprocess.Popen(
            command,
            cwd=place,
            env={**os.environ, "OMP_NUM_THREADS": "1"} | environment,
            stdout=said,
            stderr=said,
            text=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=60)


def run_json(place: Path, loss: str, seed: int) -> Path:
    return next(iter(place.glob(f"outputs/default/{loss}_*_s{seed}-*/run.json")), Path("none"))


def status(file: Path) -> str:
    return json.loads(file.read_text())["status"] if file.exists() else "waiting"


def epochs(file: Path) -> int:
    table = file.parent / "metrics.csv"
    return len(table.read_text().splitlines()) - 1 if table.exists() else 0


def queue() -> dict[str, tuple[str, str]]:
    """Return state and node of every task of the job array, by its index."""
    said = subprocess.run(["squeue", "-h", "-r", "-o", "%K %T %N"], capture_output=True, text=True).stdout
    lines = [line.split() for line in said.splitlines()]
    return {words[0]: (words[1], words[2] if len(words) > 2 else "") for words in lines}


def job(index: str) -> str:
    """Return the job id of a task of the array."""
    said = subprocess.run(["squeue", "-h", "-r", "-o", "%K %A"], capture_output=True, text=True).stdout
    return dict(line.split() for line in said.splitlines())[index]


def preempt(place: Path) -> list[subprocess.Popen[bytes]]:
    """Requeue the first job and signal that the second job's time is nearly up; return the processes that do so."""
    commands = []
    for index, command in PREEMPTED.items():
        seed = int(index) + 1
        until(lambda seed=seed: epochs(run_json(place, "bce", seed)) >= 3, f"three epochs of job {index}")
        commands.append(subprocess.Popen([*command.split(), job(index)]))  # scancel retries until the job is back
    for seed in (1, 2):
        run = run_json(place, "bce", seed)
        until(lambda run=run: status(run) == "interrupted", f"{run.parent.name} says that it was interrupted")
        assert epochs(run) < EPOCHS
    return commands


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same sweep in one process."""
    place = tmp_path_factory.mktemp("local")
    with sweep(place, *SWEEP) as process:
        assert process.wait(600) == 0
    return place


@pytest.mark.usefixtures("cluster")
def test_a_sweep_with_preempted_jobs_ends_as_it_ends_on_one_machine(local: Path, tmp_path: Path) -> None:
    nodes: set[str] = set()
    with sweep(tmp_path, *SWEEP, *SLURM) as process:
        commands = preempt(tmp_path)
        while process.poll() is None:
            for index, (state, node) in queue().items():
                nodes.add(node)
                if state == "PENDING" and index in PREEMPTED:  # SLURM delays a requeued job by two minutes
                    subprocess.run(["scontrol", "update", f"JobId={job(index)}", "StartTime=now"], check=False)
            time.sleep(1)
    for command in commands:
        command.wait()
    said = (tmp_path / "said.txt").read_text()
    assert process.returncode == 0, said
    assert "4 runs: 4 finished" in said
    assert {"n1", "n2"} <= nodes
    logs = list(tmp_path.glob("outputs/default/.submitit/*/*_log.out"))  # in folders such as 1_0 (array and index)
    resumed = {path.parent.name.split("_")[1] for path in logs if "resuming after epoch" in path.read_text()}
    assert resumed == set(PREEMPTED)  # a job may be preempted again after it has resumed
    mine, true = (sorted(place.glob("outputs/default/*/per_image.csv")) for place in (tmp_path, local))
    assert [path.parent.name for path in mine] == [path.parent.name for path in true]
    assert len(mine) == 4
    for ours, theirs in zip(mine, true, strict=True):
        assert ours.read_text() == theirs.read_text()


@pytest.mark.usefixtures("cluster")
def test_a_run_over_two_nodes_gives_the_rows_of_one_process(tmp_path: Path) -> None:
    words = ("loss=bce", "model.norm=group", "trainer.max_epochs=3")  # batch norm would see half a batch per node
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    with sweep(one, *words) as process:
        assert process.wait(300) == 0
    over = ("trainer.num_nodes=2", "trainer.strategy=ddp", "batch_size=2")
    with sweep(two, *words, *over, *SLURM, MASTER_ADDR="127.0.0.1") as process:  # only SLURM knows the names n1 and n2
        assert process.wait(300) == 0, (two / "said.txt").read_text()
    rows = [pd.read_csv(next(place.glob("outputs/default/*/per_image.csv"))) for place in (one, two)]
    pd.testing.assert_frame_equal(rows[0], rows[1], rtol=1e-4, atol=1e-5)
