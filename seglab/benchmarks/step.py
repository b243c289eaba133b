"""The cost of a training step with Trainer and metrics, beside the same step in a bare PyTorch loop."""

from __future__ import annotations

import logging
import statistics
import time
from functools import partial
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from torch import nn
from torch.utils.data import DataLoader

from seglab.benchmarks.table import Row
from seglab.engine.callbacks import silence_lightning_warnings
from seglab.engine.gradient_stats import GradientFractions
from seglab.engine.module import SegModule
from seglab.losses import BCEDice
from seglab.models.unet import UNet


def measure(steps: int = 8, rounds: int = 4) -> list[Row]:
    """Measure the step of a U-Net, where convolutions weigh, and of one convolution, where only the frame shows."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        unet = compare("U-Net base 16, 4x3x256x256", lambda: UNet(in_channels=3, base=16), 256, steps, rounds)
        dot = compare("one 1x1 convolution, 4x3x16x16", lambda: nn.Conv2d(3, 1, 1), 16, 50 * steps, rounds)
        return [*unet, *dot]
    finally:
        torch.set_num_threads(threads)


def compare(name: str, make: Any, size: int, steps: int, rounds: int) -> list[Row]:
    """Time both loops in turns, so that whatever else the machine does falls on both; medians of processor time."""
    torch.manual_seed(0)
    batches = [batch(size) for _ in range(4)]
    module = SegModule(make(), BCEDice(), partial(torch.optim.AdamW, lr=1e-3), mean=[0.5], std=[0.25])
    other = make().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(other.parameters(), lr=1e-3)
    bare: list[float] = []
    whole: list[float] = []
    for _ in range(rounds):
        bare += bare_loop(other, optimizer, batches, steps)
        whole += whole_loop(module, batches, steps)
    shares = [gradient_stats_once(module, batches[k % 4]) for k in range(steps)]
    one, two, three = (1000 * statistics.median(seconds) for seconds in (bare, whole, shares))
    beside = f"bare loop, {name}"
    return [
        Row(beside, one, 1.0, beside),
        Row(f"module with Trainer and metrics, {name}", two, two / one, beside),
        Row(f"where the gradient falls, once an epoch, {name}", three, three / one, beside),
    ]


def gradient_stats_once(module: SegModule, batch: dict[str, Any]) -> float:
    """The seconds that the first batch of an epoch takes longer than the others."""
    logits = torch.randn(batch["target"].shape)
    start = time.process_time()
    GradientFractions().on_train_batch_end(None, module, {"logits": logits}, batch, 0)  # type: ignore[arg-type]
    return time.process_time() - start


def batch(size: int) -> dict[str, Any]:
    """Four images with some foreground, as the data workers give them."""
    image = torch.randint(0, 256, (4, 3, size, size), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    target = (torch.rand(4, 1, size, size) > 0.95).to(torch.uint8)
    return {"image": image, "target": target, "id": ["a", "b", "c", "d"], "index": torch.arange(4)}


def bare_loop(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[dict], steps: int) -> list[float]:
    """The least that training takes: normalize, forward, the same loss, backward, step; no metric, no log."""
    loss, seconds = BCEDice(), []
    for k in range(steps):
        start = time.process_time()
        image, target = batches[k % len(batches)]["image"], batches[k % len(batches)]["target"]
        logits = model((image / 255 - 0.5) / 0.25)
        optimizer.zero_grad()
        loss(logits, target).mean().backward()
        optimizer.step()
        seconds.append(time.process_time() - start)
    return seconds[1:]


class Clock(Callback):
    """The processor time from one batch to the next: everything that a step costs."""

    def __init__(self) -> None:
        self.ticks: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.ticks.append(time.process_time())


def whole_loop(module: SegModule, batches: list[dict], steps: int) -> list[float]:
    """The same steps as users run them: Lightning's Trainer, metrics on every batch, the watch for a loss of NaN."""
    silence_lightning_warnings()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    clock = Clock()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[clock],
    )
    feed = [batches[k % len(batches)] for k in range(steps)]
    trainer.fit(module, DataLoader(feed, batch_size=None))  # type: ignore[arg-type]
    return [after - before for before, after in zip(clock.ticks[1:], clock.ticks[2:], strict=False)]
