"""The number of threads of a run, and the number of runs at once on a machine.

The last digits of sums depend on the number of threads. Therefore this number depends only on the work and the
machine, not on other processes: it is the same on every start, in a sweep or alone.
"""

import functools
import json
import math
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from seglab.contract import require
from seglab.engine.config import build, to_container, without_download

FLOP_PER_THREAD = 1e11
"""Work of a training step that keeps one core busy for about a second. With less, a second thread saves a tenth (U-Net
of base 16, 96 px, batch of 8: 13.4 s and 14.8 s), and next to another busy process it costs ten times that."""


CGROUP = Path("/sys/fs/cgroup")
"""The folder in which Linux lists the limits of a container."""


def runs_at_once(wanted: int | str, configs: Iterable[Any]) -> int:
    """Return how many of the configured runs this machine should execute at the same time.

    `auto` is one on a GPU or outside Linux, else as many as the cores allow with the threads of each run.
    """
    if wanted != "auto":
        fits = isinstance(wanted, int) and wanted >= 1
        require(fits, "hydra.launcher.n_jobs", "auto or a number of at least 1", wanted)
        return int(wanted)
    configs = list(configs)
    if sys.platform != "linux" or any(uses_gpu(cfg.trainer.accelerator) for cfg in configs):
        return 1  # runs on one GPU take turns; only on Linux are processes forked with their imports
    threads = max((run_threads(cfg) for cfg in configs), default=1)
    return max(1, min(len(configs), machine_cores() // threads))


def uses_gpu(accelerator: str) -> bool:
    """Whether a run with this accelerator uses a GPU on this machine."""
    import torch

    # with this check CUDA is not initialized, so that forked processes can still use it
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    return accelerator != "cpu" and torch.cuda.is_available()


def run_threads(cfg: Any) -> int:
    """Return the number of threads of a run: `cfg.threads` or, for `auto`, by the FLOPs of its training step."""
    if cfg.threads != "auto":
        return int(cfg.threads)
    model, dataset = (json.dumps(to_container(node), sort_keys=True) for node in (cfg.model, cfg.dataset))
    return int(min(cores(), 1 + step_flop(model, dataset, cfg.batch_size) / FLOP_PER_THREAD))


def evaluation_processes(cfg: Any) -> int:
    """Return how many processes score and draw beside a run; `auto` is none on a CPU, whose cores are busy."""
    auto = min(4, cores() - 1) if uses_gpu(cfg.trainer.accelerator) else 0
    return auto if cfg.evaluation_processes == "auto" else int(cfg.evaluation_processes)


def cores() -> int:
    """Return the number of cores that this process may use, at most OMP_NUM_THREADS (set by Ray and SLURM)."""
    available = machine_cores()
    outermost = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # "4,2" is one per nesting level
    limit = int(outermost) if outermost.isdecimal() else 0
    return min(available, limit or available)  # OpenMP ignores 0 and invalid numbers


def machine_cores() -> int:
    """Return the number of cores of this machine or, if it is smaller, of its container (`docker --cpus=2`)."""
    available = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    for names in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):  # of cgroup 2 and 1
        with suppress(OSError, ValueError):  # the other version, and "max" for no limit
            quota, period = map(int, " ".join((CGROUP / name).read_text() for name in names).split())
            available = min(available, math.ceil(quota / period)) if quota > 0 else available  # -1 is no limit
    return available


@functools.cache
def step_flop(model: str, dataset: str, batch_size: int) -> float:  # JSON strings can be cached
    """Return the floating-point operations of a training step, from JSON nodes; inf if they cannot be counted."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    try:
        data = build(json.loads(dataset))
        with torch.device("meta"), counter, torch.no_grad():
            net = build(without_download(json.loads(model)))
            net.eval()(torch.empty(1, data.channels, data.size, data.size))  # a batch norm cannot train on one image
    except Exception:  # the run's own checks report errors; a user's model may need data
        return float("inf")
    return 3.0 * batch_size * counter.get_total_flops()  # the backward pass costs twice the forward pass
