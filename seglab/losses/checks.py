"""Validation of the logits, target, valid mask and maps of a batch; every error is one sentence that names the loss."""

from __future__ import annotations

import torch
from torch import Tensor

from seglab.contract import Kind, Logits, Target, Valid, require
from seglab.losses.pixels import Maps


def require_shapes(who: str, task: Kind, logits: Logits, target: Target, valid: Valid | None) -> None:
    """Raise ContractError unless all are tensors on one device, with types and shapes that fit the task."""
    tensors = isinstance(logits, Tensor) and isinstance(target, Tensor)
    types = f"{type(logits).__name__} and {type(target).__name__}"
    require(tensors, who, "logits and target to be tensors", types)
    devices = f"{logits.device} and {target.device}"
    require(logits.device == target.device, who, "logits and target on the same device", devices)
    require(logits.is_floating_point(), who, "floating-point logits", logits.dtype)
    shape, one_channel = tuple(logits.shape), (*logits.shape[:1], 1, *logits.shape[2:])
    require(logits.numel() > 0, who, "at least one image and one pixel", f"logits of shape {shape}")
    multiclass = task == "multiclass"
    ids = multiclass and tuple(target.shape) == one_channel and not target.is_floating_point()
    fits = logits.ndim >= 3 and (ids or target.shape == logits.shape)
    fits = fits and (task == "multilabel" or (shape[1] > 1) == multiclass)
    channels = {"binary": "1", "multilabel": "k", "multiclass": "k > 1"}[task]
    or_ids = " or integer class ids (b, 1, *spatial)" if multiclass else ""
    expected = f"logits (b, {channels}, *spatial) and a target of the same shape{or_ids} for task={task}"
    require(fits, who, expected, f"{shape} and {tuple(target.shape)} of {target.dtype}")
    if valid is not None:
        fits = tuple(valid.shape) == one_channel and valid.dtype == torch.bool
        got = f"{tuple(valid.shape)} of {valid.dtype}"
        require(fits, who, f"valid to be a bool tensor of shape {one_channel}", got)


def require_maps(who: str, needs: tuple[str, ...], logits: Logits, maps: Maps) -> None:
    """Raise ContractError unless the maps are exactly those in `needs`, each with the shape of the logits."""
    unknown = [name for name in maps if name not in needs]
    expected = f"only the arguments {', '.join(('logits', 'target', 'valid', *needs))}"
    require(not unknown, who, expected, ", ".join(unknown))
    for need in needs:
        got = str(tuple(maps[need].shape)) if need in maps else "none"
        require(got == str(tuple(logits.shape)), who, f"a map {need!r} of the same shape as the logits", got)


def require_labels(who: str, task: Kind, soft: bool, logits: Logits, target: Target, valid: Valid | None) -> None:
    """Raise ContractError for labels out of range, or between 0 and 1 unless `soft`; reads every pixel."""
    ids = target.shape != logits.shape
    t = target.int() if target.dtype in (torch.uint16, torch.uint32) else target  # aminmax does not support these
    t = t if valid is None else t.masked_fill(~valid, 0)
    low, high = (value.item() for value in t.aminmax())
    largest, labels = (logits.shape[1] - 1, "class ids") if ids else (1, "a target")
    remedy = "divide masks with 0 and 255 by 255, or " * (not ids) + "exclude pixels without a label with `valid`"
    require(low >= 0 and high <= largest, who, f"{labels} in [0, {largest}]", f"{low:g} to {high:g}", remedy)
    if task == "multiclass" and not ids:
        sums = t.double().sum(1, keepdim=True)
        low, high = (value.item() for value in (sums if valid is None else sums.masked_fill(~valid, 1)).aminmax())
        require(low >= 0.99 and high <= 1.01, who, "shares that sum to 1 over the classes", f"{low:g} to {high:g}")
    if not soft and target.is_floating_point():
        between = int(((t > 0) & (t < 1)).count_nonzero())
        remedy = "threshold the target or use a loss that supports soft labels"
        require(not between, who, "a target of only 0 and 1", f"{between} soft labels", remedy)
