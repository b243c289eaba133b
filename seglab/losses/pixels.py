"""The pixels of a batch as losses use them: logits, probabilities, labels and sums, each computed at most once.

Two classes implement the tasks: `SigmoidPixels` (binary and multilabel: each channel is a separate decision between
background and foreground) and `SoftmaxPixels` (multiclass: one decision among all classes). Everything is float32, or
float64 for float64 logits. Invalid pixels have no label and logits of 0, so that they do not contribute to sums.

No cached value refers to its `Pixels`: a reference cycle would keep the tensors of a step until garbage collection.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import partial
from typing import ClassVar, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from seglab.contract import Kind, Logits, Target, Valid
from seglab.losses.labels import Label
from seglab.losses.numerics import Confusion, Parts, WrongSums, ZeroAt, constants, exact, is_hard, once, power, spread

Maps: TypeAlias = Mapping[str, Tensor]

TOTALS = {"_n", "_size", "_confusion", "_sizes", "_all_classes"}
"""The cached values of `Pixels` that are totals of whole images."""


class Pixels(ABC):
    """Logits `z` (b, k, n) and target of the n pixels of each image, and the values derived from them.

    t: the share of each class in each pixel (b, k, n). p: its probability. q: 1 - p, exact where the difference is not.
    decided: whether the class is predicted. false_positive, false_negative: what each pixel adds to those of a class.
    sizes, all_classes: pixel count and confusion of all classes of each decision (b, d, classes), see `costs`.
    all_logits, all_shares, all_probabilities: per pixel (b, classes, d, n); a background without a logit has logit 0.
    maps: further values of each pixel and class (b, k, n), by name. valid: (b, 1, n) bool, None if all are valid.
    hard: whether labels are known to be 0 or 1: from dtype and shape, or from the values on a CPU, see is_hard.
    """

    t: Tensor
    p: Tensor
    q: Tensor
    decided: Tensor
    false_positive: Tensor
    false_negative: Tensor
    sizes: Tensor
    all_classes: Confusion
    all_logits: Tensor
    all_shares: Tensor
    all_probabilities: Tensor

    parts: Parts | None = None
    background: ClassVar[int]
    """The number of leading background channels, which a mean over the scored classes leaves out."""

    def __init__(self, task: Kind, logits: Logits, target: Target, valid: Valid | None, maps: Maps) -> None:
        self.task, self.space = task, logits.shape[2:]
        self.valid = None if valid is None else valid.flatten(2)
        z = logits if logits.dtype == torch.float64 else logits.float()  # cast first, even under autocast
        if target.dtype == torch.bool:
            target = target.view(torch.uint8)  # a CPU converts uint8 to float seven times as fast
        self.z, self.target = self._zeroed(z.flatten(2)), self._zeroed(target.flatten(2))
        self.hard = target.shape != logits.shape if task == "multiclass" else is_hard(self.target)
        self.maps = {name: self._zeroed(m.flatten(2).to(self.z.dtype)) for name, m in maps.items()}

    def _zeroed(self, x: Tensor) -> Tensor:
        """Return x with 0 at invalid pixels; a product would keep NaN."""
        return x if self.valid is None else x.masked_fill(~self.valid, 0)

    def masked(self, x: Tensor) -> Tensor:
        """Return x, which must be finite, with 0 at invalid pixels."""
        return x if self.valid is None else x * self.weight

    def spatial(self, x: Tensor) -> Tensor:
        """Reshape (b, k, n) to (b, k, *spatial)."""
        return x.unflatten(2, self.space)

    def rebuilt(self, change: Callable[[Tensor], Tensor], valid: Tensor | None = None) -> Pixels:
        """Return new pixels, with `change` applied to logits, target, `valid` and maps (b, c, *spatial)."""
        z, target, *maps = (change(self.spatial(v)) for v in (self.z, self.target, *self.maps.values()))
        valid = self.valid if valid is None else valid
        valid = None if valid is None else change(self.spatial(valid))
        return type(self)(self.task, z, target, valid, dict(zip(self.maps, maps, strict=True)))

    def pooled(self) -> Pixels:
        """Return the whole batch as one image, stacked along the first spatial axis."""
        return self.rebuilt(lambda v: v.transpose(0, 1).flatten(1, 2).unsqueeze(0))

    def in_parts(self, parts: Parts) -> Pixels:
        """Return the same pixels with totals (b * (count + 1), k) of each part of each image and of the whole image."""
        x = copy(self)
        x.__dict__ = {name: v for name, v in vars(self).items() if name not in TOTALS} | {"parts": parts}
        return x

    def total(self, x: Tensor) -> Tensor:
        """Sum x (b, k, n) over the pixels of each image (b, k), or of each part, see `in_parts`."""
        return exact(x.sum(-1)) if self.parts is None else self.parts.totals(self.parts.sums(x))

    @abstractmethod
    def costs(self, cost: Callable[[Label], Tensor], weights: Tensor | None = None) -> Tensor:
        """Compute the cost of each pixel (b, d, n): the sum over the classes of weight times class share times `cost`.

        d is the number of decisions: one between background and foreground per channel of a binary or multilabel task,
        one in total for a multiclass task. weights: (b or 1, d or 1, classes of the decision), as `balance` returns.
        """

    @abstractmethod
    def balance(self, background: float, foreground: float | Sequence[float]) -> Tensor:
        """Return class weights (1, d, classes), given that of the background and one or several for the foreground."""

    @once
    def n(self) -> Tensor:
        """The number of valid pixels of each image (b, 1)."""
        if self.parts is not None:
            return self.parts.totals(self.parts.sizes)
        all_count = exact(torch.zeros_like(self.z[:, :1, 0])) + self.z.shape[-1]  # float32 counts only to 2^24
        return all_count if self.valid is None else exact(self.valid.sum(-1))

    @once
    def weight(self) -> Tensor:
        """1 for valid pixels, else 0: (b, 1, n)."""
        return torch.ones_like(self.z[:, :1]) if self.valid is None else self.valid.to(self.z.dtype)

    @once
    def u(self) -> Tensor:
        """The share of all other classes, 1 - t."""
        return (1 if self.valid is None else self.weight) - self.t

    @once
    def error(self) -> Tensor:
        """p - t, exact where p is close to 1."""
        return self.false_positive - self.false_negative

    @once
    def squared_error(self) -> Tensor:
        """(p - t)^2 of each pixel and class."""
        return self.error.square()

    @once
    def size(self) -> Tensor:
        """The number of pixels of each class (b, k)."""
        return self.total(self.t)

    @once
    def confusion(self) -> Confusion:
        """The soft confusion of each image and class (b, k), or of each part, see `in_parts`; in pixels."""
        fp, fn = self._false_counts()
        return Confusion(self.size - fn, fp, fn, self.n - self.size - fp)

    def _false_counts(self) -> tuple[Tensor, Tensor]:  # a method: compilers cannot trace `super().confusion`
        return self.total(self.false_positive), self.total(self.false_negative)


class SigmoidPixels(Pixels):
    """Pixels of a binary or multilabel task."""

    background = 0

    @once
    def t(self) -> Tensor:
        return self.target.to(self.z.dtype)

    p = property(lambda self: self.as_background.q)
    q = property(lambda self: self.as_background.p)
    decided = property(lambda self: self.z > 0)

    @once
    def wrong_logit(self) -> Tensor:
        """The logit of the class that a pixel does not have, for hard labels; 0, like z, at invalid pixels."""
        # in place in one copy, without `t`: allocating memory is the largest cost on a CPU
        return self.z * self.target.to(self.z.dtype, copy=True).mul_(-2).add_(1)

    @once
    def labeled(self) -> Label:
        """The `Label` of each pixel's own class, for hard labels: one exponential is enough, whichever the class."""
        return Label(self.wrong_logit, partial(self.target.to, self.z.dtype))  # a lambda would refer to self

    @once
    def as_foreground(self) -> Label:
        return Label(-self.z, partial(self.z.new_ones, ()))  # one number is enough for `foreground()`

    @once
    def as_background(self) -> Label:
        return Label(self.z, partial(self.z.new_zeros, ()))

    def costs(self, cost: Callable[[Label], Tensor], weights: Tensor | None = None) -> Tensor:
        if self.hard:
            costs = self.masked(cost(self.labeled))
            return costs if weights is None else costs * torch.lerp(weights[..., :1], weights[..., 1:], self.t)
        t, u = (self.t, self.u) if weights is None else (self.t * weights[..., 1:], self.u * weights[..., :1])
        return t * cost(self.as_foreground) + u * cost(self.as_background)

    def balance(self, background: float, foreground: float | Sequence[float]) -> Tensor:
        weights = constants(self.z, spread(foreground, self.z.shape[1]))
        return torch.stack([torch.full_like(weights, background), weights], -1)[None]

    @once
    def sizes(self) -> Tensor:
        return torch.stack([self.n - self.size, self.size], -1)

    @once
    def squared_error(self) -> Tensor:
        return self.masked(self.labeled.q).square() if self.hard else self.error.square()

    def _false_counts(self) -> tuple[Tensor, Tensor]:
        if not self.hard:
            return super()._false_counts()
        if self.parts is not None or "_squared_error" in vars(self):  # for parts, or if `labeled.q` is cached
            wrong, fn = self.total(self.masked(self.labeled.q)), self.total(self.false_negative)
        else:
            z = self.z if self.valid is None else self.z.masked_fill(~self.valid, -1e4)  # probability and gradient 0
            wrong, fn = (exact(s) for s in WrongSums.apply(z, self.t))
        return wrong - fn, fn

    @once
    def all_classes(self) -> Confusion:
        pairs = zip(self.confusion.swapped(), self.confusion, strict=True)
        return Confusion(*(torch.stack(pair, -1) for pair in pairs))

    all_logits = property(lambda self: torch.stack([torch.zeros_like(self.z), self.z], 1))
    all_shares = property(lambda self: torch.stack([self.u, self.t], 1))
    all_probabilities = property(lambda self: torch.stack([self.q, self.p], 1))

    # not cached: computing them is faster than allocating memory for them
    false_positive = property(lambda self: (self.labeled.q if self.hard else self.p) * self.u)
    false_negative = property(lambda self: (self.labeled.q if self.hard else self.q) * self.t)


class SoftmaxPixels(Pixels):
    """Pixels of a multiclass task: ids (b, 1, n) for hard labels, shares (b, k, n) for soft labels."""

    background = 1

    @once
    def ids(self) -> Tensor:
        return self.target.long()

    def _at_label(self, x: Tensor) -> Tensor:
        """Put x (b, 1, n) into the channel of each pixel's class and 0 into the others."""
        return self.z.new_zeros(()).expand_as(self.z).scatter(1, self.ids, x)  # expanded zeros take no memory

    @once
    def size(self) -> Tensor:
        if not self.hard or self.parts is not None:
            return self.total(self.t)
        ids = self.ids if self.valid is None else self.ids.masked_fill(~self.valid, -1)  # no class
        return exact(torch.stack([(ids == c).sum((1, 2)) for c in range(self.z.shape[1])], 1))

    @once
    def t(self) -> Tensor:
        return self._at_label(self.weight) if self.hard else self.target.to(self.z.dtype)

    @once
    def p(self) -> Tensor:
        return F.softmax(self.z, 1)

    @once
    def log_p(self) -> Tensor:
        return F.log_softmax(self.z, 1)

    @once
    def q(self) -> Tensor:
        top = self.z.argmax(1, keepdim=True)  # only the most probable class can be so close to 1 that 1 - p is noise
        others = ZeroAt.apply(self.p, top).sum(1, keepdim=True)
        return (1 - self.p).scatter(1, top, others)

    @once
    def decided(self) -> Tensor:
        return torch.zeros_like(self.z, dtype=torch.bool).scatter(1, self.z.argmax(1, keepdim=True), True)

    @property  # not cached: it refers to its Pixels
    def labeled(self) -> SoftmaxLabel:
        """The `Label` of each pixel's own class for hard labels, of every class for soft labels."""
        if self.hard:
            return SoftmaxLabel(self, lambda x: x.gather(1, self.ids), lambda: (self.ids > 0).to(self.z.dtype))
        classes = torch.arange(self.z.shape[1], device=self.z.device).view(1, -1, 1)
        return SoftmaxLabel(self, lambda x: x, lambda: (classes > 0).to(self.z.dtype))

    def costs(self, cost: Callable[[Label], Tensor], weights: Tensor | None = None) -> Tensor:
        w = None if weights is None else weights.transpose(1, 2)
        if not self.hard:
            t = self.t if w is None else self.t * w
            return (t * cost(self.labeled)).sum(1, keepdim=True)
        costs = self.masked(cost(self.labeled))
        return costs if w is None else costs * w.expand_as(self.z).gather(1, self.ids)  # of the pixel's class

    def balance(self, background: float, foreground: float | Sequence[float]) -> Tensor:
        return constants(self.z, [background, *spread(foreground, self.z.shape[1] - 1)])[None, None]

    sizes = property(lambda self: self.size.unsqueeze(1))
    all_classes = property(lambda self: Confusion(*(cell.unsqueeze(1) for cell in self.confusion)))
    all_logits = property(lambda self: self.z.unsqueeze(2))
    all_shares = property(lambda self: self.t.unsqueeze(2))
    all_probabilities = property(lambda self: self.p.unsqueeze(2))

    @once
    def false_positive(self) -> Tensor:
        return self.masked(ZeroAt.apply(self.p, self.ids)) if self.hard else self.p * self.u

    @once
    def squared_error(self) -> Tensor:
        if not self.hard:
            return self.error.square()
        return self.false_positive.square() + self._at_label(self.q_of_label.square())

    # not cached: computing it is faster than allocating memory for it
    false_negative = property(lambda self: self._at_label(self.q_of_label) if self.hard else self.q * self.t)

    @once
    def q_of_label(self) -> Tensor:
        """The probability of all classes except the pixel's own (b, 1, n)."""
        return self.false_positive.sum(1, keepdim=True)


class SoftmaxLabel(Label):
    """One of many classes; `pick` selects its channel (b, 1, n) from (b, k, n), or keeps all k."""

    def __init__(self, x: SoftmaxPixels, pick: Callable[[Tensor], Tensor], foreground: Callable[[], Tensor]) -> None:
        self.x, self.pick, self.foreground = x, pick, foreground

    @once
    def p(self) -> Tensor:
        return self.pick(self.x.p)

    @once
    def q(self) -> Tensor:
        return self.x.q_of_label if self.x.hard else self.x.q

    @once
    def nll(self) -> Tensor:
        return -self.pick(self.x.log_p)

    @once
    def nll_others(self) -> Tensor:
        return -(self.x.log_p.sum(1, keepdim=True) + self.nll) / (self.x.z.shape[1] - 1)  # all but its own class

    def q_to(self, exponent: float) -> Tensor:
        return power(self.q, exponent)


def pixels_of(task: Kind, logits: Logits, target: Target, valid: Valid | None, maps: Maps) -> Pixels:
    """Return the pixels of a batch for a task."""
    return (SoftmaxPixels if task == "multiclass" else SigmoidPixels)(task, logits, target, valid, maps)
