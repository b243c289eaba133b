"""Pixels as the class sees them that they are labeled with: what the formula of a pixel loss is written in."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from seglab.losses.numerics import once, sigmoid


class Label:
    """One of two classes, whose probability is the sigmoid of a margin. `foreground()`: where it is no background."""

    def __init__(self, margin: Tensor, foreground: Callable[[], Tensor]) -> None:
        self.margin, self.foreground = margin, foreground

    @once
    def p(self) -> Tensor:
        """The probability of the class."""
        return sigmoid(self.margin)

    @once
    def q(self) -> Tensor:
        """The probability of all other classes, exact where 1 - p is not."""
        return sigmoid(-self.margin)

    @once
    def log_p(self) -> Tensor:
        return F.logsigmoid(self.margin)

    @once
    def log_others(self) -> Tensor:
        """The mean of log p of the other classes: log q where there is one other."""
        return F.logsigmoid(-self.margin)


class OtherLabel(Label):
    """The other one of two classes."""

    def __init__(self, label: Label, foreground: Callable[[], Tensor]) -> None:
        self.label, self.foreground = label, foreground

    p = property(lambda self: self.label.q)
    q = property(lambda self: self.label.p)
    log_p = property(lambda self: self.label.log_others)
    log_others = property(lambda self: self.label.log_p)
