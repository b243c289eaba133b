"""A tracker mirrors a run: it receives the contents of the run folder however the run ends, and cannot stop it."""

import json
import math
import os
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from seglab.contract import ContractError
from seglab.engine.cli import extras_named
from seglab.engine.config import ConfigError
from seglab.engine.trackers import Tracker, Wandb, push
from seglab.report import mirror
from tests.conftest import facts_of, train_small

pytestmark = pytest.mark.filterwarnings("ignore")  # warnings of the trackers' packages


class Fake(Tracker):
    """A tracker that records what it is sent; `fails` names the moment from which it raises."""

    package = "fake"
    said: list[tuple[str, Any]]

    def __init__(self, project="p", run="r", fails=""):
        super().__init__(project, run)
        self.fails = fails

    def note(self, moment, what):
        if self.fails == moment:
            raise ConnectionError("no route\nto host")
        self.said.append((moment, what))

    def start(self, folder, facts):
        self.note("start", facts)

    def send(self, metrics, step):
        self.note("send", metrics | {"step": step})

    def finish(self, pictures, status):
        self.note("finish", ([file.name for file in pictures], status))


def test_wandb_that_does_not_start_may_write_to_the_folder(tmp_path, monkeypatch):
    def silent(*_):
        raise TimeoutError  # without a message

    monkeypatch.setattr(Wandb, "start", silent)
    said = r"a response from wandb, got TimeoutError: TimeoutError; set logger\.offline=true to .* later with .* push"
    with pytest.raises(ContractError, match=said):
        Wandb("p", "r").begin(tmp_path, dict.fromkeys(("identity", "seed", "choices", "config")))


def test_wandb_keeps_what_was_sent_of_a_run_that_resumes_and_replaces_that_of_another(tmp_path, monkeypatch):
    begun = []
    wandb = SimpleNamespace(init=lambda **options: begun.append((options["id"], options["resume"])), Settings=dict)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for resumes in (False, True):
        facts = dict.fromkeys(("identity", "seed", "choices", "config"))
        Wandb("p", "r").begin(tmp_path, facts, resumes)
    assert begun == [("r", None), ("r", "allow")]


@pytest.fixture
def mirrored(tmp_path):
    Fake.said = []

    def run(*words):
        target = f"++logger._target_={__name__}.Fake"
        train_small(tmp_path / "run", "loss=bce", target, *words)
        return Fake.said

    return run


def test_a_run_sends_its_configuration_every_epoch_and_its_end_and_the_same_when_it_is_pushed(mirrored, tmp_path):
    said = mirrored("pictures=true")
    facts = facts_of(tmp_path / "run")
    assert said[0][0] == "start"
    assert all(said[0][1][key] == facts[key] for key in ("identity", "config"))
    epochs = [what["epoch"] for moment, what in said if moment == "send" and "val/iou" in what]
    assert epochs[:2] == [0, 1]
    assert said[-1] == ("finish", (["curves.png", "examples.png"], "finished"))
    table, sent = pd.read_csv(tmp_path / "run/metrics.csv"), sent_by_step(said)
    assert sent["val/loss"] == dict(zip(table["step"], table["val/loss"], strict=True))
    last = table["step"].iloc[-1]
    assert sent["test/iou"] == {last: facts["metrics"]["test/iou"]}
    assert sent["best/val/loss"] == {last: facts["metrics"]["val/loss"]}
    Fake.said = []
    push(Fake(), tmp_path / "run")  # after the run, from its folder
    assert sent_by_step(Fake.said) == sent


def sent_by_step(said):
    """Return the value of each metric at each step; assert that none is sent twice with different values."""
    found = {}
    for metrics in (what for moment, what in said if moment == "send"):
        for name in metrics.keys() - {"step", "epoch"}:
            assert found.setdefault(name, {}).setdefault(metrics["step"], metrics[name]) == metrics[name]
            assert not math.isnan(metrics[name])
    return found


@pytest.mark.parametrize("moment", ["send", "finish"])
def test_a_tracker_that_does_not_answer_any_more_ends_nothing(mirrored, tmp_path, moment, caplog):
    mirrored(f"+logger.fails={moment}")
    assert facts_of(tmp_path / "run")["status"] == "finished"
    assert caplog.text.count("logger: fake failed (no route") == 1


def test_a_run_that_fails_says_so_and_a_tracker_that_is_not_there_is_one_sentence_before_training(mirrored, tmp_path):
    with pytest.raises(ContractError, match="divisible"):
        mirrored("dataset.size=33")
    assert Fake.said[-1] == ("finish", ([], "failed"))
    with pytest.raises(
        ContractError, match=r"expected a response from fake, got ConnectionError: no route; set logger=n"
    ):
        mirrored("+logger.fails=start")
    assert not (tmp_path / "run/metrics.csv").exists()


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"a,b\n1,2\n", b"epoch,step,val/iou\n0,2,much\n", b"step\n1,2\n", None]
)
def test_a_run_whose_epochs_are_damaged_or_absent_is_pushed_without_them(trained_study, tmp_path, content, caplog):
    Fake.said = []
    folder = shutil.copytree(trained_study / "bce", tmp_path / "bce")
    (folder / "metrics.csv").unlink()
    if content:
        (folder / "metrics.csv").write_bytes(content)
    push(Fake(), folder)
    assert [moment for moment, _ in Fake.said] == ["start", "send", "finish"]
    assert "test/iou" in Fake.said[1][1]
    assert ("metrics.csv is damaged" in caplog.text) == bool(content)


def test_only_what_was_sent_is_said_to_be_sent(trained_study, tmp_path, caplog):
    caplog.set_level("INFO")
    Fake.said = []
    (tmp_path / "run.json").write_text("{}")
    push(Fake(), tmp_path)
    push(Fake(fails="finish"), trained_study / "bce")
    push(Fake(), trained_study / "dice")
    assert [line for line in caplog.messages if "fake failed (" not in line] == [
        f"fake: sent dice of {trained_study.name}"
    ]


def test_a_missing_package_names_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    said = r'train: expected the package mlflow, got none; pip install "seglab\[mlflow\]"'
    with pytest.raises(ConfigError, match=said), extras_named("train"):
        train_small(tmp_path, "logger=mlflow")


def offline_records(file):
    """Yield the records of an offline file of wandb, which has LevelDB's log format with blocks of 32 KiB."""
    from wandb.proto import wandb_internal_pb2

    data, at, whole = file.read_bytes(), 7, b""  # skip the header of seven bytes
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a full record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def until_its_end(file):
    """Return all records of a run, which another process may write shortly after the run."""
    deadline = time.monotonic() + 60
    while True:
        records = list(offline_records(file))
        if any(each.HasField("exit") for each in records):
            return records
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_wandb_offline_holds_config_history_summary_pictures_and_status(tmp_path):
    pytest.importorskip("wandb")
    folder = tmp_path / "run"
    with pytest.raises(ContractError, match="divisible"):
        train_small(folder, "logger=wandb", "logger.offline=true", "dataset.size=33")
    train_small(folder, "logger=wandb", "logger.offline=true", "pictures=true")
    failed, finished = map(until_its_end, sorted(folder.glob("wandb/offline-run-*/*.wandb")))
    assert [each.exit.exit_code for each in failed if each.HasField("exit")] == [1]
    assert [each.exit.exit_code for each in finished if each.HasField("exit")] == [0]
    facts = facts_of(folder)
    config = {item.key: json.loads(item.value_json) for each in finished for item in each.run.config.update}
    assert config["identity"] == facts["identity"]
    assert config["config"] == facts["config"]
    history = [{"/".join(item.nested_key) or item.key for item in each.history.item} for each in finished]
    assert sum("val/iou" in row for row in history) >= 2
    summary = {"/".join(i.nested_key) or i.key: i.value_json for each in finished for i in each.summary.update}
    assert float(summary["test/iou"]) == facts["metrics"]["test/iou"]
    assert json.loads(summary["status"]) == "finished"
    pictures = folder.glob("wandb/offline-run-*/files/media/images/*.png")
    assert {file.stem.split("_")[0] for file in pictures} == {"curves", "examples"}


@pytest.mark.slow
def test_a_study_is_pushed_to_an_mlflow_server(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    folder = train_small(tmp_path / "study/bce", "loss=bce", "examples=1", "pictures=true")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = f"sqlite:///{tmp_path}/mlflow.db"
    words = ["server", "--backend-store-uri", store, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--artifacts-destination", str(tmp_path / "artifacts")]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    server = subprocess.Popen([sys.executable, "-m", "mlflow", *words], start_new_session=True)
    try:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and socket.socket().connect_ex(("127.0.0.1", port)):
            time.sleep(0.2)
        for _ in range(2):  # the second time adds nothing
            mirror([folder], "mlflow")
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(timeout=60)
    with sqlite3.connect(tmp_path / "mlflow.db") as found:
        ask = (
            "select name, status, run_uuid from runs where lifecycle_stage = 'active'"  # replaced runs stay as deleted
        )
        ((name, status, there),) = found.execute(ask).fetchall()
        assert (name, status) == ("bce", "FINISHED")
        facts = facts_of(folder)
        ask = f"select value from latest_metrics where key = 'test/iou' and run_uuid = '{there}'"
        value = found.execute(ask).fetchone()[0]
        assert value == pytest.approx(facts["metrics"]["test/iou"])
    (config,) = tmp_path.glob(f"artifacts/*/{there}/**/config.json")
    assert facts_of(config.parent, config.name)["identity"] == facts["identity"]
    assert len(list(tmp_path.glob(f"artifacts/*/{there}/**/examples.png"))) == 1


def test_tensorboard_holds_a_pushed_run(trained_study, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = shutil.copytree(trained_study / "bce", tmp_path / "study/bce")
    for name in ("curves", "examples"):
        Image.new("RGB", (8, 8)).save(folder / f"{name}.png")
    for _ in range(2):  # the second time adds nothing
        mirror([folder], "tensorboard")
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0}).Reload()
    facts = facts_of(folder)
    assert [each.value for each in events.Scalars("test/iou")] == [pytest.approx(facts["metrics"]["test/iou"])]
    assert len(events.Scalars("val/iou")) == 2  # one per epoch
    assert set(events.Tags()["images"]) == {"curves", "examples"}
