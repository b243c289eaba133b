"""Run a command: compose its configuration with Hydra, report errors as one sentence, and supervise sweeps."""

import atexit
import errno
import functools
import gc
import importlib
import json
import logging
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from seglab.contract import ContractError, sentence
from seglab.engine.config import CONF, ConfigError, check_domains, mark_swept, overrides
from seglab.engine.override_errors import explain, first_line, refuse_unread, wrong_choice
from seglab.engine.run import current_sweep, stop_signals, stopped_by
from seglab.engine.sweep import end_with_parent, exclusive_slot, refuse, supervise
from seglab.engine.worker_pool import finish
from seglab.files import remedy_for_encoding

log = logging.getLogger(__name__)

PLUGINS = {"ray": "hydra_ray_launcher", "slurm": "hydra_submitit_launcher"}
"""The Hydra plug-in of each launcher; the extra of seglab with the launcher's name installs it."""

EXTRAS = dict.fromkeys(("onnx", "onnxruntime", "onnxscript"), "export") | dict.fromkeys(("monai", "kornia"), "bench")
EXTRAS |= {"nibabel": "nifti", "pycocotools": "coco", "optuna": "search"}
EXTRAS |= {name: name for name in ("wandb", "mlflow", "trackio")}
"""The extra that installs an optional package, by the name of the package."""

WRITES_TO = dict.fromkeys(("report", "predict", "export"), "output=DIR") | {"evaluate": "a copy of the run"}
"""How to make a command write elsewhere, for commands whose output folder is not set by hydra.run.dir."""


def command(name: str) -> Callable[[Callable[[DictConfig, Path], Any]], Callable[[], None]]:
    """Turn `function(cfg, folder)` into a command: Hydra composes cfg from `conf/<name>.yaml` and names the folder.

    An error that the user can fix is one sentence on stderr and exit code 1. Ctrl-C exits with 130, SIGTERM with 143,
    SIGHUP with 129. A sweep (`-m`) runs in a child process under sweep.py, so that a crashing job ends no other job.
    """

    def decorate(function: Callable[[DictConfig, Path], Any]) -> Callable[[], None]:
        @functools.wraps(function)
        def job(cfg: DictConfig) -> Any:
            started.append(name)
            return _run_job(function, cfg, name, failed)

        started, failed = list[str](), list[Path]()
        hydra_main = hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(job)

        def main() -> None:
            if function.__module__ == "__main__":  # run by `python -m`; worker processes import it by its real name
                importlib.import_module(f"seglab.{name}").main()
                if current_sweep():  # skip the teardown: freeing all objects of torch takes a second
                    atexit._run_exitfuncs()
                    sys.stdout.flush()
                    os._exit(0)
                return
            sys.stdout, sys.stderr = sys.stdout or _null_stream(), sys.stderr or _null_stream()
            try:
                os.getcwd()
            except OSError:
                raise SystemExit(f"{name}: expected a current folder, got a deleted one; use another one") from None
            sys.argv[1:] = _in_hydra_form(sys.argv[1:], name)
            for word in sys.argv[1:]:
                if message := _not_utf8(word) or _missing_package(word, name) or wrong_choice(word, CONF):
                    raise SystemExit(message)
            find_modules_of_the_user(sys.argv[1:])
            sweeps = {"-m", "--multirun", "hydra.mode=MULTIRUN"} & set(sys.argv[1:])
            if sweeps and {"--cfg", "-c", "--info", "-i"} & set(sys.argv[1:]):
                raise SystemExit("--cfg: expected one run, got a sweep; remove -m")
            if sweeps and "hydra/launcher=slurm" in sys.argv[1:] and (got := _no_slurm()):
                raise SystemExit(f"hydra/launcher: expected a SLURM cluster, got {got}")
            if sweeps and not current_sweep():  # the child process reaches this code again
                if "SEGLAB_FROM_PYTHON" in os.environ:  # set by seglab.sweep; a terminal sends SIGHUP instead
                    end_with_parent(os.getppid())
                mark_swept(sys.argv[1:])
                raise SystemExit(supervise(f"seglab.{name}"))
            if current_sweep():
                end_with_parent(os.getppid())
            elif any("_ddp_process_" in word for word in sys.argv):  # of Lightning; may wait forever for the parent
                end_with_parent(os.getppid(), signal.SIGKILL)
            # Spinning threads starve other processes: passive waiting took 36 s instead of 154 s beside a busy process
            os.environ.setdefault("OMP_WAIT_POLICY", "passive")
            os.environ["MPLBACKEND"] = "agg"  # a notebook's backend may be missing in this environment
            with _exit_code_of_signals(), _one_sentence_for_errors(name, started), extras_named(name):
                hydra_main()
            if failed:
                raise SystemExit(1)

        return main

    return decorate


def _no_slurm() -> str:
    """Return why SLURM does not accept jobs from this machine, and what to do; "" if it does."""
    if not (shutil.which("srun") and shutil.which("sinfo")):
        return "none on this machine (no srun); run the command where sbatch is available"
    result = subprocess.run(["sinfo", "--noheader"], capture_output=True, text=True)
    reason = (result.stderr.strip() or "no message").splitlines()[-1]
    remedy = "run the command where sinfo lists partitions"
    return f"one that does not respond ({reason}); {remedy}" if result.returncode else ""


def _null_stream() -> TextIO:
    """Return a stream in place of a closed one (`2>&-`), so that no other file gets its descriptor number."""
    return open(os.devnull, "w")


def _run_job(function: Callable[[DictConfig, Path], Any], cfg: DictConfig, name: str, failed: list[Path]) -> Any:
    """Call a command's function; report user errors as one sentence, and append a failed job's folder to `failed`."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        refuse_unread(cfg, overrides(), name, str(CONF))
        check_domains(cfg)
        with exclusive_slot(), extras_named(name):
            return function(cfg, folder)
    except (ContractError, OmegaConfBaseException, OSError) as error:
        sentence = sentence_of(error, name)
        if HydraConfig.get().mode == RunMode.RUN:
            raise SystemExit(sentence) from None
        log.error("%s", sentence)  # immediately: a sweep may end much later
        refuse(folder, error, sentence)
        failed.append(folder)
        return float("nan")  # the sweeper would re-raise an error, with a traceback
    except (KeyboardInterrupt, SystemExit) as error:
        if number := stopped_by(error):
            raise SystemExit(128 + number) from None  # also ends a sweep
        raise RuntimeError(f"the job called sys.exit({error})") from error  # ends only this job
    except Exception as error:
        refuse(folder, error, f"{type(error).__name__}: {error}")
        traceback.clear_frames(error.__traceback__)  # a sweep keeps the error, but must not keep the model
        raise
    finally:
        if runs_in_parallel():  # this process may run no other job: end the workers that it started
            finish()
        if HydraConfig.get().mode == RunMode.MULTIRUN:  # a single job's process ends anyway
            gc.collect()  # reference cycles of a run keep its model in memory


def _is_override(word: str) -> bool:
    return word.startswith("~") or ("=" in word and not word.startswith("-"))


def _in_hydra_form(words: list[str], command: str) -> list[str]:
    """Return the words in Hydra's form: overrides after options, `~` replaced by the home folder, non-ASCII quoted.

    If an option is given twice, the last value is used; Hydra would merge two mappings.
    """
    if command == "evaluate":  # without dataset=NAME the group is empty; it changes the run's data
        words = [re.sub(r"^\+*(?=dataset\.)", "++", word) for word in words]
    options = [word for word in words if not _is_override(word)]  # in order: a value must follow --config-dir
    overrides = {word.partition("=")[0].lstrip("+"): word for word in words if _is_override(word)}
    home = os.path.expanduser("~")  # a user id without an account, as in a container, has none
    expanded = [re.sub("=~(?=/|$)", lambda _: f"={home}", word) for word in (*options, *overrides.values())]
    # A non-ASCII value, which Hydra accepts only in quotes, but not a list, a mapping, a sweep or a quoted string
    non_ascii = re.compile(r"""([^=\s]+=)(?=.*[^\x00-\x7f])([^,=\[\]{}()'"\\]+)""")
    return [non_ascii.sub(r'\1"\2"', word) if non_ascii.fullmatch(word) else word for word in expanded]


@contextmanager
def _exit_code_of_signals() -> Iterator[None]:
    """Exit with 130 after Ctrl-C, 143 after SIGTERM and 129 after SIGHUP, whatever the interrupted code raises.

    NumPy turns Ctrl-C during its import into a RecursionError; an unhandled SIGTERM would leave worker processes alive.
    """
    received: list[int] = []
    latest = -math.inf

    def interrupt(number: int, frame: object) -> None:
        nonlocal latest
        before, latest = latest, time.monotonic()
        if latest - before < 1:  # a terminal and `timeout` signal parent and child: it arrives twice
            return
        received.append(number)
        raise KeyboardInterrupt(signal.Signals(number))

    for number in stop_signals():
        signal.signal(number, interrupt)
    try:
        yield
        finish()
    except BaseException:
        if received:
            raise SystemExit(128 + received[0]) from None  # as a shell does
        raise


@contextmanager
def _one_sentence_for_errors(name: str, started: list[str]) -> Iterator[None]:
    """Print configuration errors as one sentence, without Hydra's additional lines (unless HYDRA_FULL_ERROR=1)."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        yield
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise its errors instead of printing them
    logging.raiseExceptions = False  # if the disk is full: lines missing in train.log were printed
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError | ContractError) and not isinstance(error, HydraException):
            raise SystemExit(sentence_of(error, name)) from None
        if started and not isinstance(error, HydraException | OmegaConfBaseException):
            raise  # raised by a job: keep its traceback
        words = [word for word in sys.argv[1:] if _is_override(word)]  # composed again to find the wrong one
        if folders := [f"file://{Path(folder).absolute()}" for folder in _config_dirs(sys.argv[1:])]:
            words.append(f"hydra.searchpath={json.dumps(folders, ensure_ascii=False)}")  # quoted because of ä or (
        raise SystemExit(explain(error, name, str(CONF), words)) from None
    finally:
        del os.environ["HYDRA_FULL_ERROR"]


def sentence_of(error: Exception, command: str) -> str:
    """Return the sentence that reports a command's error to the user."""
    if isinstance(error, OSError) and error.strerror:
        option = WRITES_TO.get(command, "hydra.run.dir=DIR, or hydra.sweep.dir=DIR for a sweep")
        elsewhere, resume = f"choose another folder ({option})", "run the same command again to resume"
        remedies = {errno.EROFS: elsewhere, errno.EACCES: f"change its permissions, or {elsewhere}"}
        remedies |= dict.fromkeys((errno.ENOSPC, errno.EDQUOT), f"free some disk space, then {resume}")
        limits = {errno.EFBIG: "-f", errno.EMFILE: "-n", errno.EAGAIN: "-u", errno.ENOMEM: "-v, or the container's"}
        remedies |= {number: f"raise the limit (ulimit {limit}), then {resume}" for number, limit in limits.items()}
        remedies[errno.ENAMETOOLONG] = "use a shorter name"
        who, remedy = error.filename or command, remedies.get(error.errno or 0, resume)
        full = error.errno in (errno.EAGAIN, errno.ENOMEM)
        expected = "memory and processes to spare" if full else "a file that can be read and written"
        return f"{who}: expected {expected}, got {error.strerror}; {remedy}"
    if isinstance(error, OmegaConfBaseException):
        return first_line(error)
    return sentence(error)


def _not_utf8(word: str) -> str | None:
    """Return what to do about a word that Python could not decode, so that no file can hold it; None for others."""
    if not re.search("[\ud800-\udfff]", word):  # lone surrogates stand for bytes
        return None
    shown = word.encode(errors="backslashreplace").decode()
    return f"{shown}: expected UTF-8, got another encoding; {remedy_for_encoding()}"


def _missing_package(word: str, command: str) -> str | None:
    """Return what to install for a word such as `hydra/launcher=ray` or `logger=wandb`; None if nothing is missing."""
    option, _, name = word.partition("=")
    if option == "logger" and name in EXTRAS and not find_spec(name):  # before a sweep, or each run would report it
        return f'{command}: expected the package {name}, got none; pip install "seglab[{EXTRAS[name]}]"'
    if option != "hydra/launcher" or name not in PLUGINS or find_spec(f"hydra_plugins.{PLUGINS[name]}"):
        return None
    package = PLUGINS[name].replace("_", "-")
    return f'{word}: expected the package {package}, got none; pip install "seglab[{name}]"'


@contextmanager
def extras_named(name: str) -> Iterator[None]:
    """Raise a ConfigError that names the extra to install if an optional package is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        remedy = f'pip install "seglab[{EXTRAS[package]}]"'
        raise ConfigError(f"{name}: expected the package {package}, got none; {remedy}") from None


def _config_dirs(words: Sequence[str]) -> list[str]:
    """Return the configuration folders given on the command line."""
    after_equals = [word.partition("=")[2] for word in words if word.startswith("--config-dir=")]
    return after_equals + [word for flag, word in pairwise(words) if flag in ("--config-dir", "-cd")]


def find_modules_of_the_user(words: Sequence[str]) -> None:
    """Make modules in this folder and in `--config-dir` importable, here and in child processes."""
    folders = [os.path.abspath(folder) for folder in (*_config_dirs(words), ".")]
    sys.path += [folder for folder in folders if folder not in sys.path]  # last, so that no file shadows a package
    existing = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, dict.fromkeys([*existing, *folders])))


def _in_parallel(hydra_node: Any) -> bool:
    alone = hydra_node.launcher._target_.endswith(".BasicLauncher") or hydra_node.launcher.get("n_jobs") == 1
    return hydra_node.mode == RunMode.MULTIRUN and not alone


def runs_in_parallel() -> bool:
    """Whether other jobs of the sweep run at the same time as this one."""
    return HydraConfig.initialized() and _in_parallel(HydraConfig.get())


def shares_process() -> bool:
    """Whether this is a job of a sweep outside SLURM; Lightning cannot start further processes from such a job."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return False
    return "submitit" not in HydraConfig.get().launcher._target_


def job_prefix(root: DictConfig) -> str:
    """Return the prefix of each log line of a job: its number in the sweep if several jobs print at once, else ""."""
    numbered = _in_parallel(root.hydra) and not OmegaConf.is_missing(root.hydra.job, "num")
    return f"#{root.hydra.job.num + 1} " if numbered else ""


def console_level(root: DictConfig) -> str:
    """Return a job's log level on the terminal: WARNING if the launcher reports how parallel runs end, else INFO."""
    return "WARNING" if _in_parallel(root.hydra) and "n_jobs" in root.hydra.launcher else "INFO"


OmegaConf.register_new_resolver("console_level", lambda *, _root_: console_level(_root_), replace=True)
OmegaConf.register_new_resolver("job_prefix", lambda *, _root_: job_prefix(_root_), replace=True)
# Hydra deep-copies its ConfigStore for every group that --help lists, which takes 1.5 s with all plug-ins.
# Sharing one store is safe, because Hydra also copies each node that it takes from it.
ConfigStore.__deepcopy__ = lambda store, memo: store  # type: ignore[attr-defined]
# Drop the statistics that torch logs on exit if the process was stopped while importing torch
logging.getLogger("torch._subclasses.fake_tensor").addFilter(lambda record: False)  # torch would reset a level
# albumentations only warns about a misspelled argument, and runs the transform with its default
warnings.filterwarnings("error", message=r"Argument\(s\) .* not valid for transform")
# The plug-ins register schemas under the names of our launchers, and Hydra warns about that in every process
warnings.filterwarnings("ignore", message="(?s).*hydra/launcher.* is validated against ConfigStore schema")
