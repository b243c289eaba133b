"""The looks taken at a study: each look at new runs spends a part of the error that all looks share.

Looking, adding seeds and looking again gives more than one chance to be wrong. Seven tenths of the error are spent on
the first look, and half of the remainder on each further look, so that all looks together stay within the requested
error rate, whatever runs are added in between. `looks.json` in the folders of the runs records the looks.
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

Entry = Mapping[str, Any]  # a look in looks.json: when, error, said, asked, and runs (digests by run name)
FILE = "looks.json"
FIRST = 0.7  # the part of the error that the first look spends, chosen by simulated power: docs/findings/verdict.md


def spent(look: int, alpha: float) -> float:
    """Return the error of a look, counted from 1; the sum over all looks never exceeds their total `alpha`."""
    return alpha * (FIRST if look == 1 else (1 - FIRST) / 2 ** (look - 1))


@dataclass(frozen=True)
class Look:
    """One look at a benchmark: its number, its error, the error of the next look, and what came before.

    `earlier` holds the preceding looks as stored in looks.json. `changed` is a sentence about runs of known looks that
    are missing or have different scores now. `instead` is what the first look asked if this look asks something else,
    which makes it exploratory.
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
        """Return the look that asks `asked` about `runs` (digests by run name), given the looks `known` so far.

        Asking again about the same runs is the same look and spends no error.
        """
        repeated = [number for number, look in enumerate(known, 1) if look["runs"] == runs]
        number = repeated[0] if repeated else len(known) + 1
        first_asked = known[0]["asked"] if known else asked
        changed = {key: value for key, value in first_asked.items() if value != asked.get(key)}
        differences = [f"{key}={'null' if value is None else value}" for key, value in changed.items()]
        return cls(
            number,
            spent(number, alpha),
            spent(max(number, len(known)) + 1, alpha),  # after an old look, too, the next one is new
            earlier=known[: number - 1],
            changed=_changed(known, runs),
            instead=" ".join(differences),
            is_new=number > len(known) and not differences,  # exploratory looks are not counted
            entry={"asked": asked, "runs": dict(runs)},
        )


def _changed(known: Sequence[Entry], runs: Mapping[str, str]) -> str:
    """Return a sentence about runs of known looks that are missing or have different scores; empty without any."""
    before = {name: (number, value) for number, look in enumerate(known, 1) for name, value in look["runs"].items()}
    missing, different = [], []
    for name, (number, value) in before.items():
        if name not in runs:
            missing.append(f"{name} of look {number} is missing")
        elif runs[name] != value:
            different.append(f"{name} has different scores than at look {number}")
    changes = missing + different
    more = f"; and {len(changes) - 3} more" if len(changes) > 3 else ""
    return f"{'; '.join(changes[:3])}{more}." if changes else ""


def known_looks(roots: Iterable[Path], benchmark: str) -> list[dict[str, Any]]:
    """Return the looks at a benchmark that the folders record, without duplicates and in chronological order."""
    looks = [look for root in roots for look in _read_looks(root / FILE).get(benchmark, [])]
    return sorted({look["when"]: look for look in looks}.values(), key=lambda look: str(look["when"]))  # ISO timestamps


def remember(roots: Iterable[Path], benchmark: str, look: Look, said: str) -> None:
    """Record a new look and its answer in looks.json of every folder; log a warning if a file cannot be written."""
    when = datetime.datetime.now(datetime.UTC).isoformat()
    entry = {"when": when, "error": look.error, "said": said, **look.entry}
    for root in roots:
        recorded = _read_looks(root / FILE)
        previous = recorded.get(benchmark, [])
        if entry["runs"] in [earlier["runs"] for earlier in previous]:  # recorded by another report at the same time
            continue
        try:
            write_json(root / FILE, recorded | {benchmark: [*previous, entry]})
        except OSError as error:
            log.warning("%s: this look cannot be recorded, so later looks will not count it (%s)", root, error.strerror)


def _read_looks(file: Path) -> dict[str, Any]:
    recorded = read_json(file)  # read_json returns {} for a damaged file, which would forget the looks
    intact = isinstance(recorded, dict) and (bool(recorded) or not file.exists())
    remedy = "restore it, since the error rate is controlled over all looks"
    require(intact, "report", f"the looks at this study in {file}", "a damaged file", remedy)
    return recorded
