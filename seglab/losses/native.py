"""Cross-entropy and overlap added up by a kernel in C, in one pass and without a temporary tensor.

It serves float32 on a CPU where a C compiler is at hand, which takes a third of a second once per process. Elsewhere
nothing depends on it: the same sums come from torch's operations.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from ctypes import CDLL, c_float, c_int64, c_void_p
from functools import cache
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

UNIT = 65536
"""Pixels that a thread does at a time and adds up apart."""
SMALLEST = 1 << 18
"""Pixels from which on the kernel is worth compiling."""
FLAGS = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC"]
FURTHER = ("-fopenmp -march=native", "-fopenmp", "-fopenmp-simd")
"""The best flags first; not all compilers know all."""


class Moments(NamedTuple):
    """What the pixels of each image and channel (b, c) add up to, in float64.

    The cross-entropy of the foreground (missed) and of the background (alarmed), the soft confusion, the target, and
    the focal cross-entropy of a `Focus`.
    """

    missed: Tensor
    alarmed: Tensor
    tp: Tensor
    fp: Tensor
    fn: Tensor
    tn: Tensor
    foreground: Tensor
    focal: Tensor


class Focus(NamedTuple):
    """A focal cross-entropy: weight and exponent of the foreground, and of the background."""

    foreground_weight: float
    foreground_gamma: float
    background_weight: float
    background_gamma: float


def serves(z: Tensor) -> bool:
    """Whether the kernel is there for these logits."""
    if torch.compiler.is_compiling() or z.device.type != "cpu" or z.dtype != torch.float32:
        return False
    return z.numel() >= SMALLEST and kernel() is not None


def moments(z: Tensor, t: Tensor, focus: Focus | None = None) -> Moments:
    """The moments of logits and target (b, c, n), differentiable by z as often as one likes."""
    return Moments(*Native.apply(z.contiguous(), t.to(z.dtype).contiguous(), focus).unbind(-1))


@cache
def kernel() -> CDLL | None:
    """The compiled kernel, or None where it cannot be had; SEGLAB_NATIVE=0 does without."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None or os.environ.get("SEGLAB_NATIVE") == "0":
        return None
    source = Path(__file__).with_name("kernel.c")
    with TemporaryDirectory() as folder:
        for further in FURTHER:
            target = Path(folder) / f"kernel{further}.so"
            sizes = f"-DUNIT={UNIT}", f"-DSUMS={len(Moments._fields)}"
            command = [compiler, *FLAGS, *sizes, *further.split(), str(source), "-o", str(target), "-lm"]
            try:
                subprocess.run(command, capture_output=True, check=True)
                library = CDLL(str(target))
            except (OSError, subprocess.CalledProcessError):  # flags unknown, or nothing may be loaded from there
                continue
            library.seglab_sums.argtypes = [c_void_p] * 4 + [c_int64] * 3
            library.seglab_focal_sums.argtypes = [c_void_p] * 5 + [c_int64] * 3
            library.seglab_slope.argtypes = [c_void_p] * 4 + [c_int64] * 3
            return library
    return None


class Native(torch.autograd.Function):
    """Logits and target (b, c, n) to the moments (b, c, 8)."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, t: Tensor, focus: Focus | None) -> Tensor:
        library = kernel()
        assert library is not None
        b, c, n = z.shape
        kept = torch.empty_like(z) if ctx.needs_input_grad[0] else None
        sums = torch.empty(b, c, ceil(n / UNIT), len(Moments._fields), dtype=torch.float64)
        pointers = z.data_ptr(), t.data_ptr(), None if kept is None else kept.data_ptr(), sums.data_ptr()
        size = b * c, n, torch.get_num_threads()
        if focus is None:
            library.seglab_sums(*pointers, *size)
        else:
            library.seglab_focal_sums(*pointers, (c_float * 4)(*focus), *size)
        ctx.save_for_backward(z, t)
        ctx.kept, ctx.focus = kept, focus
        return sums.sum(2)

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        z, t = ctx.saved_tensors
        if torch.is_grad_enabled():
            return *torch.autograd.grad(plain(z, t, ctx.focus), z, weights, create_graph=True), None, None
        if ctx.kept is None:  # a second backward pass through the same graph
            with torch.enable_grad():
                again = z.detach().requires_grad_()
                return *torch.autograd.grad(Native.apply(again, t, ctx.focus), again, weights), None, None
        library = kernel()
        assert library is not None
        grad, ctx.kept = ctx.kept, None
        missed, alarmed, tp, fp, fn, tn, _, focal = weights.unbind(-1)
        five = torch.stack([-missed, tp - fn, alarmed, fp - tn, focal], -1).float().contiguous()
        b, c, n = z.shape
        pointers = None if ctx.focus is None else z.data_ptr(), t.data_ptr(), grad.data_ptr(), five.data_ptr()
        library.seglab_slope(*pointers, b * c, n, torch.get_num_threads())
        return grad, None, None


def plain(z: Tensor, t: Tensor, focus: Focus | None) -> Tensor:
    """The same by ordinary differentiable operations."""
    log_p, log_q, u = F.logsigmoid(z), F.logsigmoid(-z), 1 - t
    p, q = log_p.exp(), log_q.exp()
    w1, g1, w0, g0 = focus or Focus(0, 0, 0, 0)
    focal = -w1 * t * (g1 * log_q).exp() * log_p - w0 * u * (g0 * log_p).exp() * log_q
    terms = -t * log_p, -u * log_q, t * p, u * p, t * q, u * q, t, focal
    return torch.stack([term.sum(-1) for term in terms], -1).double()
