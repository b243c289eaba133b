"""callbacks=ema: the average over steps is validated, saved and tested."""

import pytest
import torch
from pytorch_lightning import Callback
from torch import Tensor

from seglab.engine.per_image import score
from seglab.engine.trained_run import open_run
from seglab.train import train
from tests.conftest import SMALL, weights_of

WITH = (*SMALL, "callbacks=[ema,snapshots]", "callbacks.snapshots.every_n_epochs=1")
WITH += ("callbacks.ema.decay=0.15", "optimizer.lr=0.01", "trainer.max_epochs=3")


class Watch(Callback):
    """Record the weights of the last layer after each step, and those that are validated and tested."""

    trained: list[Tensor]
    measured: list[Tensor]

    @staticmethod
    def note(module):
        return module.model.last.weight.detach().clone()

    def on_train_start(self, trainer, module):
        self.trained.append(self.note(module))

    def on_train_batch_end(self, trainer, module, *batch):
        self.trained.append(self.note(module))

    def on_validation_start(self, trainer, module):
        self.measured.append(self.note(module))


def test_the_average_is_validated_saved_and_tested(configure, tmp_path, monkeypatch):
    Watch.trained, Watch.measured = [], []

    def watched(module, *more):
        Watch.measured.append(Watch.note(module))
        return score(module, *more)

    monkeypatch.setattr("seglab.inference.results.score", watched)
    train(configure("train", *WITH, f"+callbacks.watch._target_={__name__}.Watch", folder=tmp_path), tmp_path)
    average, averages = Watch.trained[0], []
    for n, weight in enumerate(Watch.trained[1:], 1):
        keep = min(0.15, (1 + n) / (10 + n))
        average = keep * average + (1 - keep) * weight
        averages.append(average)
    per_epoch = averages[len(averages) // 3 - 1 :: len(averages) // 3]
    torch.testing.assert_close(Watch.measured[:3], per_epoch)
    run = open_run(tmp_path)
    facts, best = run.facts, per_epoch[run.facts["monitor"]["epoch"]]
    files = (run.best, tmp_path / "checkpoints/last.ckpt", *run.snapshots.values())
    saved = [weights_of(file)["model.last.weight"] for file in files]
    torch.testing.assert_close(saved, [best, per_epoch[-1], *per_epoch])
    torch.testing.assert_close(Watch.measured[3:], [best, best])  # on validation and test images
    assert facts["metrics"]["val/iou_pooled"] == pytest.approx(facts["monitor"]["value"])
    assert not torch.equal(Watch.trained[-1], per_epoch[-1])
