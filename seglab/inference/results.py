"""Measure a trained model and write its results to the run folder: a row per test image, histograms, and pictures."""

import logging
from collections.abc import Iterable
from concurrent.futures import Future
from functools import partial
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from seglab.data.facts import spread_objects
from seglab.data.module import DataModule
from seglab.engine.device import autocast
from seglab.engine.module import SegModule
from seglab.engine.per_image import ImageTable, Measured, captions, pictures, predict, score, steps
from seglab.engine.run import Run
from seglab.engine.threads import evaluation_processes
from seglab.engine.trackers import final
from seglab.engine.worker_pool import submit
from seglab.files import csv_text, write_arrays, write_text
from seglab.inference.evaluation import of_split
from seglab.reporting.class_rows import read_rows, rows_per_image, tuned_threshold
from seglab.reporting.decisions import calibration_scores
from seglab.reporting.run_decisions import decide
from seglab.reporting.run_figures import Example, curves, examples
from seglab.reporting.thresholds import MIDDLES

log = logging.getLogger(__name__)


def measure(cfg: DictConfig, device: torch.device, module: SegModule, data: DataModule, run: Run) -> None:
    """Measure the validation and test images, tune the threshold on validation, and write rows and histograms.

    A run trained on patches is measured on whole images, as in seglab.predict and seglab.evaluate.
    """
    whole = data.dataset.fit == "patch"
    groups = {item.id: item.group for items in (data.splits.val, data.splits.test) for item in items}
    metrics: dict[str, float] = {}
    arrays: dict[str, Any] = {}
    task, processes = data.dataset.task, evaluation_processes(cfg)
    module.to(device).eval()  # Lightning has moved it to the CPU
    for split in ("val", "test"):
        records = ImageTable(groups, cfg.threshold, cfg.empty, split == "test", data.objects(split), task, processes)
        limit, precision = cfg.trainer[f"limit_{split}_batches"], cfg.trainer.precision
        if whole:
            measured: Iterable[Measured] = of_split(module, data, split, limit, precision)
        else:
            measured = steps(module, data.loader(split, limit), partial(autocast, precision, device.type))
        metrics |= {f"{split}/{name}": value for name, value in score(module, measured, records).items()}
        arrays |= records.arrays(split)
    tuned, pooled = tuned_threshold(arrays["val"], task, cfg.empty), arrays["test"].sum(0)
    metrics["test/ece"] = sum(calibration_scores(pooled[k], MIDDLES)["ece"] for k in task.scored) / len(task.scored)
    if run.is_main:
        table = records.table()
        write_text(run.folder / "per_image.csv", csv_text(table))
        write_arrays(run.folder / "histograms.npz", **arrays)
        write_arrays(run.folder / "decisions.npz", **decide(arrays, table, task, tuned, cfg.empty))
    run.note(metrics=metrics, threshold={"tuned": tuned})
    for logger in module.loggers:
        logger.log_metrics(final(metrics), module.global_step)
        logger.save()  # Lightning saves them only during training


def draw(cfg: DictConfig, module: SegModule, data: DataModule, run: Run) -> None:
    """Save test images chosen by the data alone; draw the learning curves and the best, median and worst images."""
    task, samples = data.dataset.task, data.samples("test")
    processes = 0 if run.mirrors else evaluation_processes(cfg)  # trackers take the pictures when the run ends
    rows = rows_per_image(read_rows(run.folder / "per_image.csv"), task)
    saved, caption_of = spread_objects(rows["foreground"], cfg.examples), captions(rows) if cfg.pictures else {}
    numbers = list(dict.fromkeys([*saved, *caption_of]))
    with autocast(cfg.trainer.precision, module.device.type):
        predictions = predict(module, samples, numbers, cfg.batch_size)

    def select(chosen: Iterable[int]) -> dict[str, np.ndarray]:
        return {name: array[[numbers.index(number) for number in chosen]] for name, array in predictions.items()}

    write_arrays(run.folder / "examples.npz", **select(saved))
    if not cfg.pictures:
        return
    captioned = zip(caption_of.values(), pictures(select(caption_of)), strict=True)
    drawn = [Example(caption, *picture) for caption, picture in captioned]

    def warn(picture: Future[Any]) -> None:  # a failed picture must not fail the run
        if error := picture.exception():
            log.warning("%s: a picture could not be drawn (%s: %s)", run, type(error).__name__, error)

    of_tiles = ": the tile with the most foreground of each image; the IoU is that of the whole image"
    png, title = run.folder / "examples.png", run.folder.name + of_tiles * (data.dataset.fit == "patch")
    learning_curves = curves, run.folder / "metrics.csv", png.with_name("curves.png"), title
    for picture in ((examples, drawn, png, cfg.threshold, title, task), learning_curves):
        submit(processes, *picture).add_done_callback(warn)
