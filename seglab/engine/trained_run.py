"""A trained run, opened from its folder: configuration, data, model, loss and weights."""

import glob
import logging
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seglab.contract import Task, require
from seglab.data.dataset import Dataset
from seglab.data.module import DataModule
from seglab.data.ranges import FOUND
from seglab.engine.config import build, build_loss, model_node, without_download
from seglab.engine.device import autocast
from seglab.engine.module import SegModule
from seglab.engine.run import Run
from seglab.engine.validation import require_trusted
from seglab.files import of_version_1, read_weights, whole_file
from seglab.losses.base import Loss

log = logging.getLogger(__name__)

FOLLOWED_OPTIONS = ("size", "fit", "reduce", "channels", "bits", "range", "mean", "std")
"""Options that other datasets take from the run: how an image is prepared for the model."""


def assemble(config: dict[str, Any], dataset: Dataset, loss: Loss) -> SegModule:
    """Build the module that a configuration describes, with the task and the normalization of `dataset`."""
    model, optimizer = build(model_node(config["model"], dataset.task)), build(config["optimizer"])
    options = {key: config[key] for key in ("monitor", "threshold", "empty", "channels_last", "compile")}
    # Runs made before CUDA graphs were added lack this option
    options |= {"cuda_graph": config.get("cuda_graph", True), "mean": dataset.mean, "std": dataset.std}
    return SegModule(model, loss, optimizer, build(config["scheduler"]), task=dataset.task, **options)


def bound_loss(node: dict[str, Any], task: Task, facts: dict[str, Any]) -> Loss:
    """Build a loss for the classes of a dataset; its `auto` parameters are computed from the facts of the data."""
    frequency = facts["class_frequency"] if task.channels > 1 else [facts["foreground"]]
    return build_loss(node).with_task(task).with_class_frequency(frequency)


@dataclass(frozen=True)
class TrainedRun:
    """A finished or interrupted run: its folder, and the facts of its run.json."""

    folder: Path
    facts: dict[str, Any]
    trust: Sequence[str] = ()

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration of the run, as plain data."""
        return self.facts["config"]

    @property
    def outcome(self) -> dict[str, Any]:
        """The facts of a finished run, with metrics and thresholds; raises ContractError if it is not finished."""
        status = self.facts.get("status")
        require(status == "finished", f"run {self.folder}", "a finished run", status, "run its command again")
        return self.facts

    def file(self, name: str) -> Path:
        """Return the path of a file of the run, checked against its size and checksum in run.json."""
        return whole_file(self.folder, self.facts, name)

    @property
    def best(self) -> Path:
        """The file of the weights that were measured: the best checkpoint, or the weights of an exported hub folder."""
        shared = self.folder / "model.safetensors"  # of `seglab.export format=hub`, which omits the checkpoints
        return shared if shared.is_file() else self.file("checkpoints/best.ckpt")

    @property
    def snapshots(self) -> dict[int, Path]:
        """The checkpoints kept during training, by number of epochs trained; file names count epochs from 0."""
        files = sorted((self.folder / "snapshots").glob("epoch-*.ckpt"))
        remedy = "train it with callbacks=snapshots"
        require(bool(files), f"run {self.folder}", "snapshots/epoch-*.ckpt", "none", remedy)
        return {int(file.stem.removeprefix("epoch-")) + 1: file for file in files}

    def autocast(self, device: str = "cpu") -> AbstractContextManager[Any]:
        """Return the autocast context of the run if it was trained on a device of this kind; else that of float32."""
        host = self.facts["host"]
        same = (host.get("gpu") is not None) == (device == "cuda")
        return autocast(host["precision"] if same else "32-true", device)

    @property
    def dataset_options(self) -> dict[str, Any]:
        """The configuration of the run's own dataset, with the range and normalization that were computed for it."""
        computed = {name: self.facts["data"][name] for name in FOUND if name in self.facts["data"]}
        return {**self.config["dataset"], "range": "full", **computed}  # not `auto`, which other images could change

    def dataset(self, **changes: Any) -> Dataset:
        """Build the run's own dataset, with other values for some of its options."""
        return build({**self.dataset_options, **changes})

    @property
    def raw_options(self) -> dict[str, Any]:
        """The configuration for reading raw images; for a prepared folder, that of the dataset it was made from."""
        own, raw = self.dataset_options, self.facts["data"].get("raw")
        if not raw:
            return own
        return {**raw, **{key: own[key] for key in FOLLOWED_OPTIONS}, "reduce": own["reduce"] * raw.get("reduce", 1)}

    def raw_dataset(self) -> Dataset:
        """Build the dataset with which raw image files are read for the model."""
        return build(self.raw_options)

    @property
    def task(self) -> Task:
        """The meaning of the run's masks."""
        return Task(**self.facts["data"].get("task", {}))

    def require_task(self, task: Task, remedy: str = "") -> None:
        """Raise a ContractError unless `task` is the run's task; the name of a binary class may differ."""
        same = task.kind == self.task.kind and (task.kind == "binary" or task.classes == self.task.classes)
        expected = f"data of the run's task ({self.task.kind}: {', '.join(self.task.classes)})"
        require(same, f"run {self.name}", expected, f"{task.kind}: {', '.join(task.classes)}", remedy)

    def loss(self) -> Loss:
        """Build the run's loss, with its `auto` parameters computed as they were for the run."""
        return bound_loss(self.config["loss"], self.task, self.facts["data"])

    def data(self, dataset: Dataset | None = None, workers: int = 0) -> DataModule:
        """Return the data module of a dataset (the run's own unless another is given), without augmentation."""
        config, needs = self.config, self.loss().needs
        return DataModule(dataset or self.dataset(), None, config["batch_size"], workers, config["seed"], needs)

    def module(self, weights: Path | None = None) -> SegModule:
        """Build the run's model and loss, with its best weights or another checkpoint, in eval mode on the CPU."""
        model = without_download(self.config["model"])  # the checkpoint has the weights
        module = assemble({**self.config, "model": model, "compile": False}, self.raw_dataset(), self.loss())
        file = weights or self.best
        try:
            module.load_state_dict(read_weights(file, f"checkpoint {file}"))
        except RuntimeError as error:
            fault = str(error).splitlines()[1].strip()  # torch lists the missing names from the second line
            require(False, f"checkpoint {file}", f"the weights of {model['_target_'].rsplit('.', 1)[-1]}", fault)
        return module.eval()


def open_run(folder: Path | str, trust: Sequence[str] = ()) -> TrainedRun:
    """Open one run; raise ContractError if the folder is not that of a training run.

    trust: further modules, besides those in validation.py, whose classes and functions its configuration may build.
    """
    folder = Path(str(folder))  # run=2024 is parsed as a number
    require(folder.is_dir(), "run", "the folder of a run", folder, "see outputs/STUDY/")
    facts = Run(folder).known()
    require("config" in facts and "data" in facts, f"run {folder}", "a run.json written by seglab.train", "none")
    outdated = of_version_1(facts)
    require(not outdated, f"run {folder}", "one made by seglab 2", f"one {outdated}")
    built = {key: facts["config"].get(key) for key in ("dataset", "model", "loss", "optimizer", "scheduler")}
    require_trusted(built | {"raw": facts["data"].get("raw")}, f"run {folder}", trust)
    return TrainedRun(folder, facts, trust)


def open_runs(where: str | Sequence[str], trust: Sequence[str] = ()) -> list[TrainedRun]:
    """Open the runs given as folders, studies (folders of runs) and patterns such as `outputs/STUDY/*`.

    A single run is opened whatever its state. Of a study or pattern, only finished runs are opened, and a warning lists
    the others. If several runs are named one by one, each must be finished.
    """
    names = list(map(str, where)) if isinstance(where, list | tuple) else [str(where)]
    selected, remedy = dict[Path, None](), "set run=outputs/STUDY/RUN"
    require(bool(names), "run", "the folder of a run", "none", remedy)
    for name in names:
        folders, skipped, paths = list[Path](), dict[str, list[str]](), [Path(name)]
        if glob.has_magic(name) and not paths[0].exists():  # a folder may have brackets in its name
            paths = sorted(path for path in map(Path, glob.glob(name)) if path.is_dir())  # not a study's table.csv
        for path in paths:
            is_run = os.path.isfile(path / "run.json") or not path.is_dir()  # Path.is_file may raise a PermissionError
            if is_run and len(paths) == 1:
                folders.append(path)
                continue
            for folder in (path, *([] if is_run else sorted(path.glob("*/")))):
                facts = Run(folder).known()  # warns if run.json cannot be read
                reason = of_version_1(facts) or ("" if facts.get("status") == "finished" else "not finished")
                if not reason:
                    folders.append(folder)
                elif facts:
                    skipped.setdefault(reason, []).append(folder.name)
        for reason, runs in skipped.items():
            log.warning("%s: skipped %s (%s)", name, ", ".join(runs), reason)
        require(bool(folders), "run", f"the run.json of a finished run at {name}", "none", remedy)
        selected |= dict.fromkeys(folders)
    opened = [open_run(path, trust) for path in selected]
    for run in opened if len(opened) > 1 else ():
        _ = run.outcome  # raises if the run is not finished
    return opened
