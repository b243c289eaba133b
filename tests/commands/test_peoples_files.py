"""Typical user files, from training to prediction: properties found in training are used by every command."""

import logging
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from seglab.api import Run
from seglab.engine.trained_run import open_run
from seglab.evaluate import evaluate
from seglab.inference.evaluation import dataset_node
from seglab.inference.predictor import FULL, predictor
from seglab.reporting.load_runs import collect
from seglab.reporting.report_sections import compared
from seglab.train import train
from tests.conftest import OF_FILES, compose, facts_of
from tests.data.fabricate import LOSSY, save_turned, scene, write_image, write_scenes

SAID = "black is 0 and white is 4095 (dataset.range)"


def write_12_bits(path, image):
    tifffile.imwrite(path, image[..., 0].astype(np.uint16) * 16)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on ten 12-bit images, one of them truncated, with JPEG masks; `log.txt` has its messages."""
    root, folder = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("study") / "run"
    write_scenes(root, 10, image=(".tif", write_12_bits), mask=LOSSY["JPEG"])
    cut = root / "images/04.tif"
    cut.write_bytes(cut.read_bytes()[:1000])
    words = [*OF_FILES, "dataset=folder", f"dataset.root={root}", "dataset.cache_dir=null", "dataset.channels=1"]
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logger = logging.getLogger("seglab")
    level, logger.level = logger.level, logging.INFO
    logger.addHandler(handler)
    train(compose("train", *words, "dataset.on_bad_item=skip", folder=folder), folder)
    logger.removeHandler(handler)
    logger.setLevel(level)
    (folder / "log.txt").write_text("\n".join(said))
    return folder


def test_warnings_about_files_are_logged_before_the_first_epoch(run):
    said = (run / "log.txt").read_text().splitlines()
    before = said[: next(k for k, line in enumerate(said) if line.startswith("epoch 1"))]
    lines = [line.removeprefix("data: ") for line in before if line.startswith("data: ")]
    assert SAID in lines
    assert any(line.startswith("1 of 10 images are left out; the first: ") for line in lines)
    assert any(line.startswith("9 of 9 masks are JPEG") for line in lines)
    facts = facts_of(run)["data"]
    assert (facts["range"], facts["skipped"]) == ([0, 4095], 1)
    (reason,) = facts["skipped_why"]
    assert "04.tif: expected a readable image, got a damaged TIFF" in reason
    assert compared(collect([run]).used)["left out"] == f"1: {reason}"


def test_the_range_of_the_training_images_is_that_of_every_other_image(run, tmp_path, caplog):
    opened = open_run(run)
    assert opened.dataset().range == (0, 4095)
    theirs = {"_target_": "seglab.data.datasets.folder.Folder", "root": "there", "range": "auto"}
    assert dataset_node(opened, theirs, set())["range"] == [0, 4095]
    assert dataset_node(opened, theirs, {"range"})["range"] == "auto"
    # The same image with 12 of 16 bits and with 8 bits, darker than any training image.
    dark = scene(77)[0] // 2
    cv2.imwrite(str(tmp_path / "8.png"), dark[..., 0])
    write_12_bits(tmp_path / "12.tif", dark)
    deep = predictor(opened, window=None, overlap=0.5, tta="none", batch=1, device="cpu")
    shallow = replace(deep, dataset=replace(deep.dataset, range="full"))
    levels = deep.of_file(str(tmp_path / "12.tif")), shallow.of_file(str(tmp_path / "8.png"))
    assert np.abs(levels[0].astype(float) - levels[1]).max() <= 0.01 * FULL
    with caplog.at_level(logging.WARNING):
        deep.of_file(str(tmp_path / "8.png"))
    words = "8.png: 1 of 1 images have 8 bits, and are nearly black in the range 0 to 4095 (dataset.range); "
    assert words in caplog.text


BLACK = "are nearly black in the range 0 to 4095 (dataset.range): no value is above 1"
WHITE = "most values are above the range 0 to 4095 and are clipped to white"
FAR = {"fractions": (1 / 4095, np.float32, BLACK), "one of 16 bits": (1 / 4095, np.uint16, BLACK)}
FAR |= {"millions": (1e3, np.float32, WHITE), "16 bits": (15, np.uint16, WHITE), "same": (0.5, np.float32, "")}


@pytest.mark.parametrize("kind", FAR)
def test_an_image_far_outside_of_the_range_is_said(run, tmp_path, caplog, kind):
    factor, dtype, words = FAR[kind]
    values, empty = np.linspace(1000, 4095, 40 * 48).reshape(40, 48), 0 if dtype == np.uint16 else np.nan
    values[:10] = empty
    image, file = (values * factor).astype(dtype), tmp_path / "images/far.tif"
    write_image(tmp_path / "masks/far.png", 255 * scene(0)[1])
    file.parent.mkdir()
    tifffile.imwrite(file, image, extratags=[(42113, "s", 0, str(empty), True)])
    predictor(open_run(run), window=None, overlap=0.5, tta="none", batch=1, device="cpu").of_file(str(file))
    Run(run).predict([image])
    black = "1 of 1 images " * (words == BLACK)
    assert caplog.messages == [f"{who}: {black}{words}" for who in (file, "image 0") if words]
    for scale in ("run", "native"):
        caplog.clear()
        more = ("dataset=folder", f"+dataset.root={tmp_path}", f"scale={scale}", "device=cpu", "pictures=false")
        evaluate(compose("evaluate", f"run={run}", *more), tmp_path)
        assert (BLACK in caplog.text) == (words == BLACK)


def test_a_photo_that_is_stored_turned_has_a_mask_as_it_is_seen(run, tmp_path):
    from seglab.predict import predict

    save_turned(tmp_path / "in/a.jpg", scene(1)[0], 6, quality=95)
    with Image.open(tmp_path / "in/a.jpg") as stored:
        assert stored.size == (40, 48)
    out = tmp_path / "out"
    predict(compose("predict", f"run={run}", f"input={tmp_path / 'in'}", f"output={out}", "format=[mask]"), out)
    assert list(pd.read_csv(out / "images.csv")[["width", "height"]].iloc[0]) == [48, 40]
