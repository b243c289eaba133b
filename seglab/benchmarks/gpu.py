"""Time a training step and its data on a GPU (or, smaller, on a CPU), compared with bare loops and pure arithmetic."""

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from seglab.benchmarks.losses import wait
from seglab.data.augment import Augment, Chain
from seglab.data.batch_augment import Light, Strong
from seglab.data.datasets.synthetic import Synthetic
from seglab.data.loading import Batch
from seglab.data.module import DataModule
from seglab.engine.callbacks import silence_lightning_warnings
from seglab.engine.device import autocast, precision
from seglab.engine.module import SegModule
from seglab.losses import BCEDice
from seglab.models.unet import UNet


class Row(NamedTuple):
    """One line of a benchmark: its time in milliseconds, and the ratio to the time of the line `beside`."""

    what: str
    milliseconds: float
    ratio: float
    beside: str


def measure(size: int, base: int, batch_size: int, images: int, steps: int) -> list[Row]:
    """Return rows of wall time for one step of a U-Net in the device's precision, and for one batch of its data."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind = f"U-Net base {base}, {batch_size}x3x{size}x{size}, {precision(device.type, 'auto')}"
    dataset = Synthetic(size=size, train=images, val=batch_size, test=batch_size)
    data = DataModule(dataset, Light(), batch_size, store="device", device=device)
    first = next(iter(data.loader("train")))
    batch = {name: x.to(device) if isinstance(x, Tensor) else x for name, x in first.items()}
    spent = {"arithmetic alone, at the rate of a large matrix product": arithmetic(base, batch, device)}
    spent["bare loop"] = bare_loop(base, batch, device, steps)
    if device.type == "cuda":
        spent["bare loop, the whole step as one CUDA graph"] = bare_graph(base, batch, steps)
    spent["the loss alone"] = loss_alone(batch, device, steps)
    for graph in (False, True) if device.type == "cuda" else (False,):
        name = f"Trainer, metrics and check for finite losses{', cuda_graph' if graph else ''}"
        spent[name] = with_trainer(base, [batch] * steps, device, graph)
        spent[f"{name}, with data loading"] = with_trainer(base, data.loader("train"), device, graph)
    rows = [Row(f"{name}, {kind}", value, value / spent["bare loop"], "bare loop") for name, value in spent.items()]
    return rows + loading(dataset, batch_size, device)


def milliseconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Return the mean wall time in milliseconds of consecutive calls, after three warm-up calls."""
    for _ in range(3):
        work()
    wait(device)
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    wait(device)
    return 1000 * (time.perf_counter() - start) / repeats


def network(base: int, device: torch.device) -> nn.Module:
    """Return the network that all lines use, with the same weights, in the memory format of training."""
    torch.manual_seed(0)
    return UNet(in_channels=3, base=base).to(device).to(memory_format=torch.channels_last)


def forward_backward(net: nn.Module, batch: Batch, device: torch.device) -> None:
    """Run a forward and a backward pass in the precision of the device, without an optimizer step."""
    image = (batch["image"] / 255 - 0.5).contiguous(memory_format=torch.channels_last)
    with autocast(precision(device.type, "auto"), device.type):
        logits = net(image)
    BCEDice()(logits.float(), batch["target"]).mean().backward()  # losses are computed in float32


def arithmetic(base: int, batch: Batch, device: torch.device) -> float:
    """Return the milliseconds that the operations of a step would take at the rate of a large matrix product."""
    with FlopCounterMode(display=False) as counter:
        forward_backward(network(base, device), batch, device)
    n = 8192 if device.type == "cuda" else 512  # large enough to be compute-bound
    dtype = torch.bfloat16 if precision(device.type, "auto") == "bf16-mixed" else torch.float32
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    product = milliseconds(lambda: a @ b, device, 20)  # 2 n^3 operations
    return counter.get_total_flops() * product / (2 * n**3)


def bare_step(base: int, batch: Batch, device: torch.device, **options: Any) -> tuple[Callable, Callable]:
    """Return two functions: one sets the gradients to zero, the other does the rest of a bare training step."""
    net = network(base, device)
    optimizer = torch.optim.AdamW(net.parameters(), fused=True, **options)

    def work() -> None:
        forward_backward(net, batch, device)
        optimizer.step()

    return optimizer.zero_grad, work


def bare_loop(base: int, batch: Batch, device: torch.device, steps: int) -> float:
    """Return the milliseconds of a step of a loop without Lightning, launched kernel by kernel."""
    zero, work = bare_step(base, batch, device)

    def step() -> None:
        zero()
        work()

    return milliseconds(step, device, steps)


def bare_graph(base: int, batch: Batch, steps: int) -> float:
    """Return the milliseconds of the same step, captured once as a CUDA graph and replayed."""
    device = torch.device("cuda")
    zero, work = bare_step(base, batch, device, capturable=True)
    side = torch.cuda.Stream()  # torch requires warm-up steps on a side stream before capture
    with torch.cuda.stream(side):
        for _ in range(3):
            zero()
            work()
    torch.cuda.current_stream().wait_stream(side)
    zero()  # so that the gradients are allocated in the graph's memory
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return milliseconds(graph.replay, device, steps)


def loss_alone(batch: Batch, device: torch.device, steps: int) -> float:
    """Return the milliseconds of the loss and its gradient for given logits."""
    logits = torch.randn(batch["target"].shape, device=device, requires_grad=True)
    return milliseconds(lambda: BCEDice()(logits, batch["target"]).mean().backward(), device, steps)


class EpochClock(Callback):
    """Callback that records the wall time of each epoch's training steps."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        wait(module.device)
        self.start = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        wait(module.device)
        self.seconds.append(time.perf_counter() - self.start)


def with_trainer(base: int, batches: Any, device: torch.device, graph: bool) -> float:
    """Return the milliseconds of the same step as users run it, from the faster of two epochs after a warm-up epoch."""
    silence_lightning_warnings()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    optimizer: Any = partial(torch.optim.AdamW, fused=True)
    module = SegModule(network(base, device), BCEDice(), optimizer, mean=[0.5], std=[0.25], cuda_graph=graph)
    clock = EpochClock()
    trainer = Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        precision=precision(device.type, "auto"),  # type: ignore[arg-type]
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[clock],
    )
    loader = batches if isinstance(batches, DataLoader) else DataLoader(batches, batch_size=None)  # each is a batch
    trainer.fit(module, loader)
    return 1000 * min(clock.seconds[1:]) / len(loader)  # without the warm-up epoch


def light_chain() -> Chain:
    """Return the augmentations of Light, implemented with albumentations."""
    import albumentations as A

    tone = A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.2, p=0.5)
    steps = [A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5), A.RandomRotate90(p=0.5), tone]
    return Chain(steps={type(step).__name__: step for step in steps})


def loading(dataset: Synthetic, batch_size: int, device: torch.device) -> list[Row]:
    """Time batches augmented on the device, and by albumentations in data loader workers."""
    own = (("light", Light()), ("strong", Strong()))
    place = f"on the {device.type}"
    loaders: list[tuple[str, Augment, str, int]] = [(f"augment={n} {place}", a, "device", 0) for n, a in own]
    for workers in (0, 4, 8) if device.type == "cuda" else (0,):
        loaders.append((f"albumentations' light, {workers} workers", light_chain(), "disk", workers))
    spent = {}
    for name, augment, store, workers in loaders:
        loader = DataModule(dataset, augment, batch_size, workers, store=store, device=device).loader("train")
        count = sum(1 for _ in loader)  # starts the workers
        wait(device)
        start = time.perf_counter()
        for batch in loader:
            batch["image"].to(device, non_blocking=True)
        wait(device)
        spent[f"a batch of {batch_size}: {name}"] = 1000 * (time.perf_counter() - start) / count
    first = next(iter(spent))
    return [Row(name, value, value / spent[first], first) for name, value in spent.items()]
