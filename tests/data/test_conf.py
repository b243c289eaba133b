"""Every dataset and augmentation matches its YAML file, also when set on the command line."""

import pytest
import torch

from seglab.data.augment import Augment
from seglab.data.dataset import Dataset
from seglab.engine.config import CONF, build, check

DATASETS = sorted(path.stem for path in (CONF / "dataset").glob("*.yaml"))
AUGMENTS = sorted(path.stem for path in (CONF / "augment").glob("*.yaml"))


@pytest.mark.parametrize("name", DATASETS)
def test_a_dataset_yaml_builds_with_its_defaults(configure, name, tmp_path):
    root = [] if name == "synthetic" else [f"dataset.root={tmp_path}"]
    cfg = configure("prepare", f"dataset={name}", *root)
    check(cfg)
    assert isinstance(build(cfg.dataset), Dataset)


@pytest.mark.parametrize("name", AUGMENTS)
def test_an_augment_yaml_builds_and_changes_an_image(configure, name):
    cfg = configure("train", f"augment={name}")
    check(cfg.augment)
    augment = build(cfg.augment)
    assert isinstance(augment, Augment)
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8).expand(8, -1, -1, -1)
    changed, _, _ = augment(image.clone(), (image[:, :1] > 99).byte(), None, 1, [(0, index) for index in range(8)])
    outcomes = {sample.numpy().tobytes() for sample in changed}
    assert len(outcomes) == 1 if name == "none" else len(outcomes) > 2
