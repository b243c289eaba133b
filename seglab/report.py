"""`python -m seglab.report outputs/SWEEP`: compare all runs of a sweep and write the report."""

from __future__ import annotations

import gc
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from omegaconf import DictConfig

from seglab.contract import require
from seglab.engine.cli import command

log = logging.getLogger(__name__)


def report(cfg: DictConfig, folder: Path) -> Path:
    """Write report.html, table.csv, table.md and the figures about the runs below `cfg.roots`; returns report.html."""
    roots = [Path(root) for root in cfg.roots]
    require(bool(roots), "report", "a folder that holds runs", "none", "python -m seglab.report outputs/SWEEP")
    for root in roots:
        require(root.is_dir(), "report", "a folder", root)

    from seglab.reporting.load_runs import collect
    from seglab.reporting.looks import known_looks
    from seglab.reporting.reproduce import commands
    from seglab.reporting.study import Question, Study
    from seglab.reporting.write_report import write

    keys = tuple(field.name for field in fields(Question))
    names = {key: "class" if key == "of_class" else key for key in keys}
    question = Question(**{key: cfg[name] for key, name in names.items()})
    sweep = collect(roots, question.of_class)
    studies = []
    for title, runs in sweep.benchmarks():
        study = Study(title, runs, question, known_looks(roots, runs.benchmark))
        study.remember(roots)  # before anybody can read what it says
        studies.append(study)
    changed = [f"{name}={cfg[name]}" for key, name in names.items() if cfg[name] != getattr(Question(), key)]
    reproduce = [
        *commands(sweep.runs["overrides"]),
        " ".join(["python -m seglab.report", *map(str, cfg.roots), *changed]),
    ]
    written = write(Path(cfg.output or roots[0]), roots[0].resolve().name, studies, sweep.runs, "\n".join(reproduce))
    for study in studies:
        log.info("%s: %s", study.title, study.headline)
        for sentence in filter(None, (study.look_words, study.blind)):
            log.info("%s", sentence)
    log.info("%d of %d runs compared: %s", len(sweep.used), len(sweep.runs), written)
    return written


def with_roots(arguments: Sequence[str]) -> list[str]:
    """Turn folders given without a name into one override `roots=[...]`; everything else is left to Hydra."""
    bare: list[str] = []
    rest: list[str] = []
    for before, word in zip(["", *arguments], arguments, strict=False):
        named = word[0] in "-+~" or ("=" in word and not Path(word).is_dir())
        (rest if named or before.startswith("-") else bare).append(word)  # the word after a flag is the flag's
    return [*rest, f"roots={json.dumps(bare, ensure_ascii=False)}"] if bare else rest


def main() -> None:
    """The command, on which folders may be given without a name."""
    gc.set_threshold(100_000)  # a report makes many small objects and no cycles worth looking for
    sys.argv[1:] = with_roots(sys.argv[1:])
    command("report")(report)()


if __name__ == "__main__":
    main()
