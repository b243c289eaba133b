"""Time each loss, forward and backward, and the memory it keeps, next to the same loss in other libraries."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from seglab.benchmarks.peers import Peer, peers
from seglab.losses.base import Loss
from seglab.models.unet import UNet

LIBRARIES = ("torch", "smp", "MONAI", "kornia")
FIRST = "torch cross-entropy"
PINS: list[Tensor] = []
"""Small tensors that `have_memory` keeps alive for good."""


class Row(NamedTuple):
    """One loss: times relative to torch's cross-entropy, eager, compiled and in other libraries.

    kept: number of tensors of the logits' size kept for the backward pass. step: percentage of a training step, see
    `training_step`. milliseconds: absolute time.
    """

    loss: str
    eager: float
    compiled: float
    torch: float
    smp: float
    monai: float
    kornia: float
    kept: float
    step: float
    milliseconds: float


Call = Callable[[Tensor], Tensor]
"""Maps logits to a scalar."""


def measure(
    losses: Mapping[str, Loss],
    *,
    shape: list[int],
    foreground: float,
    repeats: int,
    compile: bool,
    step: bool,
    device: str,
    masks: str = "uint8",
) -> list[Row]:
    """Return one row per loss of one task, on float32 logits of `shape`.

    Our losses get class ids for multiclass, else `masks`: uint8, as data workers make them, or float, as the others
    expect them. Calls are interleaved and the best time of each counts, so that a busy machine affects all alike.
    """
    (task,) = {loss.task for loss in losses.values()}
    generator = torch.Generator().manual_seed(0)
    multiclass, single_channel = task == "multiclass", [shape[0], 1, *shape[2:]]
    mask = torch.rand(single_channel if multiclass else shape, generator=generator) < foreground
    classes = torch.randint(1, max(2, shape[1]), mask.shape, generator=generator)
    target = (mask * classes).to(torch.uint8) if multiclass else mask.to(getattr(torch, masks))
    maps = {
        "distance": 20 * torch.randn(shape, generator=generator),
        "gap": 40 * torch.rand(shape, generator=generator),
        "inverse_size": 1 + torch.rand(shape, generator=generator),
        "skeleton": (torch.rand(shape, generator=generator) < 0.1).float(),
    }
    maps["cells"] = (torch.arange(shape[-1]) * 3 // shape[-1] + 1.0).expand(shape)  # three objects per image
    maps["components"] = maps["cells"] * (maps["distance"] < 0)
    logits, target = torch.randn(shape, generator=generator).to(device), target.to(device)
    maps = {name: m.to(device) for name, m in maps.items()}
    peer_target = target.long() if multiclass else target.float()
    bce, ce = F.binary_cross_entropy_with_logits, F.cross_entropy
    entropy = partial(ce, target=peer_target[:, 0]) if multiclass else partial(bce, target=peer_target)
    calls: dict[tuple[str, str], Call] = {(FIRST, "ours"): entropy}
    for name, loss in losses.items():
        calls[name, "ours"] = partial(mean, loss, target, {need: maps[need] for need in loss.needs})
    counterparts = [peer for peer in peers() if peer.loss in losses and peer.task == task and not peer.parameters]
    calls |= {(peer.loss, peer.library): partial(swapped, peer, peer_target) for peer in counterparts}
    best = rounds(calls, logits, repeats)
    for name in losses if compile else ():
        with suppress(torch._dynamo.exc.Unsupported):  # a loss that reads numbers, such as that of objects
            best[name, "compiled"] = compiled(calls[name, "ours"], logits, repeats)
    step_seconds = training_step(shape, device) if step else float("nan")
    return [row(name, best, calls, logits, step_seconds) for name in dict.fromkeys(name for name, _ in calls)]


def mean(loss: Loss, target: Tensor, maps: dict[str, Tensor], logits: Tensor) -> Tensor:
    """Apply one of our losses; the logits come last, so that `partial` can fix the other arguments."""
    return loss(logits, target, **maps).mean()


def swapped(peer: Peer, target: Tensor, logits: Tensor) -> Tensor:
    """Apply a loss of another library, also with the logits last."""
    return peer.call(logits, target)


def have_memory(like: Tensor) -> None:
    """Let the process hold the memory of two dozen tensors, like a process that has run for a while.

    Otherwise each tensor comes from fresh pages, which costs several times as much as the arithmetic and would be
    measured. A small tensor allocated after them, and kept, prevents the allocator from returning the memory.
    """
    if like.device.type == "cpu":
        freed = [torch.ones_like(like) for _ in range(24)]
        PINS.append(torch.empty(20000))
        del freed


def seconds(call: Call, logits: Tensor) -> float:
    """Return the seconds of one forward and backward pass."""
    z = logits.detach().requires_grad_()
    have_memory(z)
    wait(z.device)
    start = clock(z.device)
    call(z).backward()
    wait(z.device)
    return clock(z.device) - start


def clock(device: torch.device) -> float:
    """Return processor time if one CPU thread does all the work, since it is disturbed less; otherwise wall time."""
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time() if alone else time.perf_counter()


def wait(device: torch.device) -> None:
    """Wait for all work on a GPU; work on a CPU is complete when a call returns."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rounds(calls: Mapping[tuple[str, str], Call], logits: Tensor, repeats: int) -> dict[tuple[str, str], float]:
    """Return the best time of each call, running all calls in turn."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(repeats):
        for key, call in calls.items():
            best[key] = min(best[key], seconds(call, logits))
    return best


def compiled(call: Call, logits: Tensor, repeats: int) -> float:
    """Return the best time under torch.compile, after a reset, since a code object is compiled at most 8 times."""
    torch._dynamo.reset()
    fused = torch.compile(call, fullgraph=True, dynamic=False)
    return min(seconds(fused, logits) for _ in range(repeats + 1))  # the first call compiles


def kept(call: Call, logits: Tensor) -> float:
    """Return how many tensors of the logits' size the forward pass keeps for the backward pass, besides the logits."""
    z, saved = logits.detach().requires_grad_(), {}

    def note(x: Tensor) -> Tensor:
        saved[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()  # several tensors may share a storage
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        call(z)
    saved.pop(z.untyped_storage().data_ptr(), None)
    return sum(saved.values()) / z.untyped_storage().nbytes()


def training_step(shape: list[int], device: str) -> float:
    """Return the seconds of a forward and backward pass of a U-Net on a batch of `shape`.

    A CPU is timed on a single image, and the time multiplied; a GPU on the whole batch in bfloat16, as in training.
    """
    net = UNet(in_channels=3, base=32).to(device)
    image = torch.randn(1 if device == "cpu" else shape[0], 3, *shape[2:], device=device)

    def forward(_: Tensor) -> Tensor:
        with torch.autocast(image.device.type, torch.bfloat16, enabled=device != "cpu"):
            return net(image).float().square().mean()

    repeats = 2 if device == "cpu" else 5
    return min(seconds(forward, image) for _ in range(repeats)) * shape[0] / len(image)  # for the whole batch


def row(name: str, best: Mapping[Any, float], calls: Mapping[Any, Call], logits: Tensor, step: float) -> Row:
    """Return the measurements of one loss, in units of torch's cross-entropy."""
    own_time, unit = best[name, "ours"], best[FIRST, "ours"]
    ratios = [round(best.get((name, place), float("nan")) / unit, 2) for place in ("ours", "compiled", *LIBRARIES)]
    kept_tensors = round(kept(calls[name, "ours"], logits), 2)
    return Row._make([name, *ratios, kept_tensors, round(100 * own_time / step, 2), 1e3 * own_time])
