"""The error rate and the power of verdicts in simulated studies with known truth.

    python -m tests.reporting.simulate 1000

prints the tables of docs/findings/verdict.md; the tests run the same simulations with fewer studies. A study has true
means of losses, effects of images on each loss, effects of seeds on all images, and noise of single predictions.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import chain, count

import numpy as np

from seglab.reporting.looks import spent
from seglab.reporting.stats import Comparison, compare
from seglab.reporting.verdict import Verdict, judge, ranks
from tests.reporting.fabricate import a_cube

MOST = 12
"""The number of seeds after which a user gives up."""


class Simulated:
    """A study (losses, seeds, images) that compares its pairs of losses once for all questions."""

    def __init__(self, values: np.ndarray):
        self.pairs = cache(lambda seeds: compare(a_cube(values[:, :seeds])))


def values(
    rng: np.random.Generator, means: Sequence[float], *, images: int = 50, seeds: float = 0.01, erratic: float = 1.0
) -> np.ndarray:
    """Draw a study (losses, MOST seeds, images); the last loss has `erratic` times the seed noise of the others."""
    losses = len(means)
    seed = seeds * rng.normal(size=(losses, MOST, 1)) * np.r_[np.ones(losses - 1), erratic][:, None, None]
    image, single = 0.04 * rng.normal(size=(losses, 1, images)), 0.05 * rng.normal(size=(losses, MOST, images))
    return np.array(means)[:, None, None] + seed + image + single


Judge = Callable[[list[Comparison], float, float], list[Verdict]]
User = Callable[[list[Verdict]], int | None]
"""A function from verdicts to the number of seeds that a user adds after seeing them; None to stop."""


def by_advice(found: list[Verdict]) -> int | None:
    """Return the number of seeds advised for the largest undecided difference; None if none is undecided."""
    unsure = max((each for each in found if each.kind == "unknown"), key=lambda each: each.gap, default=None)
    return unsure.more_seeds[0] if unsure else None


QUESTIONS = ("best", "against", "pairs")
USERS: dict[str, User] = {"once": lambda found: None, "by advice": by_advice, "one by one": lambda found: 1}


def looks(study: Simulated, say: Judge, user: str, seeds: int = 3) -> Iterator[list[Verdict]]:
    """Yield the verdicts of each look of a user at a study."""
    for look in count(1):
        found = say(study.pairs(seeds), spent(look, 0.05), spent(look + 1, 0.05))
        yield found
        more = USERS[user](found)
        if more is None or seeds == MOST:
            return
        seeds = min(MOST, seeds + more)


def asking(question: str, delta: float = 0.01) -> Judge:
    """Return a function that gives the verdicts of a question; the baseline is the first loss."""

    def say(pairs: list[Comparison], alpha: float, next_alpha: float) -> list[Verdict]:
        return judge(pairs, question=question, against="l0", delta=delta, alpha=alpha, next_alpha=next_alpha)

    return say


Wrong = Callable[[Verdict, dict[str, float], float], bool]
"""A function that tells whether a verdict is wrong, given the true means and the largest irrelevant difference."""


def false_better(said: Verdict, level: dict[str, float], delta: float) -> bool:
    """Whether a loss is falsely called better, or falsely called worse than the best."""
    ahead = max(level.values()) if said.best else level[said.pair.first]
    return said.kind == "better" and ahead <= level[said.pair.second]


def best_ruled_out(said: Verdict, level: dict[str, float], delta: float) -> bool:
    """Whether the true best loss, the first one of several, is said not to be the best."""
    return said.pair.second == max(level, key=level.get) and said.kind in ("better", "not best")


def false_equivalent(said: Verdict, level: dict[str, float], delta: float) -> bool:
    """Whether losses that differ by `delta` or more are called equivalent."""
    apart = (max(level.values()) if said.best else level[said.pair.first]) - level[said.pair.second]
    return said.kind == "equivalent" and abs(apart) >= delta * (1 - 1e-9)


def wrong(
    fault: Wrong,
    means: Sequence[float],
    user: str,
    studies: int,
    questions: Sequence[str] = QUESTIONS,
    delta: float = 0.01,
    **noise: float,
) -> dict[str, float]:
    """Return, for each question, the share of studies with a wrong verdict at any look."""
    rng, found = np.random.default_rng(0), dict.fromkeys(questions, 0)
    level = {f"l{k}": mean for k, mean in enumerate(means)}
    for _ in range(studies):
        study = Simulated(values(rng, means, **noise))
        for question in questions:
            said = chain.from_iterable(looks(study, asking(question, delta), user))
            found[question] += any(fault(each, level, delta) for each in said)
    return {question: count / studies for question, count in found.items()}


def ranks_are_covered(means: Sequence[float], user: str, studies: int) -> float:
    """Return the share of studies in which the ranks stated for every loss contain the true one at every look."""
    rng, right = np.random.default_rng(0), 0
    true = {f"l{k}": 1 + int(np.sum(np.array(means) > mean)) for k, mean in enumerate(means)}
    for _ in range(studies):
        sets = map(ranks, looks(Simulated(values(rng, means)), asking("pairs"), user))
        right += all(low <= true[label] <= high for each in sets for label, (low, high) in each.items())
    return right / studies


def with_folds(means: Sequence[float], studies: int, seeds: int = 2, shared: float = 0.02) -> float:
    """Return the share of studies with 5 folds in which a loss is falsely better, as folds share training data.

    The training sets of two of k folds share k - 2 of k - 1 parts, so the effect of a training set on a loss is the
    mean of the effects of its parts.
    """
    rng, false, folds, images = np.random.default_rng(0), 0, 5, 60
    fold = np.repeat(np.arange(folds), images // folds)
    for _ in range(studies):
        study = values(rng, means, images=images, seeds=0.0)[:, :seeds]
        parts = shared * rng.normal(size=(len(means), folds))
        trained = (parts.sum(axis=1, keepdims=True) - parts) / (folds - 1)
        for run in range(seeds):  # each fold of a seed is trained separately
            study[:, run] += trained[:, fold] + 0.01 * rng.normal(size=(len(means), folds))[:, fold]
        data = a_cube(study)._replace(fold=fold, of_folds=folds)
        said = judge(compare(data), question="pairs", alpha=spent(1, 0.05))
        false += any(each.kind == "better" for each in said)
    return false / studies


def of_patients(sizes: Sequence[int], studies: int, losses: int = 2, seeds: int = 5, seed: int = 0) -> float:
    """Return the share of studies in which a loss is falsely better; patients have `sizes` images and own effects."""
    rng, false = np.random.default_rng(seed), 0
    groups = np.repeat(np.arange(len(sizes)), sizes)
    for _ in range(studies):
        patient = 0.03 * rng.normal(size=(losses, 1, len(sizes)))[..., groups]
        study = values(rng, [0.0] * losses, images=len(groups), seeds=0.003)[:, :seeds] + patient
        said = judge(compare(a_cube(study, groups.astype(str))), question="pairs", alpha=spent(1, 0.05))
        false += any(each.kind == "better" for each in said)
    return false / studies


def found_better(means: Sequence[float], question: str, seeds: int, studies: int) -> tuple[float, float]:
    """Return how often losses behind the first are found to be, and how many losses may be the best on average.

    For the question "best": how often they are ruled out, whichever loss has the best mean.
    """
    rng, found, size = np.random.default_rng(0), 0, 0
    for _ in range(studies):
        said = next(looks(Simulated(values(rng, means)), asking(question), "once", seeds))
        beaten = {each.pair.second for each in said if each.kind in ("better", "not best")}
        behind = {each.pair.second for each in said if each.kind == "better" and each.pair.first == "l0"}
        behind = beaten - {"l0"} if question == "best" else behind
        found, size = found + len(behind), size + len(means) - len(beaten)
    return found / studies / (len(means) - 1), size / studies


GRADES = [0.03, 0.025, 0.02, 0.01, 0.0, -0.01, -0.02, -0.03, -0.05, -0.07, -0.1, -0.15]
"""The means of twelve losses, three of which are close to the best."""


def tables(studies: int) -> Iterator[str]:
    """Yield all tables as Markdown, line by line."""

    def row(name: str, cells: Iterable[float]) -> str:
        return f"| {name} | {' | '.join(f'{100 * share:.1f} %' for share in cells)} |"

    def head(name: str, columns: Sequence[str] = tuple(USERS)) -> str:
        return f"\n| {name} | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}"

    yield head("false “better” among losses that do not differ")
    for losses in (2, 4, 12):
        shares = [wrong(false_better, [0.0] * losses, user, studies) for user in USERS]
        for question in QUESTIONS:
            yield row(f"{losses} losses, {question}", (share[question] for share in shares))
    shares = [wrong(false_better, [0.0] * 4, user, studies, ["pairs"], erratic=5.0) for user in USERS]
    yield row("4 losses, one with five times the seed noise, pairs", (share["pairs"] for share in shares))
    yield head("the true best is never ruled out")
    for name, means in {"4 equal": [0.0] * 4, "12 equal": [0.0] * 12, "12 graded": GRADES}.items():
        yield row(name, (1 - wrong(best_ruled_out, means, user, studies, ["best"])["best"] for user in USERS))
    yield head("every true rank is in its set")
    for name, means in {"4 equal": [0.0] * 4, "12 graded": GRADES}.items():
        yield row(name, (ranks_are_covered(means, user, studies) for user in USERS))
    yield head("false “equivalent” within 0.04 of 4 losses of which one is 0.04 better")
    asked, means = ("best", "pairs"), [0.04, 0.0, 0.0, 0.0]
    shares = [wrong(false_equivalent, means, user, studies, asked, delta=0.04) for user in USERS]
    for question in asked:
        yield row(question, (share[question] for share in shares))
    columns = [f"{losses} losses, {seeds} seed{'s' * (seeds > 1)}" for losses in (2, 4) for seeds in (1, 2)]
    yield head("false “better” with 5 folds; effect of training data on a loss", columns)
    for shared in (0.0, 0.02, 0.03, 0.04, 0.06):
        shares = (with_folds([0.0] * losses, studies, seeds, shared=shared) for losses in (2, 4) for seeds in (1, 2))
        yield row(f"{shared / 2:g}", shares)

    sizes = {"10 of 5": [5] * 10, "20, 10, 10, 5, 5, 3, 2, 2, 2, 1": [20, 10, 10, 5, 5, 3, 2, 2, 2, 1]}
    sizes |= {"27, nine of 2": [27, *[2] * 9], "40, 2, 2, 2": [40, 2, 2, 2], "40, 4": [40, 4]}
    yield head("false “better” with patients of so many images", ["2 losses", "4 losses"])
    for name, images in sizes.items():
        yield row(name, (of_patients(images, studies, losses) for losses in (2, 4)))


if __name__ == "__main__":
    for line in tables(int(sys.argv[1])):
        print(line, flush=True)
