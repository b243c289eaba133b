"""The line that every benchmark is reported in: a cost, and its ratio to something measured beside it."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One line of a benchmark: milliseconds of processor time, and their ratio to the line `beside`."""

    what: str
    milliseconds: float
    ratio: float
    beside: str
