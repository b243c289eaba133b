"""The values of black and white for images of more than 8 bits, and the normalization of channels."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import tifffile

from seglab.contract import ContractError
from seglab.data.datasets.folder import Folder
from seglab.data.prepare_data import open_data
from seglab.engine.module import Normalize
from tests.data.fabricate import scene, white, write_image

COUNT = 8


def write(root, images):
    shutil.rmtree(root, ignore_errors=True)
    for k, image in enumerate(images):
        for name, pixels in (("images", image), ("masks", white(scene(k)[1]))):
            (root / name).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(root / name / f"{k}.tif", pixels)
    return Folder(root=str(root), size=64, fit="patch", channels=1, cache_dir=None)


def gray():
    return [scene(k)[0][..., 0] for k in range(COUNT)]


def pixels(opened, name):
    split = next(split for split, ids in opened.splits.ids().items() if name in ids)
    number = opened.splits.ids()[split].index(name)
    return opened.source(split).square(number, 0, 0)[0][:40, :48, 0]


def test_12_bits_in_16_are_read_as_8_bits_would_be(tmp_path):
    for bits in (10, 12, 14):
        deep = [(one.astype(np.float64) * (2**bits - 1) / 255).round().astype(np.uint16) for one in gray()]
        opened = open_data(write(tmp_path, deep))
        assert opened.facts()["range"] == [0, 2**bits - 1]
        for k, one in enumerate(gray()):
            assert np.abs(pixels(opened, str(k)).astype(int) - one).max() <= 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.0, 1.0], [0, 1]), ([-0.9, 0.8], [-1, 1]), ([-1000, 3000], [-1024, 4095]), ([300, 70000], [0, 131071])],
)
def test_the_range_is_the_power_of_two_around_all_training_values(tmp_path, values, expected):
    kind = np.float32 if isinstance(values[0], float) else np.int32 if min(values) < 0 else np.uint32
    images = [np.full((40, 48), values[0], kind) for _ in range(COUNT)]
    for k, image in enumerate(images):
        image[3, 4 : 5 + k] = values[1]  # no two images are equal
    opened = open_data(write(tmp_path, images))
    assert opened.facts()["range"] == expected
    low, high = expected
    wanted = [255 * (value - low) / (high - low) for value in values]
    found = pixels(opened, "0")
    assert np.abs([found[0, 0] - wanted[0], found[3, 4] - wanted[1]]).max() <= 1


def test_the_range_is_that_of_the_training_images_and_one_for_all(tmp_path):
    images = [one.astype(np.uint16) for one in gray()]
    dataset = write(tmp_path, images)
    test = open_data(dataset).splits.ids()["test"][0]
    train = open_data(dataset).splits.ids()["train"][0]
    images[int(test)][:] = 5000
    images[int(train)][:] = 1000
    opened = open_data(write(tmp_path, images))
    assert opened.facts()["range"] == [0, 1023]
    assert (pixels(opened, test) == 255).all()
    assert np.abs(pixels(opened, train).astype(float) - 1000 * 255 / 1023).max() <= 1
    assert "1 images outside the training set have values beyond 0 to 1023, which are clipped" in opened.warnings()[0]


def test_an_image_without_data_has_no_range_and_16_bits_of_each_color_have_one(tmp_path):
    for empty in range(COUNT):
        data = write(tmp_path / "empty", [one.astype(np.uint16) * (k != empty) * 16 for k, one in enumerate(gray())])
        for path in sorted((tmp_path / "empty/images").iterdir()):
            image = tifffile.imread(path)
            tifffile.imwrite(path, image, extratags=[(42113, "s", 2, "0", True)])
        opened = open_data(replace(data, on_bad_item="skip"))
        assert opened.facts()["range"] == [0, 4095]
        assert opened.skipped.keys() == {str(empty)}
    data = write(tmp_path / "color", gray())
    for k, path in enumerate(sorted((tmp_path / "color/images").iterdir())):
        path.unlink()
        write_image(path.with_suffix(".png"), scene(k)[0].astype(np.uint16) * 16)
    assert open_data(replace(data, channels=3)).facts()["range"] == [0, 4095]


def test_8_bits_among_others_are_refused_until_a_range_is_named(tmp_path):
    images = [one.astype(np.uint16) * 16 for one in gray()]
    dataset = write(tmp_path, images)
    (tmp_path / "images/3.tif").unlink()
    write_image(tmp_path / "images/3.png", gray()[3])
    remedy = r"set dataset.range=full or dataset.range=\[0,4095\]"
    words = rf"images of one bit depth.*, got 1 with 8 bits and 7 with more, from 0 to 4095; {remedy}"
    with pytest.raises(ContractError, match=words):
        open_data(dataset)


def test_a_named_range_is_taken_as_it_is(tmp_path):
    dataset = write(tmp_path, [one.astype(np.uint16) for one in gray()])
    for name, limits in (("full", (0, 65535)), ((100, 200), (100, 200))):
        opened = open_data(Folder(**{**vars(dataset), "range": name}))
        expected = np.clip((gray()[0].astype(float) - limits[0]) / (limits[1] - limits[0]), 0, 1) * 255
        assert np.abs(pixels(opened, "0") - expected).max() <= 1
    for wrong in ("wide", (5, 5), (1, 2, 3)):
        with pytest.raises(ContractError, match="range to be auto, full or \\[low, high\\]"):
            Folder(root="", range=wrong)


def test_integers_with_no_data_are_not_clipped_to_white_without_a_warning(tmp_path):
    data = write(tmp_path, [one.astype(np.uint16) * 200 for one in gray()])
    for k, path in enumerate(sorted((tmp_path / "images").iterdir())):
        tifffile.imwrite(path, gray()[k].astype(np.uint16) * 200, extratags=[(42113, "s", 2, "0", True)])
    assert open_data(data).facts()["range"] == [0, 65535]
    warnings = open_data(replace(data, range="full")).warnings()
    assert "8 of 8 images have floats above 1, which dataset.range=full clips (" in " ".join(warnings)


@pytest.mark.parametrize("fit", ["patch", "pad"])
def test_auto_normalization_is_that_of_the_training_pixels_and_not_of_padding(tmp_path, fit):
    dataset = replace(write(tmp_path, gray()), fit=fit, size=48, mean="auto", std="auto")
    opened = open_data(dataset)
    pixels = np.stack([gray()[int(item.id)] for item in opened.splits.train]) / 255
    (mean,), (std,) = opened.facts()["mean"], opened.facts()["std"]
    assert (mean, std) == pytest.approx((pixels.mean(), pixels.std()), rel=1e-6)
    constant = open_data(replace(write(tmp_path, [one * 0 + k for k, one in enumerate(gray())]), std="auto"))
    assert constant.dataset.mean == (0.5,)
    assert constant.dataset.std[0] > 0.5 / 255
    with pytest.raises(ContractError, match=r"numbers for dataset.mean and dataset.std, got auto"):
        Normalize(dataset.mean, dataset.std)
