"""`python -m seglab.search`: tune options of each loss with an equal number of trials, then compare the losses."""

from __future__ import annotations

import logging
import math
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from seglab.contract import SEARCH, ContractError, require
from seglab.engine.cli import command
from seglab.engine.config import ConfigError, check_domains, to_container
from seglab.engine.domains import better
from seglab.files import write_json

if TYPE_CHECKING:
    from seglab.engine.search_space import Option, Trial, Tuning

log = logging.getLogger(__name__)

MEASURED_BY = ("monitor", "empty", "dataset.fold", "dataset.folds", "dataset.split_seed", "dataset.split_file")
"""Options that change how a trial is scored, not how it is trained; a search over them would pick the easiest one."""


def search(cfg: DictConfig, folder: Path) -> float:
    """Train one run of the search as a plain run of seglab.train; return the best value of `cfg.monitor`."""
    from seglab.train import train

    with open_dict(cfg):
        for key in SEARCH:
            cfg.pop(key)
    return train(cfg, folder, wait=True)  # else two copies of this search would each see only some trials


class FairSearch(Sweeper):
    """A sweeper that tunes each combination of the values listed on the command line, such as each loss, separately.

    All combinations get the same number of trials and epochs. Trials see only training and validation images. The best
    setting of each combination is then trained on seeds that no trial has used, and tested.
    """

    def __init__(self, **basic: Any) -> None:
        """Ignore the options of Hydra's basic sweeper, which this sweeper replaces."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep the configuration and create the launcher; called by Hydra before `sweep`."""
        self.cfg, self.loader, self.jobs = config, hydra_context.config_loader, 0
        args: dict[str, Any] = {"hydra_context": hydra_context, "task_function": task_function, "config": config}
        self.launch_jobs = Plugins.instance().instantiate_launcher(**args).launch

    def sweep(self, arguments: list[str]) -> None:
        """Tune all combinations together and train the best setting of each; called by Hydra with the command line."""
        try:
            self.mode = better(self.cfg.monitor)
            self.tunings = self.plan(arguments)
            train_trials = self.tree_parzen if self.cfg.sampler == "tpe" else self.quasirandom
            train_trials()
            if self.goes_on():
                self.train_the_best()
            else:
                log.info("search: the runs after these trials, including those on fresh seeds, depend on their results")
        except ContractError as error:
            raise ConfigError(str(error)) from None  # Hydra prints it without a traceback

    def plan(self, arguments: list[str]) -> list[Tuning]:
        """Return the searches to run, one per combination and repetition."""
        from seglab.engine.search_space import read_space

        check_domains(OmegaConf.masked_copy(self.cfg, list(SEARCH)))
        compatible = self.cfg.halving is None or self.cfg.sampler == "quasirandom"
        require(compatible, "halving", "sampler=quasirandom with it", self.cfg.sampler)
        space = read_space(to_container(self.cfg.space))
        example = "write 'space.optimizer.lr={low: 1e-4, high: 1e-2, log: true}'"
        require(bool(space), "space", "options to tune", "none", example)
        overrides = OverridesParser.create(config_loader=self.loader).parse_overrides(arguments)
        swept = [override.key_or_group for override in overrides if override.is_sweep_override()]
        overrides = [override for override in overrides if override.key_or_group.split(".")[0] not in SEARCH]
        stops = any(override.key_or_group == "stop_after" for override in overrides)
        require(not stops, "stop_after", "none, since a search sets it for its trials", "a value")
        require("seed" not in swept, "seed", "one value", "several", "set fresh_seeds=N to train the best on N seeds")
        several = sorted({*MEASURED_BY} & {*space} | {"monitor", "study", *SEARCH} & {*swept})
        require(not several, ", ".join(several), "one value for the whole search", "several")
        overrides = [override for override in overrides if override.key_or_group != "seed"]  # a search sets the seeds
        batches = BasicSweeper.split_arguments(overrides, None)
        combinations = [self.tunings_of(words, swept, space) for words in batches[0]]
        for name in space:
            exists = any(name in tunings[0].options for tunings in combinations)
            require(exists, f"space.{name}", "an option of the training, or of one of the losses", name)
        return [tuning for repetition in zip(*combinations, strict=True) for tuning in repetition]

    def tunings_of(self, words: list[str], swept: list[str], space: dict[str, Option]) -> list[Tuning]:
        """Return the searches for one combination, one per repetition, over the options of the space that it has."""
        from seglab.engine.search_space import Trial, Tuning, rungs, settings

        cfg = self.loader.load_sweep_config(self.cfg, list(words))
        with open_dict(cfg):
            cfg.pop("hydra")
        cfg.folder = ""  # set by Hydra when it runs
        options = {name: option for name, option in space.items() if _has_option(cfg, name)}
        for share in (0.0, 1 - 1e-9):  # both ends of each range; 1 would be past the end of a list
            ends = cfg.copy()
            for name, option in options.items():
                if not isinstance(OmegaConf.select(cfg, name), DictConfig):  # not a whole group, such as model
                    OmegaConf.update(ends, name, option.at(share))
            check_domains(ends)
        title = " ".join(word.removeprefix("loss=") for word in words if word.split("=")[0] in swept)
        every = cfg.trainer.check_val_every_n_epoch
        steps = rungs(self.cfg.trials, cfg.trainer.max_epochs, self.cfg.halving, every)
        tunings = []
        for seed in range(self.cfg.seed, self.cfg.seed + self.cfg.tuning_repeats):
            points = settings(options, self.cfg.trials, seed) if self.cfg.sampler == "quasirandom" else []
            tunings.append(Tuning(title or "all", list(words), options, seed, steps, list(map(Trial, points))))
        return tunings

    def quasirandom(self) -> None:
        """Train all trials; with halving, train the best fraction of them for more and more epochs."""
        for rung in range(len(self.tunings[0].rungs)):
            if rung and not self.goes_on():
                return
            jobs = []
            for tuning in self.tunings:
                count, epochs = tuning.rungs[rung]
                chosen = tuning.ahead(count, self.mode) if rung else tuning.trials
                jobs += [(tuning, trial, epochs) for trial in chosen]
            self.train_trials(jobs)

    def tree_parzen(self) -> None:
        """Train one trial of every combination at a time, each proposed from the results of the trials before it."""
        from seglab.engine.search_space import TreeParzen, Trial

        studies = [TreeParzen(tuning.options, self.mode, tuning.seed) for tuning in self.tunings]
        for number in range(self.cfg.trials):
            if number and not self.goes_on():
                return
            pairs = zip(self.tunings, studies, strict=True)
            active = [(tuning, study) for tuning, study in pairs if tuning.options or number == 0]
            for tuning, study in active:
                tuning.trials.append(Trial(study.propose(number)))
            self.train_trials([(tuning, tuning.trials[-1], tuning.rungs[-1][1]) for tuning, _ in active])
            for tuning, study in active:
                study.tell(number, tuning.trials[-1].value)

    def goes_on(self) -> bool:
        """Whether the next runs are known; in a plan they are not if they depend on trials that are still untrained."""
        values = (trial.value for tuning in self.tunings for trial in tuning.trials)
        return not (self.cfg.plan and any(map(math.isnan, values)))

    def train_trials(self, jobs: list[tuple[Tuning, Trial, int]]) -> None:
        """Train each trial up to the given total number of epochs, resuming where it was paused."""
        words = [[*t.overrides(trial), f"seed={t.seed}", f"stop_after={epochs}"] for t, trial, epochs in jobs]
        for (_, trial, epochs), value in zip(jobs, self.launch(words), strict=True):
            trial.epochs, trial.value = epochs, value
        if not self.cfg.plan:
            self.write()

    def train_the_best(self) -> None:
        """Log the best setting of each combination and train it on fresh seeds."""
        repeats, jobs = self.cfg.tuning_repeats, []
        fresh = self.cfg.fresh_seeds or (3 if repeats == 1 else 1)
        first = self.cfg.seed + repeats
        for tuning in self.tunings:
            best = next(iter(tuning.ahead(1, self.mode)), None)
            if not best:
                log.error("search: %s: all %d trials failed", tuning.title, len(tuning.trials))
                continue
            values = " ".join(tuning.overrides(best)[len(tuning.words) :])
            count = sum(not math.isnan(trial.value) for trial in tuning.trials)
            args = (tuning.title, values, self.cfg.monitor, best.value, count)
            log.info("search: %s: %s reached %s %.4f, the best of %d trials", *args)
            for sentence in tuning.edges(best):
                log.warning("search: %s: %s", tuning.title, sentence)
            if len(tuning.trials) > 1 and len({trial.value for trial in tuning.trials}) == 1:
                log.warning("search: %s: all trials reached the same value: raise trainer.max_epochs", tuning.title)
            start = first + fresh * (tuning.seed - self.cfg.seed)  # repetitions share no fresh seeds
            names = f"tuned=[{','.join(tuning.options)}]"
            jobs += [[*tuning.overrides(best), names, f"seed={seed}"] for seed in range(start, start + fresh)]
        self.launch(jobs)

    def launch(self, jobs: list[list[str]]) -> list[float]:
        """Run jobs with these overrides on the launcher of the sweep; return their results, NaN for failed jobs."""
        distinct = list(dict.fromkeys(map(tuple, jobs)))  # equal jobs would share a folder
        returns = self.launch_jobs([list(words) for words in distinct], initial_job_idx=self.jobs)
        self.jobs += len(distinct)
        results = [float(job.return_value) if job.status == JobStatus.COMPLETED else math.nan for job in returns]
        values = dict(zip(distinct, results, strict=True))
        return [values[tuple(words)] for words in jobs]

    def write(self) -> None:
        """Write search.json, which the report reads."""
        tunings = []
        for tuning in self.tunings:
            best = next(iter(tuning.ahead(1, self.mode)), None)
            facts = {"title": tuning.title, "seed": tuning.seed, "trials": list(map(vars, tuning.trials))}
            tunings.append(facts | {"best": best and vars(best), "edges": tuning.edges(best) if best else []})
        options = to_container(OmegaConf.masked_copy(self.cfg, list(SEARCH)))
        line = f"python -m seglab.search {shlex.join(word for word in sys.argv[1:] if word != '-m')}"
        facts = {"command": line, "monitor": self.cfg.monitor, "mode": self.mode, **options, "tunings": tunings}
        write_json(Path(self.cfg.hydra.sweep.dir) / "search.json", facts)


def _has_option(cfg: DictConfig, name: str) -> bool:
    """Whether a configuration has an option with this dotted name."""
    parent, _, leaf = name.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    return isinstance(node, DictConfig) and leaf in node


def main() -> None:
    """Run the command, which is always a sweep and needs no `-m`."""
    # Hydra loads sweepers from its own namespaces only: ours replaces the one named in conf/hydra/sweeper/local.yaml
    Plugins.instance().class_name_to_class["hydra_plugins.seglab_launcher.LocalSweeper"] = FairSearch
    flags = {"-m", "--multirun", "--help", "-h", "--cfg", "-c", "--info", "-i"}
    if not flags & set(sys.argv[1:]):
        sys.argv.insert(1, "-m")
    command("search")(search)()


if __name__ == "__main__":
    main()
