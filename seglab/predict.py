"""`python -m seglab.predict`: write masks, probabilities, overlays and tables of unlabeled images."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from seglab.contract import ContractError, Task, require
from seglab.engine.cli import command
from seglab.engine.config import to_container

if TYPE_CHECKING:
    from seglab.data.dataset import Dataset
    from seglab.engine.trained_run import TrainedRun
    from seglab.inference.prediction_writer import PredictionWriter
    from seglab.inference.predictor import Predictor

log = logging.getLogger(__name__)


def predict(cfg: DictConfig, folder: Path) -> Path:
    """Predict the images named by `cfg.input` with the runs named by `cfg.run`; return the folder of results."""
    from seglab.engine.trained_run import open_runs
    from seglab.inference.prediction_writer import PredictionWriter, alone_in, find_images
    from seglab.inference.predictor import predictor

    out = Path(cfg.output)
    names, left_out = find_images(to_container(cfg.input), out)
    runs = open_runs(to_container(cfg.run), to_container(cfg.trust))
    tiling = {key: cfg[key] for key in ("window", "overlap", "tta")}
    task = runs[0].raw_dataset().task
    kinds = [cfg.format] if isinstance(cfg.format, str) else list(cfg.format)
    same = all(run.raw_dataset().task == task for run in runs)
    remedy = "predict with each run separately"
    require(same, "predict", "runs with the same task", "runs with different tasks", remedy)
    thresholds = thresholds_of(cfg.threshold, runs, task)
    used = [[str(run.folder), run.outcome["finished"]] for run in runs]  # a run trained again counts as another run
    settings = {"runs": used, **tiling, "threshold": thresholds[0] if task.channels == 1 else thresholds}
    settings |= {"min_area": cfg.min_area, "format": kinds}
    with alone_in(out):
        writer = PredictionWriter(out, names, kinds, settings, thresholds, cfg.min_area, cfg.rerun, task)
        waiting = {name: file for name, file in names.items() if name not in writer}
        done = len(names) - len(waiting)
        log.info("%d images, %d already predicted; %s", len(names), done, describe(runs, thresholds, task))
        if reasons := [f"{what} ({count})" for what, count in left_out.items() if count]:
            log.info("skipped: %s", ", ".join(reasons))
        if mixed := differences(runs):
            remedy = "set run=FOLDER to predict with one run"
            log.warning("the runs differ in their %s and are averaged into one prediction; %s", mixed, remedy)
        if waiting:
            predictors = [predictor(run, **tiling, batch=cfg.batch_size, device=cfg.device) for run in runs]
            predict_images(waiting, predictors, writer)
    return out


def predict_images(waiting: dict[str, Path], predictors: Sequence[Predictor], writer: PredictionWriter) -> None:
    """Predict files with the mean of several models; raise ContractError at the end if some could not be predicted."""
    from dataclasses import replace

    from seglab.data.decode import view_image
    from seglab.data.memo import progress
    from seglab.images.image_io import is_volume
    from seglab.images.resize import to_full_range
    from seglab.inference.prediction_writer import KINDS, SETTINGS
    from seglab.inference.predictor import decoded, ensemble_average, label_of, with_data

    dataset, attempted, failed = predictors[0].dataset, 0, 0
    unscaled = replace(dataset, fit="patch", reduce=1)  # the overlay is drawn at the image's own size
    for base in progress(waiting, "predict", len(waiting)):
        file, attempted_before = waiting[base], attempted
        pages = pages_of(base, file, dataset)
        for name, page in pages.items():
            if name in writer:  # a page of a partly predicted stack
                continue
            attempted += 1
            try:
                unique = page is None or name not in writer.names
                require(unique, "predict", "images with different names", f"several named {name}")
                image = decoded(str(file), dataset, page)
                shown = to_full_range(view_image(image, unscaled), dataset.range)
                levels = ensemble_average(predictors, str(file), page)
            except (ContractError, OSError, MemoryError) as error:
                failed += 1
                message = error if isinstance(error, ContractError) else f"{file}: {type(error).__name__}: {error}"
                log.warning("%s%s", label_of(page), message)
                continue
            writer.write(name, file, shown, levels, with_data(image))
        if is_volume(str(file)):
            writer.join_slices(base, file, list(pages), axis_of(dataset), again=attempted > attempted_before)
    outputs = sorted(["images.csv", SETTINGS, *(KINDS[kind] for kind in writer.kinds)])
    log.info("%s: %s", writer.folder, " ".join(outputs))
    got = f"{failed} of {attempted} that cannot"
    require(not failed, "predict", "images that can be read", got, "see the warnings above")


def axis_of(dataset: Dataset) -> int:
    """Return the axis of a volume along which its slices are numbered."""
    from seglab.images.medical import LAST

    return getattr(dataset, "axis", LAST)


def pages_of(name: str, file: Path, dataset: Dataset) -> dict[str, int | None]:
    """Return the pages of a file by the names of their predictions; None for a single page or an unreadable file."""
    from seglab.images.image_io import is_volume
    from seglab.images.medical import read_volume
    from seglab.images.raster import SeveralPages
    from seglab.inference.predictor import decoded, warn_of_range

    try:
        decoded(str(file), dataset, None)  # cached for the prediction that follows
    except SeveralPages as error:
        suffix = "page{}"
        if is_volume(str(file)):
            suffix = f"{'xyz'[axis_of(dataset)]}{{:03}}"  # as slices are named in training
            warn_of_range(str(file), read_volume(str(file), file.stat().st_mtime_ns), dataset)
        return {f"{name}_{suffix.format(number)}": number for number in range(error.pages)}
    except (ContractError, OSError, MemoryError):
        pass  # reported when the file is predicted
    return {name: None}


def thresholds_of(choice: Any, runs: list[TrainedRun], task: Task) -> list[float]:
    """Return the threshold of each class: a given number, or for `tuned` the mean of the runs' tuned thresholds."""
    expected = "no threshold for a multiclass task, where the most probable class is predicted"
    require(task.kind != "multiclass" or choice in (0.5, "tuned"), "predict", expected, choice, "leave threshold out")
    if task.kind == "multiclass" or choice != "tuned":
        return [0.5 if choice == "tuned" else float(choice)] * task.channels
    from seglab.reporting.class_rows import threshold_of

    tuned = [run.outcome["threshold"]["tuned"] for run in runs]
    return [sum(threshold_of(of_run, name) for of_run in tuned) / len(runs) for name in task.classes]


def differences(runs: list[TrainedRun]) -> str:
    """Return how the runs of an ensemble differ besides their seeds, such as `loss (bce, dice)`; "" if not at all."""
    different = []
    for group in ("loss", "model", "dataset"):
        names = sorted({str(run.facts["choices"].get(group)) for run in runs})
        configs = {json.dumps(run.config[group], sort_keys=True) for run in runs}
        different += [f"{group} ({', '.join(names)})"] if len(configs) > 1 else []
    return " and ".join(different)


def describe(runs: list[TrainedRun], thresholds: list[float], task: Task) -> str:
    """Return a description of the predicting model and its thresholds."""
    model = f"run {runs[0].name}" if len(runs) == 1 else f"mean of {len(runs)} runs"
    if task.kind == "multiclass":
        return f"{model}, most probable class of {', '.join(task.classes)}"
    return f"{model}, threshold {', '.join(f'{threshold:.4g}' for threshold in thresholds)}"


main = command("predict")(predict)

if __name__ == "__main__":
    main()
