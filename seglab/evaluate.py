"""`python -m seglab.evaluate`: measure trained runs on their own test images again, or on other people's."""

from __future__ import annotations

import datetime
import json
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from seglab.contract import ContractError, require
from seglab.engine.config import ConfigError, build, check, named, to_container, verb

if TYPE_CHECKING:
    from seglab.engine.evaluation import EvalSet, Result
    from seglab.engine.trained_run import TrainedRun

log = logging.getLogger(__name__)

SHOWN = ("iou", "tuned/iou", "dice", "precision", "recall", "hd95", "object_recall")


def evaluate(cfg: DictConfig, folder: Path) -> list[Path]:
    """Evaluate every run that `cfg.run` names on `cfg.dataset`; returns the folders of the results."""
    from seglab.engine.trained_run import open_runs

    runs = open_runs(to_container(cfg.run))
    done, bad = {}, []
    for run in runs:
        try:
            done[run.name] = one(cfg, run)
        except (ContractError, ConfigError) as error:
            if len(runs) == 1:
                raise
            bad.append(run.name)
            log.warning("%s: %s", run.name, error)
    tell(done)
    require(not bad, "evaluate", "runs that fit the data", f"{len(bad)} of {len(runs)} that do not", "see above")
    return list(done.values())


def one(cfg: DictConfig, run: TrainedRun) -> Path:
    """Evaluate one run, unless that was done: RUN/evaluations/DATA-IDENTITY."""
    from seglab.engine.evaluation import SCALES, dataset_node, identity, subject

    node = dataset_node(run, to_container(cfg.dataset), named("dataset"))
    check(DictConfig({"dataset": node}))
    subject_ = subject(run, build(node), cfg.part)
    scale = cfg.scale or ("native" if subject_.dataset.fit == "patch" else "run")
    require(scale in SCALES, "evaluate", f"scale as one of {', '.join(SCALES)}", scale)
    fixed = {key: value for key, value in node.items() if key not in ("root", "cache_dir", "cache_gb")}
    settings = {"dataset": fixed, "part": subject_.part, "scale": scale}
    settings |= {key: cfg[key] for key in ("window", "overlap", "tta")} if scale == "native" else {}
    name = node["_target_"].rsplit(".", 1)[-1].lower()
    out = run.folder / "evaluations" / f"{name}-{identity(settings, subject_.mark)}"
    facts = {"run": run.name, "run_finished": run.outcome["finished"], "name": name, **settings}
    facts["fingerprint"] = subject_.mark
    if not cfg.rerun and known(out).get("run_finished") == run.outcome["finished"]:
        log.info("%s is there already; rerun=true measures it again", out)
        return out
    perform(cfg, run, subject_, facts, out)
    return out


def known(out: Path) -> dict[str, Any]:
    """What evaluation.json says; empty where there is none."""
    file = out / "evaluation.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def perform(cfg: DictConfig, run: TrainedRun, subject: EvalSet, facts: dict[str, Any], out: Path) -> None:
    """Measure, draw, and write the folder; evaluation.json last."""
    from seglab.engine.evaluation import NativeResolution, TrainingResolution, measure, seen_in_training
    from seglab.engine.per_image import write_table
    from seglab.engine.predictor import predictor
    from seglab.engine.run import versions
    from seglab.files import write_arrays, write_json
    from seglab.reporting.metrics_table import at_threshold

    since = time.perf_counter()
    native = facts["scale"] == "native"
    looks = (cfg.window, cfg.overlap, cfg.tta) if native else (subject.dataset.size, 0.5, "none")
    one = predictor(run, *looks, cfg.batch_size, cfg.device, subject.dataset)
    looked = NativeResolution(run, one, subject) if native else TrainingResolution(run, one, subject, cfg.workers)
    seen = seen_in_training(run, looked.items)
    if seen:
        log.warning("%s: %d of %d images have ids that the run has trained on", run.name, seen, len(looked.items))
    threshold, tuned, empty = run.config["threshold"], run.outcome["threshold"]["tuned"], run.config["empty"]
    result = measure(looked, threshold, empty)
    out.mkdir(parents=True, exist_ok=True)
    write_table(out / "per_image.csv", result.table)
    write_arrays(out / "histograms.npz", **result.arrays)
    if cfg.pictures:
        draw(result, looked, threshold, out)
    metrics = at_threshold(result.arrays["test"], tuned, empty) | result.metrics
    facts |= {"data": counted(result), "seen_in_training": seen, "threshold": {"fixed": threshold, "tuned": tuned}}
    facts |= {"metrics": metrics, "seconds": round(time.perf_counter() - since, 2), "versions": versions()}
    facts |= {"finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
    write_json(out / "evaluation.json", facts)


def counted(result: Result) -> dict[str, Any]:
    """What was measured: images, those without foreground, the share of foreground, and what was left out."""
    table = result.table
    share = float((table["foreground"] / table["pixels"]).mean())
    counts = {"images": len(table), "empty_masks": int((table["foreground"] == 0).sum()), "foreground": share}
    return counts | {"skipped": len(result.skipped)}


def draw(result: Result, looked: Any, threshold: float, out: Path) -> None:
    """Draw the best, median and worst images."""
    from seglab.engine.per_image import extremes
    from seglab.reporting.run_figures import Example, examples

    rows = result.table
    labels = extremes(rows["iou"].where(rows["foreground"] > 0)) or {0: "empty"}
    captions = [f"{labels[k]}\n{rows['id'][k]}\nIoU {rows['iou'][k]:.3f}" for k in labels]
    pictures = zip(captions, looked.pictures(list(labels)), strict=True)
    examples((Example(caption, *arrays) for caption, arrays in pictures), out / "examples.png", threshold)


def tell(done: dict[str, Path]) -> None:
    """Print a row for each run: the mean over its images."""
    wide = max(map(len, done), default=3)
    log.info("%s %s", "run".ljust(wide), " ".join(key.rjust(13) for key in ("images", *SHOWN)))
    for name, out in done.items():
        facts = known(out)
        cells = [f"{facts['metrics'].get(key, float('nan')):13.4f}".replace("nan", "  -") for key in SHOWN]
        log.info("%s %13d %s", name.ljust(wide), facts["data"]["images"], " ".join(cells))
    for out in done.values():
        log.info("%s: evaluation.json per_image.csv", out)


main = verb("evaluate")(evaluate)

if __name__ == "__main__":
    main()
