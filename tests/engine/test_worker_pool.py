"""Scores and pictures from worker processes equal those of one process, even if workers die."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch

from seglab.contract import Task
from seglab.engine import worker_pool
from seglab.engine.per_image import ImageTable
from tests.conftest import assert_same_tables, facts_of, train_small


@pytest.fixture(autouse=True)
def _no_processes_left():
    worker_pool._warn_once.cache_clear()
    yield
    worker_pool.finish()


def kill_one(processes):
    os.kill(next(iter(worker_pool._pools[processes]._processes)), signal.SIGKILL)


def table_of(processes, images=40):
    generator = torch.Generator().manual_seed(0)
    ids, task = [f"{k}" for k in range(images)], Task("multilabel", ("a", "b"))
    numbers = {"3": lambda: np.arange(256, dtype=np.int32).reshape(16, 16) // 8}
    table = ImageTable(dict.fromkeys(ids, "g"), 0.5, "correct", objects=numbers, task=task, processes=processes)
    for name in ids:
        logits = torch.randn(1, 2, 16, 16, generator=generator)
        target = (torch.rand(1, 2, 16, 16, generator=generator) > 0.7).to(torch.uint8)
        table.add(torch.tensor([0.5]), logits, target, [name])
    return table.table()


@pytest.mark.slow
def test_other_processes_give_the_same_scores_in_the_same_order_even_if_one_is_killed(caplog):
    here = table_of(0)
    pd.testing.assert_frame_equal(table_of(2), here, check_exact=True)
    assert not caplog.messages
    asleep = [worker_pool.submit(2, time.sleep, 1) for _ in range(2)]  # the next task still waits when one dies
    waiting = worker_pool.submit(2, divmod, 7, 2)
    kill_one(2)
    assert waiting.result() == (3, 1)
    assert [each.result() for each in asleep] == [None, None]
    pd.testing.assert_frame_equal(table_of(2), here, check_exact=True)
    assert caplog.messages == [worker_pool.DIED]


@pytest.mark.slow
def test_two_runs_of_one_process_leave_their_rows_and_pictures(tmp_path, caplog):
    for name in "ab":
        train_small(tmp_path / name, "evaluation_processes=2", "pictures=true", f"seed={ord(name)}")
    worker_pool.finish()
    assert_same_tables(tmp_path / "b", train_small(tmp_path / "alone", f"seed={ord('b')}"))
    for name in "ab":
        assert {path.name for path in (tmp_path / name).glob("*.png")} == {"curves.png", "examples.png"}
    assert not [record for record in caplog.records if "could not be drawn" in record.message]


def test_a_picture_that_fails_is_a_warning_that_names_the_run(tmp_path, monkeypatch, caplog):
    def broken(*_):
        raise ValueError("no font")

    monkeypatch.setattr("seglab.inference.results.curves", broken)
    folder = train_small(tmp_path / "mine", "pictures=true")
    [warning] = [record.message for record in caplog.records if "drawn" in record.message]
    assert warning.endswith("mine: a picture could not be drawn (ValueError: no font)")
    assert facts_of(folder)["status"] == "finished"
    assert (folder / "examples.png").exists()


@pytest.mark.slow
def test_the_processes_end_with_one_that_is_killed():
    code = "import os; from seglab.engine.worker_pool import submit; print(submit(1, os.getpid).result(), flush=True)"
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen([sys.executable, "-c", f"{code}; input()"], **pipes)
    assert int(process.stdout.readline()) != process.pid
    process.kill()
    process.communicate(timeout=30)  # returns only when the last process with these pipes has ended
