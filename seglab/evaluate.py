"""`python -m seglab.evaluate`: measure trained runs on their own test images again, or on external data."""

from __future__ import annotations

import datetime
import json
import logging
import time
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from seglab.contract import ContractError, require
from seglab.engine.cli import command, sentence_of
from seglab.engine.config import build, check, overridden, to_container
from seglab.files import as_numbers, read_json

if TYPE_CHECKING:
    import pandas as pd

    from seglab.engine.trained_run import TrainedRun
    from seglab.inference.evaluation import EvalSet

log = logging.getLogger(__name__)

SHOWN = ("iou", "tuned/iou", "dice", "precision", "recall", "hd95", "object_recall")


def evaluate(cfg: DictConfig, folder: Path) -> list[Path]:
    """Evaluate every run named by `cfg.run` on `cfg.dataset`; return the folders of the results."""
    from seglab.engine.trained_run import open_runs

    runs = open_runs(to_container(cfg.run), to_container(cfg.trust))
    losses = sorted({str(run.facts["choices"].get("loss")) for run in runs})
    if len(losses) > 1:
        log.info("%d runs with %d losses (%s), each evaluated separately", len(runs), len(losses), ", ".join(losses))
    results: dict[Path, Path] = {}
    for run in runs:
        try:
            results[run.folder] = evaluate_run(cfg, run)
        except (ContractError, OSError) as error:
            if len(runs) == 1:
                raise
            log.warning("%s: %s", run.name, sentence_of(error, "evaluate"))
    if results:
        log_table(results)
    failed = len(runs) - len(results)
    got = f"{failed} of {len(runs)} that cannot"
    require(not failed, "evaluate", "runs that can be evaluated", got, "see the warnings above")
    return list(results.values())


def evaluate_run(cfg: DictConfig, run: TrainedRun) -> Path:
    """Evaluate one run unless that was done before; return the folder RUN/evaluations/DATA-IDENTITY."""
    from seglab.inference.evaluation import SCALES, dataset_node, eval_set

    node = dataset_node(run, to_container(cfg.dataset), overridden("dataset"))
    check(DictConfig({"dataset": node}))
    dataset = build(node)
    run.require_task(dataset.task)
    images = eval_set(run, dataset, cfg.split)
    scale = cfg.scale or ("native" if images.dataset.fit == "patch" else "run")
    scales = SCALES[1:] if images.dataset.fit == "patch" else SCALES  # runs on patches are tested on whole images
    require(scale in scales, "evaluate", f"scale as {' or '.join(scales)} with dataset.fit={images.dataset.fit}", scale)
    # The location of the data is left out: the fingerprint identifies them
    fixed = {key: value for key, value in node.items() if key not in ("root", "cache_dir", "cache_gb")}
    settings = {"dataset": fixed, "split": images.split, "scale": scale}
    settings |= {key: cfg[key] for key in ("window", "overlap", "tta")} if scale == "native" else {}
    name = node["_target_"].rsplit(".", 1)[-1].lower()
    # Options that differ between the folds of a study are masked: the report averages evaluations of the same name
    computed = {key for key in ("mean", "std") if run.config["dataset"].get(key) == "auto"} - overridden("dataset")
    masked = fixed | dict.fromkeys(computed, "auto") | ({"fold": 0} if images.own else {})
    identity = json.dumps(settings | {"dataset": masked}, sort_keys=True) + images.fingerprint
    out = run.folder / "evaluations" / f"{name}-{sha256(identity.encode()).hexdigest()[:6]}"
    facts = {"run": run.name, "run_finished": run.outcome["finished"], "name": name, **settings}
    facts |= {"fingerprint": images.fingerprint, "own": images.own}
    if not cfg.rerun and read_json(out / "evaluation.json").get("run_finished") == run.outcome["finished"]:
        log.info("%s already exists; set rerun=true to evaluate again", out)
        return out
    measure_run(cfg, run, images, facts, out)
    return out


def measure_run(cfg: DictConfig, run: TrainedRun, images: EvalSet, facts: dict[str, Any], out: Path) -> None:
    """Measure and draw the images and write the folder of results, evaluation.json last."""
    from seglab.engine.device import processes_sentence
    from seglab.engine.per_image import ImageTable, score
    from seglab.engine.run import versions
    from seglab.files import csv_text, write_arrays, write_json, write_text
    from seglab.inference.evaluation import TrainingResolution, native, seen_in_training
    from seglab.inference.predictor import predictor
    from seglab.reporting.class_rows import rows_per_image
    from seglab.reporting.metrics_table import at_threshold

    start = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)  # first, so that a folder that cannot be written fails before the work
    whole = facts["scale"] == "native"
    # At the run's scale only the model is used, so the predictor's own check runs at the training size
    window, overlap, tta = (cfg.window, cfg.overlap, cfg.tta) if whole else (images.dataset.size, 0.5, "none")
    model = predictor(run, window, overlap, tta, cfg.batch_size, cfg.device, images.dataset)
    measured = native(model, images) if whole else TrainingResolution(run, model, images, cfg.workers)
    seen, total = seen_in_training(run, measured.items), len(measured.items)
    if seen:
        log.warning("%s: %d of %d images have ids from its training or validation split", run.name, seen, total)
    threshold, tuned, empty = run.config["threshold"], run.outcome["threshold"]["tuned"], run.config["empty"]
    groups, task = {item.id: item.group for item in measured.items}, model.module.task
    require(bool(groups), "evaluate", "labeled images in the split", "none", "set split=all, or check dataset.root")
    records = ImageTable(groups, threshold, empty, objects=measured.objects, task=task)
    with processes_sentence():
        metrics, arrays = score(model.module, measured, records), records.arrays("test")
    table = records.table()
    rows = rows_per_image(table, task)
    for file in ("evaluation.json", "examples.png"):  # left by an earlier evaluation
        (out / file).unlink(missing_ok=True)
    write_text(out / "per_image.csv", csv_text(table))
    write_arrays(out / "histograms.npz", **arrays)
    if cfg.pictures:
        draw(rows, measured, threshold, out)
    metrics = at_threshold(arrays["test"], task, tuned, empty) | metrics
    data: dict[str, Any] = {"images": len(rows), "empty_masks": int((rows["foreground"] == 0).sum())}
    data |= {"foreground": float((rows["foreground"] / rows["pixels"]).mean()), "skipped": len(measured.skipped)}
    facts |= {"data": data, "seen_in_training": seen, "threshold": {"fixed": threshold, "tuned": tuned}}
    facts |= {"metrics": metrics, "seconds": round(time.perf_counter() - start, 2), "versions": versions()}
    facts |= {"finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
    write_json(out / "evaluation.json", facts)  # last: a folder without it is measured again


def draw(rows: pd.DataFrame, measured: Any, threshold: float, out: Path) -> None:
    """Draw the best, median and worst images."""
    from seglab.engine.per_image import captions
    from seglab.reporting.run_figures import Example, examples

    task = measured.module.task
    caption_of = captions(rows)
    pictures = zip(caption_of.values(), measured.pictures(list(caption_of)), strict=True)
    title = f"{out.parents[1].name} on {out.name}"
    examples((Example(caption, *arrays) for caption, arrays in pictures), out / "examples.png", threshold, title, task)


def log_table(done: dict[Path, Path]) -> None:
    """Log one row per run with the means over its images; `done` maps run folders to folders of results."""
    unique = len({run.name for run in done}) == len(done)  # runs of two studies may share a name
    names = [run.name if unique else str(run) for run in done]
    width = max([len("run"), *map(len, names)])
    log.info("%s %s", "run".ljust(width), " ".join(key.rjust(13) for key in ("images", *SHOWN)))
    for name, out in zip(names, done.values(), strict=True):
        facts = read_json(out / "evaluation.json")
        metrics = as_numbers(facts["metrics"])
        cells = [f"{metrics.get(key, float('nan')):13.4f}".replace("nan", "  -") for key in SHOWN]
        log.info("%s %13d %s", name.ljust(width), facts["data"]["images"], " ".join(cells))
    for out in done.values():
        log.info("%s: evaluation.json per_image.csv", out)


main = command("evaluate")(evaluate)

if __name__ == "__main__":
    main()
