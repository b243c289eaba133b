"""`python -m seglab.train`: train a model with a loss on a dataset, test it, and write a run folder."""

from __future__ import annotations

import json
import logging
import math
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from seglab.contract import ContractError, Diverged, processes, require
from seglab.engine.cli import command, runs_in_parallel, shares_process
from seglab.engine.config import (
    build,
    build_loss,
    build_parts,
    check,
    check_domains,
    check_root,
    choices,
    experiment,
    facts_of,
    identity,
    to_container,
)
from seglab.engine.domains import better
from seglab.files import read_json, run_status

if TYPE_CHECKING:
    import torch
    from pytorch_lightning import Trainer

    from seglab.data.module import DataModule
    from seglab.engine.module import SegModule
    from seglab.engine.run import Run

log = logging.getLogger(__name__)


def train(cfg: DictConfig, folder: Path, wait: bool = False) -> float:
    """Run `cfg` in `folder`, waiting for another process there if `wait`; return the best monitored value."""
    check_root(cfg)  # before the imports, which take seconds
    from seglab.engine.sweep import register

    register(folder, "continue" if cfg.plan else cfg.on_fail)
    return show_plan(cfg, folder) if cfg.plan else run_once(cfg, folder, wait)


def show_plan(cfg: DictConfig, folder: Path) -> float:
    """Print the status of the run in `folder`, such as finished or waiting; return its value, or NaN if unknown."""
    from seglab.engine.run import Run

    run = Run(folder)
    value = None if cfg.rerun else known_value(cfg, run)
    print("finished" if value is not None else "waiting" if cfg.rerun else run_status(folder, run.known()), run)
    with suppress(OSError):
        for path in (folder, *folder.resolve().parents):  # made by Hydra; stops at the first that is not empty
            if path is folder or path.is_relative_to(Path("outputs").resolve()):
                path.rmdir()
    return float("nan") if value is None else value


def known_value(cfg: DictConfig, run: Run) -> float | None:
    """Return the best value of `cfg.monitor` if exactly this run is finished, else None; see Run.outcome."""
    data_now = partial(fingerprint_now, json.dumps(to_container(cfg.dataset)))  # the order of classes matters
    return run.outcome(identity(cfg), data_now, cfg.stop_after, cfg.dataset.get("root"))


@cache
def fingerprint_now(dataset: str) -> str:
    """Return the fingerprint of a dataset, given as JSON, as it is on disk now; computed once per process."""
    from seglab.data.prepare_data import select_items

    return select_items(build(json.loads(dataset))).fingerprint


def run_once(cfg: DictConfig, folder: Path, wait: bool = False) -> float:
    """Return the result of the run in `folder`: read it if finished, resume it if interrupted, else train it."""
    from seglab.engine.run import Run, be_first

    check_domains(cfg)  # commands have done this, callers from Python have not
    if processes(cfg.trainer) == 1:
        be_first()
    with Run(folder, wait) as run:
        if not run.is_main:
            logging.getLogger().setLevel(logging.ERROR)  # of several processes only the first one logs
        value = None if cfg.rerun and run.replace() else known_value(cfg, run)
        if value is not None:
            paused = run.known()["status"] != "finished"
            remedy = "; remove stop_after to finish it" if paused else "; set rerun=true to train it again"
            log.info("%s is already %s%s", run, "paused" if paused else "finished", "" if wait else remedy)
            return value
        run.clean_up()  # not for a finished run, which would lose best.ckpt to a damaged last.ckpt
        check_device(cfg)
        run.start(**facts_of(cfg))
        cfg = cfg.copy()  # the caller's copy stays unchanged
        tune_learning_rate(cfg, run)
        return train_and_measure(cfg, run)


def tune_learning_rate(cfg: DictConfig, run: Run) -> None:
    """Choose the learning rate of this loss by the validation scores of short runs, which all seeds share."""
    if not cfg.tune.lr:
        return
    values = {}
    for lr in cfg.tune.lr:
        short = cfg.copy()
        short.merge_with({"optimizer": {"lr": lr}, "trainer": {"max_epochs": cfg.tune.epochs}, "seed": cfg.tune.seed})
        short.tune.lr, short.stop_after, short.pictures = None, cfg.tune.epochs, False
        folder = run.folder.parent / ".tune" / f"{choices().get('loss', 'loss')}_lr-{lr:g}-{identity(short)}"
        short.folder = str(folder)  # callbacks and loggers write there
        try:
            values[lr] = run_once(short, folder, wait=True)  # another seed may be training it now
        except ContractError:
            fault = read_json(folder / "run.json").get("error") or {}  # in a sweep perhaps from an earlier seed
            if fault.get("kind") != Diverged.__name__:
                raise
            log.warning("tune: optimizer.lr=%g is dropped: %s", lr, fault["message"])
    for lr in [lr for lr, value in values.items() if math.isnan(value)]:
        log.warning("tune: optimizer.lr=%g is dropped: %s is undefined in each validation", lr, cfg.monitor)
        del values[lr]
    require(bool(values), "tune.lr", "a learning rate at which this loss trains", "none", "add a lower one")
    best = (max if better(cfg.monitor) == "max" else min)(values, key=values.__getitem__)
    cfg.optimizer.lr = best
    run.note(tuned={"lr": best, "tried": {f"{lr:g}": values.get(lr) for lr in cfg.tune.lr}})
    listed = ", ".join(f"{lr:g}: {value:.4f}" for lr, value in values.items())
    log.info("tune: chose optimizer.lr=%g by %s (%s)", best, cfg.monitor, listed)
    if "iou" in cfg.monitor and values[best] < 0.05:  # the choice would be noise
        sentence = "tune: %s is below 0.05 at all learning rates after %d epochs; raise tune.epochs"
        log.warning(sentence, cfg.monitor, cfg.tune.epochs)


def train_and_measure(cfg: DictConfig, run: Run) -> float:
    """Train, measure and draw in a folder locked by this process; resume from the last checkpoint if there is one."""
    from seglab.engine.device import keep_freed_memory, precision, processes_sentence, use_threads
    from seglab.engine.threads import evaluation_processes, run_threads
    from seglab.engine.worker_pool import submit
    from seglab.inference.results import draw, measure

    keep_freed_memory()
    use_threads(run_threads(cfg))
    cfg.trainer.precision = precision(cfg.trainer.accelerator, cfg.trainer.precision)
    check(cfg)
    trainer = make_trainer(cfg, run)  # first, since it determines the device for the data
    check_before_data(cfg)
    data = load_data(cfg, run, trainer.strategy.root_device, trainer.world_size)
    module = make_module(cfg, data, run)
    run.begin(data.splits.ids())
    processes = evaluation_processes(cfg)
    for _ in range(processes):  # start workers, which takes seconds, while the run trains
        submit(processes, exec, "import seglab.metrics.objects, seglab.reporting.run_figures")
    with processes_sentence(trainer.strategy.launcher):
        fit(cfg, trainer, module, data, run)
        if cfg.stop_after:
            return run.pause(cfg.stop_after)
        measure(cfg, trainer.strategy.root_device, module, data, run)
    if run.is_main:
        draw(cfg, module, data, run)
    scores = [f"{name} {run.facts['metrics'][f'test/{name}']:.4f}" for name in ("iou", "dice", "precision", "recall")]
    if run.facts["metrics"].get("test/image_recall") == 0:  # background is predicted everywhere
        iou, remedy = run.facts["metrics"]["test/iou"], "train longer, or use another learning rate or loss"
        log.warning("%s finds nothing in any test image with foreground (IoU %.3f); %s", run, iou, remedy)
    drawn = " curves.png examples.png" if cfg.pictures else ""
    log.info("test: %s\n%s: run.json per_image.csv%s", "  ".join(scores), run, drawn)
    return run.facts["monitor"]["value"]


def check_device(cfg: DictConfig) -> None:
    """Raise ContractError before the run begins if this machine can never train it; a sweep then does not resume it."""
    from torch.cuda import is_available

    from seglab.engine.device import check_nodes, precision

    check_nodes(cfg.trainer.num_nodes)
    precision(cfg.trainer.accelerator, cfg.trainer.precision)  # raises if the device does not support it
    remedy = "start each run separately, or use hydra/launcher=slurm"
    fits = processes(cfg.trainer) == 1 or not shares_process()
    require(fits, "trainer", "devices=1 in a sweep outside SLURM", "more than one", remedy)
    gpu = cfg.trainer.accelerator != "cpu" and is_available()
    fits = gpu or processes(cfg.trainer) == 1 or not cfg.trainer.get("sync_batchnorm")
    require(fits, "trainer.sync_batchnorm", "GPUs, since torch synchronizes only these", "none", "use model.norm=group")


def check_before_data(cfg: DictConfig) -> None:
    """Validate what can be validated before any image is read, since reading may take an hour."""
    from seglab.engine.dry_run import check_model, check_monitors
    from seglab.engine.loss_schedule import ramps, unreached

    dataset = build(cfg.dataset)
    task = dataset.task
    loss = build_loss(cfg.loss).with_task(task)  # raises if the loss has no meaning for the task
    shares = [1 / max(2, task.channels)] * task.channels  # placeholders, since no mask is read yet; 1 is refused
    schedule = ramps(to_container(cfg.schedule) or {}, loss.with_class_frequency(shares))  # also checks the schedule
    for sentence in unreached(loss, schedule, cfg.trainer.max_epochs, cfg.trainer.check_val_every_n_epoch):
        log.warning("%s", sentence)
    check_model(to_container(cfg.model), dataset)
    callbacks = to_container(cfg.callbacks) or {}
    monitors = {f"callbacks.{name}.monitor": node.get("monitor") for name, node in callbacks.items() if node}
    monitors = {option: metric for option, metric in monitors.items() if metric is not None}  # "" is kept, and reported
    check_monitors({"monitor": cfg.monitor} | monitors, cfg.threshold, cfg.empty, task)


def load_data(cfg: DictConfig, run: Run, device: torch.device | None = None, world: int = 1) -> DataModule:
    """Read the dataset and log what a user should know before hours of training."""
    from seglab.data.module import DataModule
    from seglab.engine.dry_run import check_foreground
    from seglab.engine.run import other_data

    dataset, augment, needs = build(cfg.dataset), build(cfg.augment), build_loss(cfg.loss).needs
    seed = dataset.training_seed(cfg.seed)
    data = DataModule(dataset, augment, cfg.batch_size, cfg.workers, seed, needs, cfg.store, device, world)
    facts = data.opened.facts()
    earlier, ids = run.earlier.get("data") if run.last else None, data.splits.ids()
    # a split file may have changed since the run was started
    earlier_ids = (read_json(run.folder / "split.json") if cfg.dataset.get("split_file") else None) or ids
    if earlier and (earlier["fingerprint"] != facts["fingerprint"] or earlier_ids != ids):
        got = other_data(run.earlier, cfg.dataset.get("root"))
        require(False, f"run {run}", "the data that it was started with", got, "set rerun=true to start over")
    run.note(data=facts, scale="native" if dataset.fit == "patch" else "run")  # the scale of the test
    if facts["range"] != "full":
        low, high = facts["range"]
        log.info("data: black is %g and white is %g (dataset.range)", low, high)
    counts = [f"{count} {split} ({facts['empty_masks'][split]} empty)" for split, count in facts["images"].items()]
    percent = 100 * facts["foreground"]
    log.info("data: %s images; %.3g %% of the training pixels are foreground", ", ".join(counts), percent)
    task = data.dataset.task
    if task.channels > 1:
        shares = zip(task.classes, facts["class_frequency"], strict=True)
        log.info("data: %s: %s", task.kind, ", ".join(f"{name} {100 * share:.3g} %" for name, share in shares))
    for sentence in data.opened.warnings():
        log.warning("data: %s", sentence)
    for split, count in facts["images"].items():
        remedy = "see above" if facts["skipped"] else "check dataset.val_fraction and dataset.test_fraction"
        require(count > 0, "dataset", f"images in {split}", "none", remedy)
    check_foreground(cfg.monitor, cfg.empty, facts["images"]["val"] > facts["empty_masks"]["val"])
    loaders = [data.loader(split, cfg.trainer[f"limit_{split}_batches"]) for split in ("train", "val", "test")]
    if loaders[0].sampler.joins:  # type: ignore[attr-defined]
        log.info("data: the last batch of an epoch would be a single image, which is added to the batch before it")
    return data


def make_module(cfg: DictConfig, data: DataModule, run: Run) -> SegModule:
    """Build the model and the loss from the seed alone, and dry-run a whole step on two images."""
    from dataclasses import asdict

    from pytorch_lightning import seed_everything

    from seglab.engine.device import memory_sentence
    from seglab.engine.dry_run import dry_run
    from seglab.engine.initial_weights import initialize
    from seglab.engine.run import current_sweep
    from seglab.engine.trained_run import assemble, bound_loss

    loss = bound_loss(to_container(cfg.loss), data.dataset.task, data.opened.facts())
    # after everything that may draw random numbers, so that paired runs start from the same state
    seed_everything(data.dataset.training_seed(cfg.seed), verbose=False)
    module = assemble(to_container(cfg), data.opened.dataset, loss)
    run.note(card=asdict(loss.card), parameters=sum(weight.numel() for weight in module.parameters()))
    initialize(cfg, module.model, module.task, run)
    without_seed = f"{experiment(cfg) | {'seed': 0}} {data.opened.fingerprint} {data.device}" if current_sweep() else ""
    with memory_sentence():
        dry_run(module, data.loader("train"), data.device, without_seed, cfg.trainer.max_epochs)
    return module


def make_trainer(cfg: DictConfig, run: Run) -> Trainer:
    """Create a Lightning trainer with the checkpoints, tables and progress display of a run."""
    import sys

    from pytorch_lightning import Callback
    from pytorch_lightning.loggers import Logger
    from pytorch_lightning.plugins.environments import LightningEnvironment

    from seglab.engine.callbacks import EpochLines, Progress, StopAfter, pass_on_sigterm, silence_lightning_warnings
    from seglab.engine.checkpoints import AtomicCheckpointIO, checkpoints
    from seglab.engine.device import device_facts
    from seglab.engine.loss_schedule import LossSchedule
    from seglab.engine.per_image import EpochTable
    from seglab.engine.trackers import begin

    silence_lightning_warnings()
    run.note(host=device_facts(cfg.trainer.precision))
    callbacks = build_parts("callbacks", cfg.callbacks, Callback)
    loggers = build_parts("logger", cfg.logger, Logger)
    begin(loggers, run)
    single_process = processes(cfg.trainer) == 1
    progress = Progress(refresh_rate=5) if sys.stderr.isatty() and not runs_in_parallel() else EpochLines()
    trainer = build(
        cfg.trainer,
        callbacks=[
            EpochTable(run.folder / "metrics.csv"),
            LossSchedule(to_container(cfg.schedule) or {}, better(cfg.monitor)),
            progress,
            StopAfter(cfg.stop_after),
            *callbacks,  # before the checkpoints, so that the last one contains their state of its epoch
            *checkpoints(run.folder / "checkpoints", cfg.monitor, better(cfg.monitor)),
        ],
        logger=loggers,
        default_root_dir=run.folder,
        limit_val_batches=None,  # the data loaders apply it
        limit_test_batches=None,
        plugins=[
            AtomicCheckpointIO(run.facts["identity"]),
            *([LightningEnvironment()] if single_process else []),  # else it looks for other tasks of a SLURM job
        ],
        enable_progress_bar=isinstance(progress, Progress),
        enable_model_summary=False,
        num_sanity_val_steps=0,  # the dry run replaces it
        use_distributed_sampler=False,  # our sampler shards by itself
    )
    return pass_on_sigterm(trainer)


def fit(cfg: DictConfig, trainer: Trainer, module: SegModule, data: DataModule, run: Run) -> None:
    """Train to the end, from the last checkpoint if there is one, and load the best weights."""
    from pytorch_lightning.utilities.exceptions import MisconfigurationException

    from seglab.engine.checkpoints import finished_epochs, load_best
    from seglab.engine.device import memory_sentence
    from seglab.engine.loss_schedule import LossSchedule

    loader = data.loader("train")
    val = data.loader("val", cfg.trainer.limit_val_batches)
    if run.last:
        # Lightning 2.6 opens the loader before it sets the epoch of the sampler
        epochs = finished_epochs(run.last, run.facts["identity"])
        loader.sampler.set_epoch(epochs)  # type: ignore[attr-defined]
        log.info("resuming after epoch %d of %s", epochs, run)
    try:
        with memory_sentence():
            trainer.fit(module, loader, val, ckpt_path=run.last)
    except (MisconfigurationException, ModuleNotFoundError) as error:  # raised by a callback or logger that starts
        raise ContractError(f"trainer: {error}") from error
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    [schedule] = [callback for callback in callbacks if isinstance(callback, LossSchedule)]
    if schedule.switches:
        run.note(switched=schedule.switched_at)
    trainer.strategy.barrier()  # the first process writes the checkpoint that all read
    run.note(monitor=load_best(callbacks, module, paused=bool(cfg.stop_after)))


main = command("train")(train)

if __name__ == "__main__":
    main()
