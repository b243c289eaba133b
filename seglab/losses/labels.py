"""Pixels as the class sees them that they are labeled with: what the formula of a pixel loss is written in."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from seglab.losses.numerics import Sigmoid, once


class Label:
    """One of two classes, whose probability is the sigmoid of a margin. `foreground()`: 0 for a background, else 1."""

    def __init__(self, margin: Tensor, foreground: Callable[[], Tensor]) -> None:
        self.margin, self.foreground = margin, foreground

    @once
    def p(self) -> Tensor:
        """The probability of the class."""
        return Sigmoid.apply(self.margin, False)

    @once
    def q(self) -> Tensor:
        """The probability of all other classes, exact where 1 - p is not."""
        return Sigmoid.apply(self.margin, True)

    @once
    def nll(self) -> Tensor:
        """-log p, the negative log-likelihood."""
        return F.logsigmoid(self.margin).neg_()  # whose backward pass does not need its result

    @once
    def nll_others(self) -> Tensor:
        """The mean of -log p of the other classes: -log q where there is one other."""
        return F.logsigmoid(-self.margin).neg_()

    def q_to(self, exponent: float) -> Tensor:
        """q ** exponent, with a finite slope for any exponent."""
        if exponent >= 1:
            return self.q**exponent
        return torch.exp(-exponent * (self.nll + self.margin))  # log q is log p - margin, exact enough for a root
