"""`python -m seglab.train`: train a model with a loss on a data set, measure it, and leave a folder to look at."""

from __future__ import annotations

import functools
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from seglab.contract import require
from seglab.engine.config import build, check, choices, identity, parallel, plain, sweeps_in_process, verb

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

    from seglab.data.module import DataModule
    from seglab.engine.module import SegModule
    from seglab.engine.run import Run

log = logging.getLogger(__name__)

LITTLE = 0.05
"""An IoU below this says nothing about a learning rate."""


def train(cfg: DictConfig, folder: Path) -> float:
    """Run the experiment that `cfg` describes in `folder`; returns the best value of `cfg.monitor`."""
    from seglab.engine.sweep import sign

    sign(folder, cfg.on_fail)
    return once(cfg, folder)


def once(cfg: DictConfig, folder: Path, wait: bool = False) -> float:
    """Finish the run in `folder` unless it is finished: from its last checkpoint if it was interrupted."""
    from seglab.engine.run import Run
    from seglab.engine.sweep import failed_in, journal

    with Run(folder, wait) as run:
        if not run.leads:
            logging.getLogger().setLevel(logging.WARNING)
        if cfg.rerun:
            run.forget()
        known, who = run.known(), identity(cfg)
        remedy = "choose another hydra.run.dir, or rerun=true to replace it"
        require(known.get("identity", who) == who, f"run {run}", "a folder of this experiment", "another", remedy)
        if known.get("status") == "finished":
            same = known["data"]["fingerprint"] == mark_now(json.dumps(plain(cfg.dataset), sort_keys=True))
            remedy = "rerun=true trains it again, study=NAME keeps both"
            require(same, f"run {run}", "the data that it was trained on", "files that have changed since", remedy)
            same = not cfg.init_from or began_alike(known)
            require(same, f"run {run}", "the weights that it began with", "a file that has changed since", remedy)
            log.info("%s is finished already; rerun=true trains it again", run)
            return known["monitor"]["value"]
        require(not failed_in(known, journal()), f"run {run}", "a run that has not failed in this sweep", "one")
        if cfg.plan:
            log.info("%s %s", known.get("status", "waiting"), run)
            return float("nan")
        run.start(identity=who, sweep=journal(), choices=choices(), seed=cfg.seed, config=plain(cfg))
        settled = cfg.copy()  # the caller's stays as it was composed
        tune(settled, run)
        return perform(settled, run)


@functools.cache
def mark_now(dataset: str) -> str:
    """The fingerprint of a data set, written as JSON, as it lies on disk now; looked at once in a sweep's process."""
    from seglab.data.opening import mark_of

    return mark_of(build(json.loads(dataset)))


def began_alike(known: dict) -> bool:
    """Whether the weights that a run began with are what they were; a file that is gone does not count against it."""
    from seglab.engine.initial import unchanged

    return unchanged(known.get("initial"))


def tune(cfg: DictConfig, run: Run) -> None:
    """Choose the learning rate of this loss by the validation of short runs, which all seeds share."""
    if not cfg.tune.lr:
        return
    values = {}
    for lr in cfg.tune.lr:
        short = cfg.copy()
        short.merge_with({"optimizer": {"lr": lr}, "trainer": {"max_epochs": cfg.tune.epochs}, "seed": cfg.tune.seed})
        short.tune.lr, short.examples = None, 1
        folder = run.folder.parent / ".tune" / f"{choices().get('loss', 'loss')}_lr-{lr:g}-{identity(short)}"
        short.folder = str(folder)
        values[lr] = once(short, folder, wait=True)
    best = (max if cfg.monitor_mode == "max" else min)(values, key=values.__getitem__)
    cfg.optimizer.lr = best
    run.note(tuned={"lr": best, "tried": {f"{lr:g}": value for lr, value in values.items()}})
    log.info("tune: optimizer.lr=%g of %s", best, ", ".join(f"{lr:g}: {value:.4f}" for lr, value in values.items()))
    if "iou" in cfg.monitor and values[best] < LITTLE:
        log.warning("tune: no rate has found anything to speak of in %d epochs; raise tune.epochs", cfg.tune.epochs)


def perform(cfg: DictConfig, run: Run) -> float:
    """Train, measure and draw; the folder is ours, and the experiment is new or goes on."""
    from seglab.engine.device import precision

    cfg.trainer.precision = precision(cfg.trainer.accelerator, cfg.trainer.precision)
    check(cfg)
    remedy = "start each run by itself, or sweep with hydra/launcher=slurm"
    require(alone(cfg) or not sweeps_in_process(), "trainer", "devices=1 in a sweep in one process", "more", remedy)
    data = load_data(cfg, run)
    module = make_module(cfg, data, run)
    trainer = make_trainer(cfg, run)
    fit(trainer, module, data, run)
    measure(cfg, trainer, module, data, run)
    if run.leads:
        draw(cfg, module, data, run)
    scores = [f"{name} {run.facts['metrics'][f'test/{name}']:.4f}" for name in ("iou", "dice", "precision", "recall")]
    tell_if_nothing_is_found(run)
    log.info("test: %s\n%s: run.json per_image.csv curves.png examples.png", "  ".join(scores), run)
    return run.facts["monitor"]["value"]


def tell_if_nothing_is_found(run: Run) -> None:
    """Warn of a model that calls everything background, whose scores are those of the empty images."""
    if run.facts["metrics"].get("test/image_recall") == 0:
        iou, remedy = run.facts["metrics"]["test/iou"], "train longer, or with another learning rate or loss"
        log.warning("%s finds nothing in any test image that has foreground (IoU %.3f); %s", run, iou, remedy)


def alone(cfg: DictConfig) -> bool:
    """Whether one process makes the run."""
    return cfg.trainer.devices in (1, "1") and cfg.trainer.num_nodes == 1


def load_data(cfg: DictConfig, run: Run) -> DataModule:
    """Read the data set, and print what a person should know before spending hours on it."""
    from seglab.data.module import DataModule

    loss = build(cfg.loss)
    data = DataModule(build(cfg.dataset), build(cfg.augment), cfg.batch_size, cfg.workers, cfg.seed, loss.needs)
    data.setup()
    facts = data.facts()
    seen = (run.earlier.get("data") or facts)["fingerprint"]
    run.note(data=facts)
    run.write("split.json", data.splits.ids())
    if run.last:
        same = seen == facts["fingerprint"]
        require(same, f"run {run}", "the data that it began with", "others", "rerun=true starts over")
    for part, count in facts["images"].items():
        require(count > 0, "dataset", f"images in {part}", "none", "see dataset.val_fraction and dataset.test_fraction")
    counts = [f"{count} {part} ({facts['empty_masks'][part]} empty)" for part, count in facts["images"].items()]
    share = 100 * facts["foreground"]
    log.info("data: %s images; %.3g %% of the training pixels are foreground", ", ".join(counts), share)
    for sentence in data.warnings():
        log.warning("data: %s", sentence)
    return data


def make_module(cfg: DictConfig, data: DataModule, run: Run) -> SegModule:
    """Build model and loss from the seed alone, and let two images rehearse the whole step."""
    from dataclasses import asdict

    from pytorch_lightning import seed_everything

    from seglab.engine.rehearse import rehearse
    from seglab.engine.saved import assemble

    loss = build(cfg.loss).with_class_frequency([data.facts()["foreground"]])
    seed_everything(cfg.seed, verbose=False)  # after everything that may draw numbers: twins start from one state
    module = assemble(plain(cfg), data.dataset, loss)
    run.note(card=asdict(loss.card), parameters=sum(weight.numel() for weight in module.parameters()))
    begin(cfg, module, run)
    rehearse(module, data.train_dataloader())
    return module


def begin(cfg: DictConfig, module: SegModule, run: Run) -> None:
    """Take the first weights from where `cfg.init_from` says; a run that goes on has its own."""
    from seglab.engine.initial import start_from, told

    require(cfg.init_from or not cfg.init_include, "init_include", "init_from=RUN beside it", "none")
    if cfg.init_from and run.last:
        run.note(initial=run.earlier.get("initial"))
    elif cfg.init_from:
        run.note(initial=start_from(module.model, cfg.init_from, plain(cfg.init_include)))
        log.info("init_from: %s", told(run.facts["initial"]))


def make_trainer(cfg: DictConfig, run: Run) -> Trainer:
    """Lightning's trainer with the checkpoints, tables and progress of a run."""
    import sys

    from pytorch_lightning.plugins.environments import LightningEnvironment

    from seglab.engine.callbacks import EpochLines, Progress, quieten
    from seglab.engine.course import Course
    from seglab.engine.device import describe
    from seglab.engine.gradients import GradientShares
    from seglab.engine.records import EpochTable

    quieten()
    run.note(host=describe(cfg.trainer.precision))
    progress = Progress(refresh_rate=5) if sys.stderr.isatty() and not parallel() else EpochLines()
    course = Course(plain(cfg.schedule) or {}, cfg.monitor_mode)
    return build(
        cfg.trainer,
        callbacks=[
            EpochTable(run.folder / "metrics.csv"),
            course,
            GradientShares(),
            progress,
            *build(cfg.callbacks).values(),
        ],
        logger=build(cfg.logger) or False,
        default_root_dir=run.folder,
        plugins=LightningEnvironment() if alone(cfg) else None,  # or it looks for the other tasks of a SLURM job
        enable_progress_bar=isinstance(progress, Progress),
        enable_model_summary=False,
        num_sanity_val_steps=0,  # the rehearsal has done it
        use_distributed_sampler=False,  # ours shards by itself
    )


def fit(trainer: Trainer, module: SegModule, data: DataModule, run: Run) -> None:
    """Train to the end, from the last checkpoint where there is one, and go back to the best weights."""
    import torch
    from pytorch_lightning.callbacks import ModelCheckpoint

    from seglab.engine.course import Course

    loader = data.loader("train")
    if run.last:
        done = torch.load(run.last, map_location="cpu", weights_only=True, mmap=True)["epoch"] + 1
        loader.batch_sampler.sampler.set_epoch(done)  # Lightning 2.6 opens the loader before it sets the epoch
        log.info("going on after epoch %d of %s", done, run)
    trainer.fit(module, loader, data.loader("val"), ckpt_path=run.last)
    course = next(kept for kept in trainer.callbacks if isinstance(kept, Course))
    if course.switches:
        run.note(switched=course.turns)
    best = next(kept for kept in trainer.callbacks if isinstance(kept, ModelCheckpoint) and kept.monitor)
    trainer.strategy.barrier()
    saved = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
    module.load_state_dict(saved["state_dict"])
    run.note(monitor={"name": best.monitor, "value": float(best.best_model_score), "epoch": saved["epoch"]})


def measure(cfg: DictConfig, trainer: Trainer, module: SegModule, data: DataModule, run: Run) -> None:
    """Measure validation and test images: a row and a histogram for each, and the threshold tuned on validation."""
    from seglab.analysis.thresholds import best_threshold
    from seglab.engine.records import ImageTable, means, write_arrays, write_table

    groups = {item.id: item.group for part in (data.splits.val, data.splits.test) for item in part}
    metrics, arrays = {}, {}
    for part, look in (("val", trainer.validate), ("test", trainer.test)):
        seen = ImageTable(groups, cfg.threshold, cfg.empty, part == "test", data.objects(part))
        trainer.callbacks.append(seen)
        look(module, data.loader(part), verbose=False)
        trainer.callbacks.remove(seen)
        table = seen.table()
        metrics |= {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith(part)}
        metrics |= {f"{part}/{name}": value for name, value in means(table).items()}
        arrays |= seen.arrays(part)
    if run.leads:
        write_table(run.folder / "per_image.csv", table)
        write_arrays(run.folder / "histograms.npz", **arrays)
    run.note(metrics=metrics, threshold={"tuned": best_threshold(arrays["val"])})


def draw(cfg: DictConfig, module: SegModule, data: DataModule, run: Run) -> None:
    """Draw the learning curves and test images: some chosen by the data alone, and the best, median and worst."""
    import pandas as pd

    from seglab.analysis.figures import Example, curves, examples
    from seglab.engine.records import extremes, predict, spread, write_arrays

    rows, samples = pd.read_csv(run.folder / "per_image.csv"), data.samples("test")
    write_arrays(run.folder / "examples.npz", **predict(module, samples, spread(rows["foreground"], cfg.examples)))
    labels = extremes(rows["iou"].where(rows["foreground"] > 0)) or {0: "empty"}
    seen = predict(module, samples, labels)
    captions = [f"{labels[k]}\n{rows['id'][k]}\nIoU {rows['iou'][k]:.3f}" for k in labels]
    arrays = (seen["images"], seen["truths"], seen["probabilities"].astype("float32"))
    examples(map(Example, captions, *arrays), run.folder / "examples.png", cfg.threshold)
    curves(run.folder / "metrics.csv", run.folder / "curves.png")


main = verb("train")(train)

if __name__ == "__main__":
    main()
