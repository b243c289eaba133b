"""A run that is paused, killed and moved ends like an undisturbed one, to the last bit, in every kind of training."""

import random
import re

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback
from torch.nn.functional import dropout

from seglab.contract import ContractError
from seglab.models.unet import UNet
from tests.conftest import assert_same_tables, epochs_of, facts_of, killed, train_small, weights_of

RAMPS = ("loss=sum", "loss.terms.boundary.weight=0.01", "schedule.terms.boundary.weight={to: 1, epochs: 3}")
RAMPS += ("schedule.terms.dice.weight={to: 0.25, shape: cosine, epochs: 4}",)
AVERAGE = ("callbacks=[snapshots,ema]", "callbacks.snapshots.every_n_epochs=1", "callbacks.ema.decay=0.15")
CASES = [
    pytest.param(("scheduler=plateau", "scheduler.patience=0"), id="plateau"),
    pytest.param((*AVERAGE, "optimizer.lr=0.01"), id="average and snapshots"),
    pytest.param(
        ("workers=2", f"model._target_={__name__}.Dropping"), id="workers and dropout", marks=pytest.mark.slow
    ),
    pytest.param((f"model._target_={__name__}.Scaling",), id="Python and NumPy", marks=pytest.mark.slow),
    pytest.param(("model.depth=3", "model.deep_supervision=true"), id="deep supervision", marks=pytest.mark.slow),
    pytest.param(RAMPS, id="loss schedule", marks=pytest.mark.slow),
]


class Dropping(UNet):
    """A network that draws random numbers in each step."""

    def forward(self, image):
        return super().forward(dropout(image, 0.2, self.training))


class Scaling(UNet):
    """A network that draws its random numbers from Python and NumPy."""

    def forward(self, image):
        return super().forward(image * (1 + random.random() * np.random.rand() * self.training))


@pytest.mark.parametrize("words", CASES)
def test_an_interrupted_run_ends_like_the_undisturbed_one(words, tmp_path):
    words = (*words, "trainer.max_epochs=4")
    undisturbed = train_small(tmp_path / "undisturbed", *words, "workers=0")
    disturbed = train_small(tmp_path / "disturbed", *words, "stop_after=1")
    with killed(epoch=2, batch=1):
        train_small(disturbed, *words)
    assert facts_of(disturbed)["status"] == "failed"
    moved = train_small(disturbed.rename(tmp_path / "moved"), *words)
    assert_same_tables(moved, undisturbed)
    files = [file.relative_to(undisturbed) for file in undisturbed.rglob("*.ckpt")]
    assert len(files) == 2 + 4 * ("snapshots" in words[0])
    for file in files:
        torch.testing.assert_close(weights_of(moved / file), weights_of(undisturbed / file), rtol=0, atol=0)


def test_resuming_with_other_callbacks_gives_no_warning(tmp_path, recwarn):
    train_small(tmp_path / "run", "callbacks=snapshots", "logger=csv", "stop_after=1")
    train_small(tmp_path / "run", "logger=csv")
    assert [str(one.message) for one in recwarn if re.search("ckpt_path|not empty", str(one.message))] == []


class Keeping(Callback):
    """A callback with a state that PyTorch does not load safely."""

    def state_dict(self):
        return {"values": np.zeros(2)}


def test_a_state_that_could_not_be_resumed_ends_the_first_epoch(tmp_path):
    said = (
        "callbacks, optimizer and scheduler: expected states of tensors, numbers, strings, lists and dicts, got numpy"
    )
    with pytest.raises(ContractError, match=said):
        train_small(tmp_path / "run", f"+callbacks.x._target_={__name__}.Keeping")
    assert len(epochs_of(tmp_path / "run")) == 1


def test_a_checkpoint_callback_of_the_user_works_beside_those_of_a_run(tmp_path):
    mine = f"{{_target_:pytorch_lightning.callbacks.ModelCheckpoint,filename:best,monitor:val/loss,dirpath:{tmp_path}}}"
    train_small(tmp_path / "run", f"+callbacks.mine={mine}", "stop_after=1")
    run = train_small(tmp_path / "run", f"+callbacks.mine={mine}")
    assert facts_of(run)["monitor"]["name"] == "val/iou_pooled"
    assert [file.name for file in tmp_path.glob("*.ckpt")] == ["best.ckpt"]  # the worse one is deleted after resuming


def test_a_schedule_that_does_not_fit_and_a_missing_package_are_one_sentence(tmp_path):
    words = ("scheduler._target_=torch.optim.lr_scheduler.OneCycleLR", "~scheduler.T_max", "~scheduler.eta_min")
    said = "scheduler: expected one with a step after each of 2 epochs, got ValueError: Tried to step 2 times"
    with pytest.raises(ContractError, match=said):
        train_small(tmp_path / "run", *words, "+scheduler.max_lr=0.1", "+scheduler.total_steps=1")
    words = (f"scheduler._target_={__name__}.Stateless", "~scheduler.T_max", "~scheduler.eta_min")
    with pytest.raises(ContractError, match=r"scheduler: expected one with a step after each of 2 .* 'state_dict'"):
        train_small(tmp_path / "stateless", *words)
    missing = f"+callbacks.x._target_={__name__}.Missing"
    with pytest.raises(ContractError, match="trainer: No module named 'psutil'"):
        train_small(tmp_path / "other", missing)


class Stateless:
    """A schedule that a checkpoint cannot keep."""

    def __init__(self, optimizer):
        pass

    def step(self):
        pass


class Missing(Callback):
    """A callback that needs a package which is not installed, like Lightning's DeviceStatsMonitor."""

    def on_train_start(self, trainer, module):
        raise ModuleNotFoundError("No module named 'psutil'")


def test_a_profile_is_printed(tmp_path, caplog):
    with caplog.at_level("INFO"):
        train_small(tmp_path, "+trainer.profiler=simple", "trainer.max_epochs=1", "+callbacks.early_stopping=null")
    assert "Profiler Report" in caplog.text
