"""What a GPU computes, beside what a CPU does; skipped without one."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from seglab.contract import Task
from seglab.data.batch_augment import Strong
from seglab.data.datasets.synthetic import Synthetic
from seglab.data.module import DataModule
from seglab.engine.config import CONF, build
from tests.conftest import SMALL, compose, train_small

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "loss").glob("*.yaml")))
def test_a_loss_on_the_gpu_is_that_of_the_cpu_in_float64(name: str) -> None:
    from omegaconf import OmegaConf

    try:
        loss = build(OmegaConf.load(CONF / "loss" / f"{name}.yaml")).with_task(Task())
    except Exception:
        pytest.skip("made of other losses, or needs a choice")
    if loss.needs or "binary" not in loss.tasks:
        pytest.skip("needs maps, or other labels")
    loss = loss.with_class_frequency([0.1])
    logits = 4 * torch.randn(4, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    target = (torch.rand(4, 1, 64, 64, generator=torch.Generator().manual_seed(1)) < 0.1).to(torch.uint8)
    torch.testing.assert_close(
        loss(logits.cuda(), target.cuda()).double().cpu(), loss(logits.double(), target), rtol=1e-4, atol=1e-5
    )


def test_batches_that_are_made_on_the_gpu_are_those_of_the_cpu_up_to_rounding() -> None:
    made = []
    for device in (torch.device("cpu"), torch.device("cuda")):
        data = DataModule(Synthetic(size=64, train=8, val=2, test=2), Strong(), store="device", device=device)
        made.append(next(iter(data.train_dataloader())))
    assert made[1]["image"].device.type == "cuda"
    assert made[0]["id"] == made[1]["id"]
    torch.testing.assert_close(made[1]["image"].cpu(), made[0]["image"], rtol=0, atol=0.5)
    assert (made[1]["target"].cpu() != made[0]["target"]).float().mean() < 1e-3


def test_data_lie_on_the_gpu_by_themselves() -> None:
    data = DataModule(Synthetic(size=64, train=8, val=2, test=2), store="auto", device=torch.device("cuda"))
    assert data.held_on("train") == torch.device("cuda")


def test_a_run_that_was_interrupted_ends_with_the_bits_of_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seglab.engine.module import SegModule
    from seglab.train import train

    words = ("trainer.accelerator=gpu", "trainer.deterministic=true", "trainer.max_epochs=3")
    train_small(tmp_path / "whole", *words)
    step = SegModule.training_step

    def killed(self: SegModule, batch: dict, batch_idx: int) -> object:
        if self.current_epoch == 2:
            raise RuntimeError("killed")
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(SegModule, "training_step", killed)
        with pytest.raises(RuntimeError, match="killed"):
            train_small(tmp_path / "cut", *words)
    train(compose("train", *SMALL, *words, folder=tmp_path / "cut"), tmp_path / "cut")
    tables = [pd.read_csv(tmp_path / name / "per_image.csv") for name in ("whole", "cut")]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def test_bf16_finds_what_float32_finds(tmp_path: Path) -> None:
    words = ("trainer.accelerator=gpu", "trainer.max_epochs=30", "scheduler=none")
    folders = [train_small(tmp_path / kind, *words, f"trainer.precision={kind}") for kind in ("32-true", "bf16-mixed")]
    first, second = (pd.read_csv(folder / "per_image.csv")["iou"].mean() for folder in folders)
    assert second == pytest.approx(first, abs=0.1)
