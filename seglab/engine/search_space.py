"""The search space: options with their ranges, the settings of the trials, and how many train for how many epochs."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seglab.contract import require
from seglab.engine.domains import domain_of

Setting = dict[str, Any]
"""The value of each option in a trial, by dotted name."""

EDGE = 0.05
"""A best value within this fraction of the range from either end suggests that the range is too narrow."""


@dataclass(frozen=True)
class Option:
    """An option to tune: a number from `low` to `high`, on a logarithmic scale if `log`, or one of `choices`."""

    low: float = 0.0
    high: float = 1.0
    log: bool = False
    choices: Sequence[Any] = ()

    def at(self, share: float) -> Any:
        """Return the value at a fraction in [0, 1) of the range; numbers have three digits, to fit in a run's name."""
        if self.choices:
            return self.choices[int(share * len(self.choices))]
        if self.log:
            return float(f"{self.low * (self.high / self.low) ** share:.3g}")
        return float(f"{self.low + (self.high - self.low) * share:.3g}")

    def edge(self, value: Any) -> str:
        """Return "lower" or "upper" if a value lies at that end of its range (or of 3 or more numbers), else ""."""
        low, high, margin = self.low, self.high, EDGE
        if self.choices:
            numbers = all(isinstance(choice, int | float) for choice in self.choices)
            if not numbers or len(set(self.choices)) < 3:
                return ""
            low, high, margin = min(self.choices), max(self.choices), 0
        scale = math.log if self.log else float
        share = (scale(value) - scale(low)) / (scale(high) - scale(low))
        if share <= margin:
            return "lower"
        return "upper" if share >= 1 - margin else ""


def read_space(space: Mapping[str, Any], path: str = "") -> dict[str, Option]:
    """Return the options of a nested configuration by dotted name; raise ContractError for invalid ranges or lists."""
    options: dict[str, Option] = {}
    for key, node in space.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(node, list):
            require(bool(node), f"space.{name}", "at least one value", "none")
            options[name] = Option(choices=tuple(node))
        elif isinstance(node, dict) and not node.keys() & {"low", "high", "log"}:
            options |= read_space(node, name)
        else:
            options[name] = _range(name, node)
    return options


def _range(name: str, node: Any) -> Option:
    expected = "{low: NUMBER, high: NUMBER, log: true or false} or a list of values"
    valid = isinstance(node, dict) and node.keys() <= {"low", "high", "log"} and {"low", "high"} <= node.keys()
    numbers = valid and all(isinstance(node[end], int | float) for end in ("low", "high"))
    require(numbers and isinstance(node.get("log", False), bool), f"space.{name}", expected, node)
    option = Option(float(node["low"]), float(node["high"]), node.get("log", False))
    require(math.isfinite(option.low) and option.low < option.high < math.inf, f"space.{name}", "low < high", node)
    require(option.low > 0 or not option.log, f"space.{name}", "low above 0 on a logarithmic scale", node)
    if (domain := domain_of(name)) and domain.whole:
        require(not option.log, f"space.{name}", "a list of whole numbers, such as [4,8,16]", node)
        counts = range(math.ceil(option.low), math.floor(option.high) + 1)
        require(bool(counts), f"space.{name}", "a range that contains a whole number", node)
        return Option(choices=counts)
    return option


def settings(options: Mapping[str, Option], trials: int, seed: int) -> list[Setting]:
    """Return the first `trials` distinct settings of a scrambled Halton sequence; fewer if the space has fewer.

    A sequence of fewer trials is the beginning of one of more trials, so that a search can be extended (Halton 1960;
    Bousquet et al., Critical hyper-parameters: no random, no cry, 2017).
    """
    from scipy.stats import qmc

    names = list(options)
    combinations = math.prod(len(option.choices) or math.inf for option in options.values())
    if combinations < trials or not options:  # all of them, since the sequence would reach the last one late
        grid = itertools.product(*(option.choices for option in options.values()))
        return [dict(zip(names, values, strict=True)) for values in grid]
    sequence = qmc.Halton(len(options), scramble=True, rng=seed)
    distinct: dict[str, Setting] = {}
    for _ in range(100):  # not forever: from 0.99 to 0.999 there are ten numbers of three digits
        for point in sequence.random(trials):
            setting = {name: options[name].at(share) for name, share in zip(names, point, strict=True)}
            distinct.setdefault(json.dumps(setting), setting)
        if len(distinct) >= trials:
            break
    return list(distinct.values())[:trials]


def rungs(trials: int, epochs: int, halving: int | None, every: int = 1) -> list[tuple[int, int]]:
    """Return (trials, epochs) per rung of successive halving (Jamieson and Talwalkar 2016); the last has all epochs.

    The best 1/`halving` of each rung continue. Epochs are rounded up to multiples of `every`, the validation interval.

    >>> rungs(12, 27, 3)
    [(12, 3), (4, 9), (1, 27)]
    """
    if not halving:
        return [(trials, epochs)]
    steps = 0
    while halving ** (steps + 1) <= trials:
        steps += 1
    shares = [(trials // halving**k, epochs / halving ** (steps - k)) for k in range(steps + 1)]
    return [(count, min(epochs, math.ceil(share / every) * every)) for count, share in shares]


class TreeParzen:
    """Settings proposed by Optuna's tree-structured Parzen estimator (Bergstra et al. 2011).

    A proposal depends only on its seed and the values before it, which the runs record: a killed search can continue.
    """

    def __init__(self, options: Mapping[str, Option], mode: str, seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.options, self.seed, self.sampler = options, seed, optuna.samplers.TPESampler
        self.study = optuna.create_study(direction="maximize" if mode == "max" else "minimize")

    def propose(self, number: int) -> Setting:
        """Return the setting of the next trial; `number` counts from 0."""
        self.study.sampler = self.sampler(n_startup_trials=min(10, 5 + len(self.options)), seed=self.seed + number)
        trial = self.study.ask()
        shares = {name: trial.suggest_float(name, 0, 1 - 1e-9) for name in self.options}  # a list has no value at 1
        return {name: self.options[name].at(share) for name, share in shares.items()}

    def tell(self, number: int, value: float) -> None:
        """Report the value of a trial; NaN means that it failed."""
        state = {"state": self.study.trials[number].state.FAIL} if math.isnan(value) else {"values": value}
        self.study.tell(number, **state)


@dataclass
class Trial:
    """A setting, the number of epochs that it was trained for, and its best monitored value so far (NaN before)."""

    setting: Setting
    epochs: int = 0
    value: float = math.nan


@dataclass
class Tuning:
    """The search for one loss, or one combination of the options that are compared; `words` are its overrides."""

    title: str
    words: list[str]
    options: dict[str, Option]
    seed: int
    rungs: list[tuple[int, int]]
    trials: list[Trial]

    def ahead(self, count: int, mode: str) -> list[Trial]:
        """Return the best `count` of the successful trials that were trained longest, the best first."""
        successful = [trial for trial in self.trials if not math.isnan(trial.value)]
        longest = max((trial.epochs for trial in successful), default=0)
        comparable = [trial for trial in successful if trial.epochs == longest]
        return sorted(comparable, key=lambda trial: trial.value, reverse=mode == "max")[:count]

    def overrides(self, trial: Trial) -> list[str]:
        """Return the command-line overrides of a trial."""
        values = {name: json.dumps(value, ensure_ascii=False) for name, value in trial.setting.items()}
        return [*self.words, *(f"{name}={value}" for name, value in values.items())]

    def edges(self, trial: Trial) -> list[str]:
        """Return a sentence for each option whose value in `trial`, the best one, lies at an end of its range."""
        ends = {name: option.edge(trial.setting[name]) for name, option in self.options.items()}
        sentence = "the best {0}={1} lies at the {2} end of its range: widen space.{0}"
        return [sentence.format(name, trial.setting[name], end) for name, end in ends.items() if end]
