"""`python -m seglab.predict`: masks, probabilities, overlays and tables of images that nobody has labelled."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from seglab.contract import ContractError, require
from seglab.engine.config import to_container, verb

if TYPE_CHECKING:
    from seglab.engine.trained_run import TrainedRun

log = logging.getLogger(__name__)


def predict(cfg: DictConfig, folder: Path) -> Path:
    """Predict the images that `cfg.input` names with the runs that `cfg.run` names; returns the folder of results."""
    from seglab.engine.prediction_writer import Predictions, inputs
    from seglab.engine.predictor import agree, decoded, predictor
    from seglab.engine.trained_run import open_runs

    names, runs = inputs(to_container(cfg.input)), open_runs(to_container(cfg.run))
    single = all(run.config["dataset"].get("montage", 1) == 1 for run in runs)
    require(single, "predict", "runs that were trained on single images", "one on montages")
    looks = {key: cfg[key] for key in ("window", "overlap", "tta")}
    threshold, kinds = threshold_of(cfg.threshold, runs), kinds_of(cfg.format)
    settings = {"runs": [[str(run.folder), run.outcome["finished"]] for run in runs], **looks}
    settings |= {"threshold": threshold, "min_area": cfg.min_area, "format": kinds}
    out = Path(cfg.output)
    made = Predictions(out, names, kinds, settings, threshold, cfg.min_area, cfg.rerun)
    waiting = {name: file for name, file in names.items() if name not in made.done}
    log.info("%d images, %d there already; %s", len(names), len(names) - len(waiting), told(runs, threshold))
    if not waiting:
        return out
    predictors = [predictor(run, **looks, batch=cfg.batch_size, device=cfg.device) for run in runs]
    bad = []
    for name in progress(waiting):
        file = waiting[name]
        try:
            levels = agree(predictors, str(file))
            made.write(name, file, decoded(str(file), predictors[0].dataset), levels)
        except ContractError as error:
            bad.append(name)
            log.warning("%s", error)
    log.info("%s: %s", out, " ".join(sorted(path.name for path in out.iterdir() if path.name[0] != ".")))
    require(not bad, "predict", "images that can be read", f"{len(bad)} of {len(waiting)} that cannot", "see above")
    return out


def threshold_of(choice: Any, runs: list[TrainedRun]) -> float:
    """Give the threshold of a number or of `tuned`: what validation found best, the mean over the runs."""
    number = isinstance(choice, int | float) and not isinstance(choice, bool)
    require(number or choice == "tuned", "predict", "threshold as a number or tuned", choice)
    return float(choice) if number else sum(run.outcome["threshold"]["tuned"] for run in runs) / len(runs)


def kinds_of(choice: Any) -> list[str]:
    """Give the kinds of output, of which one may stand alone."""
    return [choice] if isinstance(choice, str) else list(choice)


def told(runs: list[TrainedRun], threshold: float) -> str:
    """Say which model predicts."""
    who = runs[0].name if len(runs) == 1 else f"the mean of {len(runs)} runs"
    return f"{who}, threshold {threshold:.4g}"


def progress(names: Iterable[str]) -> Iterator[str]:
    """Go through the names under a progress bar, or with a line each half minute where nobody watches."""
    from tqdm import tqdm

    names, since = list(names), time.monotonic()
    for done, name in enumerate(tqdm(names, "predict", disable=not sys.stderr.isatty(), leave=False)):
        if time.monotonic() - since > 30 and not sys.stderr.isatty():
            log.info("%d of %d images", done, len(names))
            since = time.monotonic()
        yield name


main = verb("predict")(predict)

if __name__ == "__main__":
    main()
