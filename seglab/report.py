"""`python -m seglab.report outputs/SWEEP`: compare all runs of a sweep and write the report."""

import gc
import json
import logging
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from seglab.contract import require
from seglab.engine.cli import command

log = logging.getLogger(__name__)

REASONS = 5  # why runs are left out, in words; the report has all


def report(cfg: DictConfig, folder: Path) -> Path:
    """Write report.html, table.csv, table.md and the figures for the runs below `cfg.roots`; return report.html."""
    roots = [Path(root) for root in cfg.roots]
    require(bool(roots), "report", "a folder with runs", "none", "for example python -m seglab.report outputs/SWEEP")

    from seglab.reporting.study import Question
    from seglab.reporting.write_report import answer, write

    options = {name: cfg[name] for name in Question().asked}
    question = Question(of_class=options.pop("class"), **options)
    result = answer(roots, question)
    sweep, studies, overall = result
    file = write(roots, question, result, cfg.output)
    unused = sweep.runs[sweep.runs["status"].isin(["finished", "unreadable"]) & ~sweep.runs["used"]]
    problems = list(unused.groupby("problem", sort=False)["name"])
    for problem, names in problems[:REASONS]:
        log.warning("%s left out: %s", f"{names.iloc[0]} is" if len(names) == 1 else f"{len(names)} runs are", problem)
    if rest := problems[REASONS:]:
        log.warning("runs left out for further reasons, see the report: %d", sum(len(names) for _, names in rest))
    for study in [overall, *studies] if overall else studies:
        log.info("%s: %s", study.title, study.headline)
        for sentence in filter(None, (study.look_words, study.blind)):
            log.info("%s", sentence)
    if cfg.push:
        mirror(sweep.runs["folder"], cfg.push)
    reasons = "" if len(sweep.used) else f" ({sweep.reasons})"
    log.info("%d of %d runs compared%s: %s", len(sweep.used), len(sweep.runs), reasons, file)
    return file


def mirror(folders: Iterable[Path], tracker: str) -> None:
    """Send runs to a tracker, which is named by a choice of `logger`."""
    from seglab.engine.config import build, inner
    from seglab.engine.trackers import Tracker, push

    for folder in folders:
        node = {"study": folder.parent.name, "folder": str(folder), "logger": inner("logger", tracker)}
        destination = build(OmegaConf.create(node).logger)
        require(isinstance(destination, Tracker), "push", "wandb, mlflow, trackio or tensorboard", tracker)
        push(destination, folder)


def with_roots(arguments: Sequence[str]) -> list[str]:
    """Collect folders given without a key into one override `roots=[...]`; everything else is left to Hydra."""
    folders, rest = list[str](), list[str]()
    for previous, word in zip(["", *arguments], arguments, strict=False):
        named = not word or word[0] in "-+~" or ("=" in word and not Path(word).is_dir())
        (rest if named or previous.startswith("-") else folders).append(word)  # the word after a flag is its value
    return [*rest, f"roots={json.dumps(folders, ensure_ascii=False)}"] if folders else rest  # Hydra does not decode \u


def main() -> None:
    """Run the command; folders may be given without `roots=`."""
    gc.set_threshold(100_000)  # a report makes many small objects and hardly any reference cycles
    sys.argv[1:] = with_roots(sys.argv[1:])
    command("report")(report)()


if __name__ == "__main__":
    main()
