"""Losses that are a function of a few sums over the pixels, and the one pass that makes the sums and their gradient.

Every pixel and overlap loss, and every compound of them, is value(sums). The pass walks over the pixels in tiles that
fit the cache, so that nothing of full size is made but one tensor: what the forward pass keeps for the gradient, which
the backward pass then turns into the gradient where it lies.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from seglab.contract import Logits, PerImage, Target
from seglab.losses.base import Loss, real
from seglab.losses.tile import Pixels, Room

TILE = 262144
"""Pixels per tile and thread: small enough for a dozen tiles to stay in the last cache, large enough that the few
microseconds each operation costs to start do not matter (measured from 16384 to 262144)."""

Sums: TypeAlias = Mapping["Part", tuple[Tensor, ...]]
"""What each part has added up: tensors (b, c)."""

Tile: TypeAlias = tuple[slice, slice, slice]


class Part(ABC):
    """Some sums over the pixels and their gradient; equal parts of a compound are made once, so a part is hashable."""

    count: ClassVar[int] = 1
    """How many terms there are."""
    keeps: ClassVar[bool] = False
    """Whether the forward pass should `keep` something for the slope."""

    @abstractmethod
    def terms(self, x: Pixels) -> tuple[Tensor, ...]:
        """What is to be added up over the pixels: (b, c, n) each."""

    def sums(self, x: Pixels) -> tuple[Tensor, ...]:
        """The terms added up: (b, c) each."""
        return tuple(term.sum(-1) for term in self.terms(x))

    def keep(self, x: Pixels, out: Tensor) -> Tensor:
        """One value per pixel of which `slope` is made, written to `out` in the forward pass while all is at hand."""
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
    """Groups of images and their tiles: small images several in one, large ones cut up.

    On a GPU and for a compiler, which finds its own, all in one.
    """
    b, c, n = shape
    whole = device.type != "cpu" or torch.compiler.is_compiling()
    size = b * c * n if whole else TILE * torch.get_num_threads()
    rows, columns = max(1, size // (c * n)), max(1, min(n, size // c))
    for i in range(0, b, rows):
        images = slice(i, i + rows)
        yield images, [(images, slice(None), slice(j, j + columns)) for j in range(0, n, columns)]


def room_on(z: Tensor) -> Room | None:
    """Memory for the tiles of z; other devices and compilers manage their own."""
    return Room() if z.device.type == "cpu" and not torch.compiler.is_compiling() else None


class Pass(torch.autograd.Function):
    """The terms of all parts, each added up over the pixels: (k, b, c)."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, t: Tensor, maps: dict[str, Tensor], parts: tuple[Part, ...]) -> Tensor:
        ctx.save_for_backward(z, t, *maps.values())
        ctx.maps, ctx.parts = tuple(maps), parts
        keeping = ctx.needs_input_grad[0] and parts[0].keeps
        ctx.kept = torch.empty_like(z, dtype=real(z[:0]).dtype) if keeping else None
        done, room = [], room_on(z)
        for _, group in tiles(z.shape, z.device):
            sums = []
            for tile in group:
                x = Pixels(z[tile], t[tile], {name: m[tile] for name, m in maps.items()}, True, room and room.clear())
                sums.append(torch.stack([total for part in parts for total in part.sums(x)]))
                if ctx.kept is not None:
                    parts[0].keep(x, ctx.kept[tile])
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
        room = room_on(z)
        for images, group in tiles(z.shape, z.device):
            each = weights[:, images].unsqueeze(-1).unbind()
            for tile in group:
                x = Pixels(z[tile], t[tile], {name: m[tile] for name, m in maps.items()}, True, room and room.clear())
                first = None if kept is None else kept[tile]
                if first is None and ctx.parts[0].keeps:
                    ctx.parts[0].sums(x)  # as in the forward pass, so that it is kept the same to the last bit
                    first = ctx.parts[0].keep(x, torch.empty_like(x.z))
                slope = total_slope(ctx.parts, x, first, each)
                if kept is None or slope is not first or grad is not kept:
                    grad[tile] = slope
        return grad, None, None, None


def total_slope(parts: tuple[Part, ...], x: Pixels, first: Tensor | None, weights: tuple[Tensor, ...]) -> Tensor:
    """The gradient of one tile: what the parts make of their share of the weights, added up."""
    total: Tensor | None = None
    for part in parts:
        slope = part.slope(x, first if total is None else None, weights[: part.count])
        weights = weights[part.count :]
        total = slope if total is None else total.add_(slope)
    assert total is not None
    return total


def plain(z: Tensor, t: Tensor, maps: dict[str, Tensor], parts: tuple[Part, ...]) -> Tensor:
    """The same sums by ordinary differentiable operations: for second derivatives and torch.func."""
    x = Pixels(z, t, maps)
    return torch.stack([total for part in parts for total in part.sums(x)])


def sums_of(parts: tuple[Part, ...], logits: Logits, target: Target, maps: Mapping[str, Tensor]) -> tuple[Sums, int]:
    """What each part adds up over the pixels of each image and channel, in one pass, and how many pixels there are.

    The few sums come in float64 (but for MPS, which has none): the slope of error / total, 1/W - E/W^2, cancels to
    noise in float32 where one foreground pixel stands against millions.
    """
    z, t = logits.flatten(2), target.flatten(2)
    flat = {name: m.flatten(2) for name, m in maps.items()}
    parts = tuple(dict.fromkeys(parts))
    sums = (plain if torch._C._are_functorch_transforms_active() else Pass.apply)(z, t, flat, parts)
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
