"""Run-length encoded masks, as in the Airbus Ship Detection challenge: pairs of start and length.

Starts count from 1 down the columns of the mask (column-major order). Nothing here loops over runs or pixels.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seglab.contract import ContractError, require

Shape = tuple[int, int]


@dataclass(frozen=True)
class Runs:
    """The runs of many objects: `starts` (from 0), `lengths` in pixels, and `owners`, the numbers of their objects."""

    starts: np.ndarray
    lengths: np.ndarray
    owners: np.ndarray

    def slice(self, first: int, last: int) -> "Runs":
        """Give the runs number `first` to `last`, without the latter."""
        return Runs(self.starts[first:last], self.lengths[first:last], self.owners[first:last])

    def positions(self) -> np.ndarray:
        """List every pixel of every run, as its place in column-major order: int32.

        Within a run the places grow by 1, from run to run by the gap between them: one cumulative sum of the steps.
        """
        steps = np.ones(int(self.lengths.sum()), np.int32)
        if len(steps):
            first = np.cumsum(self.lengths[:-1])
            steps[0] = self.starts[0]
            steps[first] = self.starts[1:] - (self.starts + self.lengths - 1)[:-1]
        return np.cumsum(steps, out=steps)


def parse(texts: Sequence[str], names: Sequence[str]) -> Runs:
    """Read the runs of many objects at once; `names` are for the sentence about one that is malformed.

    >>> parse(["3 2 7 1"], ["a"])
    Runs(starts=array([2, 6]), lengths=array([2, 1]), owners=array([0, 0]))
    """
    # One pass over one long text, in which -1 separates the objects, is ten times faster than a list of words for each.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # numpy before 2.3 warns of text that is no number ...
        try:
            numbers = np.fromstring(" -1 ".join([*texts, ""]), np.int64, sep=" ")
        except ValueError:  # ... and later ones raise
            numbers = np.zeros(0, np.int64)
    ends = np.flatnonzero(numbers < 0)
    if len(ends) != len(texts):
        wrong = next(k for k, text in enumerate(texts) if text.strip() and not text.replace(" ", "").isdigit())
        raise ContractError(f"runs of {names[wrong]}: expected whole numbers, got {texts[wrong][:60]!r}")
    counts = np.diff(ends, prepend=-1) - 1
    for odd in np.flatnonzero(counts % 2)[:1]:
        require(False, f"runs of {names[odd]}", "pairs of start and length", f"{counts[odd]} numbers")
    pairs = np.delete(numbers, ends).reshape(-1, 2)
    return Runs(pairs[:, 0] - 1, pairs[:, 1], np.repeat(np.arange(len(texts)), counts // 2))


def check(runs: Runs, shape: Shape, name: str) -> None:
    """Raise one sentence where a run is empty, leaves the image, or overlaps another."""
    who, order = f"runs of {name}", np.argsort(runs.starts, kind="stable")
    starts, ends = runs.starts[order], (runs.starts + runs.lengths)[order]
    require(bool((runs.lengths > 0).all()), who, "lengths above 0", runs.lengths.min(initial=0))
    pixels = shape[0] * shape[1]
    first, last = starts.min(initial=pixels) + 1, ends.max(initial=0)
    require(first >= 1 and last <= pixels, who, f"runs within 1 to {pixels}", f"{first} to {last}")
    overlaps = np.flatnonzero(starts[1:] < ends[:-1])
    require(not len(overlaps), who, "runs that do not overlap", f"{len(overlaps)} overlaps")


def paint(runs: Runs, shape: Shape) -> np.ndarray:
    """Draw the mask (h, w) uint8 of all runs together."""
    mask = np.zeros(shape[0] * shape[1], np.uint8)
    mask[runs.positions()] = 1
    return mask.reshape(shape[::-1]).T


def instances(runs: Runs, shape: Shape) -> np.ndarray:
    """Draw each object in its own number, from 1 in order of appearance: (h, w) int32, 0 elsewhere."""
    labels = np.zeros(shape[0] * shape[1], np.int32)
    numbers = np.unique(runs.owners, return_inverse=True)[1] + 1
    labels[runs.positions()] = np.repeat(numbers, runs.lengths)
    return labels.reshape(shape[::-1]).T
