"""Hydra launcher and sweeper for one machine; Hydra finds plug-ins only in the `hydra_plugins` namespace.

On CPUs several small runs are trained at once, each in its own process; results do not depend on how many.
"""

import gc
import logging
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

log = logging.getLogger(__name__)

PRELOADED = ("pandas", "seglab.data.module", "seglab.reporting.run_figures", "seglab.engine.checkpoints")
PRELOADED += ("seglab.engine.dry_run", "seglab.engine.per_image", "seglab.engine.trained_run")
"""Modules imported once before the runs, so that a process forked for a run starts in milliseconds, not seconds."""


class LocalSweeper(BasicSweeper):
    """Hydra's basic sweeper, but each job is composed only once and no multirun.yaml is written: run.json says more.

    Therefore a plan writes nothing, and a finished study on a read-only disk can be requested again.
    """

    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        from seglab.contract import require
        from seglab.engine.run import current_sweep

        assert self.hydra_context
        assert self.launcher
        remedy = "add -m, so that a job that dies does not end the others"
        require(bool(current_sweep()), "hydra.mode", "-m on the command line of a sweep", "none", remedy)
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        returns: list[Sequence[JobReturn]] = []
        for batch in self.split_arguments(overrides, self.max_batch_size):
            if not isinstance(self.launcher, LocalLauncher):  # ours composes all jobs before running the first
                self.validate_batch_is_legal(batch)
            returns.append(self.launcher.launch(batch, initial_job_idx=sum(map(len, returns))))
            for job in returns[-1]:
                _ = job.return_value  # raises the error of a failed job
        require(any(returns), "sweep", "at least one value for each option", "none", "check the pattern of glob(...)")
        return returns


class LocalLauncher(Launcher):
    """Launch the runs of a sweep on this machine.

    Args:
        n_jobs: the number of runs at once. `auto` is one on a GPU and as many as the cores allow on CPUs, see
            seglab.engine.threads. With one at a time, all runs share this process and thus the data in memory.
    """

    def __init__(self, n_jobs: int | str = "auto") -> None:
        self.n_jobs = n_jobs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        from seglab.contract import require
        from seglab.data.memo import progress  # late: every Hydra program imports this file
        from seglab.engine.config import experiment
        from seglab.engine.local_jobs import Progress, run_in_processes
        from seglab.engine.sweep import announce
        from seglab.engine.threads import runs_at_once

        setup_globals()  # registers resolvers such as `hydra:`, as all launchers of Hydra do
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        numbered = progress(enumerate(job_overrides, initial_job_idx), "compose", len(job_overrides))
        composed = [self.compose(list(words), number) for number, words in numbered]
        requested = [folder_of(job) for job in composed]
        by_folder: dict[Path, DictConfig] = {}
        for folder, job in zip(requested, composed, strict=True):  # optimizer.lr=1e-3,0.001 is one run, not two
            if (first := by_folder.setdefault(folder, job)) is not job:
                one, other = ((experiment(cfg), OmegaConf.select(cfg, "dataset.root")) for cfg in (first, job))
                remedy = "list folders of data as -m dataset.root=A,B, and leave out hydra.sweep.subdir"
                require(one == other, "sweep", "a folder for each run", f"{folder} for several", remedy)
        folders, jobs = list(by_folder), list(by_folder.values())
        at_once = runs_at_once(self.n_jobs, jobs)
        announce(folders, at_once)
        state, plan = Progress(folders, at_once), any(job.plan for job in jobs)
        log.info("sweep: %d runs, %d at once", len(jobs), at_once)
        for job in jobs:
            with read_write(job.hydra):  # HydraConfig has made it read-only
                job.hydra.launcher.n_jobs = 1 if plan else at_once  # tells a job whether others print too, see cli.py
        if not plan:
            chain = any("steps" in (job.augment or {}) for job in jobs)  # importing albumentations takes 0.8 s
            gc.disable()  # repeated garbage collection would take a fifth of the import time
            for name in (*PRELOADED, "albumentations") if chain else PRELOADED:
                import_module(name)
            gc.enable()
        gc.freeze()  # or the collection after each run scans all imported objects, and children copy their memory
        try:
            results: list[JobReturn] = []
            if plan:
                results += map(self.run, jobs)
            elif at_once == 1:
                for k, job in enumerate(jobs):
                    results.append(self.run(job))
                    state.ended(k)
            else:
                values = run_in_processes(lambda k: self.run_in_child(jobs[k]), len(jobs), at_once, state.ended)
                results += [JobReturn(status=JobStatus.COMPLETED, _return_value=value) for value in values]
        finally:
            gc.unfreeze()  # triton warns if a process ends without collecting its objects
        by_job = dict(zip(folders, results, strict=True))
        return [by_job[folder] for folder in requested]

    def compose(self, words: list[str], number: int) -> DictConfig:
        """Compose the configuration of one job."""
        job = self.context.config_loader.load_sweep_config(self.config, words)
        with open_dict(job):
            job.hydra.job.id = job.hydra.job.num = number
        return job

    def run(self, job: DictConfig) -> JobReturn:
        """Run one job in this process."""
        keys = {"job_dir_key": "hydra.sweep.dir", "job_subdir_key": "hydra.sweep.subdir"}
        try:
            return run_job(self.task, job, hydra_context=self.context, **keys)
        except OSError as error:  # Hydra cannot create its folder
            from seglab.engine.cli import sentence_of
            from seglab.engine.sweep import refuse

            sentence = sentence_of(error, "train")
            log.error("%s", sentence)
            refuse(folder_of(job), error, sentence)
            return JobReturn(status=JobStatus.COMPLETED, _return_value=float("nan"))
        finally:  # the job configured its own logging
            configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)

    def run_in_child(self, job: DictConfig) -> float:
        """Run one job in this forked process; return its value, which is NaN if it failed."""
        result = self.run(job)
        if result.status == JobStatus.COMPLETED:
            return result.return_value
        error = result._return_value
        log.error("%s", "".join(traceback.format_exception_only(error)).strip())
        return float("nan")


def folder_of(job: DictConfig) -> Path:
    """Return the folder of a job, whose name may refer to the choices of that job."""
    HydraConfig.instance().set_config(job)  # read by the resolvers
    return Path(str(OmegaConf.select(job, "hydra.sweep.dir")), str(OmegaConf.select(job, "hydra.sweep.subdir")))
