"""Probabilities of pixels relative to their labels, in terms of which the formulas of pixel losses are written."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from seglab.losses.numerics import Sigmoid, once

EXACT = 40.0
"""From this x on, log(1 + e^x) equals x in float64; torch's default threshold of 20 is meant for float32."""


class Label:
    """One of two classes, given by the logit of the other one. `foreground()` is 0 for the background, else 1."""

    def __init__(self, wrong_logit: Tensor, foreground: Callable[[], Tensor]) -> None:
        self.wrong_logit, self.foreground = wrong_logit, foreground

    @once
    def p(self) -> Tensor:
        """The probability of the class."""
        return Sigmoid.apply(self.wrong_logit, True)

    @once
    def q(self) -> Tensor:
        """The probability of all other classes, exact where 1 - p is not."""
        return Sigmoid.apply(self.wrong_logit, False)

    @once
    def nll(self) -> Tensor:
        """-log p, the negative log-likelihood."""
        return F.softplus(self.wrong_logit, threshold=EXACT)

    @once
    def nll_others(self) -> Tensor:
        """The mean of -log p over the other classes; -log q if there is only one."""
        return F.softplus(-self.wrong_logit, threshold=EXACT)

    def q_to(self, exponent: float) -> Tensor:
        """Return q ** exponent, with a finite gradient for any exponent."""
        if exponent >= 1:
            return self.q**exponent
        return torch.exp(exponent * (self.wrong_logit - self.nll))  # log q, exact enough for a root
