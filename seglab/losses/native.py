"""Cross-entropy, overlap and squared errors added up by a kernel in C, in one pass and without a temporary tensor.

It serves float32 on a CPU where a C compiler is at hand, which takes a third of a second once per process. Elsewhere
nothing depends on it: the same sums come from torch's operations.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
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
FURTHER = ("-fopenmp -march=native", "-fopenmp", "-fopenmp-simd -march=native")
"""The best flags first; not all compilers know all, and not all that know OpenMP have its library."""
ALONE = 2
"""How many threads of torch's operations the kernel is worth where the compiler gives it only one."""


class Moments(NamedTuple):
    """What the pixels of each image and channel (b, c) add up to, in float64.

    The cross-entropy of the foreground (missed) and of the background (alarmed), the soft confusion, the target, the
    squared errors of foreground and background, and the focal cross-entropy of a `Focus`.
    """

    missed: Tensor
    alarmed: Tensor
    tp: Tensor
    fp: Tensor
    fn: Tensor
    tn: Tensor
    foreground: Tensor
    missed_square: Tensor
    alarmed_square: Tensor
    focal: Tensor


class Focus(NamedTuple):
    """A focal cross-entropy: weight and exponent of the foreground, and of the background."""

    foreground_weight: float
    foreground_gamma: float
    background_weight: float
    background_gamma: float


def serves(z: Tensor) -> bool:
    """Whether the kernel is there for these logits."""
    return z.device.type == "cpu" and z.dtype == torch.float32 and z.numel() >= SMALLEST and at_hand()


def moments(z: Tensor, t: Tensor, focus: Focus | None = None) -> Moments:
    """The moments of logits and target (b, c, n), differentiable by z as often as one likes (compiled: once)."""
    z, t = z.contiguous(), readable(t).contiguous()
    if torch.compiler.is_compiling():
        sums, _ = opaque_sums(z, t, None if focus is None else list(focus))
    else:
        sums = Native.apply(z, t, focus)
    return Moments(*sums.unbind(-1))


def readable(t: Tensor) -> Tensor:
    """A target as the kernel reads it: bytes as they are, anything else in float32."""
    if t.dtype == torch.bool:
        return t.view(torch.uint8)
    return t if t.dtype == torch.uint8 else t.float()


@torch.compiler.assume_constant_result
def at_hand() -> bool:
    """Whether there is a kernel; whoever traces this does not look how it is made."""
    library = kernel()
    return library is not None and (bool(library.seglab_threaded()) or torch.get_num_threads() <= ALONE)


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
            library.seglab_sums.argtypes = [c_void_p] * 5 + [c_int64] * 4
            library.seglab_slope.argtypes = [c_void_p] * 5 + [c_int64] * 4
            return library
    return None


def add_up(z: Tensor, t: Tensor, focus: Sequence[float] | None, kept: Tensor | None) -> Tensor:
    """The moments (b, c, 10) of logits and target (b, c, n); `kept` (b, c, n) receives what `slope` makes use of."""
    library = kernel()
    assert library is not None
    b, c, n = z.shape
    sums = torch.empty(b, c, ceil(n / UNIT), len(Moments._fields), dtype=torch.float64)
    pointers = z.data_ptr(), t.data_ptr(), None if kept is None else kept.data_ptr(), sums.data_ptr()
    weights = None if focus is None else (c_float * len(focus))(*focus)
    library.seglab_sums(*pointers, weights, t.element_size(), b * c, n, torch.get_num_threads())
    return sums.sum(2)


def slope(z: Tensor, t: Tensor, kept: Tensor, grad: Tensor, weights: Tensor, focal: bool) -> Tensor:
    """`grad`, which may be `kept`, filled with the gradient by z of the moments times `weights` (b, c, 10)."""
    library = kernel()
    assert library is not None
    weights = weights.contiguous()
    b, c, n = z.shape
    logits = z.data_ptr() if focal else None
    pointers = logits, t.data_ptr(), kept.data_ptr(), grad.data_ptr(), weights.data_ptr()
    library.seglab_slope(*pointers, t.element_size(), b * c, n, torch.get_num_threads())
    return grad


class Native(torch.autograd.Function):
    """Logits and target (b, c, n) to the moments (b, c, 10)."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, t: Tensor, focus: Focus | None) -> Tensor:
        ctx.save_for_backward(z, t)
        ctx.kept, ctx.focus = torch.empty_like(z) if ctx.needs_input_grad[0] else None, focus
        return add_up(z, t, focus, ctx.kept)

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        z, t = ctx.saved_tensors
        if torch.is_grad_enabled():
            return *torch.autograd.grad(plain(z, t, ctx.focus), z, weights, create_graph=True), None, None
        if ctx.kept is None:  # a second backward pass through the same graph
            with torch.enable_grad():
                again = z.detach().requires_grad_()
                return *torch.autograd.grad(Native.apply(again, t, ctx.focus), again, weights), None, None
        kept, ctx.kept = ctx.kept, None
        return slope(z, t, kept, kept, weights, ctx.focus is not None), None, None


@torch.library.custom_op(f"seglab::moments_{len(Moments._fields)}", mutates_args=())  # compiled code outlives a version
def opaque_sums(z: Tensor, t: Tensor, focus: list[float] | None) -> tuple[Tensor, Tensor]:
    """The moments and what was kept, as one operation that compilers leave alone."""
    kept = torch.empty_like(z)
    return add_up(z, t, focus, kept), kept


@opaque_sums.register_fake
def _(z: Tensor, t: Tensor, focus: list[float] | None) -> tuple[Tensor, Tensor]:
    return z.new_empty(*z.shape[:2], len(Moments._fields), dtype=torch.float64), torch.empty_like(z)


@torch.library.custom_op("seglab::moments_slope", mutates_args=())
def opaque_slope(z: Tensor, t: Tensor, kept: Tensor, weights: Tensor, focal: bool) -> Tensor:
    """The gradient by z, as one operation that compilers leave alone."""
    return slope(z, t, kept, torch.empty_like(z), weights, focal)


@opaque_slope.register_fake
def _(z: Tensor, t: Tensor, kept: Tensor, weights: Tensor, focal: bool) -> Tensor:
    return torch.empty_like(z)


def remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    z, t, ctx.focus = inputs
    ctx.save_for_backward(z, t, output[1])


def back(ctx: Any, weights: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return opaque_slope(*ctx.saved_tensors, weights, ctx.focus is not None), None, None


opaque_sums.register_autograd(back, setup_context=remember)


def plain(z: Tensor, t: Tensor, focus: Focus | None) -> Tensor:
    """The same by ordinary differentiable operations."""
    t = t.to(z.dtype)
    log_p, log_q, u = F.logsigmoid(z), F.logsigmoid(-z), 1 - t
    p, q = log_p.exp(), log_q.exp()
    w1, g1, w0, g0 = focus or Focus(0, 0, 0, 0)
    focal = -w1 * t * (g1 * log_q).exp() * log_p - w0 * u * (g0 * log_p).exp() * log_q
    square = (u * p - t * q) ** 2
    terms = -t * log_p, -u * log_q, t * p, u * p, t * q, u * q, t, t * square, u * square, focal
    return torch.stack([term.sum(-1) for term in terms], -1).double()
