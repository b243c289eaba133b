"""What a sweep shows, in words: better, equivalent, or how many more seeds would decide.

A difference smaller than `delta` does not matter to anybody; `alpha` is the family-wise error rate: the probability,
over all pairs of the sweep together, of "better" for losses that do not differ.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from scipy import special

from seglab.reporting.stats import Comparison

MOST_SEEDS = 50
POWER = 0.8
_NODES = 256
Kind = Literal["better", "equivalent", "unknown", "none"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One pair's verdict; `more_seeds` is how many further seeds would decide it: 0 if decided, None if none would."""

    pair: Comparison
    kind: Kind
    delta: float
    confidence: float
    more_seeds: int | None = 0

    @property
    def words(self) -> str:
        """The verdict as a sentence, with the difference and its interval."""
        first, second = self.pair.first, self.pair.second
        gap = abs(self.pair.difference)
        if self.kind == "none":
            lacking = "seed" if self.pair.seeds < 2 else "group of test images"
            return f"{first} against {second}: no verdict from one {lacking} (difference {gap:.3f}); add a second."
        sign = 1 if self.pair.difference >= 0 else -1  # where less is better the size is reported, not the direction
        low, high = sorted((sign * self.pair.low, sign * self.pair.high))
        interval = f"{self.confidence:.0%} interval {_signed(low)} to {_signed(high)}"
        if self.kind == "better":
            return f"{first} is better than {second} by {gap:.3f} ({interval})."
        if self.kind == "equivalent":
            return f"{first} and {second} are equivalent within {self.delta:g} (difference {gap:.3f}, {interval})."
        return f"{first} against {second}: cannot tell (difference {gap:.3f}, {interval}); {self._remedy}."

    @property
    def _remedy(self) -> str:
        if self.more_seeds is None:
            return f"{MOST_SEEDS} more seeds would not decide, more test images might"
        return f"about {self.more_seeds} more seed{'s' * (self.more_seeds != 1)} would decide"


def _signed(value: float) -> str:
    return f"{value:.3f}".replace("-", "−") if abs(value) >= 0.0005 else "0.000"


def judge(pairs: list[Comparison], *, delta: float = 0.01, confidence: float = 0.95) -> list[Verdict]:
    """Give each pair of `compare` its verdict, in the same order.

    "better" needs Holm's adjusted p below 1 - confidence; "equivalent" needs the pair's interval inside +-delta, and
    goes first: a difference that is certain but smaller than delta is still one that does not matter.
    """
    alpha = 1 - confidence
    verdicts = []
    for pair in pairs:
        kind = _kind(pair, delta, alpha)
        more = more_seeds(pair, delta, alpha, alpha / len(pairs)) if kind == "unknown" else 0
        verdicts.append(Verdict(pair=pair, kind=kind, delta=delta, confidence=confidence, more_seeds=more))
    return verdicts


def _kind(pair: Comparison, delta: float, alpha: float) -> Kind:
    if not np.isfinite(pair.p):
        return "none"
    if max(abs(pair.low), abs(pair.high)) < delta:
        return "equivalent"
    return "better" if pair.p_holm <= alpha else "unknown"


class Noise(NamedTuple):
    """The variance of a difference: of one seed's mean difference, and that through the test images.

    `groups` is the number of independent images, `prior` the prior degrees of freedom for each of a pair's own (0 for
    two losses).
    """

    one_seed: float
    images: float
    groups: int
    prior: float = 0.0

    @classmethod
    def of(cls, pair: Comparison) -> Noise:
        """The noise that was measured for a pair of `compare`."""
        prior = pair.prior / (pair.seeds - 1)
        one_seed = pair.seed_variance * pair.seeds
        return cls(one_seed=one_seed, images=pair.image_variance, groups=pair.groups, prior=prior)

    def freedom(self, seeds: int) -> float:
        """Degrees of freedom of the seeds' part."""
        return (seeds - 1) * (1 + self.prior)


def power(difference: float, noise: Noise, *, seeds: int, alpha: float) -> float:
    """The probability that a true mean difference is found at level `alpha` (two-sided) with so many seeds."""
    node = np.random.default_rng(0)
    even = (np.arange(_NODES) + 0.5) / _NODES
    part, free = noise.one_seed / seeds, noise.freedom(seeds)
    seen = difference + np.sqrt(part + noise.images) * special.ndtri(node.permutation(even))
    error = np.sqrt(part * special.chdtri(free, node.permutation(even)) / free)
    image = np.sqrt(noise.images) * special.stdtrit(max(noise.groups - 1, 1), even[::8])
    reach = (image - np.abs(seen)[:, None]) / np.maximum(error, 1e-12)[:, None]
    beyond = special.stdtr(free, reach).mean(axis=1)
    return float(np.mean((2 * beyond <= alpha) & (seen * difference > 0)))


def smallest_difference(noise: Noise, *, seeds: int, alpha: float) -> float:
    """The smallest true difference that would be found four times out of five with so many seeds."""
    low, high = 0.0, 4 * np.sqrt(noise.one_seed / seeds + noise.images) + 1e-9
    while power(high, noise, seeds=seeds, alpha=alpha) < POWER:
        low, high = high, 2 * high
    for _ in range(10):
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle, noise, seeds=seeds, alpha=alpha) >= POWER else (middle, high)
    return float(high)


def more_seeds(pair: Comparison, delta: float, alpha: float, alpha_all: float) -> int | None:
    """How many further seeds would decide a pair if its true difference is the one seen; None beyond `MOST_SEEDS`.

    Decided means found with a power of 0.8 at `alpha_all`, or an interval at 1 - `alpha` that lies inside +-delta.
    """
    noise, gap = Noise.of(pair), abs(pair.difference)

    def decided(seeds: int) -> bool:
        error = np.sqrt(noise.one_seed / seeds + noise.images)
        reach = special.stdtrit(noise.freedom(seeds), 1 - alpha / 2) * error
        return bool(gap + reach < delta) or power(gap, noise, seeds=seeds, alpha=alpha_all) >= POWER

    more = 1 + bisect_left(range(1, MOST_SEEDS + 1), True, key=lambda more: decided(pair.seeds + more))
    return more if more <= MOST_SEEDS else None


def usual_noise(pairs: list[Comparison]) -> Noise | None:
    """The median noise over the pairs of a sweep, or None where no pair has two seeds."""
    noises = [Noise.of(pair) for pair in pairs if np.isfinite(pair.p)]
    if not noises:
        return None
    one_seed, images, groups, prior = np.median(noises, axis=0).tolist()
    return Noise(one_seed=one_seed, images=images, groups=int(groups), prior=prior)


def headline(verdicts: list[Verdict]) -> str:
    """The sweep in one sentence: how the loss with the best mean compares with each of the others."""
    if not verdicts:
        return "There is nothing to compare: fewer than two losses have finished runs with a seed in common."
    leader = verdicts[0].pair.first
    rivals: dict[str, list[str]] = {}
    for verdict in verdicts:
        if verdict.pair.first == leader:
            rivals.setdefault(verdict.kind, []).append(verdict.pair.second)
    phrases = {
        "better": "is better than",
        "equivalent": f"is equivalent within {verdicts[0].delta:g} to",
        "unknown": "cannot be distinguished from",
    }
    parts = [f"{phrase} {_list(rivals[kind])}" for kind, phrase in phrases.items() if kind in rivals]
    if not parts:
        return f"{leader} has the best mean, but one seed per loss gives no verdict."
    return f"{leader} {'; it '.join(parts)}."


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def depends_on_threshold(plain: list[Verdict], tuned: list[Verdict]) -> str:
    """A sentence that warns where a loss is better at the fixed threshold and not once thresholds are tuned."""
    better = {(found.pair.first, found.pair.second): found.kind == "better" for found in tuned if found.kind != "none"}
    gone = [
        f"{first} against {second}"
        for first, second in ((found.pair.first, found.pair.second) for found in plain if found.kind == "better")
        if (second, first) in better or better.get((first, second)) is False
    ]
    if not gone:
        return ""
    pairs = f"{len(gone)} of {len(plain)} pairs" if len(gone) > 3 else _list(gone)
    return f"The threshold decides here: what is better at the fixed threshold is not at the tuned one for {pairs}."
