"""model.deep_supervision=true: the training, the metrics and the checkpoint of a run."""

import numpy as np
import pytest
import torch

from seglab.api import Run
from seglab.engine.trained_run import open_run
from tests.conftest import train_small


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return train_small(tmp_path_factory.mktemp("deep"), "model.depth=3", "model.deep_supervision=true")


def test_scales_are_trained_and_only_the_finest_is_measured_and_predicted(folder):
    module = open_run(folder).module()
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(module(image), module.scales(image)[0])
    assert [len(module.scales(image)), len(module.train().scales(image))] == [1, 2]
    assert Run(folder).predict([np.zeros((32, 32, 3), np.uint8)])[0].shape == (32, 32)
