"""Losses that are a function of a few sums over the pixels, and the one pass that makes the sums and their gradient.

Every pixel and overlap loss, and every compound of them, is value(sums). The pass walks over the pixels in tiles that
fit the cache, so that nothing of full size is made but one tensor: what the forward pass keeps for the gradient, which
the backward pass then turns into the gradient where it lies.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import ceil
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from seglab.contract import Logits, PerImage, Target
from seglab.losses import native
from seglab.losses.base import Loss, real
from seglab.losses.native import Focus, Moments
from seglab.losses.tile import Pixels, Room

TILE = 262144
"""Pixels per tile and thread: small enough for a dozen tiles to stay in the last cache, large enough that the few
microseconds each operation costs to start do not matter (measured from 65536 to 1048576)."""
MOST = 8 * TILE
"""Pixels per tile however many threads there are: a dozen tensors of that size, 100 MB, are kept between calls."""

Sums: TypeAlias = Mapping["Part", tuple[Tensor, ...]]
"""What each part has added up: tensors (b, c)."""


class Part(ABC):
    """Some sums over the pixels and their gradient; equal parts of a compound are made once, so a part is hashable."""

    count: ClassVar[int] = 1
    """How many terms there are."""
    keeps: ClassVar[bool] = False
    """Whether the forward pass should `keep` something for the slope."""

    def of_moments(self) -> bool:
        """Whether the sums can be made `from_moments`: if the class itself says how, as its heirs may add up more."""
        return "from_moments" in vars(type(self))

    def focus(self) -> Focus | None:
        """What the moment `focal` should be for this part."""
        return None

    def from_moments(self, m: Moments) -> tuple[Tensor, ...]:
        """The sums (b, c) from the moments of the pixels."""
        raise NotImplementedError

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


class Tiles:
    """How a batch (b, c, n) is cut: several small images to a tile, or several tiles to a large image.

    On a GPU and for a compiler, which finds its own tiles, all is one.
    """

    def __init__(self, z: Tensor) -> None:
        _, c, n = z.shape
        self.eager = z.device.type == "cpu" and not torch.compiler.is_compiling()
        size = min(TILE * torch.get_num_threads(), MOST) if self.eager else z.numel()
        self.images, self.columns = max(1, size // (c * n)), max(1, min(n, size // c))
        self.per_image = ceil(n / self.columns)

    def cut(self, x: Tensor) -> Sequence[Tensor]:
        """The tiles of x (b, c, any), views in the order of the images."""
        groups = x.split(self.images)
        return groups if self.per_image == 1 else [tile for some in groups for tile in some.split(self.columns, -1)]

    def walk(self, z: Tensor, t: Tensor, maps: Mapping[str, Tensor]) -> Iterator[Pixels]:
        """The pixels of each tile, in memory that is taken back for the next."""
        room = Room.enter() if self.eager else None
        cut = [self.cut(x) for x in (z, t, *maps.values())]
        for tile_z, tile_t, *rest in zip(*cut, strict=True):
            yield Pixels(tile_z, tile_t, dict(zip(maps, rest, strict=True)), True, room and room.clear())
        if room is not None:
            room.leave()


class Pass(torch.autograd.Function):
    """The terms of all parts, each added up over the pixels: (k, b, c)."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, t: Tensor, maps: dict[str, Tensor], parts: tuple[Part, ...]) -> Tensor:
        ctx.save_for_backward(z, t, *maps.values())
        ctx.maps, ctx.parts = tuple(maps), parts
        keeping = ctx.needs_input_grad[0] and parts[0].keeps
        ctx.kept = torch.empty_like(z, dtype=real(z[:0]).dtype) if keeping else None
        tiles = Tiles(z)
        kept = tiles.cut(ctx.kept) if keeping else []
        sums = []
        for i, x in enumerate(tiles.walk(z, t, maps)):
            sums.append(torch.stack([total for part in parts for total in part.sums(x)]))
            if keeping:
                parts[0].keep(x, kept[i])
        if tiles.per_image > 1:
            sums = [torch.stack(sums[i : i + tiles.per_image]).sum(0) for i in range(0, len(sums), tiles.per_image)]
        return sums[0] if len(sums) == 1 else torch.cat(sums, 1)

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        z, t, *saved = ctx.saved_tensors
        maps = dict(zip(ctx.maps, saved, strict=True))
        if torch.is_grad_enabled():
            again = plain(z, t, maps, ctx.parts)
            return *torch.autograd.grad(again, z, weights, create_graph=True), None, None, None
        kept, ctx.kept = ctx.kept, None
        grad = kept if kept is not None and kept.dtype == z.dtype else torch.empty_like(z)
        tiles = Tiles(z)
        pieces, into = None if kept is None else tiles.cut(kept), tiles.cut(grad)
        each = [w.unbind() for w in weights.unsqueeze(-1).split(tiles.images, 1) for _ in range(tiles.per_image)]
        for i, x in enumerate(tiles.walk(z, t, maps)):
            first = None if pieces is None else pieces[i]
            if first is None and ctx.parts[0].keeps:
                ctx.parts[0].sums(x)  # as in the forward pass, so that it is kept the same to the last bit
                first = ctx.parts[0].keep(x, torch.empty_like(x.z))
            slope = total_slope(ctx.parts, x, first, each[i])
            if slope is not first or grad is not kept:
                into[i].copy_(slope)
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
    transformed = torch._C._are_functorch_transforms_active()
    made = {} if transformed or not native.serves(z) else from_kernel(parts, z, t)
    rest = tuple(part for part in parts if part not in made)
    if rest:
        sums = (plain if transformed else Pass.apply)(z, t, flat, rest)
        exact = iter((sums if sums.device.type == "mps" else sums.double()).unbind())
        made.update({part: tuple(islice(exact, part.count)) for part in rest})
    return made, z.shape[-1]


def from_kernel(parts: tuple[Part, ...], z: Tensor, t: Tensor) -> dict[Part, tuple[Tensor, ...]]:
    """The sums of those parts that can be made of moments; of none if another part keeps a tensor of its own.

    Of several focal ones, the first and its equals count as such.
    """
    served = {part: part.focus() for part in parts if part.of_moments()}
    focus = next((focus for focus in served.values() if focus is not None), None)
    served = {part: own for part, own in served.items() if own in (None, focus)}
    if not served or any(part.keeps for part in parts if part not in served):
        return {}
    m = native.moments(z, t, focus)
    return {part: part.from_moments(m) for part in served}


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
