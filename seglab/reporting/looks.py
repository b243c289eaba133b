"""The looks that were taken at a study: each new look at its runs costs a part of the error that all looks share.

Whoever looks, adds seeds and looks again has more than one chance to be wrong. The error is spent over the looks: seven
tenths on the first, half of what is left on each further one, so that all of them together err no more often than was
asked for, whatever is added in between. `looks.json` in the folders of the runs remembers them.
"""

import datetime
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seglab.contract import require
from seglab.files import read_json, write_json

log = logging.getLogger(__name__)

Entry = Mapping[str, Any]  # a look in looks.json: when, error, said, asked, and the runs by name with their digests
FILE = "looks.json"
FIRST = 0.7  # the part of the error that the first look spends, chosen by simulated power: docs/findings/verdict.md


def spent(look: int, alpha: float) -> float:
    """The error of one look, counted from 1, of the `alpha` that all looks share: their sum never exceeds it."""
    return alpha * (FIRST if look == 1 else (1 - FIRST) / 2 ** (look - 1))


@dataclass(frozen=True)
class Look:
    """One look at a benchmark: its number, its error, that of the next one, and what happened before.

    `earlier` are the looks before it, as looks.json holds them, `changed` a sentence about runs of them that are gone
    or have other values now. `instead` is what the first look asked where this one asks something else: it is
    exploratory.
    """

    number: int
    error: float
    next_error: float
    earlier: Sequence[Entry]
    changed: str
    instead: str
    is_new: bool
    entry: dict[str, Any]

    @classmethod
    def at(cls, known: Sequence[Entry], asked: dict[str, Any], runs: Mapping[str, str], alpha: float) -> "Look":
        """The look after those `known` that asks `asked` of some runs, by their names digests of their values.

        The same runs asked again are the same look, and cost nothing.
        """
        same = [number for number, look in enumerate(known, 1) if look["runs"] == runs]
        number = same[0] if same else len(known) + 1
        first = known[0]["asked"] if known else asked
        changed = {key: value for key, value in first.items() if value != asked.get(key)}
        other = [f"no {key}" if value is None else f"{key}={value}" for key, value in changed.items()]
        return cls(
            number,
            spent(number, alpha),
            spent(max(number, len(known)) + 1, alpha),  # also of an old look the next one is new
            earlier=known[: number - 1],
            changed=_changed(known, runs),
            instead=" ".join(other),
            is_new=number > len(known) and not other,  # an exploratory one is not counted
            entry={"asked": asked, "runs": dict(runs)},
        )


def _changed(known: Sequence[Entry], runs: Mapping[str, str]) -> str:
    """A sentence about runs of earlier looks that are gone or have other values; empty without such."""
    before = {name: (number, value) for number, look in enumerate(known, 1) for name, value in look["runs"].items()}
    gone, moved = [], []
    for name, (number, value) in before.items():
        if name not in runs:
            gone.append(f"{name} of look {number} is gone")
        elif runs[name] != value:
            moved.append(f"{name} has other values than at look {number}")
    found = gone + moved
    more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
    return f"{'; '.join(found[:3])}{more}." if found else ""


def known_looks(roots: Iterable[Path], benchmark: str) -> list[dict[str, Any]]:
    """The looks at a benchmark that the folders remember, each once, in their order."""
    found = [look for root in roots for look in _read(root / FILE).get(benchmark, [])]
    return sorted({look["when"]: look for look in found}.values(), key=lambda look: str(look["when"]))  # ISO times


def remember(roots: Iterable[Path], benchmark: str, look: Look, said: str) -> None:
    """Enter a new look with what it said into the looks.json of every folder; a warning where one cannot be written."""
    when = datetime.datetime.now(datetime.UTC).isoformat()
    entry = {"when": when, "error": look.error, "said": said, **look.entry}
    for root in roots:
        known = _read(root / FILE)
        before = known.get(benchmark, [])
        if entry["runs"] in [one["runs"] for one in before]:  # by another report that looked at the same time
            continue
        try:
            write_json(root / FILE, known | {benchmark: [*before, entry]})
        except OSError as error:
            log.warning("%s: this look is not remembered, and a later one will not count it (%s)", root, error.strerror)


def _read(file: Path) -> dict[str, Any]:
    known = read_json(file)  # a damaged file is an empty dictionary there, and would forget the looks
    whole = isinstance(known, dict) and (bool(known) or not file.exists())
    remedy = "restore it: errors are counted over them"
    require(whole, "report", f"looks at this study in {file}", "a damaged file", remedy)
    return known
