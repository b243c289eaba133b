"""Base classes of losses: frozen dataclasses whose fields are parameters and whose call returns one value per image."""

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
from seglab.losses.checks import require_labels, require_maps, require_shapes
from seglab.losses.numerics import constants, ratio, readable, spread
from seglab.losses.pixels import Maps, Pixels, pixels_of

ClassWeights: TypeAlias = Mapping[str, float] | tuple[float, ...] | Literal["auto"] | None
"""Class weights by name or in order; `auto` is 1 / (number of classes x class frequency in the training masks)."""

Empty: TypeAlias = Literal["complement", "formula", "skip"]
"""Policy for a class absent from an image: score its complement, apply the formula literally, or skip the class."""

ANY_MASK = "Nothing special: every pixel counts as usual."
BY_POLICY = "By policy: score the rest of the image (complement), apply the formula literally, or skip the mask."
SUM_OVER_CLASSES = "The sum over all classes, including background, of each pixel's share of the class times its term."
MEAN_OVER_CLASSES = "Each class against the rest, then the mean over the scored classes (all but a background)."


@dataclass(frozen=True, kw_only=True)
class Card:
    """The description of a loss in the documentation and the report.

    Args:
        formula: LaTeX in p = sigmoid(z), q = sigmoid(-z), the target t and the number of pixels N.
        empty: what the loss does on a mask without foreground.
        differs: how losses of the same name in smp, MONAI and kornia differ.
        many: how several classes are combined.
        tasks: the supported tasks.
        soft: whether targets strictly between 0 and 1 are supported.
        proper: whether the minimum is then at p = t.
        zero: whether a perfect prediction costs 0.
        signed: whether the loss may be negative.
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
    """Define a loss parameter that is validated on construction; `hashed` must be False for lists and mappings."""
    return field(default=default, hash=hashed, metadata={"expected": expected, "holds": holds})


def within(interval: str, default: float | None, null: bool = False, whole: bool = False) -> Any:
    """Define a number in an interval such as "(0, 1]"; `whole` allows only integers, `null` allows None too."""
    low, high = (float(end) for end in interval[1:-1].split(","))
    closed = [end for end, bracket in ((low, "["), (high, "]")) if bracket in interval]

    def inside(x: Any) -> bool:
        number = isinstance(x, Integral if whole else Real)
        return (null and x is None) or (number and (low < float(x) < high or x in closed))

    return limited(default, f"to be {'an integer ' * whole}in {interval}{' or null' * null}", inside, hashed=True)


def one_of(*choices: str) -> Any:
    """Define a parameter that must be one of `choices`; the first is the default."""
    return limited(choices[0], f"to be {' or '.join(choices)}", choices.__contains__, hashed=True)


def weights_hold(given: Any, least: float) -> bool:
    """Return True for None, "auto", or one or more finite weights that are at least `least` and not all 0."""
    if given is None or given == "auto":
        return True
    weights = list(given.values()) if isinstance(given, Mapping) else given
    numbers = weights if isinstance(weights, list | tuple) else [weights]
    return all(isinstance(w, Real) and least <= float(w) < torch.inf for w in numbers) and any(numbers)


def square(rows: Any) -> bool:
    """Return True for None or a symmetric matrix of finite distances, 0 on the diagonal, with no row of zeros."""
    rows = rows or ()
    fits = all(len(r) == len(rows) and r[i] == min(r) == 0 < max(r) < torch.inf for i, r in enumerate(rows))
    return fits and all(abs(r[j] - rows[j][i]) <= 1e-6 * max(r) for i, r in enumerate(rows) for j in range(i))


@dataclass(frozen=True, kw_only=True)
class Loss(ABC):
    """A loss to minimize; calling it with logits and a target returns one value per image (b,).

    It computes in float32 (float64 for float64 logits), even under autocast. It raises ContractError if shapes do not
    match; on a CPU also for integers out of range and unsupported soft labels, and it runs `check` if the loss is not
    finite, or is negative but not `signed`. On a GPU, reading values would synchronize: call `check` there, which also
    checks float shares.

    Args:
        logits: (b, k, *spatial).
        target: shares (b, k, *spatial) in [0, 1], or class ids (b, 1, *spatial) for task="multiclass"; bool and integer
            targets are hard, float targets are soft.
        valid: (b, 1, *spatial) bool excludes pixels, whatever their logits and target: value and gradient are those of
            the image without them, and an image without valid pixels costs 0.
        maps: (b, k, *spatial), the maps named in `needs`.
    """

    task: Kind = one_of(*KINDS)

    card: ClassVar[Card] = Card()
    needs: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for parameter in fields(self):
            value, limit = getattr(self, parameter.name), parameter.metadata
            if isinstance(value, Tensor) or type(value).__module__ == "numpy":  # these do not compare like numbers
                value = value.tolist()
                object.__setattr__(self, parameter.name, value)
            if "holds" in limit:  # not `if limit`: torch.compile treats an empty one as true
                require(limit["holds"](value), self.name, f"{parameter.name} {limit['expected']}", repr(value))
        require(self.task in self.tasks, self.name, f"task to be {' or '.join(self.tasks)}", repr(self.task))

    def __call__(self, logits: Logits, target: Target, valid: Valid | None = None, **maps: Tensor) -> PerImage:
        loss = self._of_pixels(self.value, logits, target, valid, maps)
        got, expected = tuple(loss.shape), (len(logits),)
        require(got == expected, self.name, f"its `value` to return one number per image, {expected}", got)
        if valid is not None:  # an offset or a policy may cost something without valid pixels
            loss = torch.where(valid.flatten(1).any(1), loss, 0)
        if readable(loss) and not (loss.isfinite() & (self.card.signed | (loss >= 0))).all():
            self.check(logits, target, valid)
        return loss

    def per_class(self, logits: Logits, target: Target, valid: Valid | None = None, **maps: Tensor) -> Tensor:
        """Return the loss of each class (b, classes), of which the loss is the mean; NaN for a skipped class."""
        return self._of_pixels(self.by_class, logits, target, valid, maps)

    @abstractmethod
    def value(self, x: Pixels) -> PerImage:
        """Compute the loss of each image (b,)."""

    def by_class(self, x: Pixels) -> Tensor:
        """Compute the result of `per_class`; raises ContractError if the loss is not a mean over classes."""
        raise ContractError(f"{self.name}: expected a mean over classes, as per_class requires; call the loss itself")

    def with_task(self, task: Task) -> Self:
        """Return this loss for the task of a dataset."""
        require(isinstance(task, Task), self.name, "a seglab.contract.Task", repr(task), "pass one, or set task=...")
        return replace(self, task=task.kind)

    def with_class_frequency(self, frequency: Sequence[float]) -> Self:
        """Return this loss with each `auto` parameter computed from the class frequencies in the training masks.

        frequency: fractions of all pixels, of the foreground only for a binary task, else of every class in order.
        """
        return self

    def at_epoch(self, history: Sequence[float | None]) -> tuple[Loss, list[int]]:
        """Return the loss of the epoch after `history`, and the epochs at which one loss replaced another.

        `history` holds the monitored value of each epoch so far; larger is better, None is an epoch without validation.
        The result depends on nothing else, so that a resumed run switches at the same epochs.
        """
        return self, []

    def modules(self) -> list[nn.Module]:
        """Return the modules inside this loss, whose weights must be on the device of the logits."""
        return []

    def as_module(self) -> nn.Module:
        """Return this loss as a module that outputs the mean over the batch, for the trainers of other libraries."""
        return LossModule(self)

    def check(self, logits: Logits, target: Target, valid: Valid | None = None) -> None:
        """Raise ContractError for infinite or NaN logits, targets out of range, or soft labels if not supported.

        Reads every pixel, so use it in dry runs and to find out why a loss was not finite.
        """
        require_shapes(self.name, self.task, logits, target, valid)
        require_labels(self.name, self.task, self.soft, logits, target, valid)
        z = logits if valid is None else logits.masked_fill(~valid, 0)
        invalid = z.numel() - int(z.isfinite().count_nonzero())
        require(not invalid, self.name, "finite logits", f"{invalid} of {z.numel()} that are NaN or infinite")

    @property
    def name(self) -> str:
        """The name of this loss in error messages."""
        return type(self).__name__

    @property
    def tasks(self) -> tuple[Kind, ...]:
        """The tasks that this loss supports."""
        return self.card.tasks

    @property
    def by_totals(self) -> bool:
        """Whether the value depends on `Pixels.total` alone, so that all parts of an image are computed at once."""
        return False

    @property
    def soft(self) -> bool:
        """Whether targets strictly between 0 and 1 are supported."""
        return self.card.soft

    def _of_pixels(self, compute: Callable, logits: Tensor, target: Tensor, valid: Tensor | None, maps: Maps) -> Tensor:
        require_shapes(self.name, self.task, logits, target, valid)
        require_maps(self.name, self.needs, logits, maps)
        # float shares are not read in each call: out of range, most losses turn negative or NaN, which __call__ notices
        if readable(target) and target.dtype != torch.bool and not (self.soft and target.is_floating_point()):
            require_labels(self.name, self.task, self.soft, logits, target, valid)
        kind = logits.device.type
        with nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False):  # meta tensors have no autocast
            x = pixels_of(self.task, logits, target, valid, maps)
            return compute(x).to(x.z.dtype)  # sums are float64


class LossModule(nn.Module):
    """A module that returns the mean of a loss over the batch."""

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
    """A loss with optional class weights for multilabel and multiclass tasks, see `ClassWeights`."""

    class_weights: ClassWeights = limited(None, "to be >= 0 and not all 0, auto or null", lambda w: weights_hold(w, 0))

    def with_task(self, task: Task) -> Self:
        weights, bound = self.class_weights, super().with_task(task)
        self._require_classes(task.kind)
        if isinstance(weights, list | tuple):
            expected = f"{task.channels} class_weights, one each for {', '.join(task.classes)}"
            require(len(weights) == task.channels, self.name, expected, len(weights))
        if not isinstance(weights, Mapping):
            return bound
        complete = set(weights) == set(task.classes)
        require(complete, self.name, f"class_weights for {', '.join(task.classes)}", ", ".join(weights))
        return replace(bound, class_weights=tuple(weights[name] for name in task.classes))

    def _require_classes(self, task: Kind) -> None:
        weights, remedy = self.class_weights, "use loss=weighted_bce"
        require(weights is None or task != "binary", self.name, "no class_weights for a binary task", weights, remedy)

    def with_class_frequency(self, frequency: Sequence[float]) -> Self:
        count, several = len(frequency), self.task != "binary"
        expected = f"one frequency for {'every class, including a background' if several else 'the foreground'}"
        require(count > (self.task == "multiclass") if several else count == 1, self.name, expected, frequency)
        if self.class_weights != "auto":
            return self
        got = f"class frequencies of {tuple(frequency)}"
        require(min(frequency) > 0, self.name, "training masks that contain every class", got, "set class_weights")
        return replace(self, class_weights=tuple(1 / (len(frequency) * f) for f in frequency))  # as in scikit-learn

    def weights(self, x: Pixels) -> Tensor | None:
        """Return the class weights (k,), or None if all classes have the same weight."""
        weights = self.class_weights
        if weights is None:
            return None
        remedy = "call with_task(task) and with_class_frequency(frequency) first"
        require(not isinstance(weights, str | Mapping), self.name, "numeric class_weights", weights, remedy)
        self._require_classes(x.task)
        return constants(x.z, spread(weights, x.z.shape[1], self.name))  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class ClassMean(ClassWeighted):
    """A mean over classes: over the scored ones (all but the background of a multiclass task) or over all."""

    classes: Literal["scored", "all"] = one_of("scored", "all")

    @abstractmethod
    def each_class(self, x: Pixels) -> Tensor:
        """Compute the loss of each image and class (b, k), including the background."""

    def counted(self, x: Pixels) -> Tensor | None:
        """Return which classes count in the mean of each image (b, k), or None if all do."""
        return None

    def value(self, x: Pixels) -> PerImage:
        channels = self._averaged_channels(x)
        loss, counted, weights = self.each_class(x)[:, channels], self.counted(x), self.weights(x)
        if counted is None and weights is None:
            return loss.mean(1)
        w = torch.ones_like(loss[:1]) if weights is None else weights[None, channels].to(loss.dtype)
        if counted is None:
            return ratio((w * loss).sum(1), w.sum(1))
        counted = counted[:, channels]
        mean = ratio(torch.where(counted, w * loss, 0).sum(1), (w * counted).sum(1))
        scored = counted.any(1)  # an image without counted classes is left out of the batch mean: the others weigh more
        return mean * (scored.numel() / scored.sum().clamp(min=1))

    def by_class(self, x: Pixels) -> Tensor:
        loss, counted = self.each_class(x), self.counted(x)
        return (loss if counted is None else torch.where(counted, loss, torch.nan))[:, self._averaged_channels(x)]

    def _averaged_channels(self, x: Pixels) -> slice:
        return slice(x.background if self.classes == "scored" else 0, None)


@dataclass(frozen=True, kw_only=True)
class PolicyMean(ClassMean):
    """A mean over classes with a policy for classes absent from an image, see `Empty`.

    "skip" leaves absent classes out of the mean of the image, and images without any class out of the batch mean.
    """

    empty: Empty = one_of("complement", "formula", "skip")

    def counted(self, x: Pixels) -> Tensor | None:
        return x.size > 0 if self.empty == "skip" else None
