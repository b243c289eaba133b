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


LEVELS = 4
"""How often `log1p_sum` multiplies halves: products of 16. More save nothing, since every operation costs its start."""


class Room:
    """Memory for what is made of one tile, used again for the next: fresh pages cost more than the arithmetic."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.taken = 0

    def clear(self) -> Room:
        """Take everything back."""
        self.taken = 0
        return self

    def like(self, z: Tensor) -> Tensor:
        """A tensor of this shape and dtype, of whatever content."""
        if self.taken == len(self.tensors):
            self.tensors.append(torch.empty_like(z))
        found = self.tensors[self.taken]
        if found.shape != z.shape or found.dtype != z.dtype:
            found = self.tensors[self.taken] = torch.empty_like(z)
        self.taken += 1
        return found


class Pixels:
    """Logits and target of some pixels (b, c, n), and whatever several terms want of them.

    `closed` promises that nobody will differentiate what is made here: then faster formulas serve whose own derivative
    would be wrong, and the labels may be looked at. `room` lends the memory for it.
    """

    def __init__(
        self, z: Tensor, t: Tensor, maps: Mapping[str, Tensor], closed: bool = False, room: Room | None = None
    ) -> None:
        self.room = room
        self.z = real(z)
        self.t = t.to(self.z.dtype)
        self.maps = maps
        self.closed = closed
        self.label = t
        self.made: dict[object, Any] = {}

    def new(self) -> Tensor:
        """A tensor of the shape of z to write into."""
        return torch.empty_like(self.z) if self.room is None else self.room.like(self.z)

    @once
    def hard(self) -> bool:
        """Whether every label is known to be 0 or 1; to look would make a GPU wait and a compiler give up."""
        if not self.closed or self.label.dtype == torch.bool:
            return self.closed
        if torch.compiler.is_compiling() or self.z.device.type != "cpu":
            return not self.label.is_floating_point()
        if self.label.is_floating_point():
            return torch.abs(self.sign, out=self.new()).aminmax() == (1, 1)
        low, high = self.label.aminmax()
        return bool(low >= 0) and bool(high <= 1)

    @once
    def sign(self) -> Tensor:
        """1 on the foreground, -1 on the background: 2t - 1."""
        return self.choose(1.0, -1.0)

    @once
    def u(self) -> Tensor:
        """The share of background, 1 - t."""
        return torch.rsub(self.t, 1)

    @once
    def e(self) -> Tensor:
        """exp(-|z|), of which all else can be made without loss."""
        return torch.abs(self.z, out=self.new()).neg_().exp_()

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

    @once
    def quick(self) -> bool:
        """Whether `cost_sum` may be asked for."""
        return self.hard and self.z.device.type == "cpu" and not torch.compiler.is_compiling()

    def cost_sum(self, share: Tensor | None = None) -> Tensor:
        """What the cross-entropy adds up to (b, c): over all pixels, or over those of a class with this `share`."""
        beyond = torch.clamp(self.sides[0].v, max=0, out=self.new())  # minus what a wrong pixel costs beyond log(1 + e)
        if share is None:
            return self.log1p_sum(self.e) - beyond.sum(-1)
        beyond = beyond.mul_(share).sum(-1)
        return self.log1p_sum(torch.mul(self.e, share, out=self.new())) - beyond

    def log1p_sum(self, e: Tensor) -> Tensor:
        """The sum over the pixels of log(1 + e), for e in [0, 1], by one logarithm for 16 of them.

        The logarithms of factors add up to that of their product, and (1 + a)(1 + b) = 1 + (a + b + ab) loses no digit.
        """
        odd, free = [], self.new()
        for _ in range(LEVELS):
            half = e.shape[-1] // 2
            a, b = e[..., :half], e[..., half : 2 * half]
            odd.append(e[..., 2 * half :])
            e, free = free[..., :half], free[..., half:]
            torch.addcmul(torch.add(a, b, out=e), a, b, out=e)
        return torch.cat([e, *odd], -1).log1p_().sum(-1)

    def sigmoid(self, v: Tensor) -> Tensor:
        """The sigmoid of z or -z; a compiler makes both of the one exponential."""
        if not self.closed:
            return torch.sigmoid(v)
        if torch.compiler.is_compiling():
            return torch.where(v < 0, self.e, 1) / (1 + self.e)
        return torch.sigmoid(v, out=self.new())

    @once
    def d(self) -> Tensor:
        """The error p - t, exact where p is close to 1."""
        return self.p * self.u - self.q * self.t

    @once
    def sides(self) -> tuple[Side, ...]:
        """The pixels as their class sees them; as the foreground and as the background where labels may be soft."""
        if self.hard:
            v = torch.mul(self.z, self.sign, out=self.new()) if self.closed else self.z * self.sign
            return (Side(self, v, self.t),)
        return Side(self, self.z, 1.0), Side(self, -self.z, 0.0)

    def split(self, of: Callable[[Side], Tensor]) -> tuple[Tensor, Tensor]:
        """t f(z) and (1 - t) f(-z), for a function of the margin."""
        values = [of(side) for side in self.sides]
        if not self.closed:
            return values[0] * self.t, values[1] * self.u
        foreground, background = torch.mul(values[0], self.t, out=self.new()), self.new()
        if self.hard:
            return foreground, torch.sub(values[0], foreground, out=background)
        return foreground, torch.mul(values[1], self.u, out=background)

    def choose(self, foreground: float | Tensor, background: float | Tensor) -> Tensor:
        """The one where the label is 1 and the other where it is 0, numbers or (b, c, n), for hard labels."""
        if isinstance(foreground, Tensor) or isinstance(background, Tensor):
            return self.t * foreground + self.u * background
        base = torch.full((), background, dtype=self.t.dtype)
        return torch.add(base, self.t, alpha=foreground - background, out=self.new())

    def weigh(self, foreground: Tensor, background: Tensor) -> Tensor:
        """t foreground + (1 - t) background of two numbers (b, c, 1) per image, exact where one is tiny."""
        if foreground.numel() == 1 and not torch.compiler.is_compiling() and self.z.device.type == "cpu":
            share, small, large = self.t, background, foreground
            if small.abs() > large.abs():
                share, small, large = self.u, large, small
            return torch.mul(share, large - small, out=self.new()).add_(small)
        return torch.mul(self.u, background, out=self.new()).addcmul_(self.t, foreground)

    def through_p(self, slope: Tensor) -> Tensor:
        """The derivative by z of what has this derivative by p: times p (1 - p), exact at both ends."""
        return torch.ops.aten.sigmoid_backward(slope, torch.abs(self.z, out=self.new()).neg_().sigmoid_())


class Side:
    """Pixels as one class sees them: margin v and `foreground`, 1 or 0 where that class is the fore- or background."""

    def __init__(self, pixels: Pixels, v: Tensor, foreground: Tensor | float) -> None:
        self.pixels, self.v, self.foreground = pixels, v, foreground
        self.made: dict[object, Any] = {}

    @property
    def whole(self) -> bool:
        """Whether all of these pixels are looked at as foreground."""
        return not isinstance(self.foreground, Tensor) and self.foreground == 1

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
            return self.pull(self.pixels.new().fill_(1), self.pixels.new())
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
