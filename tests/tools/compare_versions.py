"""Check whether two versions of seglab give the same numbers on a fixed set of runs.

    python tests/tools/compare_versions.py make CHECKOUT DATA OUT [NAME ...]   # DATA: fundus/, mias/, ship/, ddsm/
    python tests/tools/compare_versions.py compare OUT_BEFORE OUT_AFTER

Covers every dataset, every model, eight losses, a sweep, an interrupted run, evaluate, predict, the report's table.
Differences are printed, and the exit code is 1 if there are any.
"""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

TABLES = ("per_image.csv", "metrics.csv", "table.csv", "objects.csv", "images.csv")
NOT_COMPARED = {"seconds", "epochs/seconds", "epochs/seconds sd", "changed", "run", "data"}

KILLED = "killed"
"""The command that is killed after its first checkpoint; the following command resumes its run."""

COMMON = "trainer.accelerator=cpu trainer.precision=32-true trainer.max_epochs=2 batch_size=4 model.base=4"
SMALL = f"{COMMON} dataset.size=32 model.depth=2 dataset.train=8 dataset.val=4 dataset.test=6"
LOSSES = "bce,focal,dice,iou,tversky,lovasz_hinge,boundary,bce_dice"


def commands(data: Path) -> dict[str, str]:
    """Return every command by name; each runs in the folder of results."""
    train = "seglab.train"
    disc = f"{data}/fundus/drishti-gs"
    return {
        "sweep": f"{train} -m {SMALL} study=sweep loss={LOSSES} seed=1,2",
        "scenes": f"{train} -m {SMALL} study=scenes dataset.scene=lesion,ships augment=strong,none",
        "fcn": f"{train} {COMMON} dataset.size=64 dataset.train=8 dataset.val=4 dataset.test=6 model=fcn study=models",
        "smp": f"{train} {SMALL} model=smp model.encoder_name=resnet18 study=models".replace(
            " model.base=4", ""
        ).replace(" model.depth=2", ""),
        "valid": f"{train} {SMALL} dataset.size=64 model.padding=valid model.depth=1 model.upsample=resize "
        "study=models",
        "fundus": f"{train} -m {COMMON} dataset=fundus dataset.root={disc} dataset.size=64 "
        "dataset.fit=resize,pad study=fundus",
        "patches": f"{train} {COMMON} dataset=fundus dataset.root={disc} dataset.size=128 dataset.fit=patch "
        "dataset.reduce=2 study=fundus loss=dice",
        "soft": f"{train} {COMMON} dataset=fundus dataset.root={disc} dataset.size=64 dataset.soft=true study=fundus",
        "folder": f"{train} {COMMON} dataset=folder dataset.root={data}/ddsm/ddsm-tissue/train_valid "
        "dataset.images=fgt_seg dataset.masks=fgt_seg_labels 'dataset.mask_suffix=_LI' dataset.mask_value=255 "
        "dataset.size=64 dataset.channels=1 dataset.bits=16 model.in_channels=1 study=folder",
        "ship": f"{train} {COMMON} dataset=ship dataset.root={data}/ship dataset.size=128 dataset.fit=patch study=ship",
        "mias": f"{train} {COMMON} dataset=mias dataset.root={data}/mias dataset.size=64 study=mias "
        "dataset.val_fraction=0.3 dataset.on_bad_item=skip",
        "schedule": f"{train} {SMALL} loss=weighted_bce loss.pos_weight=5 'schedule.pos_weight={{to: 1, epochs: 2}}' "
        "study=schedule scheduler=plateau trainer.max_epochs=3",
        "switch": f"{train} {SMALL} loss=switch loss.at=1 study=schedule",
        KILLED: f"{train} {SMALL} trainer.max_epochs=20 hydra.run.dir=resumed",
        "resumed": f"{train} {SMALL} trainer.max_epochs=20 hydra.run.dir=resumed",
        "prepare": f"seglab.prepare dataset=fundus dataset.root={disc} dataset.reduce=4 hydra.run.dir=prepared",
        "prepared": f"{train} {COMMON} dataset=prepared dataset.root=prepared dataset.size=64 study=fundus loss=focal",
        "again": "seglab.evaluate run='sweep_s1' ",
        "native": "seglab.evaluate run='patches'",
        "elsewhere": f"seglab.evaluate run='scene' dataset=mias dataset.root={data}/mias dataset.on_bad_item=skip",
        "predict": f"seglab.predict run='fundus_run' input={disc}/Test/Images output=predicted "
        "'format=[mask,probability,objects]' min_area=4",
        "slide": f"seglab.predict run='patches' input={disc}/Test/Images output=slid tta=flips",
        "report": "seglab.report outputs/sweep output=report/sweep",
        "reports": "seglab.report outputs/fundus outputs/ship output=report/several",
    }


def make(checkout: Path, data: Path, out: Path, only: Sequence[str] = ()) -> None:
    """Run every command in `out` with the code of `checkout`."""
    out.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    for name, command in commands(data).items():
        if only and name not in only:
            continue
        for word, pattern in {
            "'sweep_s1'": "outputs/sweep/dice_*_s1-*",
            "'patches'": "outputs/fundus/dice_*",
            "'scene'": "outputs/scenes/*",
            "'fundus_run'": "outputs/fundus/bce_dice_*",
        }.items():
            if word in command:
                found = sorted(out.glob(pattern), key=lambda folder: folder.name.rsplit("-", 1)[0])
                command = command.replace(word, str(found[0].relative_to(out)))
        with (out / f"{name}.log").open("w") as log:
            words = [sys.executable, "-m", *shlex.split(command)]
            process = subprocess.Popen(words, cwd=out, env=environment, stdout=log, stderr=log)
        while name == KILLED and not (out / "resumed" / "checkpoints" / "last.ckpt").exists():
            time.sleep(0.02)
        if name == KILLED:
            process.kill()
        print(f"{name}: exit {process.wait()}", flush=True)


def results(out: Path) -> dict[str, pd.DataFrame]:
    """Return tables and histograms by name, without the identity in folder names, which differs between versions."""
    found = {}
    for file in sorted(out.rglob("*")):
        place = file.relative_to(out).parent
        key = "/".join([*(part.rsplit("-", 1)[0] for part in place.parts), file.name])
        if file.name in TABLES and "figures" not in place.parts:
            found[key] = pd.read_csv(file).drop(columns=NOT_COMPARED, errors="ignore")
        elif file.name == "histograms.npz":
            with np.load(file) as arrays:
                names = [name for name in ("val", "test") if name in arrays]  # an evaluation has one split
                found[key] = pd.DataFrame({name: pd.Series(arrays[name].ravel()) for name in names})
    return found


def compare(before: Path, after: Path) -> int:
    """Print the differences; return the number of tables and histograms that differ."""
    old, new, wrong = results(before), results(after), 0
    for key in sorted(old.keys() | new.keys()):
        if key not in old or key not in new:
            said = f"only {'before' if key in old else 'after'}"
        else:
            both = [column for column in old[key] if column in new[key]]
            lost = [column for column in old[key] if column not in new[key]]
            more = [column for column in new[key] if column not in old[key]]
            said = f"columns lost {lost}, new {more}" if lost or more else ""
            said += "" if old[key][both].equals(new[key][both]) else " other values"
        if said:
            print(f"{key}: {said}")
        wrong += bool(said)
    print(f"{len(old)} tables and histograms before, {wrong} differ or are missing")
    return wrong


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(*(Path(word).resolve() for word in sys.argv[2:5]), sys.argv[5:])
    else:
        sys.exit(min(1, compare(*map(Path, sys.argv[2:4]))))
