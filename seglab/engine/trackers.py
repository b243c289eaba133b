"""Experiment trackers as mirrors of a run: Weights & Biases, Trackio, MLflow, TensorBoard.

The run folder is the record; a tracker gets a copy of the configuration, the metrics of each epoch, the final metrics,
the pictures, the identity and the status. If a tracker fails only its copy is lost, and `seglab.report push=NAME` can
send a study afterwards. Each tracker imports its own package, which has its own extra.
"""

import csv
import importlib
import json
import logging
import math
import os
import shutil
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock
from pytorch_lightning.loggers import Logger

from seglab.contract import require
from seglab.engine.config import one_line
from seglab.engine.run import PICTURES, Run, rank
from seglab.files import as_numbers, read_json

log = logging.getLogger(__name__)

STATUS = {"finished": "FINISHED", "paused": "FINISHED", "interrupted": "KILLED"}
"""MLflow's name of each status; all others are FAILED."""


class Tracker(Logger):
    """A run in a tracker. Subclasses implement how to start it and how to send numbers, pictures and the end.

    Args:
        project: the group of runs in the tracker: the study.
        run: the run's name in the tracker, which ends with its identity; a run that resumes keeps it.
    """

    package = ""
    remedy = "set logger=none and send the runs later with seglab.report push=NAME"

    def __init__(self, project: str, run: str) -> None:
        super().__init__()
        self.project, self.run, self.works, self.resumes = project, run, rank() == 0, False

    @property
    def name(self) -> str:
        return self.project

    @property
    def version(self) -> str:
        return self.run

    def begin(self, folder: Path, facts: Mapping[str, Any], resumes: bool = False) -> None:
        """Start the run, replacing earlier data unless it `resumes`; raise ContractError if the tracker fails."""
        self.resumes = resumes
        if not self.works:
            return
        try:
            self.start(folder, {key: facts[key] for key in ("identity", "seed", "choices", "config")})
        except ModuleNotFoundError:
            raise
        except Exception as error:  # each tracker raises its own
            got = f"{type(error).__name__}: {one_line(error)}"
            require(False, "logger", f"a response from {self.package}", got, self.remedy)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send the metrics of an epoch, or those of the best weights; undefined ones are left out."""
        numbers = {key: float(value) for key, value in metrics.items() if not math.isnan(value)}
        self._attempt(lambda: self.send(numbers, step or 0))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: `begin` has sent the whole configuration."""

    def end(self, folder: Path, facts: Mapping[str, Any]) -> None:
        """Send the existing pictures, and how the run ended."""
        pictures = [folder / name for name in PICTURES if (folder / name).is_file()]
        self._attempt(lambda: self.finish(pictures, facts["status"]))

    def _attempt(self, action: Callable[[], None]) -> None:
        if self.works:
            try:
                action()
            except Exception as error:  # a mirror must not end the run
                self.works = False
                remedy = "send the run later with seglab.report push=NAME"
                log.warning("logger: %s failed (%s); %s", self.package, error, remedy)

    @abstractmethod
    def start(self, folder: Path, facts: dict[str, Any]) -> None:
        """Start or resume the run in the tracker; `facts` are its identity, seed, choices and configuration."""

    @abstractmethod
    def send(self, metrics: dict[str, float], step: int) -> None:
        """Send metrics by name, at a step of the optimizer."""

    @abstractmethod
    def finish(self, pictures: list[Path], status: str) -> None:
        """Send PNG files, and end the run with its status from run.json."""


class Wandb(Tracker):
    """Weights & Biases, or Trackio, which has the same interface and keeps its data on this machine.

    offline: write to the run's folder for a later `wandb sync`, like WANDB_MODE=offline.
    """

    def __init__(self, project: str, run: str, package: str = "wandb", offline: bool = False) -> None:
        super().__init__(project, run)
        self.package, self.offline = package, offline
        if package == "wandb" and not offline:
            self.remedy = f"set logger.offline=true to write to the run's folder, or {self.remedy}"

    def start(self, folder: Path, facts: dict[str, Any]) -> None:
        self.tool: Any = importlib.import_module(self.package)
        options: dict[str, Any] = {"embed": False, "resume": "allow"}  # for Trackio: no page inside a notebook
        if self.package == "wandb":
            options = {"id": self.run, "dir": str(folder), "mode": "offline" if self.offline else None}
            options["resume"] = "allow" if self.resumes else None  # None overwrites a run with this id
            options["settings"] = self.tool.Settings(silent=True, console="off")
        self.there = self.tool.init(project=self.project, name=self.run, config=facts, **options)

    def send(self, metrics: dict[str, float], step: int) -> None:
        self.there.log(metrics | {"step": step})

    def finish(self, pictures: list[Path], status: str) -> None:
        shown = {file.stem: self.tool.Image(str(file)) for file in pictures}
        self.there.log({**shown, "status": status})
        code = {"exit_code": int(status not in STATUS)} if self.package == "wandb" else {}  # Trackio has none
        self.there.finish(**code)


class MLflow(Tracker):
    """MLflow. uri: the tracking server or store; defaults to MLFLOW_TRACKING_URI, else MLflow's own default."""

    package = "mlflow"

    def __init__(self, project: str, run: str, uri: str | None = None) -> None:
        super().__init__(project, run)
        self.uri = uri

    def start(self, folder: Path, facts: dict[str, Any]) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # its default of 7 takes minutes without a server
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # otherwise it reports its use over the network
        package: Any = importlib.import_module("mlflow")
        with FileLock(folder.parent / ".mlflow.lock"):  # two runs that create its database or experiment would fail
            client = package.MlflowClient(self.uri)
            existing = client.get_experiment_by_name(self.project)
            experiment = existing.experiment_id if existing else client.create_experiment(self.project)
        runs = client.search_runs([experiment], f"attributes.run_name = '{self.run}'")
        if runs and not self.resumes:
            client.delete_run(runs.pop(0).info.run_id)
        run = runs[0] if runs else client.create_run(experiment, run_name=self.run)
        self.client, self.id = client, run.info.run_id
        client.update_run(self.id, status="RUNNING")
        client.log_dict(self.id, facts, "config.json")

    def send(self, metrics: dict[str, float], step: int) -> None:
        for key, value in metrics.items():
            self.client.log_metric(self.id, key, value, step=step)

    def finish(self, pictures: list[Path], status: str) -> None:
        for file in pictures:
            self.client.log_artifact(self.id, str(file))
        self.client.set_tag(self.id, "status", status)
        self.client.set_terminated(self.id, STATUS.get(status, "FAILED"))


class TensorBoard(Tracker):
    """TensorBoard event files in the folder `tensorboard` of the run."""

    package = "tensorboard"

    def start(self, folder: Path, facts: dict[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if not self.resumes:
            shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        self.writer = SummaryWriter(str(folder / "tensorboard"))
        self.writer.add_text("config", f"```\n{json.dumps(facts, indent=2)}\n```")

    def send(self, metrics: dict[str, float], step: int) -> None:
        for key, value in metrics.items():
            self.writer.add_scalar(key, value, step)

    def finish(self, pictures: list[Path], status: str) -> None:
        import numpy as np
        from PIL import Image

        for file in pictures:
            self.writer.add_image(file.stem, np.array(Image.open(file).convert("RGB")), dataformats="HWC")
        self.writer.add_text("status", status)
        self.writer.close()


def begin(loggers: Iterable[Logger], run: Run) -> None:
    """Start the run in each tracker among `loggers`, and end it there when the run ends."""
    for tracker in loggers:
        if isinstance(tracker, Tracker):
            tracker.begin(run.folder, run.facts, resumes=run.last is not None)
            run.mirrors.append(tracker.end)


def final(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the best weights' metrics by their names in a tracker, where `val/...` are already curves over epochs."""
    return {f"best/{key}" if key.startswith("val/") else key: value for key, value in metrics.items()}


def push(tracker: Tracker, folder: Path) -> None:
    """Send a run from its folder, as if it had been mirrored during training."""
    facts = read_json(folder / "run.json")
    if "config" not in facts:  # damaged, or not a run
        return
    tracker.begin(folder, facts)
    step, file = 0, folder / "metrics.csv"
    try:
        with file.open(encoding="utf-8", newline="") as opened:
            for row in csv.DictReader(opened):
                step = int(row.pop("step"))
                tracker.log_metrics({key: float(value) for key, value in row.items() if value}, step)
    except FileNotFoundError:  # a run that ended before its first epoch
        pass
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        log.warning("%s is damaged (%s: %s); its epochs are not sent", file, type(error).__name__, error)
    if facts.get("metrics"):
        tracker.log_metrics(final(as_numbers(facts["metrics"])), step)
    tracker.end(folder, facts)
    if tracker.works:
        log.info("%s: sent %s of %s", tracker.package, folder.name, folder.parent.name)
