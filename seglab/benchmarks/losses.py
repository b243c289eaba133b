"""How long a loss takes, forward and backward, beside the same loss elsewhere and the memory floor."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from seglab.losses.base import Loss


class Row(NamedTuple):
    """One loss: ratios to torch's cross-entropy, the relative difference of its value elsewhere, and its own time."""

    loss: str
    eager: float
    compiled: float
    smp: float
    monai: float
    kornia: float
    value: float
    milliseconds: float


Call = Callable[[Tensor], Tensor]
"""Logits to a scalar."""


def measure(
    losses: Mapping[str, Loss], *, shape: list[int], foreground: float, repeats: int, compile: bool, device: str
) -> list[Row]:
    """One row per loss: time over that of torch's binary cross-entropy, eager, compiled and in other libraries.

    Rounds go side by side and the best of each counts, so that a busy machine disturbs all alike.
    """
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(shape, generator=generator).to(device)
    target = (torch.rand(shape, generator=generator) < foreground).float().to(device)
    maps = {
        "distance": 20 * torch.randn(shape, generator=generator),
        "gap": 40 * torch.rand(shape, generator=generator),
    }
    maps = {name: m.to(device) for name, m in maps.items()}
    calls: dict[tuple[str, str], Call] = {
        ("torch bce", "eager"): partial(F.binary_cross_entropy_with_logits, target=target),
        ("floor: read two, write one", "eager"): partial(Floor.apply, target),
    }
    for name, loss in losses.items():
        calls[name, "eager"] = partial(mean, loss, target, {need: maps[need] for need in loss.needs})
        calls.update({(name, library): partial(call, target) for library, call in elsewhere(name).items()})
    best = rounds(calls, logits, repeats)
    for name in losses if compile else ():
        best[name, "compiled"] = compiled(calls[name, "eager"], logits, repeats)
    return rows(best, agreement(calls, logits))


class Floor(torch.autograd.Function):
    """The least any loss must do: read logits and target, write a gradient."""

    @staticmethod
    def forward(ctx: Any, target: Tensor, logits: Tensor) -> Tensor:
        ctx.save_for_backward(target, logits)
        return logits.new_zeros(())

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[None, Tensor]:
        target, logits = ctx.saved_tensors
        return None, torch.add(logits, target)


def mean(loss: Loss, target: Tensor, maps: dict[str, Tensor], logits: Tensor) -> Tensor:
    return loss(logits, target, **maps).mean()


def seconds(call: Call, logits: Tensor) -> float:
    """One forward and backward pass."""
    z = logits.detach().requires_grad_()
    wait(z.device)
    start = clock(z.device)
    call(z).backward()
    wait(z.device)
    return clock(z.device) - start


def clock(device: torch.device) -> float:
    """Processor time where one thread does all the work, as others disturb it less; else wall time."""
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time() if alone else time.perf_counter()


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rounds(calls: Mapping[tuple[str, str], Call], logits: Tensor, repeats: int) -> dict[tuple[str, str], float]:
    """The best time of each call, all of them in turn."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(repeats):
        for key, call in calls.items():
            best[key] = min(best[key], seconds(call, logits))
    return best


def compiled(call: Call, logits: Tensor, repeats: int) -> float:
    """The best time under torch.compile, started anew: one code object is compiled 8 times at most."""
    torch._dynamo.reset()
    fused = torch.compile(call, fullgraph=True, dynamic=False)
    return min(seconds(fused, logits) for _ in range(repeats + 1))


def elsewhere(name: str) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """The same loss in other libraries, called with target and logits; empty where the extra `bench` is missing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import kornia.losses as kornia
            import monai.losses as monai
            import segmentation_models_pytorch.losses as smp
    except ImportError:
        return {}
    found: dict[str, dict[str, Callable[[Tensor, Tensor], Tensor]]] = {
        "bce": {"smp": smp.SoftBCEWithLogitsLoss()},
        "focal": {
            "smp": smp.FocalLoss("binary"),
            "MONAI": monai.FocalLoss(),
            "kornia": kornia.BinaryFocalLossWithLogits(alpha=None, gamma=2.0, reduction="mean"),
        },
        "dice": {"smp": smp.DiceLoss("binary"), "MONAI": monai.DiceLoss(sigmoid=True, smooth_nr=0, smooth_dr=1e-12)},
        "iou": {"smp": smp.JaccardLoss("binary"), "MONAI": monai.DiceLoss(sigmoid=True, jaccard=True)},
        "tversky": {
            "smp": smp.TverskyLoss("binary", alpha=0.3, beta=0.7),
            "MONAI": monai.TverskyLoss(sigmoid=True, alpha=0.3, beta=0.7),
        },
        "squared_dice": {"MONAI": monai.DiceLoss(sigmoid=True, squared_pred=True)},
        "generalised_dice": {"MONAI": monai.GeneralizedDiceLoss(sigmoid=True)},
        "mcc": {"MONAI": monai.MCCLoss(sigmoid=True)},
        "bce_dice": {"MONAI": monai.DiceCELoss(sigmoid=True)},
        "unified_focal": {"MONAI": monai.AsymmetricUnifiedFocalLoss()},
        "lovasz_hinge": {"smp": smp.LovaszLoss("binary", per_image=True)},
    }
    return {library: partial(swapped, loss) for library, loss in found.get(name, {}).items()}


def swapped(loss: Callable[[Tensor, Tensor], Tensor], target: Tensor, logits: Tensor) -> Tensor:
    return loss(logits, target)


AGREE = {"bce", "focal", "dice", "squared_dice", "bce_dice", "lovasz_hinge", "tversky", "iou"}
"""Where MONAI (smp for the first, and kornia) define what we do, but for smoothing of 1e-5 pixels."""


def agreement(calls: Mapping[tuple[str, str], Call], logits: Tensor) -> dict[str, float]:
    """The largest relative difference of our value to those libraries whose definition is ours, per image."""
    differ: dict[str, float] = {}
    for (name, library), call in calls.items():
        per_image = library in {"MONAI", "kornia"} or name in {"bce", "focal", "lovasz_hinge"}
        if library != "eager" and name in AGREE and per_image:
            ours, theirs = float(calls[name, "eager"](logits)), float(call(logits))
            differ[name] = max(differ.get(name, 0.0), abs(theirs / ours - 1))
    return differ


def rows(best: Mapping[tuple[str, str], float], differ: Mapping[str, float]) -> list[Row]:
    """Losses down, places across, in units of torch's cross-entropy."""
    unit = best["torch bce", "eager"]
    made = []
    for name in dict.fromkeys(name for name, _ in best):
        ratios = [
            best.get((name, place), float("nan")) / unit for place in ("eager", "compiled", "smp", "MONAI", "kornia")
        ]
        made.append(
            Row(name, *(round(x, 2) for x in ratios), differ.get(name, float("nan")), 1e3 * best[name, "eager"])
        )
    return made
