"""Losses around losses: any weighted sum, and pooling over the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from seglab.contract import Logits, PerImage, Target, require
from seglab.losses.base import Card, Loss, real
from seglab.losses.sums import SumLoss, sums_of


@dataclass(frozen=True, kw_only=True)
class Term:
    """One loss of a sum and what it weighs."""

    loss: Loss
    weight: float


@dataclass(frozen=True, kw_only=True)
class Sum(Loss):
    """A weighted sum of any losses by name, so that `loss.terms.dice.weight=3` works; null leaves a term out."""

    terms: Mapping[str, Term | None]

    card: ClassVar[Card] = Card(
        title="Weighted sum",
        family="compound",
        formula=r"\sum_k w_k L_k",
        paper="Folklore; the terms have their own papers",
        empty="As each term has it.",
        differs="All terms that are sums over the pixels share one pass; smp, MONAI and kornia add up finished losses.",
        signed=True,
    )

    def __post_init__(self) -> None:
        require(bool(self.given), self.name, "at least one term", "none")

    @property
    def given(self) -> dict[str, Term]:
        return {name: term for name, term in self.terms.items() if term is not None}

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(dict.fromkeys(need for term in self.given.values() for need in term.loss.needs))

    @property
    def soft(self) -> bool:
        return all(term.loss.soft for term in self.given.values())

    def fitted(self, foreground: float) -> Self:
        fitted = {name: replace(term, loss=term.loss.fitted(foreground)) for name, term in self.given.items()}
        return replace(self, terms=fitted)

    def course(self, values: Sequence[float]) -> tuple[Loss, list[int]]:
        courses = {name: term.loss.course(values) for name, term in self.given.items()}
        terms = {name: replace(term, loss=courses[name][0]) for name, term in self.given.items()}
        return replace(self, terms=terms), sorted({turn for _, turns in courses.values() for turn in turns})

    def check(self, logits: Logits, target: Target) -> None:
        for term in self.given.values():
            term.loss.check(logits, target)

    def per_image(self, logits: Logits, target: Target, **maps: Tensor) -> PerImage:
        shared: list[tuple[float, SumLoss]] = []
        losses: list[Tensor] = []
        for term in self.given.values():
            if isinstance(term.loss, SumLoss):
                shared.append((term.weight, term.loss))
            else:
                losses.append(term.weight * term.loss.per_image(logits, target, **maps))
        if shared:
            sums, n = sums_of(tuple(part for _, loss in shared for part in loss.parts()), logits, target, maps)
            losses += [weight * loss.value(sums, n).to(real(logits[:0]).dtype) for weight, loss in shared]
        return torch.stack(losses).sum(0)


@dataclass(frozen=True, kw_only=True)
class Batchwise(Loss):
    """A loss of the whole batch as if it were one image: every image gets the same number."""

    loss: Loss

    card: ClassVar[Card] = Card(
        title="Pooled over the batch",
        family="compound",
        formula=r"L\big(\cup_i z_i,\cup_i t_i\big)",
        paper="The default of many libraries for Dice, IoU and Tversky; Kodym, Spanel, Herout 2018 (batch Dice)",
        empty="As its loss has it, for a batch without any foreground.",
        differs="A wrapper here; the default of smp, batch=True in MONAI, absent from kornia.",
    )

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.loss.needs

    @property
    def soft(self) -> bool:
        return self.loss.soft

    def fitted(self, foreground: float) -> Self:
        return replace(self, loss=self.loss.fitted(foreground))

    def course(self, values: Sequence[float]) -> tuple[Loss, list[int]]:
        loss, turns = self.loss.course(values)
        return replace(self, loss=loss), turns

    def check(self, logits: Logits, target: Target) -> None:
        self.loss.check(logits, target)

    def per_image(self, logits: Logits, target: Target, **maps: Tensor) -> PerImage:
        pooled = {name: one_image(m) for name, m in maps.items()}
        return self.loss.per_image(one_image(logits), one_image(target), **pooled).expand(len(logits))


def one_image(x: Tensor) -> Tensor:
    """(b, c, h, *rest) as one image (1, c, b h, *rest)."""
    return x.transpose(0, 1).flatten(1, 2).unsqueeze(0)
