"""Losses built from losses: weighted sums, whose terms share intermediate results, and pooling over the batch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from numbers import Real
from typing import Self

import torch
from torch import Tensor, nn

from seglab.contract import Kind, Logits, PerImage, Target, Task, Valid, require
from seglab.losses.base import Card, Loss
from seglab.losses.pixels import Pixels

AS_INSIDE = "As in the inner losses."
nested_card = partial(Card, family="compound", empty=AS_INSIDE, many=AS_INSIDE, signed=True)


@dataclass(frozen=True, kw_only=True)
class Nested(Loss):
    """A loss that contains other losses: it has their task, needs their maps, and passes changes on to them."""

    task: Kind = field(init=False, repr=False)

    def __post_init__(self) -> None:
        foreign = [type(loss).__name__ for loss in self.inner() if not isinstance(loss, Loss)]
        remedy = "wrap a function in External(function=...)"
        require(not foreign, self.name, "inner losses to be seglab losses", ", ".join(foreign), remedy)
        kinds = sorted({loss.task for loss in self.inner()})
        require(len(kinds) == 1, self.name, "inner losses with the same task", " and ".join(kinds) or "none")
        object.__setattr__(self, "task", kinds[0])  # the dataclass is frozen
        super().__post_init__()

    @abstractmethod
    def inner(self) -> tuple[Loss, ...]:
        """Return the inner losses."""

    @abstractmethod
    def mapped(self, change: Callable[[Loss], Loss]) -> Self:
        """Return a copy of this loss with `change` applied to each inner loss."""

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(dict.fromkeys(need for loss in self.inner() for need in loss.needs))

    @property
    def tasks(self) -> tuple[Kind, ...]:
        return tuple(kind for kind in self.card.tasks if all(kind in loss.tasks for loss in self.inner()))

    @property
    def soft(self) -> bool:
        return all(loss.soft for loss in self.inner())

    def with_task(self, task: Task) -> Self:
        return self.mapped(lambda loss: loss.with_task(task))

    def with_class_frequency(self, frequency: Sequence[float]) -> Self:
        return self.mapped(lambda loss: loss.with_class_frequency(frequency))

    def at_epoch(self, history: Sequence[float | None]) -> tuple[Loss, list[int]]:
        switches = {epoch for loss in self.inner() for epoch in loss.at_epoch(history)[1]}
        return self.mapped(lambda loss: loss.at_epoch(history)[0]), sorted(switches)

    def modules(self) -> list[nn.Module]:
        return [module for loss in self.inner() for module in loss.modules()]

    def check(self, logits: Logits, target: Target, valid: Valid | None = None) -> None:
        for loss in self.inner():
            loss.check(logits, target, valid)


@dataclass(frozen=True, kw_only=True)
class WeightedSum(Loss):
    """A weighted sum of other losses."""

    @abstractmethod
    def parts(self) -> tuple[tuple[float, Loss], ...]:
        """Return weights and losses; the losses are called with pixels, so their own `task` is ignored."""

    @property
    def by_totals(self) -> bool:
        return all(loss.by_totals for _, loss in self.parts())

    def value(self, x: Pixels) -> PerImage:
        return torch.stack([weight * loss.value(x) for weight, loss in self.parts()]).sum(0)


@dataclass(frozen=True, kw_only=True)
class Term:
    """One loss of a sum and its weight."""

    loss: Loss
    weight: float

    def __post_init__(self) -> None:
        finite = isinstance(self.weight, Real) and abs(self.weight) < torch.inf
        require(finite, "Term", "weight to be a finite number", repr(self.weight))


@dataclass(frozen=True, kw_only=True)
class Sum(WeightedSum, Nested):
    """A weighted sum of named losses, so that `loss.terms.dice.weight=3` works; a term set to null is left out."""

    terms: Mapping[str, Term | None] = field(hash=False)

    card = nested_card(
        title="Weighted sum",
        formula=r"\sum_k w_k L_k",
        paper="Common practice; the terms have their own papers",
        differs="All terms share probabilities and sums over the pixels; smp, MONAI and kornia add finished losses.",
        zero=False,
    )

    def __post_init__(self) -> None:
        valid = isinstance(self.terms, Mapping) and all(t is None or isinstance(t, Term) for t in self.terms.values())
        require(valid, self.name, "terms={NAME: Term(loss=..., weight=...), ...}", self.terms)
        super().__post_init__()

    def parts(self) -> tuple[tuple[float, Loss], ...]:
        return tuple((term.weight, term.loss) for term in self.terms.values() if term is not None)

    def inner(self) -> tuple[Loss, ...]:
        return tuple(loss for _, loss in self.parts())

    def mapped(self, change: Callable[[Loss], Loss]) -> Self:
        terms = {name: term for name, term in self.terms.items() if term is not None}
        return replace(self, terms={name: replace(term, loss=change(term.loss)) for name, term in terms.items()})


@dataclass(frozen=True, kw_only=True)
class Wrapper(Nested):
    """A loss that wraps one other loss."""

    loss: Loss

    def inner(self) -> tuple[Loss, ...]:
        return (self.loss,)

    def mapped(self, change: Callable[[Loss], Loss]) -> Self:
        return replace(self, loss=change(self.loss))


@dataclass(frozen=True, kw_only=True)
class Batchwise(Wrapper):
    """A loss of the whole batch, treated as one image: every image gets the same value."""

    card = nested_card(
        title="Pooled over the batch",
        formula=r"L\big(\cup_i z_i,\cup_i t_i\big)",
        paper="The default of many libraries for Dice, IoU and Tversky; Kodym, Spanel, Herout 2018 (batch Dice)",
        empty="As in the inner loss, for a batch without any foreground.",
        many=AS_INSIDE + " For nacl, cldice, hausdorff and boundary_dou the images are stacked vertically.",
        differs="A wrapper here; the default in smp, batch=True in MONAI, not available in kornia.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        numbered = {"cells", "components"} & {*self.needs}  # object 1 of every image would become one object
        expected = "a loss without PerComponent, which numbers the objects of each image separately"
        require(not numbered, self.name, expected, self.loss.name)

    def value(self, x: Pixels) -> PerImage:
        return self.loss.value(x.pooled()).expand(len(x.z))  # so that the batch mean is this value

    def by_class(self, x: Pixels) -> Tensor:
        return self.loss.by_class(x.pooled()).expand(len(x.z), -1)
