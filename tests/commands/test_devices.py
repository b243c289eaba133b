"""A run over two processes has the same results as in one process."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from seglab.contract import ContractError
from seglab.engine.device import check_nodes
from seglab.engine.run import rank
from tests.conftest import SMALL, facts_of, python, train_small

WORDS = ("dataset.val=5", "dataset.test=7")  # odd numbers: one process gets an image more than the other
WORDS += ("model.norm=group", "trainer.max_epochs=3")  # batch norm would see half a batch per process
WORDS += ("loss=weighted_bce", "loss.pos_weight=50.0")  # predicts foreground from the first epoch on
WORDS += ("+schedule.pos_weight={to: 50.0, epochs: 9}",)  # changes nothing, and causes a warning


@pytest.mark.slow
def test_two_processes_give_the_rows_and_metrics_of_one(tmp_path):
    one, two = train_small(tmp_path / "one", *WORDS), tmp_path / "two"
    halves = ("batch_size=2", "trainer.devices=2", "trainer.strategy=ddp", f"hydra.run.dir={two}")
    said = python("-m", "seglab.train", *SMALL, *WORDS, *halves, cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    assert said.stdout.count("schedule.pos_weight") == 1, "one process warns for all"
    rows = [pd.read_csv(folder / "per_image.csv") for folder in (one, two)]
    pd.testing.assert_frame_equal(rows[0], rows[1], rtol=1e-4, atol=1e-5)
    scores = [facts_of(folder)["metrics"] for folder in (one, two)]
    assert scores[0].keys() == scores[1].keys()
    np.testing.assert_allclose(list(scores[0].values()), list(scores[1].values()), rtol=1e-4, atol=1e-5)
    columns = ["train/loss", "train/iou", "val/loss", "val/iou_pooled"]
    epochs = [pd.read_csv(folder / "metrics.csv")[columns] for folder in (one, two)]
    assert len(epochs[0]) == 3
    pd.testing.assert_frame_equal(epochs[0], epochs[1], rtol=1e-3, atol=1e-4)
    assert rows[0]["iou"].nunique() > 1, "a model that has learned nothing would prove nothing"


def test_a_sweep_in_one_process_refuses_several_devices(tmp_path, monkeypatch):
    monkeypatch.setattr("seglab.train.shares_process", lambda: True)
    words = "trainer: expected devices=1 in a sweep outside SLURM, got more than one; start each run separately"
    with pytest.raises(ContractError, match=words):
        train_small(tmp_path, "trainer.devices=2", "trainer.strategy=ddp")


def test_batch_norms_are_synchronized_between_gpus_only(tmp_path):
    with pytest.raises(ContractError, match=r"trainer\.sync_batchnorm: expected GPUs, .* got none; use"):
        train_small(tmp_path, "trainer.devices=2", "trainer.strategy=ddp", "+trainer.sync_batchnorm=true")


def test_settings_that_depend_on_the_number_of_processes_are_known_before_they_start(tmp_path, monkeypatch):
    def fit(cfg, trainer, module, data, run):
        loaders = data.loader("train"), data.loader("val", 1)
        raise RuntimeError(f"{loaders[0].sampler.joins}, {loaders[1].sampler.length} images to validate")

    monkeypatch.setattr("seglab.train.fit", fit)
    two = ("trainer.devices=2", "trainer.strategy=ddp", "dataset.val=9", "trainer.limit_val_batches=1")
    with pytest.raises(RuntimeError, match="False, 8 images"):  # two batches of 4; one process would have a fifth image
        train_small(tmp_path / "a", *two, "dataset.train=5")
    with pytest.raises(ContractError, match=r"devices: expected at most as .* images to evaluate \(1\), got 2"):
        train_small(tmp_path / "b", *two, "dataset.test=1")


def test_each_of_several_nodes_must_know_its_number(tmp_path, monkeypatch):
    for name in ("RANK", "NODE_RANK", "SLURM_PROCID", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    sentence = r"trainer\.num_nodes: expected a rank for each node, got none for this node; start the run with torchrun"
    with pytest.raises(ContractError, match=sentence):
        train_small(tmp_path, "trainer.num_nodes=2", "trainer.strategy=ddp")
    assert rank() == 0
    monkeypatch.setenv("NODE_RANK", "1")
    assert rank() == 1
    check_nodes(2)


OWN_LOSS = """
import time
from torch import distributed
from torch.nn.functional import binary_cross_entropy_with_logits

def slow(prediction, target):
    time.sleep(0.3 if distributed.is_initialized() and distributed.get_rank() == 0 else 0)
    return binary_cross_entropy_with_logits(prediction, target.float())

def fails(prediction, target):
    if distributed.is_initialized() and distributed.get_rank() == 1:
        raise ValueError("boom")
    return binary_cross_entropy_with_logits(prediction, target.float())
"""


@pytest.mark.slow
def test_two_processes_end_on_sigterm_while_one_waits_for_the_other(tmp_path):
    (tmp_path / "ownloss.py").write_text(OWN_LOSS)
    words = [*SMALL, "loss=external", "loss.function._target_=ownloss.slow", "trainer.max_epochs=50"]
    words += ["trainer.devices=2", "trainer.strategy=ddp", "hydra.run.dir=two"]
    command, variables = [sys.executable, "-m", "seglab.train", *words], os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(command, cwd=tmp_path, env=variables, stderr=subprocess.PIPE, text=True)
    try:
        while not (tmp_path / "two/metrics.csv").exists() and run.poll() is None:
            time.sleep(0.1)
        run.send_signal(signal.SIGTERM)
        _, said = run.communicate(timeout=60)
    finally:
        run.kill()
    assert run.returncode == 143, said
    facts = facts_of(tmp_path / "two")
    assert (facts["status"], facts["error"]["message"]) == ("interrupted", "stopped by SIGTERM")


@pytest.mark.slow
def test_the_error_of_another_process_is_kept_and_the_first_says_where(tmp_path):
    (tmp_path / "ownloss.py").write_text(OWN_LOSS)
    words = [*SMALL, "loss=external", "loss.function._target_=ownloss.fails"]
    words += ["trainer.devices=2", "trainer.strategy=ddp", "hydra.run.dir=two"]
    said = python("-m", "seglab.train", *words, cwd=tmp_path)
    assert said.returncode == 1
    message = facts_of(tmp_path / "two")["error"]["message"]
    assert message.startswith("trainer: expected all processes to finish, got one that ended early; see its error")
    assert "ValueError: boom" in (tmp_path / "two/train_ddp_process_1.log").read_text()
    assert message in said.stderr
    assert "[rank0]: Traceback" not in said.stderr
