"""How a command runs: Hydra composes its configuration, an error is one sentence, a sweep runs under supervision."""

from __future__ import annotations

import functools
import gc
import importlib
import importlib.metadata
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from seglab.contract import ContractError
from seglab.engine.config import CONF, ConfigError
from seglab.engine.run import current_sweep, stopped_on_purpose
from seglab.engine.sweep import exclusive_slot, supervise

PLUGINS = {"joblib": "hydra-joblib-launcher", "ray": "hydra-ray-launcher", "slurm": "hydra-submitit-launcher"}
"""What our launchers need beyond Hydra: optional packages, one extra each."""


def command(name: str) -> Callable[[Callable[[DictConfig, Path], Any]], Callable[[], None]]:
    """Make a command of `function(cfg, folder)`: `conf/<name>.yaml` composes cfg, Hydra names the folder.

    A sweep (`-m`) runs in a child process under sweep.py, so that no job takes another down.
    """

    def decorate(function: Callable[[DictConfig, Path], Any]) -> Callable[[], None]:
        @functools.wraps(function)
        def job(cfg: DictConfig) -> Any:
            try:
                with exclusive_slot():
                    return function(cfg, Path(HydraConfig.get().runtime.output_dir))
            except ContractError as error:
                raise ConfigError(str(error)) from None
            except OmegaConfBaseException as error:
                raise ConfigError(str(error).splitlines()[0]) from None
            except (KeyboardInterrupt, SystemExit) as error:
                if stopped_on_purpose(error):
                    raise SystemExit(130) from None  # ends a sweep too
                raise RuntimeError(f"the job called sys.exit({error})") from error
            except Exception as error:
                traceback.clear_frames(error.__traceback__)  # a sweep keeps the error; it must not keep the model
                raise
            finally:
                gc.collect()

        hydra_main = hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(job)

        def main() -> None:
            if function.__module__ == "__main__":  # by `python -m`; the processes of a pool look it up by its real name
                return importlib.import_module(f"seglab.{name}").main()
            missing = next(filter(None, map(_missing_plugin, sys.argv)), None)
            if missing:
                raise SystemExit(missing)
            sweeps = {"-m", "--multirun", "hydra.mode=MULTIRUN"} & set(sys.argv[1:])
            if sweeps and not current_sweep():
                raise SystemExit(supervise(f"seglab.{name}"))
            if sweeps:
                signal.signal(signal.SIGTERM, signal.default_int_handler)  # or the processes of a pool would outlive it
            return hydra_main()

        return main

    return decorate


def _missing_plugin(word: str) -> str | None:
    """What to install for `hydra/launcher=joblib` and the like; None for other words, and where it is installed."""
    name = word.removeprefix("hydra/launcher=")
    if name == word or name not in PLUGINS:
        return None
    try:
        importlib.metadata.version(PLUGINS[name])
    except importlib.metadata.PackageNotFoundError:
        return f'{word}: expected the package {PLUGINS[name]}, got none; pip install "seglab[{name}]"'
    return None


def _in_parallel(hydra_node: Any) -> bool:
    basic = hydra_node.launcher._target_.endswith(".BasicLauncher")
    return hydra_node.mode == RunMode.MULTIRUN and not basic


def runs_in_parallel() -> bool:
    """Whether other jobs of a sweep print and compute at the same time as this one."""
    return HydraConfig.initialized() and _in_parallel(HydraConfig.get())


def shares_process() -> bool:
    """Whether this job is one of several of a sweep in one process, where Lightning cannot start helper processes."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return False
    return "submitit" not in HydraConfig.get().launcher._target_


def job_prefix(root: DictConfig) -> str:
    """The prefix of each line of a job's log: its number in the sweep where several jobs print at once."""
    numbered = _in_parallel(root.hydra) and not OmegaConf.is_missing(root.hydra.job, "num")
    return f"#{root.hydra.job.num} " if numbered else ""


OmegaConf.register_new_resolver("job_prefix", lambda *, _root_: job_prefix(_root_), replace=True)
# Hydra deep-copies its store of schemas for every group that --help lists, a second and a half with all plug-ins
# installed. It reads the store alone, and copies each node that it takes out, so one store can serve all.
ConfigStore.__deepcopy__ = lambda store, memo: store  # type: ignore[attr-defined]
# the plug-ins register schemas under the names of our presets, and Hydra says so in every process
warnings.filterwarnings("ignore", message="(?s).*hydra/launcher.* is validated against ConfigStore schema")
