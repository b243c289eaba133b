"""The commands and programs of README, quickstart and how-to pages run, on small stand-ins for the reader's data."""

import json
import re
import shlex
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.commands.forked import begin, end, program, run
from tests.conftest import DATA, UNET, train_small
from tests.data.fabricate import scene, write_image, write_scenes

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "docs/quickstart.md", *sorted((ROOT / "docs/howto").glob("*.md"))]
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
COMMAND = re.compile(r"python -m seglab\.[a-z_]+( .+|$)")

TINY = {
    "train": ("trainer.max_epochs=1", "batch_size=4", "dataset.size=32", "examples=1", "pictures=false"),
    "evaluate": ("device=cpu", "pictures=false"),
    "predict": ("device=cpu",),
    "surface": ("dataset.size=32", *UNET, "curve.size=8", "curve.points=5", "xray.images=4"),
}
TINY["train"] += ("trainer.accelerator=cpu", "trainer.precision=32-true", "hydra.launcher.n_jobs=1")
TINY["search"] = (*TINY["train"], "trials=1", "fresh_seeds=1")
TINY["surface"] += ("landscape.points=2", "landscape.images=4")
"""Overrides that make each command small; of a swept list only the first and the last value and one seed are kept."""

FOLDER = ("dataset=folder", "dataset.root=DATA", "dataset.images=photos", "dataset.masks=labels")
STAND_INS = {
    "dataset=ddsm": (*FOLDER, "dataset.channels=3"),  # the published layout has its own tests
    "dataset=prepared": ("dataset.root=outputs/prepare/folder", "dataset.channels=3"),
    "dataset=cells": ("dataset.root=cells",),
    "model.encoder_weights=imagenet": ("model.encoder_weights=null",),  # would be a download
    "model.encoder_name=tu-convnext_tiny": ("model.encoder_name=tu-convnext_atto",),
    "experiment=loss_sweep": ("loss=bce,dice", "seed=1"),
    "experiment=demo": ("loss=bce,dice", "seed=1"),
    "tuning_repeats=3": ("tuning_repeats=2",),
    "logger=wandb": ("logger.offline=true",),
}
"""Overrides added to a command that contains a word, to replace the reader's data and long trainings."""

ELSEWHERE = {
    "hydra.launcher.n_jobs=4": "tests/commands/test_sweep.py",
    "hydra/launcher=ray": "tests/commands/test_sweep.py, and a GPU",
    "hydra/launcher=slurm": "tests/slurm/check_requeue.py",
    "mlflow": "tests/engine/test_trackers.py, on a server where MLflow is installed",
    "...": "a part of a command",
}
"""Words of commands that need a cluster or a server, with the place where these are tested instead."""


def commands_of(page):
    """Return the commands of a page, from its bash blocks, the first lines of its files, and its text."""
    text = page.read_text()
    lines = []
    for kind, block in BLOCK.findall(text):
        printed = block.replace("\\\n", " ").splitlines()
        lines += printed if kind == "bash" else printed[:1]
    lines += re.findall(r"`([^`]+)`", BLOCK.sub("", text))
    found = [COMMAND.search(" ".join(line.split()).partition(" #")[0]) for line in lines]
    return [match[0] for match in found if match]


def tiny(line):
    """Return the command of a line and its arguments, with the overrides that make it small."""
    name, *words = shlex.split(line.removeprefix("python -m seglab."))
    if {"--help", "--cfg"} & set(words):
        return name, words
    more = list(TINY.get(name, ()))
    if name in ("train", "search"):
        more += [] if "model=" in line else UNET
        more += [] if "dataset=" in line else DATA
    for word, stand_in in STAND_INS.items():
        more += stand_in if word in words else ()
    more += ["tune.epochs=1"] if "tune.lr=" in line else []
    short = [re.sub(r"^(seed=\d+),.+|^([\w.]+=[^,\[{(]+,).+,", r"\1\2", word) for word in words]
    return name, [*short, *more]


def assigned():
    """Return the commands that each page is tested with: those whose small form no earlier command has."""
    known = set()
    pages = {page: [] for page in PAGES}
    for page in PAGES:
        for line in commands_of(page):
            small = str(tiny(line)).replace("outputs/first/RUN", "RUN")
            if small not in known and not any(word in line for word in ELSEWHERE):
                pages[page].append(line)
            known.add(small)
    return pages


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with the image folders and runs that the pages refer to by name."""
    import nibabel
    from safetensors.torch import save_file

    from seglab.engine.trained_run import open_run

    desk = tmp_path_factory.mktemp("desk")
    write_scenes(desk / "DATA", 12, named=("photos/{}", "labels/{}"))
    names = sorted(file.name for file in (desk / "DATA/photos").iterdir())
    rows = [f"photos/{name},labels/{name}" for name in names]
    (desk / "DATA/list.csv").write_text("\n".join(["image,mask", *rows]))
    images = [{"id": k, "file_name": name, "height": 40, "width": 48} for k, name in enumerate(names)]
    square = {"category_id": 1, "segmentation": [[8, 8, 20, 8, 20, 20, 8, 20]], "iscrowd": 0}
    regions = [square | {"id": k, "image_id": k} for k in range(12)]
    content = {"images": images, "annotations": regions, "categories": [{"id": 1, "name": "ship"}]}
    (desk / "DATA/instances.json").write_text(json.dumps(content))
    for place in ("photos", "test_v2"):
        shutil.copytree(desk / "DATA/photos", desk / place, ignore=shutil.ignore_patterns("[01][2-9]*"))
    for k in range(12):
        image, mask = scene(k)
        name, split = f"drishtiGS_{k:03d}", "Test" if k < 3 else "Training"
        write_image(desk / f"DRISHTI/{split}/Images/ALL/{name}.png", image)
        write_image(desk / f"DRISHTI/{split}/GT/{name}/SoftMap/{name}_ODsegSoftmap.png", 255 * mask)
        for file, pixels in (("one.png", image), ("one_mask.png", 255 * mask)):
            write_image(desk / f"cells/patient_{k}/{file}", pixels)
    shutil.copytree(desk / "DRISHTI", desk / "OTHER")
    for view in ("CC", "MLO"):
        write_image(desk / f"CBIS-DDSM/Mass-Training_P_00001_LEFT_{view}/film.png", scene(0)[0])
    (desk / "MIAS").mkdir()
    (desk / "MIAS/Info.txt").write_text("".join(f"mdb00{n} G CIRC B 535 425 197\n" for n in range(1, 5)))
    for n in range(1, 5):
        disc = cv2.circle(np.zeros((1024, 1024), np.uint8), (535, 599), 197, 150 + n, cv2.FILLED)
        write_image(desk / f"MIAS/all-mias/mdb00{n}.pgm", disc)
    for k in range(6):
        labels = np.zeros((16, 16, 3), np.uint8)
        labels[4 : 9 + k, 3:9, 1:] = 1
        for place, values in (("imagesTr", np.int16(200) * labels), ("labelsTr", labels)):
            (desk / f"Task09_Spleen/{place}").mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), desk / f"Task09_Spleen/{place}/spleen_{k}.nii.gz")
    study = desk / "outputs/first"
    run = train_small(study / "RUN", "callbacks=snapshots", "callbacks.snapshots.every_n_epochs=1")
    for loss in ("bce", "dice"):
        train_small(study / f"{loss}_unet", f"loss={loss}", "seed=2")
    train_small(desk / "outputs/STUDY/RUN", "dataset.scene=disc_cup")
    weights = open_run(run).module().model.state_dict()
    save_file({name: value.contiguous() for name, value in weights.items()}, desk / "weights.safetensors")
    for copy in ("A", "outputs/seen/RUN", "outputs/small/RUN", "RUN"):
        shutil.copytree(run, desk / copy)
    shutil.copytree(study / "dice_unet", desk / "B")
    for copy in ("outputs/A", "outputs/B"):
        shutil.copytree(study, desk / copy)
    return desk


def write_files(page, place):
    """Write the files that a page prints, each to the path named in its first line."""
    for name, code in re.findall(
        r"```(?:python|yaml)\n# ([\w/]+\.(?:py|yaml))[^\n]*\n(.*?)```", page.read_text(), re.DOTALL
    ):
        file = place / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code)


def named(word):
    """Return a word with RUN replaced by the name of a run that an earlier command made."""
    for found in re.findall(r"outputs/\w+/RUN", word):
        runs = sorted(file.parent for file in Path(found).parent.glob("*/run.json"))
        word = word if Path(found).exists() else word.replace(found, str(runs[0]))
    return word


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_run(page, desk, tmp_path, monkeypatch):
    shutil.copytree(desk, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    write_files(page, tmp_path)
    # a sweep with the journal of another sweep runs in this process, without a child
    environment = {"SEGLAB_SWEEP": str(tmp_path / "journal"), "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
    for line in assigned()[page]:
        name, words = tiny(line)
        code, said = run(name, [named(word) for word in words], tmp_path, environment)
        assert code == 0, f"{line}\n{shlex.join(words)}\n{said[-3000:]}"
    if page.stem == "extend":
        squared, ce = (next(Path("outputs").glob(f"*/{loss}_*/run.json")) for loss in ("squared", "ce"))
        assert "Weighted squared error" in squared.read_text()
        assert "CrossEntropy (my_losses)" in ce.read_text()


TRAINERS = (ROOT / "docs/howto/other_trainers.md").read_text()
PROGRAMS = [code for kind, code in BLOCK.findall(TRAINERS) if kind == "python"]


@pytest.mark.slow
@pytest.mark.parametrize("code", PROGRAMS, ids=["torch", "maps", "monai"])
def test_a_printed_program_runs_and_its_loss_falls(code, tmp_path):
    said = tmp_path / "said.txt"
    assert end(begin(program, code, tmp_path), 100) == 0, said.read_text()
    first, last = map(float, said.read_text().splitlines()[-1].split(" to "))
    assert last < 0.9 * first
