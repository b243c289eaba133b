"""The device and precision of a run, its threads and memory, and the errors that come from them."""

import ctypes
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from seglab.contract import ContractError, require
from seglab.engine.sweep import by_signal


def precision(accelerator: str, wanted: str) -> str:
    """Return Lightning's precision; `auto` is bf16-mixed where the device supports it in hardware, else 32-true.

    Raises a ContractError if a GPU is requested and there is none, and for 16-mixed on a CPU.
    """
    gpu = torch.cuda.is_available()
    require(gpu or accelerator not in ("gpu", "cuda"), "trainer.accelerator", "a GPU", "none", "use trainer=cpu")
    half = wanted == "16-mixed" and (accelerator == "cpu" or not gpu)  # Lightning would use bf16 instead
    require(not half, "trainer.precision", "one that a CPU supports", wanted, "use bf16-mixed or 32-true")
    if wanted != "auto":
        return wanted
    if gpu and accelerator != "cpu":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    units = cpu_facts()  # without these units bf16 took 1.9 times as long as float32
    return "bf16-mixed" if units.get("avx512_bf16") or units.get("amx_bf16") else "32-true"


def cpu_facts() -> Mapping[str, Any]:
    """Return what torch reports of the CPU: its name and instruction sets; nothing before torch 2.11."""
    return getattr(torch.cpu, "get_capabilities", dict)()


def check_nodes(nodes: int) -> None:
    """Raise a ContractError if this node of several has no rank, since each node would act as the first one."""
    numbered = nodes == 1 or not {"RANK", "NODE_RANK", "SLURM_PROCID"}.isdisjoint(os.environ)
    remedy = "start the run with torchrun or srun, or set NODE_RANK and MASTER_ADDR on each node"
    require(numbered, "trainer.num_nodes", "a rank for each node", "none for this node", remedy)


def autocast(precision: str, device: str) -> AbstractContextManager[Any]:
    """Return the autocast context of Lightning's `precision` on a device type (`cpu`, `cuda`).

    As in Lightning, the weight cache is off, because gradients may be computed between two passes.
    """
    dtypes = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    return torch.autocast(device, dtypes[precision], cache_enabled=False) if precision in dtypes else nullcontext()


def use_threads(count: int) -> None:
    """Set the number of CPU threads of torch and OpenCV."""
    import cv2

    torch.set_num_threads(count)
    cv2.setNumThreads(count)


def keep_freed_memory() -> None:
    """Make glibc keep freed memory, up to the largest amount in use, instead of requesting blocks from the kernel.

    Otherwise a tensor of megabytes costs one page fault per 4 KB: normalizing eight images of 256 px took 4.7 times as
    long, a training step of a U-Net 7 % longer. Other systems are left unchanged.
    """
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        libc, trim_threshold, mmap_threshold = ctypes.CDLL(None), -1, -3  # constants of malloc.h
        if not libc.mallopt(mmap_threshold, 1 << 30):
            libc.mallopt(mmap_threshold, 1 << 25)  # maximum of an older glibc; the next line stops it from adapting
        libc.mallopt(trim_threshold, (1 << 31) - 1)


def device_facts(precision: str) -> dict[str, object]:
    """Return what run.json records of the device."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    cpu = cpu_facts().get("cpu_name", "CPU")
    return {"gpu": gpu, "cpu": cpu, "threads": torch.get_num_threads(), "precision": precision}


@contextmanager
def memory_sentence() -> Iterator[None]:
    """Convert torch's error for a step that does not fit into GPU memory to a ContractError."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        remedy = "lower batch_size (and set trainer.accumulate_grad_batches), dataset.size or model.base"
        got = str(error).partition(". ")[0]
        raise ContractError(f"trainer: expected a step that fits into GPU memory, got {got}; {remedy}") from error


@contextmanager
def processes_sentence(launcher: object = None) -> Iterator[None]:
    """Convert the errors for a killed data worker, and for a lost process of the run (DDP), to a ContractError."""
    try:
        yield
    except RuntimeError as error:  # gloo says "worker" (torch 2.9 only "peer"), NCCL "process"
        if "combined_loader" in str(error) and isinstance(cause := error.__context__, OSError):  # then Lightning fails
            remedy = "set workers=0, or raise the limits of this machine (ulimit -u, ulimit -n, /dev/shm)"
            raise ContractError(f"workers: expected data workers to start, got {cause.strerror}; {remedy}") from None
        if "EADDRINUSE" in str(error):
            got, remedy = f"MASTER_PORT={os.environ.get('MASTER_PORT')}, which is in use", "unset it, or choose another"
            raise ContractError(f"trainer: expected a free port for the processes, got {got}; {remedy}") from None
        if str(error).startswith("DataLoader worker"):  # with a traceback of third-party code
            expected, remedy = "all data workers to finish", "set fewer workers if the memory was full, and run again"
            raise ContractError(f"workers: expected {expected}, got {str(error).strip(' .')}; {remedy}") from None
        if not re.search("remote (worker|process)|closed by peer", str(error)):
            raise
        signals = list(filter(None, (by_signal(process.poll() or 0) for process in getattr(launcher, "procs", ()))))
        got, remedy = "ended early", "see its error above or in train_ddp_process_N.log, unless it was killed"
        if signals:
            got, remedy = f"died{signals[0]}", "run the same command again to resume"
        raise ContractError(f"trainer: expected all processes to finish, got one that {got}; {remedy}") from error
