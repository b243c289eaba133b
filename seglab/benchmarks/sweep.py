"""Compare a small sweep with a plain Lightning script run once per run, in processor time, or wall time on a GPU."""

import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from seglab.benchmarks import plain_script
from seglab.benchmarks.gpu import Row
from seglab.contract import require
from seglab.data.datasets.synthetic import Synthetic
from seglab.data.module import DataModule

log = logging.getLogger(__name__)


def measure(
    losses: list[str],
    seeds: int,
    images: int,
    size: int,
    base: int,
    batch_size: int,
    epochs: int,
    precisions: list[str],
    plain_losses: list[str],
    workers: int,
) -> list[Row]:
    """Time both ways on the same data, model, losses, seeds and epochs, on one thread if trained on a CPU.

    The plain script saves and logs, but does not test, draw, or keep per-image rows. Its runs do not depend on each
    other, so only those of `plain_losses` with the first seed are timed, and their mean stands for all. `workers`
    processes load its data.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        working_folder = Path(folder)
        count = {"train": images, "val": images // 3, "test": images // 3}
        write_arrays(DataModule(Synthetic(size=size, train=images, val=images // 3, test=images // 3)), working_folder)
        runs = len(losses) * seeds
        for precision in precisions:
            numbers = [str(number) for number in (1, base, batch_size, epochs, workers)]
            script = [sys.executable, plain_script.__file__, folder]
            timed = [seconds([*script, loss, *numbers, precision], working_folder) for loss in plain_losses]
            plain = runs * sum(timed) / len(timed)
            overrides = [f"loss={','.join(losses)}", f"seed={','.join(map(str, range(1, seeds + 1)))}"]
            overrides += [f"dataset.{split}={number}" for split, number in count.items()]
            overrides += [f"dataset.size={size}", f"model.base={base}", f"batch_size={batch_size}", "augment=light"]
            overrides += [f"trainer.max_epochs={epochs}", f"trainer.precision={precision}", f"study={precision}"]
            ours = seconds([sys.executable, "-m", "seglab.train", "-m", *overrides], working_folder)
            reference = f"plain Lightning script, {runs} runs of {epochs} epochs ({len(timed)} timed), {precision}"
            rows += [Row(reference, 1000 * plain, 1.0, reference)]
            rows += [Row(f"seglab.train -m, the same runs, {precision}", 1000 * ours, ours / plain, reference)]
    return rows


def write_arrays(data: DataModule, folder: Path) -> None:
    """Write the images and masks of training and validation as arrays for the plain script."""
    for split in ("train", "val"):
        batches = list(data.loader(split))
        (folder / split).mkdir()
        for name, key in (("images", "image"), ("masks", "target")):
            array = torch.cat([batch[key] for batch in batches]).permute(0, 2, 3, 1).numpy()
            np.save(folder / split / f"{name}.npy", array if key == "image" else np.ascontiguousarray(array[..., 0]))


def seconds(command: list[str], folder: Path) -> float:
    """Return the processor time of a command and all its processes, or the wall time if there is a GPU."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    # the command runs in another folder
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    # without this variable, albumentations looks for updates
    environment = os.environ | {"PYTHONPATH": path, "NO_ALBUMENTATIONS_UPDATE": "1"}
    if not torch.cuda.is_available():
        environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    start = time.perf_counter()
    process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    last_line = "".join(process.stderr.splitlines()[-1:])
    require(process.returncode == 0, "benchmark", f"{' '.join(command[1:4])} to succeed", last_line)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    spent = time.perf_counter() - start if torch.cuda.is_available() else spent
    log.info("%.1f s  %s", spent, " ".join(command[1:])[:100])
    return spent
