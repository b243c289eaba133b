"""A run that was trained before, opened from its folder alone: configuration, data, model, loss and weights."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from seglab.contract import require
from seglab.data.base import Dataset
from seglab.data.module import DataModule
from seglab.engine.config import build
from seglab.engine.module import SegModule
from seglab.engine.run import Run
from seglab.losses.base import Loss


def assemble(config: dict[str, Any], dataset: Dataset, loss: Loss) -> SegModule:
    """Build the module that a configuration describes, for images normalised as `dataset` says."""
    return SegModule(
        build(config["model"]),
        loss,
        build(config["optimizer"]),
        build(config["scheduler"]),
        mean=dataset.mean,
        std=dataset.std,
        **{key: config[key] for key in ("monitor", "threshold", "empty", "channels_last", "compile")},
    )


@dataclass(frozen=True)
class Saved:
    """A finished or interrupted run: its folder, and the facts of its run.json."""

    folder: Path
    facts: dict[str, Any]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration of the run, as plain data."""
        return self.facts["config"]

    @property
    def outcome(self) -> dict[str, Any]:
        """The facts of a run that has finished, its threshold among them; one sentence if it has not."""
        status = self.facts.get("status")
        require(status == "finished", f"run {self.folder}", "a finished run", status, "train it again to go on")
        return self.facts

    @property
    def best(self) -> Path:
        """The checkpoint that the run was measured with."""
        file = self.folder / "checkpoints" / "best.ckpt"
        require(file.is_file(), f"run {self.folder}", "checkpoints/best.ckpt", "none", "train it again with rerun=true")
        return file

    @property
    def moments(self) -> dict[int, Path]:
        """The checkpoints kept on the way, by the number of epochs before them."""
        files = sorted((self.folder / "moments").glob("epoch-*.ckpt"))
        require(bool(files), f"run {self.folder}", "moments/epoch-*.ckpt", "none", "train it with callbacks=moments")
        return {int(file.stem.removeprefix("epoch-")): file for file in files}

    def dataset(self, **changes: Any) -> Dataset:
        """The run's own data set, with other values for some of its knobs."""
        return build({**self.config["dataset"], **changes})

    def loss(self) -> Loss:
        """The run's loss, its `auto` parameters worked out as they were for the run."""
        return build(self.config["loss"]).with_class_frequency([self.facts["data"]["foreground"]])

    def data(self, dataset: Dataset | None = None, workers: int = 0) -> DataModule:
        """The batches of a data set (the run's own unless another is given), without augmentation."""
        config, needs = self.config, self.loss().needs
        return DataModule(dataset or self.dataset(), None, config["batch_size"], workers, config["seed"], needs)

    def module(self, weights: Path | None = None) -> SegModule:
        """The run's model and loss with its best weights, or those of another checkpoint, in eval mode on the CPU."""
        model = {**self.config["model"]}
        if "encoder_weights" in model:  # the checkpoint has them; a hub may be out of reach by now
            model["encoder_weights"] = None
        module = assemble({**self.config, "model": model, "compile": False}, self.dataset(), self.loss())
        file = weights or self.best
        state = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
        try:
            module.load_state_dict(state)
        except RuntimeError as error:
            first = str(error).splitlines()[1].strip()
            require(False, f"checkpoint {file}", f"the weights of {model['_target_'].rsplit('.', 1)[-1]}", first)
        return module.eval()


def open_run(folder: Path | str) -> Saved:
    """Open one run; a folder that is missing, or not that of a training run, is one sentence."""
    folder = Path(folder)
    require(folder.is_dir(), "run", "the folder of a run", folder, "see outputs/STUDY/")
    facts = Run(folder).known()
    require("config" in facts and "data" in facts, f"run {folder}", "a run.json written by seglab.train", "none")
    return Saved(folder, facts)


def open_runs(where: str | Sequence[str]) -> list[Saved]:
    """Open every run that folders, studies (folders of runs) and patterns such as `outputs/STUDY/*` name.

    Of a study or a pattern those that finished; a single folder must be a run and is opened whatever its state.
    """
    names = [where] if isinstance(where, str) else list(where)
    found: dict[Path, None] = {}
    for name in names:
        places = [Path(name)]
        if glob.has_magic(name):  # of which files are no runs: a study also holds a report and a table
            places = sorted(place for place in map(Path, glob.glob(name)) if place.is_dir())
        for place in places:
            if (place / "run.json").is_file() or not place.is_dir():
                found[place] = None
            else:
                inside = sorted(file.parent for file in place.glob("*/run.json"))
                found |= dict.fromkeys(folder for folder in inside if Run(folder).known().get("status") == "finished")
    require(bool(found), "run", f"a run at {', '.join(names) or 'nowhere'}", "none", "give run=outputs/STUDY/RUN")
    runs = [open_run(place) for place in found]
    return runs if len(runs) == 1 else [run for run in runs if run.facts.get("status") == "finished"]
