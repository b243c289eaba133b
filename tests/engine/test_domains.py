"""Every numeric option has a domain; values outside raise an error of one sentence, and defaults lie inside."""

import shlex
from pathlib import Path

import pytest

from seglab.engine.config import ConfigError, check_domains, to_container
from seglab.engine.domains import DOMAINS, better, outside
from tests.conftest import compose

WHOLE = "a whole number of at least"
CALLBACKS = "pytorch_lightning.callbacks"
LR = "a number above 0 and at most 1000000, got"
WRONG = (
    {
        "optimizer.lr=nan": f"optimizer.lr: expected {LR} nan",
        "optimizer.betas=[2,0.5]": "optimizer.betas[0]: expected a number of at least 0 and below 1, got 2",
        "seed=-1": f"seed: expected {WHOLE} 0 and at most 4294967295, got -1",
        "tune.lr=[1e-3,nan]": f"tune.lr[1]: expected {LR} nan",
        "evaluation_processes=x": f"evaluation_processes: expected {WHOLE} 0 and at most 256 or auto,",
        "workers=auto": f"workers: expected {WHOLE} 0 and at most 256, got auto",
        "examples=[1]": f"examples: expected {WHOLE} 1 and at most 1000, got [1]",
        "loss=focal loss.gamma=1e30": "loss.gamma: expected a finite number, got 1e+30",
        "channels_last=3": "channels_last: expected true or false, got 3",
        "trainer.limit_test_batches=0": f"trainer.limit_test_batches: expected {LR[:-5]} or null, got 0",
        "trainer.check_val_every_n_epoch=40": "trainer.check_val_every_n_epoch: expected at most trainer.max_epochs=30",
        "stop_after=39": "stop_after: expected at least trainer.check_val_every_n_epoch=40, got 39",
        "tune.epochs=9": "tune.epochs: expected at least trainer.check_val_every_n_epoch=40, got 9",
        "callbacks=early_stopping callbacks.early_stopping.mode=x": "callbacks.early_stopping.mode: expected max",
        "trainer.limit_train_batches=1.5": "trainer.limit_train_batches: expected a fraction of at most 1 or a whole",
        "++callbacks.early_stopping.check_on_train_epoch_end=true": "callbacks.early_stopping.check_on_train_epoch",
        "+trainer.barebones=true": "trainer.barebones: expected a Trainer option that seglab supports, got",
        "+trainer.min_epochs=40": "trainer.min_epochs: expected at most trainer.max_epochs=30, got 40",
    },
    {
        "seed=null": f"seed: expected {WHOLE} 0 and at most 4294967295, got null",
        "monitor=val/loss monitor_mode=max": "monitor_mode: expected min, since a lower loss is better, got max",
        "pictures=no": "pictures: expected true or false, got no",
        "init_include=3": "init_include: expected a name pattern, or a list of name patterns, got 3",
        "tuned=loss.gamma": "tuned: expected a list of options, got loss.gamma",
        "trainer.num_nodes=null": f"trainer.num_nodes: expected {WHOLE} 1 and at most 1000000, got null",
        "trainer.strategy=ddp_spawn": "trainer.strategy: expected one whose processes also evaluate, got",
        "tune.lr=1e-3": "tune.lr: expected a list of learning rates, [1e-4,1e-3], got 0.001",
        "scheduler=plateau scheduler.mode=max": "scheduler.mode: expected min, since a lower",
        "dataset=folder dataset.root=x \"dataset.group_pattern='(a'\"": "dataset.group_pattern: expected a valid",
        "dataset.folds=3 dataset.split_file=x": "dataset.folds: expected 1 with dataset.split_file, which defines one",
        "dataset.cache_dir=": "dataset.cache_dir: expected a value, got ''",
        "logger=mlflow logger.uri=http://me:secret@host": "logger.uri: expected an address without a password, since",
    },
    {
        f"+callbacks.stop={{_target_:{CALLBACKS}.EarlyStopping,monitor:val/iou}}": "callbacks.stop.mode: expected max,",
        f"+callbacks.kept={{_target_:{CALLBACKS}.ModelCheckpoint}}": "callbacks.kept.dirpath: expected another folder",
        f"+callbacks.mean={{_target_:{CALLBACKS}.WeightAveraging}}": "callbacks.mean: expected a callback that is",
    },
    {"scheduler=plateau ~scheduler.mode": "scheduler.mode: expected max, since a higher value of every metric but a"},
    {"monitor=null": "monitor: expected a metric such as val/iou_pooled, got null"},
)
"""The error message for each override; each mapping is one command line."""


@pytest.mark.parametrize("wrong", WRONG)
def test_a_value_outside_of_its_domain_is_one_sentence(wrong):
    words = [word for line in wrong for word in shlex.split(line)]
    with pytest.raises(ConfigError) as fault:
        check_domains(compose("train", *words, folder=Path("x")))
    lines = str(fault.value).splitlines()
    assert len(lines) == len(wrong)
    assert [sentence for sentence in wrong.values() if not any(line.startswith(sentence) for line in lines)] == []


def test_only_classes_that_compare_a_metric_have_its_mode():
    words = ("+scheduler.mode=triangular2", "scheduler._target_=torch.optim.lr_scheduler.CyclicLR")
    check_domains(compose("train", *words, "~scheduler.T_max", "~scheduler.eta_min", folder=Path("x")))


def test_errors_are_better_when_small():
    assert [better(metric) for metric in ("val/loss", "val/iou_pooled")] == ["min", "max"]


def test_a_group_holds_options():
    said = ["logger: expected logger.OPTION=VALUE, got logger=x", "tune: expected tune.OPTION=VALUE, got tune=null"]
    assert list(outside({"logger": "x", "loss": None, "tune": None})) == said


@pytest.mark.parametrize("command", ["train", "report", "surface", "prepare", "benchmark"])
def test_the_defaults_of_every_command_lie_inside(command):
    place = Path("x") if command == "train" else None
    assert list(outside(to_container(compose(command, folder=place)))) == []


def test_a_learning_rate_is_tuned_in_one_process():
    said = "tune.lr: expected a run of one process, got {}; tune with trainer.devices=1, then set optimizer.lr"
    for devices, got in ((1, None), ([0], None), (2, "2"), ("auto", "auto on each of 1")):
        found = list(outside({"tune": {"lr": [1e-3]}, "trainer": {"devices": devices}}))
        assert found == ([said.format(got)] if got else [])


def test_a_domain_holds_its_ends_and_nothing_beyond():
    for name, domain in DOMAINS.items():
        low, high = (int(end) if domain.whole else float(end) for end in (domain.low, domain.high))
        for end, beyond in ((low, low - 1), (high, high + 1)):
            assert domain.holds(end) == (end not in domain.without), name
            assert not domain.holds(beyond), name
        assert not any(domain.holds(value) for value in (float("nan"), float("inf"), True, "1", [1])), name
        assert domain.holds(None) == domain.null, name
