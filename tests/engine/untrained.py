"""The folder of a run whose model was never trained: opened and used like any other, and made in no time."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir

from seglab.engine.config import CONF, build, plain
from seglab.engine.saved import assemble

SMALL = ("dataset.size=32", "trainer.accelerator=cpu")
UNET = ("model.base=4", "model.depth=2")


def write_run(folder: Path, *overrides: str, seed: int = 1, tuned: float = 0.5) -> Path:
    """Write run.json and best.ckpt of a run of `conf/train.yaml` with these overrides."""
    (folder / "checkpoints").mkdir(parents=True)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        model = () if any(word.startswith("model=") for word in overrides) else UNET
        cfg = plain(compose("train", [*SMALL, *model, f"seed={seed}", f"folder={folder}", *overrides]))
    torch.manual_seed(seed)
    module = assemble(cfg, build(cfg["dataset"]), build(cfg["loss"]).with_class_frequency([0.1])).train()
    for _ in range(3):  # norms learn what pixels are like
        module(torch.randint(0, 256, (4, cfg["dataset"]["channels"], 96, 96), dtype=torch.uint8))
    torch.save({"state_dict": module.state_dict()}, folder / "checkpoints" / "best.ckpt")
    facts = {"name": folder.name, "status": "finished", "finished": "now", "config": cfg, "seed": seed}
    facts |= {"data": {"foreground": 0.1, "fingerprint": "0"}, "threshold": {"tuned": tuned}, "metrics": {}}
    facts |= {
        "choices": {"loss": "bce_dice", "dataset": "synthetic", "model": "unet"},
        "host": {"precision": "32-true"},
    }
    (folder / "run.json").write_text(json.dumps(facts))
    return folder
