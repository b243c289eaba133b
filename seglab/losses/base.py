"""What a loss is: a frozen dataclass whose fields are its parameters and whose call gives one number per image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from functools import partial
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, Self, TypeAlias

import torch
from torch import Tensor, nn

from seglab.contract import KINDS, ContractError, Kind, Logits, PerImage, Target, Task, Valid, require
from seglab.losses.checks import readable, require_labels, require_maps, require_shapes
from seglab.losses.numerics import constants, ratio, spread
from seglab.losses.pixels import Maps, Pixels, pixels_of

ClassWeights: TypeAlias = Mapping[str, float] | tuple[float, ...] | Literal["auto"] | None
"""Weights of the classes by name or in order; `auto`: 1 / (number of classes x frequency in the training masks)."""

Empty: TypeAlias = Literal["complement", "formula", "skip"]
"""For a class that an image lacks: score the rest of the image, take the formula literally, or skip the class."""

ANY_MASK = "Nothing special: every pixel counts as it does anywhere else."
BY_POLICY = "By policy: the rest of the image is scored (complement), the formula taken literally, or the mask skipped."
SUM_OVER_CLASSES = "The sum over all classes, the background too, of each pixel's share of the class times its term."
MEAN_OVER_CLASSES = "Each class against the rest, then the mean over the scored classes (all but a background)."


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a reader of the report should know about a loss.

    `formula` is LaTeX in p = sigmoid(z), q = sigmoid(-z), t the target and N the number of pixels. `empty` says what
    the loss does on a mask without foreground, `differs` how smp, MONAI and kornia differ under the same name, `many`
    what becomes of several classes. `tasks` are those it has a meaning for. `soft` says whether targets strictly
    between 0 and 1 are defined, `proper` whether the minimum is then at p = t, `zero` whether a perfect prediction
    costs 0, `signed` whether the loss may fall below 0.
    """

    title: str = ""
    family: str = ""
    formula: str = ""
    paper: str = ""
    empty: str = ""
    differs: str = "smp, MONAI and kornia have none."
    many: str = MEAN_OVER_CLASSES
    tasks: tuple[Kind, ...] = KINDS
    soft: bool = True
    proper: bool = False
    zero: bool = True
    signed: bool = False


pixel_card = partial(Card, family="pixel", empty=ANY_MASK, many=SUM_OVER_CLASSES)
region_card = partial(Card, family="region", empty=BY_POLICY)
order_card = partial(Card, family="boundary and order", soft=False)


def limited(default: Any, expected: str, holds: Callable[[Any], bool], hashed: bool = False) -> Any:
    """A parameter of a loss with a limit, which its construction holds it to; lists and mappings have no hash."""
    return field(default=default, hash=hashed, metadata={"expected": expected, "holds": holds})


def within(interval: str, default: float | None, null: bool = False, whole: bool = False) -> Any:
    """A parameter that must lie in an interval such as "(0, 1]", be `whole`, or, where that is said, be None."""
    low, high = (float(end) for end in interval[1:-1].split(","))
    closed = [end for end, bracket in ((low, "["), (high, "]")) if bracket in interval]

    def inside(x: Any) -> bool:
        number = isinstance(x, Integral if whole else Real)
        return (null and x is None) or (number and (low < float(x) < high or x in closed))

    return limited(default, f"{'whole, ' * whole}in {interval}{' or null' * null}", inside, hashed=True)


def one_of(*choices: str) -> Any:
    """A parameter that must be one of these; the first is the default."""
    return limited(choices[0], f"as {'one of ' * (len(choices) > 1)}{', '.join(choices)}", choices.__contains__, True)


def weights_hold(given: Any, least: float) -> bool:
    """Whether a weight, or each of several, not all 0, is a finite number of at least so much; or "auto" or None."""
    if given is None or given == "auto":
        return True
    weights = list(given.values()) if isinstance(given, Mapping) else given
    several = weights if isinstance(weights, list | tuple) else [weights]
    return all(isinstance(w, Real) and least <= float(w) < torch.inf for w in several) and any(several)


def square(rows: Any) -> bool:
    """Whether these may be distances: as many rows as columns, 0 from each class to itself and not to all, finite."""
    return all(len(r) == len(rows) and r[i] == min(r) == 0 < max(r) < torch.inf for i, r in enumerate(rows or ()))


@dataclass(frozen=True, kw_only=True)
class Loss(ABC):
    """One number per image, to be made small.

    Called with logits (b, k, *spatial) and a target: shares (b, k, *spatial) in [0, 1], or class ids (b, 1, *spatial)
    for task="multiclass". A target of bool or integers is hard, one of floats is soft. `valid` (b, 1, *spatial) bool
    leaves pixels out, whatever logits and target are there: value and gradient are those of the image without them, and
    an image without a valid pixel costs 0. `maps` are what `needs` names, (b, k, *spatial). Computes in float32
    (float64 for float64 logits) whatever autocast says, and returns (b,). Raises ContractError for shapes that do not
    fit, and on a CPU for integers out of range and where the loss is no number, or negative although it never is; on a
    GPU reading them would wait. `check` looks for all of that, and for shares out of range.
    """

    task: Kind = one_of(*KINDS)

    card: ClassVar[Card] = Card()
    needs: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for parameter in fields(self):
            value, limit = getattr(self, parameter.name), parameter.metadata
            if isinstance(value, Tensor) or type(value).__module__ == "numpy":  # these do not compare as numbers do
                value = value.tolist()
                object.__setattr__(self, parameter.name, value)
            if "holds" in limit:  # not `if limit`: a compiler takes an empty one for true
                require(limit["holds"](value), self.name, f"{parameter.name} {limit['expected']}", repr(value))
        require(self.task in self.tasks, self.name, f"task of {' or '.join(self.tasks)}", repr(self.task))

    def __call__(self, logits: Logits, target: Target, valid: Valid | None = None, **maps: Tensor) -> PerImage:
        loss = self._of_pixels(self.value, logits, target, valid, maps)
        got, wanted = tuple(loss.shape), (len(logits),)
        require(got == wanted, self.name, f"one number for each image, {wanted}, from its `value`", got)
        if valid is not None:  # an offset or a policy may cost something where there is no pixel
            loss = torch.where(valid.flatten(1).any(1), loss, 0)
        if readable(loss) and not (loss.isfinite() & (self.card.signed | (loss >= 0))).all():
            self.check(logits, target, valid)
        return loss

    def per_class(self, logits: Logits, target: Target, valid: Valid | None = None, **maps: Tensor) -> Tensor:
        """The values (b, classes) that the loss is the mean of; NaN for a class that is skipped."""
        return self._of_pixels(self.by_class, logits, target, valid, maps)

    @abstractmethod
    def value(self, x: Pixels) -> PerImage:
        """The loss of each image (b,)."""

    def by_class(self, x: Pixels) -> Tensor:
        """What `per_class` gives."""
        raise ContractError(f"{self.name}: expected a mean over classes for per_class; call the loss as a whole")

    def with_task(self, task: Task) -> Self:
        """This loss for the classes of a data set."""
        require(isinstance(task, Task), self.name, "a seglab.contract.Task", repr(task), "or set the parameter task")
        return replace(self, task=task.kind)

    def with_class_frequency(self, frequency: Sequence[float]) -> Self:
        """This loss with each `auto` parameter computed from how much of the training masks each class fills.

        frequency: of the foreground alone for a binary task, else of every class in order, as shares of all pixels.
        """
        return self

    def at_epoch(self, history: Sequence[float | None]) -> tuple[Loss, list[int]]:
        """The loss of the epoch that follows `history`, and the epochs at which one loss replaced another.

        `history` is the monitored value of each epoch so far, the larger the better, None without a validation. A
        function of these alone, so that a run that resumes switches where it would have switched.
        """
        return self, []

    def modules(self) -> list[nn.Module]:
        """The modules inside, whose weights go where the loss is computed."""
        return []

    def as_module(self) -> nn.Module:
        """This loss as a module whose output is the mean over the batch, for the trainers of other libraries."""
        return LossModule(self)

    def check(self, logits: Logits, target: Target, valid: Valid | None = None) -> None:
        """Raise one sentence for infinite or NaN logits, targets out of range, soft labels where they are undefined.

        Reads every pixel, so it is for dry runs and for finding out why a loss was not finite.
        """
        require_shapes(self.name, self.task, logits, target, valid)
        require_labels(self.name, self.task, self.soft, logits, target, valid)
        z = logits if valid is None else logits.masked_fill(~valid, 0)
        wrong = z.numel() - int(z.isfinite().count_nonzero())
        require(not wrong, self.name, "finite logits", f"{wrong} NaN or infinite of {z.numel()}")

    @property
    def name(self) -> str:
        """How error messages call this loss."""
        return type(self).__name__

    @property
    def tasks(self) -> tuple[Kind, ...]:
        """The tasks that it has a meaning for."""
        return self.card.tasks

    @property
    def by_totals(self) -> bool:
        """Whether the value is a function of `Pixels.total` alone, which then gives all parts of an image at once."""
        return False

    @property
    def soft(self) -> bool:
        """Whether targets strictly between 0 and 1 are defined."""
        return self.card.soft

    def _of_pixels(self, make: Callable, logits: Tensor, target: Tensor, valid: Tensor | None, maps: Maps) -> Tensor:
        require_shapes(self.name, self.task, logits, target, valid)
        require_maps(self.name, self.needs, logits, maps)
        # shares in [0, 1] are not read each time: out of range they make most losses impossible, which is noticed
        if readable(target) and target.dtype != torch.bool and not (self.soft and target.is_floating_point()):
            require_labels(self.name, self.task, self.soft, logits, target, valid)
        kind = logits.device.type
        casts = torch.amp.is_autocast_available(kind)  # tensors without values (meta) have no autocast
        with torch.autocast(kind, enabled=False) if casts else nullcontext():
            x = pixels_of(self.task, logits, target, valid, maps)
            return make(x).to(x.z.dtype)  # sums are float64


class LossModule(nn.Module):
    """A loss as a module: the mean over the batch."""

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.loss = loss
        for k, module in enumerate(loss.modules()):
            self.add_module(str(k), module)

    def forward(self, logits: Logits, target: Target, valid: Valid | None = None, **maps: Tensor) -> Tensor:
        return self.loss(logits, target, valid, **maps).mean()

    def extra_repr(self) -> str:
        return repr(self.loss)


@dataclass(frozen=True, kw_only=True)
class ClassWeighted(Loss):
    """A loss whose classes may weigh differently: those of a multilabel or multiclass task, see `ClassWeights`."""

    class_weights: ClassWeights = limited(None, "of at least 0, not all 0, auto or null", lambda w: weights_hold(w, 0))

    def with_task(self, task: Task) -> Self:
        given, bound = self.class_weights, super().with_task(task)
        self._require_classes(task.kind)
        if isinstance(given, list | tuple):
            wanted = f"{task.channels} class_weights, of {', '.join(task.classes)}"
            require(len(given) == task.channels, self.name, wanted, len(given))
        if not isinstance(given, Mapping):
            return bound
        known = set(given) == set(task.classes)
        require(known, self.name, f"class_weights of {', '.join(task.classes)}", ", ".join(given))
        return replace(bound, class_weights=tuple(given[name] for name in task.classes))

    def _require_classes(self, task: Kind) -> None:
        given, remedy = self.class_weights, "take loss=weighted_bce"
        require(given is None or task != "binary", self.name, "no class_weights for a binary task", given, remedy)

    def with_class_frequency(self, frequency: Sequence[float]) -> Self:
        count, several = len(frequency), self.task != "binary"
        wanted = "a frequency of each class, a background too" if several else "1 frequency, that of the foreground"
        require(count > (self.task == "multiclass") if several else count == 1, self.name, wanted, frequency)
        if self.class_weights != "auto":
            return self
        require(min(frequency) > 0, self.name, "training masks with all classes", tuple(frequency))
        return replace(self, class_weights=tuple(1 / (len(frequency) * f) for f in frequency))  # as in scikit-learn

    def weights(self, x: Pixels) -> Tensor | None:
        """The weights of the classes (k,), None where all weigh the same."""
        given = self.class_weights
        if given is None:
            return None
        remedy = "call with_task(task) and with_class_frequency(frequency) first"
        require(not isinstance(given, str | Mapping), self.name, "class_weights that are numbers", given, remedy)
        self._require_classes(x.task)
        return constants(x.z, spread(given, x.z.shape[1], self.name))  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class ClassMean(ClassWeighted):
    """A loss that is a mean over classes, of those the task scores (all but a multiclass background) or of all."""

    classes: Literal["scored", "all"] = one_of("scored", "all")

    @abstractmethod
    def each_class(self, x: Pixels) -> Tensor:
        """The loss of each image and class (b, k), the background among them."""

    def counted(self, x: Pixels) -> Tensor | None:
        """Which classes count in the mean of each image (b, k); None where all do."""
        return None

    def value(self, x: Pixels) -> PerImage:
        chosen = self._chosen(x)
        loss, counted, weights = self.each_class(x)[:, chosen], self.counted(x), self.weights(x)
        if counted is None and weights is None:
            return loss.mean(1)
        w = torch.ones_like(loss[:1]) if weights is None else weights[None, chosen].to(loss.dtype)
        if counted is None:
            return ratio((w * loss).sum(1), w.sum(1))
        counted = counted[:, chosen]
        mean = ratio(torch.where(counted, w * loss, 0).sum(1), (w * counted).sum(1))
        some = counted.any(1)  # an image with no class that counts is left out of the batch mean: the others weigh more
        return mean * (some.numel() / some.sum().clamp(min=1))

    def by_class(self, x: Pixels) -> Tensor:
        loss, counted = self.each_class(x), self.counted(x)
        return (loss if counted is None else torch.where(counted, loss, torch.nan))[:, self._chosen(x)]

    def _chosen(self, x: Pixels) -> slice:
        return slice(x.background if self.classes == "scored" else 0, None)


@dataclass(frozen=True, kw_only=True)
class PolicyMean(ClassMean):
    """A mean over classes with a policy for a class that an image lacks, see `Empty`.

    "skip" leaves the class out of the mean of this image, and an image without any class out of the mean of the batch.
    """

    empty: Empty = one_of("complement", "formula", "skip")

    def counted(self, x: Pixels) -> Tensor | None:
        return x.size > 0 if self.empty == "skip" else None
