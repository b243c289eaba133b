"""Losses that are a function of a few sums over the pixels, and the one pass that makes those sums."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from seglab.contract import PerImage, Target
from seglab.losses.base import Loss

Sums: TypeAlias = Mapping[Hashable, Tensor]
"""(b, c) tensors by name: what one pass over the pixels has added up."""


class Pixels:
    """Logits and target of some pixels, and whatever several terms may want of them, made at most once."""

    def __init__(self, z: Tensor, t: Tensor) -> None:
        self.z = z
        self.t = t.to(z.dtype)

    @cached_property
    def u(self) -> Tensor:
        """The share of background, 1 - t."""
        return 1 - self.t

    @cached_property
    def p(self) -> Tensor:
        """The probability of foreground."""
        return torch.sigmoid(self.z)

    @cached_property
    def q(self) -> Tensor:
        """The probability of background, exact where 1 - p is not."""
        return torch.sigmoid(-self.z)

    @cached_property
    def l0(self) -> Tensor:
        """What a background pixel costs: -log q."""
        return F.softplus(self.z)

    @cached_property
    def l1(self) -> Tensor:
        """What a foreground pixel costs: -log p."""
        return F.softplus(-self.z)


@dataclass(frozen=True, kw_only=True)
class SumLoss(Loss):
    """A loss of the form value(sums over the pixels): all of these share one pass."""

    def per_image(self, z: Tensor, target: Target, **maps: Tensor) -> PerImage:
        z, t = z.flatten(2), target.flatten(2)
        x = Pixels(z, t)
        sums = {key: term.sum(-1) for key, term in self.terms(x).items()}
        return self.value(sums, z.shape[-1])

    @abstractmethod
    def terms(self, x: Pixels) -> dict[Hashable, Tensor]:
        """What is to be summed over the pixels, by name."""

    @abstractmethod
    def value(self, sums: Sums, n: int) -> PerImage:
        """The loss of each image from the sums over its n pixels."""
