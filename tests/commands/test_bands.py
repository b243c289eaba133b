"""Scenes of several bands and depths, from GeoTIFF to a map with the same georeference."""

import numpy as np
import pandas as pd
import pytest
import tifffile

from seglab.engine.trained_run import open_run
from seglab.evaluate import evaluate
from seglab.export import readme
from seglab.images.image_io import read_image
from seglab.images.tiff import georeference
from seglab.inference.export import Exported
from seglab.predict import predict
from seglab.train import train
from tests.conftest import OF_FILES, compose, facts_of
from tests.data.fabricate import scene, write_scenes

GEO = [
    (33550, "d", 3, (0.5, 0.5, 0.0), True),
    (33922, "d", 6, (0.0, 0.0, 0.0, 364000.5, 5621000.25, 0.0), True),
    (34735, "H", 16, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32632), True),  # UTM 32 north
]


def write_16_bits(path, image):
    """Write four 16-bit bands, the fourth the mean of two, with a corner that GDAL's tag declares as no data."""
    bands = np.dstack([image, image[..., 0] // 2 + image[..., 1] // 2]).astype(np.uint16) * 200 + 1
    bands[:10, :10] = 0
    options = {"photometric": "minisblack", "planarconfig": "contig", "metadata": None}
    tifffile.imwrite(path, bands, extratags=[*GEO, (42113, "s", 2, "0", True)], **options)


def write_floats(path, image):
    """Write one band of heights from about -8 to 24, with a corner of NaN."""
    heights = image[..., 0].astype(np.float32) / 8 - 8
    heights[:10, :10] = np.nan
    tifffile.imwrite(path, heights, metadata=None, extratags=[*GEO, (42113, "s", 4, "nan", True)])


BANDS = {"uint16": (4, write_16_bits), "float32": (1, write_floats)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", BANDS)
def test_bands_train_and_their_maps_come_back_with_their_georeference(tmp_path, kind):
    channels, write = BANDS[kind]
    root, run = write_scenes(tmp_path / "data", 10, image=(".tif", write)), tmp_path / "run"
    words = [*OF_FILES, "dataset=folder", f"dataset.root={root}", f"dataset.channels={channels}"]
    words += ["dataset.cache_dir=null"]
    train(compose("train", *words, "dataset.mean=auto", "dataset.std=auto", folder=run), run)

    rows = pd.read_csv(run / "per_image.csv")
    assert set(rows["pixels"]) < set(range(900, 32 * 32))  # 5 % of each image has no data
    (again,) = evaluate(compose("evaluate", f"run={run}", "device=cpu"), tmp_path)
    pd.testing.assert_frame_equal(pd.read_csv(again / "per_image.csv"), rows, rtol=1e-5)

    facts = facts_of(run)
    assert open_run(run).dataset().mean == tuple(facts["data"]["mean"])
    trained = facts_of(run, "split.json")["train"]
    values = np.stack([read_image(str(root / f"images/{name}.tif"), bands=()) for name in trained])
    low, high = facts["data"]["range"]
    counted = values.reshape(-1, channels)
    pixels = (counted[~np.isnan(counted[:, 0])] - low) / (high - low)
    np.testing.assert_allclose(facts["data"]["mean"], pixels.mean(0), atol=0.01)  # of resized 8-bit images
    np.testing.assert_allclose(facts["data"]["std"], pixels.std(0), rtol=0.15)

    words = (f"run={run}", f"input={root / 'images'}", f"output={tmp_path / 'out'}", "format=[mask,probability]")
    out = predict(compose("predict", *words, "device=cpu"), tmp_path)
    for place, dtype in (("masks", np.uint8), ("probabilities", np.uint16)):
        found = tifffile.imread(out / place / "03.tif")
        assert (found.shape, found.dtype) == (scene(3)[1].shape, dtype)
        assert georeference(str(out / place / "03.tif")) == georeference(str(root / "images/03.tif"))
    assert [code for code, *_ in georeference(str(out / "masks/03.tif"))] == [code for code, *_ in GEO]


def test_a_run_on_chosen_bands_is_measured_on_these_and_its_file_says_how_to_make_them(tmp_path):
    root, run = write_scenes(tmp_path / "data", 10, image=(".tif", write_16_bits)), tmp_path / "run"
    data = ["dataset=folder", f"dataset.root={root}", "dataset.cache_dir=null"]
    words = [*OF_FILES, *data, "dataset.bands=[4,2,1]", "dataset.range=[0,40000]"]
    train(compose("train", *words, folder=run), run)
    (here,) = evaluate(compose("evaluate", f"run={run}", *data, "split=test", "device=cpu"), tmp_path)
    assert facts_of(here, "evaluation.json")["dataset"]["bands"] == [4, 2, 1]
    pd.testing.assert_frame_equal(pd.read_csv(here / "per_image.csv"), pd.read_csv(run / "per_image.csv"), rtol=1e-5)
    made = Exported(tmp_path / "x.onnx", "sides of 32 and more", 4, 0.0)
    said = readme(open_run(run), made, "images", 0.5)
    assert "Values: apply the EXIF orientation; bands 4, 2, 1 of the file, in this order; " in said
    assert "\nblack, white = 0.0, 40000.0\n" in said
