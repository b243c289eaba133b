"""Which device a run computes on, and in which precision."""

from __future__ import annotations

import torch

from seglab.contract import require


def precision(accelerator: str, wanted: str) -> str:
    """Give Lightning's precision: bf16-mixed for `auto` where the device has units for it, else 32-true.

    Raises a ContractError if a GPU is asked for and there is none.
    """
    gpu = torch.cuda.is_available()
    require(gpu or accelerator not in ("gpu", "cuda"), "trainer.accelerator", "a GPU", "none here", "use trainer=cpu")
    if wanted != "auto":
        return wanted
    if gpu and accelerator != "cpu":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    units = torch.cpu.get_capabilities()
    return "bf16-mixed" if units.get("avx512_bf16") or units.get("amx_bf16") else "32-true"


def describe(used: str) -> dict[str, object]:
    """What run.json says about the device."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    cpu = torch.cpu.get_capabilities().get("cpu_name", "CPU")
    return {"gpu": gpu, "cpu": cpu, "threads": torch.get_num_threads(), "precision": used}
