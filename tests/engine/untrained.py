"""Write folders of untrained runs, which are used like any other run but are fast to make."""

import json
from pathlib import Path

import torch

from seglab.engine.config import build, to_container
from seglab.engine.trained_run import assemble
from tests.conftest import UNET, compose


def write_run(folder: Path, *overrides: str, seed: int = 1, tuned: float = 0.5) -> Path:
    """Write run.json and best.ckpt of a run of `conf/train.yaml` with overrides; return its folder."""
    (folder / "checkpoints").mkdir(parents=True)
    model = () if any(word.startswith("model=") for word in overrides) else UNET
    words = ("dataset.size=32", "trainer.accelerator=cpu", *model, f"seed={seed}", *overrides)
    cfg = to_container(compose("train", *words, folder=folder))
    torch.manual_seed(seed)
    module = assemble(cfg, build(cfg["dataset"]), build(cfg["loss"]).with_class_frequency([0.1])).train()
    for _ in range(3):  # running statistics of the norms
        module(torch.randint(0, 256, (4, cfg["dataset"]["channels"], 96, 96), dtype=torch.uint8))
    torch.save({"state_dict": module.state_dict()}, folder / "checkpoints" / "best.ckpt")
    facts = {"name": folder.name, "status": "finished", "finished": "now", "config": cfg, "seed": seed}
    facts |= {"data": {"foreground": 0.1, "fingerprint": "0"}, "threshold": {"tuned": tuned}, "metrics": {}}
    facts |= {"choices": {"loss": "bce_dice", "dataset": "synthetic", "model": "unet"}}
    facts |= {"host": {"precision": "32-true"}, "monitor": {}, "seconds": 1.0}
    (folder / "run.json").write_text(json.dumps(facts))
    return folder
