"""Numerically stable arithmetic, and properties that are computed at most once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seglab.contract import require

TINY = 1e-30  # its inverse is finite in float32 too


def once(make: Callable[[Any], Any]) -> property:
    """Return a property that is computed at most once; compilers cannot trace the lock of functools.cached_property."""
    name = f"_{make.__name__}"

    def get(holder: Any) -> Any:
        if name not in holder.__dict__:
            holder.__dict__[name] = make(holder)
        return holder.__dict__[name]

    return property(get, doc=make.__doc__)


def readable(x: Tensor) -> bool:
    """Return True if values may be read: not on a GPU (it would synchronize), nor while torch traces or transforms."""
    traced = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()  # there is no public API
    return x.device.type == "cpu" and not traced


def is_hard(t: Tensor) -> bool:
    """Return True if all labels are known to be 0 or 1; floats are read, since formulas of hard labels are faster."""
    if not t.is_floating_point():
        return True
    return readable(t) and not t.requires_grad and not t.addcmul(t, t, value=-1).abs_().sum()  # t (1 - t); NaN is true


def constants(like: Tensor, values: Iterable[float]) -> Tensor:
    """Return numbers (n,) with the dtype of `like`, created on its device: a CUDA graph cannot copy from the host."""
    return torch.stack([like.new_full((), value) for value in values])


def spread(weight: float | Sequence[float], count: int, who: str = "losses") -> list[float]:
    """Return the weights of `count` classes, from one weight for all or one for each."""
    weights = list(weight) if isinstance(weight, Sequence) else [float(weight)] * count
    require(len(weights) == count, who, f"{count} weights, one for each class", len(weights))
    return weights


class Confusion(NamedTuple):
    """The soft confusion matrix of each image and class (b, k): summed probability inside and outside it, in pixels."""

    tp: Tensor
    fp: Tensor
    fn: Tensor
    tn: Tensor

    @property
    def absent(self) -> Tensor:
        """True where no pixel has the class."""
        return self.tp + self.fn == 0

    def swapped(self) -> Confusion:
        """Return the confusion of the complement of each class."""
        return Confusion(self.tn, self.fn, self.fp, self.tp)

    def complemented(self, where: Tensor) -> Confusion:
        """Return this confusion, with that of the complement `where` it is True."""
        cells = torch.stack(self)
        return Confusion(*torch.where(where, cells.flip(0), cells).unbind())


class Sigmoid(torch.autograd.Function):
    """The sigmoid of z or -z with a gradient that is exact at both ends: torch's p (1 - p) is noise near p = 1."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, flip: bool) -> Tensor:
        return z.neg().sigmoid_() if flip else z.sigmoid()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, bool], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.flip = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (z,) = ctx.saved_tensors
        slope = torch.ops.aten.sigmoid_backward(grad, z.abs().neg_().sigmoid_())  # s (1 - s) of the smaller one
        return slope.neg_() if ctx.flip else slope, None


class WrongSums(torch.autograd.Function):
    """The probability of the wrong class, summed over all pixels and over t, for logits z and hard labels t (b, k, n).

    One operation, because passes over memory take most of the time of an overlap loss on a CPU: only z and t are saved.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        wrong = torch.addcmul(z, z, t, value=-2).sigmoid_()  # the sigmoid of minus the margin
        return wrong.sum(-1), wrong.mul_(t).sum(-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, everywhere: Tensor, on_t: Tensor) -> tuple[Tensor, None]:
        z, t = ctx.saved_tensors
        grad = (t * (-2 * everywhere - on_t).unsqueeze(-1)).add_(everywhere.unsqueeze(-1))
        return torch.ops.aten.sigmoid_backward(grad, z.abs().neg_().sigmoid_()), None


class ZeroAt(torch.autograd.Function):
    """Values x (b, k, n) with 0 at one class of each pixel, `ids` (b, 1, n).

    On a CPU it takes half as long as `x.scatter(1, ids, 0)`, of which the gradient is one, too.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, ids: Tensor) -> Tensor:
        return x.scatter(1, ids, torch.zeros_like(x[:, :1]))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ZeroAt.apply(grad, *ctx.saved_tensors), None


class Parts:
    """Parts of images, given by the part number of each pixel (b, 1, n), 1 to `count`; the last is the whole image.

    Pixels numbered 0 belong only to the whole image or, if `shared`, to every part. `sizes` (b, 1, 1 + count) is the
    number of pixels of `weight` 1 for each number.

    Neighboring pixels, mostly of the same part, are added in different lanes: three times as fast on a CPU as one sum
    in which every addition waits for the one before, and nearly as exact as pairwise sums.
    """

    lanes = 256  # with 64 to 512 lanes sums take a third of the time that they take with one

    def __init__(self, number: Tensor, count: int, shared: bool, weight: Tensor) -> None:
        lane = torch.arange(number.shape[-1], device=number.device) % self.lanes
        self.index = torch.add(lane, number, alpha=self.lanes).long()
        self.count, self.shared = count, shared
        self.sizes = self.sums(weight)

    def sums(self, x: Tensor) -> Tensor:
        """Sum x (b, k, n) over the pixels of each number: (b, k, 1 + count)."""
        zeros = x.new_zeros(*x.shape[:2], (self.count + 1) * self.lanes)
        return exact(zeros.scatter_add(2, self.index.expand_as(x), x).unflatten(2, (-1, self.lanes)).sum(-1))

    def totals(self, sums: Tensor) -> Tensor:
        """Return the sums of each part and of the whole image (b * (count + 1), k)."""
        each = sums[..., 1:] + sums[..., :1] if self.shared else sums[..., 1:]
        return torch.cat([each, sums.sum(-1, keepdim=True)], -1).transpose(1, 2).flatten(0, 1)


def exact(x: Tensor) -> Tensor:
    """Convert sums to float64 (not on MPS): in float32 the gradient of error / total, 1/W - E/W^2, cancels to noise."""
    return x if x.device.type == "mps" else x.double()


def ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Return part / whole with 0/0 = 0, finite in value and gradient however small the whole is."""
    return part / whole.clamp(min=TINY)


def one_minus_exp(x: Tensor) -> Tensor:
    """Return 1 - exp(-x) for x >= 0, with an accurate value for small x and an accurate gradient for large x."""
    return torch.where(x < 1, -torch.expm1(-x), 1 - torch.exp(-x))


def power(x: Tensor, exponent: float) -> Tensor:
    """Return x ** exponent for x >= 0, with a finite gradient at 0 for exponents below 1."""
    if exponent >= 1:
        return x if exponent == 1 else x**exponent
    return torch.where(x <= TINY, 0, x.clamp(min=TINY) ** exponent)  # clamped, as 0 times the gradient at 0 is NaN
