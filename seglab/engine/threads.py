"""How many threads a run computes with, and how many runs a machine holds.

Sums depend on the number of threads in their last digits, so it follows from the work and the machine alone, and not
from what else runs: the same on every start, in a sweep or by itself.
"""

import functools
import json
import os
import sys
from collections.abc import Iterable
from typing import Any

from seglab.contract import require
from seglab.engine.config import build, to_container, without_download

FLOP_PER_THREAD = 1e11
"""Work of a training step that occupies one core for about a second. With less, a second thread gains a tenth (U-Net of
base 16, 96 px, batch of 8: 13.4 s and 14.8 s), and beside another busy process it costs ten times that."""


def runs_at_once(wanted: int | str, configs: Iterable[Any]) -> int:
    """How many of the runs that the configurations describe this machine should make at the same time.

    `auto` gives one on a GPU, else what the cores hold with the threads that each run takes.
    """
    if wanted != "auto":
        fits = isinstance(wanted, int) and wanted >= 1
        require(fits, "hydra.launcher.n_jobs", "auto or a number of at least 1", wanted)
        return int(wanted)
    configs = list(configs)
    if sys.platform != "linux" or any(uses_gpu(cfg.trainer.accelerator) for cfg in configs):
        return 1  # runs that share a GPU take turns; only on Linux a process is forked with what it has imported
    threads = max((run_threads(cfg) for cfg in configs), default=1)
    return max(1, min(len(configs), len(os.sched_getaffinity(0)) // threads))


def uses_gpu(accelerator: str) -> bool:
    """Whether a run with this accelerator computes on a GPU here."""
    import torch

    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # asks without opening the device: forks still may
    return accelerator != "cpu" and torch.cuda.is_available()


def run_threads(cfg: Any) -> int:
    """The threads of the run of a configuration: `cfg.threads`, or what its training step is worth."""
    if cfg.threads != "auto":
        return int(cfg.threads)
    model, dataset = (json.dumps(to_container(node), sort_keys=True) for node in (cfg.model, cfg.dataset))
    return int(min(cores(), 1 + step_flop(model, dataset, cfg.batch_size) / FLOP_PER_THREAD))


def evaluation_processes(cfg: Any) -> int:
    """How many processes score and draw beside a run; `auto` gives none on a CPU, whose cores are busy."""
    auto = min(4, cores() - 1) if uses_gpu(cfg.trainer.accelerator) else 0
    return auto if cfg.evaluation_processes == "auto" else int(cfg.evaluation_processes)


def cores() -> int:
    """The cores that this process may use, or fewer if OMP_NUM_THREADS says so (Ray and SLURM set it)."""
    found = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    outermost = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # "4,2" has a number for each level
    limit = int(outermost) if outermost.isdecimal() else 0
    return min(found, limit or found)  # OpenMP ignores 0 and what is no number


@functools.cache
def step_flop(model: str, dataset: str, batch_size: int) -> float:  # JSON can be looked up in the cache
    """The floating point operations of a training step, of nodes in JSON; infinite where they cannot be counted."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    try:
        data = build(json.loads(dataset))
        with torch.device("meta"), counter, torch.no_grad():
            net = build(without_download(json.loads(model)))
            net.eval()(torch.empty(1, data.channels, data.size, data.size))  # a batch norm cannot train on one image
    except Exception:  # the checks of the run itself report what is wrong; a model of the user's may need numbers
        return float("inf")
    return 3.0 * batch_size * counter.get_total_flops()  # the backward pass takes twice the forward
