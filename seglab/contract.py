"""The shapes that every part of seglab agrees on, and the one sentence that says which part broke them.

This file is the ground floor: everything may import it, and it imports neither torch nor anything of seglab,
so that the analysis of a finished sweep opens in a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

Image: TypeAlias = "Tensor"
"""(b, c, h, w): uint8 as it was decoded until it is on the device, then float32, normalised."""

Logits: TypeAlias = "Tensor"
"""(b, 1, *spatial): raw scores; the sigmoid belongs to whoever needs a probability."""

Target: TypeAlias = "Tensor"
"""(b, 1, *spatial): the share of foreground in each pixel, in [0, 1]; bool, integer or float."""

PerImage: TypeAlias = "Tensor"
"""(b,): one number per image; the mean over the batch belongs to the caller."""


class ContractError(ValueError):
    """Somebody broke an agreement; the message is one sentence that a user can act upon."""


def require(ok: bool, who: str, expected: str, got: object = None, remedy: str = "") -> None:
    """Raise a one-sentence ContractError unless `ok`: who, what was expected, what came, and the remedy if known.

    >>> require(False, "model", "a height and width divisible by 32", "500x500", "set dataset.size=512")
    Traceback (most recent call last):
    seglab.contract.ContractError: model: expected a height and width divisible by 32, got 500x500; set dataset.size=512
    """
    if not ok:
        came = "" if got is None else f", got {got}"
        raise ContractError(f"{who}: expected {expected}{came}" + (f"; {remedy}" if remedy else ""))
