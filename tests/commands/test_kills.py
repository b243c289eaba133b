"""SIGKILL at random moments, on a file system other than that of temporary files; Ctrl-C, SIGTERM and SIGHUP."""

import os
import re
import signal
import subprocess
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from tests.commands.forked import begin, command_line, end
from tests.conftest import SMALL, compose, train_small
from tests.data.fabricate import write_pairs

pytestmark = pytest.mark.slow

KILLS = 3
APPENDED = ("images.csv", "objects.csv", "pixels.bin", "records.jsonl", "manifest.json", "looks.json")
"""Tables that grow, the files of a prepared folder, and files that contain the time."""


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A folder on a separate file system, if the tests may mount one."""
    disk = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", disk]
    mounted = os.geteuid() == 0 and not subprocess.run(mount).returncode
    yield disk
    if mounted:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a study of two runs and twelve photos with masks."""
    place, rng = tmp_path_factory.mktemp("place"), np.random.default_rng(0)
    for loss in ("bce", "dice"):
        train_small(place / "study" / loss, f"loss={loss}")
    masks = rng.integers(0, 2, (12, 64, 64))
    write_pairs(place / "photos", rng.integers(0, 256, (12, 64, 64, 3)), masks)
    return place


def words_of(command, place, out):
    """Return the overrides with which a command writes to the folder `out`."""
    run = f"run={place / 'study/dice'}"
    return {
        "predict": [run, f"input={place / 'photos/images'}", f"output={out}", "device=cpu"],
        "report": [f"roots=[{place / 'study'}]", f"output={out}"],
        "export": [run, "format=hub", f"output={out}"],
        "train": [*SMALL, f"hydra.run.dir={out}", "rerun=true"],
        "prepare": [f"hydra.run.dir={out}", "dataset=folder", f"dataset.root={place}/photos", "dataset.cache_dir=null"],
    }[command]


def work(command, words, out):
    """Run a command's function in this process."""
    import torch

    torch.set_num_threads(1)
    module = import_module(f"seglab.{command}")
    function = module.run if command == "prepare" else getattr(module, command)
    function(compose(command, *[word for word in words if not word.startswith("hydra.")]), out)


def written(out):
    """Return the contents of the files of a folder, without hidden ones such as partial files and locks."""
    files = [file for file in out.rglob("*") if file.is_file() and not file.name.startswith(".")]
    return {str(file.relative_to(out)): file.read_bytes() for file in files}


def undated(content):
    """Return a page without the date on which it was made."""
    return re.sub(rb"20\d\d-\d\d-\d\d", b"", content)


@pytest.mark.parametrize("command", ["prepare", "predict", "report", "export"])
def test_a_command_that_is_killed_at_random_moments_ends_with_the_files_of_an_undisturbed_one(command, place, disk):
    undisturbed, timed, out = (disk / command / name for name in ("undisturbed", "timed", "out"))
    end(begin(work, command, words_of(command, place, undisturbed), undisturbed))  # imports what later processes share
    right, since = written(undisturbed), time.monotonic()
    end(begin(work, command, words_of(command, place, timed), timed))
    took, rng = time.monotonic() - since, np.random.default_rng(list(command.encode()))
    for moment in rng.uniform(0.1, 1, KILLS):
        end(begin(work, command, words_of(command, place, out), out), took * moment)
        for name, content in written(out).items():
            if Path(name).name not in APPENDED:
                assert undated(content) == undated(right[name]), f"{name} is not whole"
    assert end(begin(work, command, words_of(command, place, out), out)) == 0
    assert not list(out.rglob(".*partial*"))
    made = written(out)
    assert made.keys() == right.keys()
    for name in made:
        if name in ("images.csv", "objects.csv"):  # rows are appended as images are done
            assert sorted(made[name].splitlines()) == sorted(right[name].splitlines())
        elif name not in APPENDED:
            assert undated(made[name]) == undated(right[name]), name


@pytest.mark.parametrize("command", ["train", "prepare", "predict", "report"])
def test_ctrl_c_ends_with_130_sigterm_with_143_sighup_with_129_and_none_with_a_traceback(command, place, tmp_path):
    words, began = words_of(command, place, tmp_path / "out"), tmp_path / "began"
    rng = np.random.default_rng(list(command.encode()))

    def ended(number, moment):
        """Return the exit code of a command signaled `moment` seconds after its start, and its duration."""
        began.unlink(missing_ok=True)
        begun = begin(command_line, command, [*words, *["rerun=true"] * (command == "predict")], tmp_path)
        while not began.exists() and begun[0].is_alive():
            time.sleep(0.01)
        since = time.monotonic()
        return end(begun, moment, number), time.monotonic() - since

    code, took = ended(signal.SIGINT, 100)
    assert code == 0, (tmp_path / "said.txt").read_text()
    for number, right in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)):
        code, moment = 0, took * rng.uniform(0.1, 0.9)
        while code == 0:  # it ended before the signal
            code, _ = ended(number, moment)
            moment /= 2
        said = (tmp_path / "said.txt").read_text()
        assert code == right, said
        assert "Traceback" not in said
