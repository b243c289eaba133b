"""A run that is paused, killed and moved ends like an undisturbed one, to the last bit, in every kind of training."""

import re

import pytest
import torch
from torch.nn.functional import dropout

from seglab.models.unet import UNet
from tests.conftest import assert_same_tables, facts_of, killed, train_small, weights_of

RAMPS = ("loss=sum", "loss.terms.boundary.weight=0.01", "schedule.terms.boundary.weight={to: 1, epochs: 3}")
RAMPS += ("schedule.terms.dice.weight={to: 0.25, shape: cosine, epochs: 4}",)
AVERAGE = ("callbacks=[snapshots,ema]", "callbacks.snapshots.every_n_epochs=1", "callbacks.ema.decay=0.15")
CASES = [
    pytest.param(("scheduler=plateau", "scheduler.patience=0"), id="plateau"),
    pytest.param((*AVERAGE, "optimizer.lr=0.01"), id="average and snapshots"),
    pytest.param(
        ("workers=2", f"model._target_={__name__}.Dropping"), id="workers and dropout", marks=pytest.mark.slow
    ),
    pytest.param(("model.depth=3", "model.deep_supervision=true"), id="deep supervision", marks=pytest.mark.slow),
    pytest.param(RAMPS, id="loss schedule", marks=pytest.mark.slow),
]


class Dropping(UNet):
    """A network that draws random numbers in each step."""

    def forward(self, image):
        return super().forward(dropout(image, 0.2, self.training))


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
