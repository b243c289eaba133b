"""Some pixels of a batch and what losses want to know of them, computed at most once.

For hard labels a pixel's loss is a function of one number, its margin: the logit of the class it belongs to. So one
exponential is enough for its cost, its error and their slopes. A soft label is a mixture of two hard ones, and each
pixel is then looked at from both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

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


LOG2E = 1.4426950408889634
"""The logarithm of e to base 2: a power of 2 takes half the time of one of e, for an error of |z| / 2 roundings."""
LEVELS = 3
"""How often `log1p_sum` multiplies halves: products of 8. More save nothing, since every operation costs its start."""
FEW = 4
"""Up to how many images of a tile are weighed one by one, which saves an operation on each pixel."""


class Room:
    """Memory for what is made of one tile, used again for the next: fresh pages cost more than the arithmetic."""

    free: ClassVar[list[Room]] = []
    """Rooms that nobody is in; there are as many as losses were ever at work at the same time."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.taken = 0

    @classmethod
    def enter(cls) -> Room:
        """A room of one's own, whatever other threads do."""
        try:
            return cls.free.pop()
        except IndexError:
            return cls()

    def leave(self) -> None:
        """Let others have it."""
        self.free.append(self)

    def clear(self) -> Room:
        """Take everything back."""
        self.taken = 0
        return self

    def like(self, z: Tensor) -> Tensor:
        """A tensor of this shape and dtype, of whatever content."""
        found = self.tensors[self.taken] if self.taken < len(self.tensors) else None
        if found is None or found.shape != z.shape or found.dtype != z.dtype:
            with torch.inference_mode(False):  # or nobody could write to it outside
                found = torch.empty_like(z)
            self.tensors[self.taken : self.taken + 1] = [found]
        self.taken += 1
        return found


class Pixels:
    """Logits and target of some pixels (b, c, n), and whatever several terms want of them.

    `closed` promises that nobody will differentiate what is made here: then faster formulas serve whose own derivative
    would be wrong. A `room` lends the memory for it, on a CPU and uncompiled, where values may also be looked at.
    """

    def __init__(
        self, z: Tensor, t: Tensor, maps: Mapping[str, Tensor], closed: bool = False, room: Room | None = None
    ) -> None:
        self.room, self.eager = room, room is not None
        self.z = real(z)
        self.t = t.to(self.z.dtype)
        self.maps = maps
        self.closed = closed
        self.label = t
        self.made: dict[object, Any] = {}

    def new(self) -> Tensor | None:
        """A tensor like z to write into, if memory is lent."""
        return None if self.room is None else self.room.like(self.z)

    @once
    def spare(self) -> Tensor | None:
        """One of them for what is summed up at once: the fewer there are, the more of them stay in the cache."""
        return self.new()

    @once
    def hard(self) -> bool:
        """Whether every label is known to be 0 or 1; to look would make a GPU wait and a compiler give up."""
        if not self.closed or self.label.dtype == torch.bool:
            return self.closed
        if not self.eager:
            return not self.label.is_floating_point()
        if self.label.is_floating_point():
            return torch.abs(self.sign, out=self.spare).aminmax() == (1, 1)
        low, high = self.label.aminmax()
        return bool(low >= 0) and bool(high <= 1)

    @once
    def sign(self) -> Tensor:
        """1 on the foreground, -1 on the background: 2t - 1."""
        return self.choose(1.0, -1.0)

    @once
    def u(self) -> Tensor:
        """The share of background, 1 - t."""
        return torch.sub(self.t.new_ones(()), self.t, out=self.new())

    @once
    def e(self) -> Tensor:
        """exp(-|z|), of which all else can be made without loss."""
        return torch.abs(self.z, out=self.new()).mul_(-LOG2E).exp2_()

    @once
    def rest(self) -> Tensor:
        """What a pixel costs from either side beyond its negative margin: log(1 + exp(-|z|))."""
        if torch.compiler.is_compiling():
            self.made["e"] = self.z.abs().neg().exp()  # which a compiler shares through memory; exp2 it makes again
        return torch.log1p(self.e, out=self.new())

    @once
    def p(self) -> Tensor:
        """The probability of foreground."""
        return self.sigmoid(self.z)

    @once
    def q(self) -> Tensor:
        """The probability of background, exact where 1 - p is not."""
        return self.wrong(self.z)

    def margins(self, foreground: float, background: float) -> tuple[Tensor, Tensor]:
        """The weight of each hard pixel's class, below 0 for the background, and the margin times that weight."""
        if foreground == background == 1:
            return self.sign, self.sides[0].v
        if (foreground, background) not in self.made:
            weight = self.choose(foreground, -background)
            self.made[foreground, background] = weight, torch.mul(self.z, weight, out=self.new())
        return self.made[foreground, background]

    def cost_sum(self, foreground: float, background: float) -> Tensor:
        """The cross-entropy of hard pixels added up (b, c), with a weight for each class.

        A pixel costs log(1 + e), and its negative margin beyond that.
        """
        _, margin = self.margins(foreground, background)
        total = -torch.clamp(margin, max=0, out=self.spare).sum(-1)
        if foreground and background:
            total += min(foreground, background) * self.log1p_sum(self.e)
        if foreground != background:
            heavy = torch.mul(self.e, self.t if foreground > background else self.u, out=self.new())
            total += abs(foreground - background) * self.log1p_sum(heavy)
        return total

    def log1p_sum(self, e: Tensor) -> Tensor:
        """The sum over the pixels of log(1 + e), for e in [0, 1], by one logarithm for 8 of them.

        The logarithms of factors add up to that of their product, and (1 + a)(1 + b) = 1 + (a + b + ab) loses no digit.
        """
        odd, free = [], torch.empty_like(e) if self.spare is None else self.spare
        for _ in range(LEVELS):
            half = e.shape[-1] // 2
            a, b = e[..., :half], e[..., half : 2 * half]
            odd.append(e[..., 2 * half :])
            e, free = free[..., :half], free[..., half:]
            torch.addcmul(torch.add(a, b, out=e), a, b, out=e)
        return torch.cat([e, *odd], -1).log1p_().sum(-1)

    def sigmoid(self, v: Tensor) -> Tensor:
        """The sigmoid of v, which is z or -z; a compiler makes both of the one exponential."""
        if self.eager:
            out = torch.neg(v, out=self.new())
            return self.pull(v.new_ones(()), out, out)
        if self.closed and torch.compiler.is_compiling():
            return torch.where(v < 0, self.e, 1) / (1 + self.e)
        return torch.sigmoid(v)

    def wrong(self, v: Tensor) -> Tensor:
        """The sigmoid of -v, the probability that a pixel of margin v is taken for the other class."""
        return self.pull(v.new_ones(()), v, self.new()) if self.eager else self.sigmoid(-v)

    def pull(self, weight: Tensor, v: Tensor, out: Tensor | None) -> Tensor:
        """weight times `wrong`, the slope of the cross-entropy, in one operation (the one torch has for itself)."""
        if torch.compiler.is_compiling():
            return torch.mul(weight, self.wrong(v), out=out)
        return torch.ops.aten.log_sigmoid_backward.grad_input(weight, v, self.e, grad_input=out)

    @once
    def d(self) -> Tensor:
        """The error p - t, exact where p is close to 1."""
        return self.p * self.u - self.q * self.t

    @once
    def sides(self) -> tuple[Side, ...]:
        """The pixels as their class sees them; as the foreground and as the background where labels may be soft."""
        if self.hard:
            return (Side(self, torch.mul(self.z, self.sign, out=self.new()), self.t),)
        return Side(self, self.z, 1.0), Side(self, -self.z, 0.0)

    def split(self, of: Callable[[Side], Tensor]) -> tuple[Tensor, Tensor]:
        """t f(z) and (1 - t) f(-z), for a function of the margin."""
        values = [of(side) for side in self.sides]
        foreground = torch.mul(values[0], self.t, out=self.new())
        if self.hard:
            return foreground, torch.sub(values[0], foreground, out=self.new())
        return foreground, torch.mul(values[1], self.u, out=self.new())

    def choose(self, foreground: float | Tensor, background: float | Tensor) -> Tensor:
        """The one where the label is 1 and the other where it is 0, numbers or (b, c, n), for hard labels."""
        if isinstance(foreground, Tensor) or isinstance(background, Tensor):
            return self.t * foreground + self.u * background
        base = torch.full((), background, dtype=self.t.dtype)
        return torch.add(base, self.t, alpha=foreground - background, out=self.new())

    def weigh(self, foreground: Tensor, background: Tensor) -> Tensor:
        """t foreground + (1 - t) background of two numbers (b, c, 1) per image, exact where one is tiny."""
        out = self.new()
        if out is None or foreground.numel() > FEW:
            return torch.mul(self.u, background, out=out).addcmul_(self.t, foreground)
        pairs = zip(foreground.flatten().tolist(), background.flatten().tolist(), strict=True)
        for i, (one, other) in enumerate(pairs):
            share, small, large = self.t, other, one
            if abs(small) > abs(large):
                share, small, large = self.u, large, small
            start = torch.full((), small, dtype=out.dtype)
            torch.add(start, share.flatten(0, 1)[i], alpha=large - small, out=out.flatten(0, 1)[i])
        return out

    def through_p(self, slope: Tensor) -> Tensor:
        """The derivative by z of what has this derivative by p: times p (1 - p), exact at both ends."""
        away = torch.abs(self.z, out=self.new()).neg_().sigmoid_()
        if torch.compiler.is_compiling():
            return torch.ops.aten.sigmoid_backward(slope, away)
        return torch.ops.aten.sigmoid_backward.grad_input(slope, away, grad_input=away)


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
        if not x.closed:
            return -F.logsigmoid(self.v)
        beyond = torch.clamp(self.v, max=0, out=x.new())
        rest = torch.log1p(x.e, out=x.spare) if x.hard and x.eager else x.rest
        return torch.sub(rest, beyond, out=beyond)

    @once
    def wrong(self) -> Tensor:
        """The probability of the other class, sigmoid(-v)."""
        return self.pixels.wrong(self.v) if self.pixels.closed else F.logsigmoid(-self.v).exp()

    @once
    def right(self) -> Tensor:
        """The probability of the pixel's own class, exact where 1 - wrong is not."""
        return self.pixels.sigmoid(self.v) if self.pixels.closed else F.logsigmoid(self.v).exp()

    def pull(self, weight: Tensor, out: Tensor) -> Tensor:
        """weight times `wrong`, the slope of the cross-entropy."""
        return self.pixels.pull(weight, self.v, out)
