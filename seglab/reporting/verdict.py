"""Answers in words: which losses are better or equivalent, or how many more seeds would decide.

A difference smaller than `delta` does not matter in practice. `alpha` is the error of one look: the probability that
any of its "better" statements is false, and likewise for "equivalent". There are three questions:

    best     which losses may be the best, and how far the others are behind (Edwards and Hsu 1983). Only comparisons
             with the true best, whichever it is, can wrongly exclude it, and there are losses - 1 of them
    against  how each loss compares with a baseline: losses - 1 comparisons
    pairs    every loss against every other
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from seglab.reporting.power import MORE_SEEDS, images_forbid, more_seeds
from seglab.reporting.stats import Comparison, errors, possibly_equal, step_down, turned

QUESTIONS = ("best", "pairs")
Kind = Literal["better", "equivalent", "not best", "unknown", "none"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The verdict on one pair: by how much `first` is better than `second` in this metric.

    Args:
        gap: the observed lead of first, also for metrics where lower is better.
        low, high: bounds of the interval that holds simultaneously with those of all other verdicts.
        chances: the probabilities, for this pair alone, that first is better by more than `delta`, that both are
            equivalent, and that second is better by more than `delta`.
        level: the error of this comparison at the next look.
        best: whether the question is best; `first` is then the leader (see `_leader`), and the interval is that of how
            far `second` is behind the best loss, whichever that is.
        few: names the two losses that widen the interval because they share fewer replicates than others; otherwise "".
    """

    pair: Comparison
    kind: Kind
    gap: float
    low: float
    high: float
    chances: tuple[float, float, float]
    delta: float
    level: float
    best: bool = False
    few: str = ""

    @cached_property
    def more_seeds(self) -> tuple[int | None, int | None]:
        """The fewest and most additional seeds that would decide at the next look; None for more than 50."""
        return more_seeds(self.pair, self.delta, self.level)

    @property
    def name(self) -> str:
        """The verdict in one or two words."""
        if self.best and self.kind in ("better", "unknown"):
            return "worse" if self.kind == "better" else "may be best"
        return {"unknown": "cannot tell", "none": f"one {self.lacking.split()[0]}"}.get(self.kind, self.kind)

    @property
    def lacking(self) -> str:
        """The kind of unit of which there is only one, if there is no verdict for that reason."""
        return self.pair.kind.removesuffix("s") if self.pair.replicates < 2 else "group of test images"

    @property
    def words(self) -> str:
        """The verdict as a sentence, with the difference and its interval."""
        first, second, gap = self.pair.first, self.pair.second, signed(self.gap)
        unbounded = np.isinf(self.high)  # behind a loss with which it shares no seed
        interval = "an unknown amount" if unbounded else f"{signed(self.low)} to {signed(self.high)}"
        behind, ahead = f"{gap} behind {first}", f"{first} ahead by {gap}"
        if self.gap < 0:  # possible if `best`, when losses have different seeds
            behind = f"{signed(-self.gap)} ahead of {first} on the {self.pair.kind} and images that both have"
        if self.gap == 0:
            behind = ahead = "equal means"
        if self.kind == "none":
            return f"{first} against {second}: no verdict from one {self.lacking} ({ahead}); add a second."
        if not self.best:
            return {
                "better": f"{first} is better than {second} by {gap} ({interval}).",
                "equivalent": f"{first} and {second} are equivalent within {self.delta:g} ({ahead}, {interval}).",
                "unknown": f"{first} against {second}: cannot tell ({ahead}, {interval}){self.remedy}.",
            }[self.kind]
        return {
            "better": f"{second} is worse than the best{by_at_least(self.low)} ({behind}).",
            "equivalent": f"{second} is as good as the best within {self.delta:g} ({interval} behind it).",
            "not best": f"{second} is not the best: another loss is at least as good ({behind}).",
            "unknown": f"{second} may be the best ({behind}, {interval} behind the best){self.remedy}.",
        }[self.kind]

    @property
    def remedy(self) -> str:
        """What would decide an open question, after a semicolon; empty if unknown."""
        if self.few:
            return f"; {self.few}, which widens the interval: train any missing runs first"
        if self.pair.kind != "seeds":
            return ""
        fewest, most = self.more_seeds
        if fewest is None and not images_forbid(self.pair, self.delta, self.level):
            return f"; it would take more than {MORE_SEEDS[-1]} more seeds to decide"
        if fewest is None:
            return f"; {MORE_SEEDS[-1]} more seeds would not decide, but more test images might"
        if fewest == most:
            return f"; about {fewest} more seed{'s' * (fewest != 1)} would probably decide"
        if fewest == MORE_SEEDS[-1]:
            return f"; about {fewest} or more additional seeds would probably decide"
        return f"; {fewest} to {most or f'over {MORE_SEEDS[-1]}'} more seeds would probably decide"


def signed(value: float) -> str:
    """Format a difference with a true minus sign."""
    return f"{value:.3f}".replace("-", "−") if abs(value) >= 0.0005 else "0.000"  # not "−0.000"


def by_at_least(low: float) -> str:
    """Return by how much a loss is at least worse, as text; empty if that rounds to zero."""
    return f" by at least {signed(low)}" if low >= 0.0005 else ""


def judge(
    pairs: Sequence[Comparison],
    *,
    question: str = "pairs",
    against: str | None = None,
    delta: float = 0.01,
    alpha: float = 0.05,
    next_alpha: float | None = None,
    lower_is_better: bool = False,
    largest: float = np.inf,
) -> list[Verdict]:
    """Return the verdicts on those pairs of `compare` that the question concerns, in the same order.

    `alpha` is the error of this look, and `next_alpha` that of the next look, for which additional seeds are counted. A
    difference that is certain but smaller than `delta` counts as equivalence. Intervals are clipped to +-`largest`, the
    largest difference that the metric allows.
    """
    losses = dict.fromkeys(label for pair in pairs for label in (pair.first, pair.second))
    if question == "against":
        pairs = [pair for pair in pairs if against in (pair.first, pair.second)]
    if not pairs:
        return []
    sign = -1.0 if lower_is_better else 1.0  # on shared seeds the order may differ from that of the means
    pairs = [turned(pair) if sign * pair.difference < 0 else pair for pair in pairs]
    pair_errors = errors(pairs)
    tests = len(pairs) if question == "pairs" else len(losses) - 1  # number of simultaneous intervals (Bonferroni)
    reach = pair_errors.reach(alpha / tests)
    gaps = sign * np.array([pair.difference for pair in pairs])
    first_ahead = pair_errors.above(delta - gaps)  # the probability that first is ahead by more than delta
    second_ahead = pair_errors.above(delta + gaps)
    if question == "best":
        leader, judged = _judge_against_best(pairs, list(losses), gaps, reach, delta)
        for k in (k for k, *_ in judged if pairs[k].second == leader):
            pairs[k], gaps[k] = turned(pairs[k]), -gaps[k]
            first_ahead[k], second_ahead[k] = second_ahead[k], first_ahead[k]
    else:
        judged = _judge_pairs(pairs, gaps, first_ahead, reach, alpha, len(losses) if question == "pairs" else 0)
    most_shared = max(pair.replicates for pair in pairs)
    return [
        Verdict(
            pair=pairs[k],
            kind=kind,
            gap=float(gaps[k]),
            low=float(np.clip(low, -largest, largest)),
            high=float(np.clip(high, -largest, largest)),
            chances=(float(first_ahead[k]), float(1 - first_ahead[k] - second_ahead[k]), float(second_ahead[k])),
            delta=delta,
            level=(next_alpha or alpha) / tests,
            best=question == "best",
            few=_few_shared(pairs[k], rival, shared) if shared < most_shared else "",
        )
        for k, kind, low, high, rival, shared in judged
    ]


Judged = Iterable[tuple[int, Kind, float, float, str, int]]
"""The index of a pair, its verdict, the ends of its interval, the loss that determines the upper end, and the number of
replicates that the second loss shares with that loss."""


def _few_shared(pair: Comparison, rival: str, shared: int) -> str:
    """Describe how few replicates the second loss of a pair shares with a rival."""
    number = {0: f"no {pair.kind.removesuffix('s')}", 1: f"only 1 {pair.kind.removesuffix('s')}"}
    return f"{pair.second} and {rival} share {number.get(shared, f'only {shared} {pair.kind}')}"


def _judge_pairs(
    pairs: Sequence[Comparison], gaps: NDArray, first_ahead: NDArray, reach: NDArray, alpha: float, losses: int
) -> Judged:
    """Yield verdicts of two families of tests: "better", and "equivalent" by two one-sided tests (Schuirmann 1987).

    `first_ahead` is the probability that each gap (>= 0) exceeds delta; `losses` is 0 unless the question is pairs.
    """
    complete = losses * (losses - 1) // 2 == np.isfinite([pair.p for pair in pairs]).sum()  # Shaffer's steps need it
    p_differ = step_down([pair.p for pair in pairs], possibly_equal(losses) if losses and complete else None)
    p_equal = step_down((2 * first_ahead).clip(max=1).tolist())
    for k, pair in enumerate(pairs):
        kind: Kind = "better" if p_differ[k] <= alpha else "unknown"
        low = gaps[k] - reach[k]
        low = max(0.0, low) if kind == "better" else low  # the steps find more than the simultaneous intervals exclude
        kind = "equivalent" if p_equal[k] <= alpha else kind  # overrides "better": such a difference does not matter
        kind = "none" if np.isnan(pair.p) else kind
        yield k, kind, low, gaps[k] + reach[k], pair.first, pair.replicates


def _judge_against_best(
    pairs: Sequence[Comparison], losses: list[str], gaps: NDArray, reach: NDArray, delta: float
) -> tuple[str, Judged]:
    """Return the leader, and how far each loss is behind the best, valid if the intervals of the true best all hold."""
    place = {label: k for k, label in enumerate(losses)}
    ahead = np.zeros((len(losses), len(losses)))  # of the row's loss over the column's
    half = np.full(ahead.shape, np.inf)  # half of the interval; infinite for losses that share no seed
    shared = np.zeros(ahead.shape, int)  # number of shared replicates
    for pair, gap, width in zip(pairs, gaps, reach, strict=True):
        a, b = place[pair.first], place[pair.second]
        ahead[a, b], ahead[b, a] = gap, -gap
        half[a, b] = half[b, a] = width
        shared[a, b] = shared[b, a] = pair.replicates
    may_be_best = (ahead + half >= 0).all(axis=1)
    leader = _leader(ahead, may_be_best & np.isfinite(half).any(axis=1))
    may_be_best |= not may_be_best.any()  # with different seeds, each may be behind another
    judged = []
    for k, pair in enumerate(pairs):
        if losses[leader] not in (pair.first, pair.second):
            continue
        loss = place[pair.second if pair.first == losses[leader] else pair.first]
        rivals = np.flatnonzero(may_be_best & (np.arange(len(losses)) != loss))
        low = max(0.0, (ahead - half)[rivals, loss].min())  # whichever rival is the best
        rival = rivals[(ahead + half)[rivals, loss].argmax()]
        high = max(0.0, (ahead + half)[rival, loss])
        kind: Kind = "unknown" if may_be_best[loss] else "not best"
        kind = "better" if low > 0 else kind
        kind = "equivalent" if high < delta else kind
        kind = "none" if np.isnan(pair.p) else kind
        judged.append((k, kind, low, high, losses[rival], int(shared[rival, loss])))
    return losses[leader], judged


def _leader(ahead: NDArray, candidates: NDArray) -> int:
    """Return the loss with the smallest deficit against any other loss, among those that are `candidates`, if any.

    If all losses have the same seeds, it is the loss with the best mean. Means over different seeds cannot be compared,
    since the loss with the easy seeds would lead.
    """
    worst = ahead.min(axis=1)
    return int(np.where(candidates, worst, -np.inf).argmax() if candidates.any() else worst.argmax())


def ranks(verdicts: Sequence[Verdict]) -> dict[str, tuple[int, int]]:
    """Return the highest and the lowest rank that each loss may have, given the verdicts on all pairs.

    If every "better" is right, the intervals contain all true ranks (Mogstad, Romano, Shaikh and Wilhelm 2024).
    """
    losses = list(dict.fromkeys(label for verdict in verdicts for label in (verdict.pair.first, verdict.pair.second)))
    better = [verdict.pair for verdict in verdicts if verdict.kind == "better"]
    above, below = Counter(pair.second for pair in better), Counter(pair.first for pair in better)
    return {label: (1 + above[label], len(losses) - below[label]) for label in losses}


def headline(verdicts: Sequence[Verdict], against: str | None = None, apart: Sequence[str] = ()) -> str:
    """Return the answer in one sentence; `apart` lists the losses that share no seed with the leader."""
    if not verdicts:
        reason = f"{against} has no finished run" if against else "fewer than two losses have finished runs"
        return f"There is nothing to compare: {reason} with a seed in common."
    leader, delta = verdicts[0].pair.first, verdicts[0].delta
    if all(verdict.kind == "none" for verdict in verdicts):
        per = " per loss" if verdicts[0].pair.replicates < 2 else ""
        return f"{_best_mean(leader, verdicts)}, but one {verdicts[0].lacking}{per} gives no verdict."
    if not against and not verdicts[0].best:  # choose a loss that no other is better than
        leader = next((label for label, (highest, _) in ranks(verdicts).items() if highest == 1), leader)
    rivals: dict[str, list[str]] = defaultdict(list)
    for verdict in verdicts:
        pair = verdict.pair
        if against and pair.first != against:  # then the baseline is second
            rivals["ahead" if verdict.kind == "better" else verdict.kind].append(pair.first)
        elif against or pair.first == leader:
            rivals[verdict.kind].append(pair.second)
        elif pair.second == leader:
            rivals[verdict.kind].append(pair.first)
    if against:
        phrases = {"ahead": "{} {are} better", "better": "{} {are} worse"}
        phrases |= {"equivalent": f"{{}} {{are}} equivalent within {delta:g}", "unknown": "cannot tell for {}"}
        phrases |= {"none": "no verdict on {}"}
        return f"Compared with {against}: {'; '.join(_clauses(phrases, rivals))}."
    if not verdicts[0].best:
        phrases = {"better": "is better than {}", "equivalent": f"is equivalent within {delta:g} to {{}}"}
        phrases |= {"unknown": "cannot be distinguished from {}", "none": "has no verdict against {}"}
        return f"{leader} {'; it '.join(_clauses(phrases, rivals))}."
    candidates = [leader, *rivals["unknown"], *rivals["none"], *apart]
    if len(candidates) == len(verdicts) + 1 + len(apart):
        return f"Any of the {len(candidates)} losses may be the best; {_best_mean(leader, verdicts)}."
    least = min((verdict.low for verdict in verdicts if verdict.kind == "better"), default=0.0)
    phrases = {"equivalent": f"{{}} {{are}} as good within {delta:g}"}
    phrases |= {"not best": "another loss is at least as good as {}"}
    phrases |= {"better": f"{{}} {{are}} worse{by_at_least(least)}"}
    answer = f"{leader} is the best" if len(candidates) == 1 else f"The best may be {listed(candidates, 'or')}"
    if len(candidates) == 1 and "equivalent" in rivals:
        equal = [leader, *rivals.pop("equivalent")]
        names = listed(equal) if len(equal) < 5 else f"{leader} and {len(equal) - 1} others"
        answer = f"{names} are equally good within {delta:g}"
    return "; ".join([answer, *_clauses(phrases, rivals)]) + "."


def _clauses(phrases: dict[str, str], rivals: dict[str, list[str]]) -> list[str]:
    """Return the phrases for the kinds of verdict that occur, with the names of the losses and the verb filled in."""
    return [
        phrase.format(listed(rivals[kind]), are="is" if len(rivals[kind]) == 1 else "are")
        for kind, phrase in phrases.items()
        if rivals.get(kind)
    ]


def _best_mean(leader: str, verdicts: Sequence[Verdict]) -> str:
    """Return a clause naming the loss, or the losses, with the best mean."""
    comparisons = [verdict for verdict in verdicts if verdict.pair.first == leader]
    tied = [leader, *(verdict.pair.second for verdict in comparisons if verdict.gap == 0)]
    mean = "best mean"
    if len({verdict.pair.replicates for verdict in comparisons}) > 1:
        mean += f" on the {comparisons[0].pair.kind} that each pair shares"
    if len(tied) == 1:
        return f"{leader} has the {mean}"
    return f"{listed(tied) if len(tied) < 5 else f'{len(tied)} losses'} share the {mean}"


def listed(names: list[str], last: str = "and") -> str:
    """Join names into text; with "and", more than four are replaced by their number."""
    if len(names) > 4 and last == "and":
        return f"{len(names)} others"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}"
