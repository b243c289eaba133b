"""Losses that are a function of a few sums over the pixels, and the one pass that makes the sums and their gradient.

Every pixel and overlap loss, and every compound of them, is value(sums). The pass walks over the pixels in tiles that
fit the cache, so that nothing of full size is made but one tensor: what the forward pass keeps for the gradient, which
the backward pass then turns into the gradient where it lies.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from seglab.contract import Logits, PerImage, Target
from seglab.losses.base import Loss, real

TILE = 131072
"""Pixels per tile and thread: small enough for a dozen tiles to stay in the last cache, large enough that the few
microseconds each operation costs to start do not matter (measured from 16384 to 262144)."""

Sums: TypeAlias = Mapping["Part", tuple[Tensor, ...]]
"""What each part has added up: tensors (b, c)."""

Tile: TypeAlias = tuple[slice, slice, slice]


def once(make: Callable[[Pixels], Tensor]) -> property:
    """A property that is computed at most once (functools.cached_property takes a lock, which no compiler traces)."""
    name = make.__name__

    def get(pixels: Pixels) -> Tensor:
        if name not in pixels.made:
            pixels.made[name] = make(pixels)
        return pixels.made[name]

    return property(get, doc=make.__doc__)


class Pixels:
    """Logits and target of some pixels (b, c, n), and whatever several terms want of them, made at most once."""

    def __init__(self, z: Tensor, t: Tensor, maps: Mapping[str, Tensor]) -> None:
        self.z = real(z)
        self.t = t.to(self.z.dtype)
        self.maps = maps
        self.made: dict[object, Any] = {}

    @once
    def u(self) -> Tensor:
        """The share of background, 1 - t."""
        return 1 - self.t

    @once
    def p(self) -> Tensor:
        """The probability of foreground."""
        return torch.sigmoid(self.z)

    @once
    def q(self) -> Tensor:
        """The probability of background, exact where 1 - p is not."""
        return torch.sigmoid(-self.z)

    @once
    def l0(self) -> Tensor:
        """What a background pixel costs: -log q."""
        return F.softplus(self.z, threshold=40) if torch.is_grad_enabled() else self._log + self.z.clamp(min=0)

    @once
    def l1(self) -> Tensor:
        """What a foreground pixel costs: -log p."""
        return F.softplus(-self.z, threshold=40) if torch.is_grad_enabled() else self._log - self.z.clamp(max=0)

    @once
    def cost(self) -> Tensor:
        """The cross-entropy t l1 + (1 - t) l0."""
        if torch.is_grad_enabled():
            return self.mix(self.l1, self.l0)
        return torch.addcmul(self.z.clamp(min=0), self.t, self.z, value=-1).add_(self._log)

    @once
    def _log(self) -> Tensor:
        """What both costs share; its own derivative is wrong at z = 0, so it serves only where none is taken."""
        return self.z.abs().neg_().exp_().log1p_()

    @once
    def d(self) -> Tensor:
        """The error p - t, exact where p is close to 1."""
        return self.p * self.u - self.q * self.t

    def mix(self, foreground: Tensor, background: Tensor, out: Tensor | None = None) -> Tensor:
        """t foreground + (1 - t) background."""
        return torch.lerp(background, foreground, self.t, out=out)

    def weigh(self, foreground: Tensor, background: Tensor) -> Tensor:
        """The same `mix` of two numbers (b, c, 1) per image, for which `lerp` is slow."""
        return torch.addcmul(self.u * background, self.t, foreground)


class Part(ABC):
    """Some sums over the pixels and their gradient; equal parts of a compound are made once, so a part is hashable."""

    count: ClassVar[int] = 1
    """How many terms there are."""
    keeps: ClassVar[bool] = False
    """Whether the forward pass should `keep` something for the slope."""

    @abstractmethod
    def terms(self, x: Pixels) -> tuple[Tensor, ...]:
        """What is to be added up over the pixels (b, c, n)."""

    def keep(self, x: Pixels, out: Tensor | None = None) -> Tensor:
        """One value per pixel of which `slope` is made, computed in the forward pass while all it needs is at hand."""
        raise NotImplementedError

    def slope(self, x: Pixels, kept: Tensor | None, weights: tuple[Tensor, ...]) -> Tensor:
        """The derivative by z of the sum of weights (b, c, 1) times terms; may overwrite `kept`.

        A part says this in closed form only where that is worth the speed.
        """
        with torch.enable_grad():
            z = x.z.detach().requires_grad_()
            terms = self.terms(Pixels(z, x.t, x.maps))
            total = torch.stack([(w * y).sum() for w, y in zip(weights, terms, strict=True)]).sum()
            return torch.autograd.grad(total, z)[0]


def tiles(shape: torch.Size, device: torch.device) -> Iterator[tuple[slice, list[Tile]]]:
    """Groups of images and their tiles: small images several in one, large ones cut up, all in one on a GPU."""
    b, c, n = shape
    size = TILE * torch.get_num_threads() if device.type == "cpu" else b * c * n
    rows, columns = max(1, size // (c * n)), max(1, min(n, size // c))
    for i in range(0, b, rows):
        images = slice(i, i + rows)
        yield images, [(images, slice(None), slice(j, j + columns)) for j in range(0, n, columns)]


class Pass(torch.autograd.Function):
    """The terms of all parts, each added up over the pixels: (k, b, c)."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, t: Tensor, maps: dict[str, Tensor], parts: tuple[Part, ...]) -> Tensor:
        ctx.save_for_backward(z, t, *maps.values())
        ctx.maps, ctx.parts = tuple(maps), parts
        keeping = ctx.needs_input_grad[0] and parts[0].keeps
        ctx.kept = torch.empty_like(z, dtype=real(z[:0]).dtype) if keeping else None
        done = []
        for _, group in tiles(z.shape, z.device):
            sums = []
            for tile in group:
                x = Pixels(z[tile], t[tile], {name: m[tile] for name, m in maps.items()})
                sums.append(torch.stack([term.sum(-1) for part in parts for term in part.terms(x)]))
                if ctx.kept is not None:
                    parts[0].keep(x, out=ctx.kept[tile])
            done.append(torch.stack(sums).sum(0))
        return torch.cat(done, 1)

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        z, t, *saved = ctx.saved_tensors
        maps = dict(zip(ctx.maps, saved, strict=True))
        if torch.is_grad_enabled():
            again = plain(z, t, maps, ctx.parts)
            return *torch.autograd.grad(again, z, weights, create_graph=True), None, None, None
        kept, ctx.kept = ctx.kept, None
        grad = kept if kept is not None and kept.dtype == z.dtype else torch.empty_like(z)
        for images, group in tiles(z.shape, z.device):
            each = weights[:, images].unsqueeze(-1).unbind()
            for tile in group:
                x = Pixels(z[tile], t[tile], {name: m[tile] for name, m in maps.items()})
                first = None if kept is None else kept[tile]
                slope = total_slope(ctx.parts, x, first, each)
                if slope is not first or grad is not kept:
                    grad[tile] = slope
        return grad, None, None, None


def total_slope(parts: tuple[Part, ...], x: Pixels, first: Tensor | None, weights: tuple[Tensor, ...]) -> Tensor:
    """The gradient of one tile: what the parts make of their share of the weights, added up."""
    total: Tensor | None = None
    for part in parts:
        kept = first if total is None else None
        if kept is None and part.keeps:
            kept = part.keep(x)
        slope = part.slope(x, kept, weights[: part.count])
        weights = weights[part.count :]
        total = slope if total is None else total.add_(slope)
    assert total is not None
    return total


def plain(z: Tensor, t: Tensor, maps: dict[str, Tensor], parts: tuple[Part, ...]) -> Tensor:
    """The same sums by ordinary differentiable operations: for compilers, second derivatives and torch.func."""
    x = Pixels(z, t, maps)
    return torch.stack([term.sum(-1) for part in parts for term in part.terms(x)])


def sums_of(parts: tuple[Part, ...], logits: Logits, target: Target, maps: Mapping[str, Tensor]) -> tuple[Sums, int]:
    """What each part adds up over the pixels of each image and channel, in one pass, and how many pixels there are.

    The few sums come in float64 (but for MPS, which has none): the slope of error / total, 1/W - E/W^2, cancels to
    noise in float32 where one foreground pixel stands against millions.
    """
    z, t = logits.flatten(2), target.flatten(2)
    flat = {name: m.flatten(2) for name, m in maps.items()}
    parts = tuple(dict.fromkeys(parts))
    eager = not (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active())
    sums = (Pass.apply if eager else plain)(z, t, flat, parts)
    exact = iter((sums if sums.device.type == "mps" else sums.double()).unbind())
    return {part: tuple(islice(exact, part.count)) for part in parts}, z.shape[-1]


@dataclass(frozen=True, kw_only=True)
class SumLoss(Loss):
    """A loss of the form value(sums over the pixels): whatever parts it has, they share one pass."""

    def per_image(self, logits: Logits, target: Target, **maps: Tensor) -> PerImage:
        return self.value(*sums_of(self.parts(), logits, target, maps)).to(real(logits[:0]).dtype)

    @abstractmethod
    def parts(self) -> tuple[Part, ...]:
        """The sums that the loss is made of; the first part's gradient is prepared in the forward pass."""

    @abstractmethod
    def value(self, sums: Sums, n: int) -> PerImage:
        """The loss of each image from the sums over its n pixels."""
