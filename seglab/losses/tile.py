"""Some pixels of a batch and what losses want to know of them, computed at most once.

For hard labels a pixel's loss is a function of one number, its margin: the logit of the class it belongs to. So one
exponential is enough for its cost, its error and their slopes. A soft label is a mixture of two hard ones, and each
pixel is then looked at from both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from seglab.losses.base import real

Holder = TypeVar("Holder", "Pixels", "Side")


def once(make: Callable[[Holder], Any]) -> property:
    """A property that is computed at most once (functools.cached_property takes a lock, which no compiler traces)."""
    name = make.__name__

    def get(holder: Holder) -> Any:
        if name not in holder.made:
            holder.made[name] = make(holder)
        return holder.made[name]

    return property(get, doc=make.__doc__)


class Pixels:
    """Logits and target of some pixels (b, c, n), and whatever several terms want of them.

    `closed` promises that nobody will differentiate what is made here: then faster formulas serve whose own derivative
    would be wrong, and the labels may be looked at.
    """

    def __init__(self, z: Tensor, t: Tensor, maps: Mapping[str, Tensor], closed: bool = False) -> None:
        self.z = real(z)
        self.t = t.to(self.z.dtype)
        self.maps = maps
        self.closed = closed
        self.label = t
        self.made: dict[object, Any] = {}

    @once
    def hard(self) -> bool:
        """Whether every label is known to be 0 or 1; to look would make a GPU wait and a compiler give up."""
        if not self.closed or self.label.dtype == torch.bool:
            return self.closed
        if torch.compiler.is_compiling() or self.z.device.type != "cpu":
            return not self.label.is_floating_point()
        if self.label.is_floating_point():
            return self.sign.abs().aminmax() == (1, 1)
        low, high = self.label.aminmax()
        return bool(low >= 0) and bool(high <= 1)

    @once
    def sign(self) -> Tensor:
        """1 on the foreground, -1 on the background: 2t - 1."""
        return self.choose(1.0, -1.0)

    @once
    def u(self) -> Tensor:
        """The share of background, 1 - t."""
        return 1 - self.t

    @once
    def e(self) -> Tensor:
        """exp(-|z|), of which all else can be made without loss."""
        return self.z.abs().neg_().exp_()

    @once
    def rest(self) -> Tensor:
        """What a pixel costs from either side beyond its negative margin: log(1 + exp(-|z|))."""
        return self.e.log1p()

    @once
    def p(self) -> Tensor:
        """The probability of foreground."""
        return self.sigmoid(self.z)

    @once
    def q(self) -> Tensor:
        """The probability of background, exact where 1 - p is not."""
        return self.sigmoid(-self.z)

    def sigmoid(self, v: Tensor) -> Tensor:
        """The sigmoid of z or -z; a compiler makes both of the one exponential."""
        if self.closed and torch.compiler.is_compiling():
            return torch.where(v < 0, self.e, 1) / (1 + self.e)
        return torch.sigmoid(v)

    @once
    def d(self) -> Tensor:
        """The error p - t, exact where p is close to 1."""
        return self.p * self.u - self.q * self.t

    @once
    def sides(self) -> tuple[Side, ...]:
        """The pixels as their class sees them; as the foreground and as the background where labels may be soft."""
        if self.hard:
            return (Side(self, self.z * self.sign, self.t),)
        return Side(self, self.z, 1.0), Side(self, -self.z, 0.0)

    def split(self, of: Callable[[Side], Tensor]) -> tuple[Tensor, Tensor]:
        """t f(z) and (1 - t) f(-z), for a function of the margin."""
        values = [of(side) for side in self.sides]
        foreground = values[0] * self.t
        return foreground, values[0] - foreground if self.hard else values[1] * self.u

    def choose(self, foreground: float | Tensor, background: float | Tensor) -> Tensor:
        """The one where the label is 1 and the other where it is 0, numbers or (b, c, n), for hard labels."""
        if isinstance(foreground, Tensor) or isinstance(background, Tensor):
            return self.t * foreground + self.u * background
        base = torch.full((), background, dtype=self.t.dtype)
        return torch.add(base, self.t, alpha=foreground - background)

    def weigh(self, foreground: Tensor, background: Tensor) -> Tensor:
        """t foreground + (1 - t) background of two numbers (b, c, 1) per image, exact where one is tiny."""
        if foreground.numel() == 1 and not torch.compiler.is_compiling() and self.z.device.type == "cpu":
            share, small, large = self.t, background, foreground
            if small.abs() > large.abs():
                share, small, large = self.u, large, small
            return (share * (large - small)).add_(small)
        return (self.u * background).add_(self.t * foreground)

    def through_p(self, slope: Tensor) -> Tensor:
        """The derivative by z of what has this derivative by p: times p (1 - p), exact at both ends."""
        return torch.ops.aten.sigmoid_backward(slope, torch.sigmoid(self.z.abs().neg_()))


class Side:
    """Pixels as one class sees them: margin v and `foreground`, 1 or 0 where that class is the fore- or background."""

    def __init__(self, pixels: Pixels, v: Tensor, foreground: Tensor | float) -> None:
        self.pixels, self.v, self.foreground = pixels, v, foreground
        self.made: dict[object, Any] = {}

    @once
    def cost(self) -> Tensor:
        """The cross-entropy -log sigmoid(v)."""
        x = self.pixels
        if x.hard and "e" not in x.made and self.v.device.type == "cpu" and not torch.compiler.is_compiling():
            # one operation for both, as |v| = |z|; other devices leave the exponential out
            likelihood, x.made["e"] = torch.ops.aten.log_sigmoid_forward(self.v)
            return likelihood.neg_()
        return x.rest - self.v.clamp(max=0) if x.closed else -F.logsigmoid(self.v)

    @once
    def wrong(self) -> Tensor:
        """The probability of the other class, sigmoid(-v)."""
        if not self.pixels.closed:
            return F.logsigmoid(-self.v).exp()
        if "e" in self.pixels.made and not torch.compiler.is_compiling():
            return self.pull(torch.ones_like(self.v), torch.empty_like(self.v))
        return self.pixels.sigmoid(-self.v)

    @once
    def right(self) -> Tensor:
        """The probability of the pixel's own class, exact where 1 - wrong is not."""
        return self.pixels.sigmoid(self.v) if self.pixels.closed else F.logsigmoid(self.v).exp()

    def pull(self, weight: Tensor, out: Tensor) -> Tensor:
        """weight times `wrong`, the slope of the cross-entropy, in one operation (the one torch has for itself)."""
        if torch.compiler.is_compiling():
            return torch.mul(weight, self.wrong, out=out)
        return torch.ops.aten.log_sigmoid_backward.grad_input(weight, self.v, self.pixels.e, grad_input=out)
