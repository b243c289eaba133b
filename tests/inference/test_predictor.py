"""A run's model on images of any size: at its own scale, in tiles, over symmetries, and in an ensemble."""

import cv2
import numpy as np
import pytest
import torch

from seglab.contract import ContractError, Task
from seglab.data.datasets.cbis_ddsm import breast_box
from seglab.engine.trained_run import open_run
from seglab.inference.predictor import SYMMETRIES, class_masks, predictor, transformed
from tests.engine.untrained import write_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    write_run(root / "whole", "dataset.size=64")
    gray = ("dataset.channels=1", "model.in_channels=1")
    write_run(root / "padded", "dataset.size=32", "dataset.fit=pad", *gray, seed=2)
    write_run(root / "patches", "dataset.size=64", "dataset.fit=patch", seed=3)
    write_run(root / "deep", "dataset.size=64", "dataset.fit=patch", "dataset.bits=16", "dataset.reduce=2", seed=4)
    return root


def opened(folder, **more):
    usual = {"window": None, "overlap": 0.5, "tta": "none", "batch": 3, "device": "cpu"}
    return predictor(open_run(folder), **usual | more)


def photo(height, width, dtype=np.uint8):
    """Return smooth color noise, in which neighboring pixels are similar as in photographs."""
    noise = np.random.default_rng(0).random((height // 4 + 1, width // 4 + 1, 3)).astype(np.float32)
    return (cv2.resize(noise, (width, height)) * np.iinfo(dtype).max).astype(dtype)


def test_a_run_on_whole_images_sees_what_training_saw_and_brings_the_map_back(runs):
    one, image = opened(runs / "whole"), photo(100, 150)
    small = cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA)
    with torch.no_grad():
        seen = one.module(torch.from_numpy(small).permute(2, 0, 1)[None]).sigmoid()[0, 0].numpy()
    expected = cv2.resize(seen, (150, 100), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(one.of_image(image) / 65535, expected, atol=2e-5)


def test_the_state_of_the_caller_neither_changes_a_prediction_nor_is_changed(runs):
    image, state = photo(64, 64), torch.random.get_rng_state()
    expected = opened(runs / "whole").of_image(image)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.set_default_dtype(torch.float64)
    try:
        one = opened(runs / "whole")
    finally:
        torch.set_default_dtype(torch.float32)
    assert {value.dtype for value in one.module.state_dict().values() if value.is_floating_point()} == {torch.float32}
    image.setflags(write=False)  # as a memory map; torch warns about it
    np.testing.assert_array_equal(one.of_image(image), expected)


def test_nothing_is_found_where_an_image_has_no_data(runs):
    one, image = opened(runs / "whole"), photo(70, 90).astype(np.float32) / 255
    image[:20, :, 1] = np.nan
    levels = one.of_image(image)
    assert levels[:20].max() == 0
    assert levels[20:].min() > 0


def test_the_map_of_a_padded_image_leaves_the_padding_out(runs):
    one = opened(runs / "padded")
    image = np.zeros((100, 50), np.uint8)
    image[40:60, 10:40] = 255
    levels = one.of_image(image)
    assert levels.shape == (100, 50)
    frame = np.zeros((32, 32), np.uint8)
    frame[:, 8:24] = cv2.resize(image, (16, 32), interpolation=cv2.INTER_AREA)
    expected = cv2.resize(one.probability(frame[None, ..., None])[0][:, 8:24].copy(), (50, 100))
    np.testing.assert_allclose(levels / 65535, expected, atol=2e-5)


def test_a_run_on_patches_slides_with_its_own_size_and_reduces_as_in_training(runs):
    assert opened(runs / "patches").window == 64
    assert opened(runs / "whole").window is None
    one, image = opened(runs / "deep"), photo(90, 131, np.uint16)
    small = cv2.resize(image, (65, 45), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(one.of_image(image), cv2.resize(one.at_scale(small), (131, 90)))
    wide = photo(64, 64).astype(np.uint16) * 257  # the same brightness in 16 bits
    np.testing.assert_allclose(one.at_scale(wide), one.at_scale(photo(64, 64)), atol=2)
    levels = np.array([[0, 32767, 32768, 65535]], np.uint16)
    masks = [class_masks(levels, [threshold], Task())[0].tolist() for threshold in (0.5, 1e-9)]
    assert masks == [[[0, 0, 1, 1]], [[0, 1, 1, 1]]]


def test_a_symmetry_and_its_inverse_cancel():
    square = torch.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4)
    for tta, count in {"none": 1, "flips": 4, "d4": 8}.items():
        turns = [transformed(square, turn) for turn in SYMMETRIES[tta]]
        assert len({tuple(one.flatten().tolist()) for one in turns}) == count
        for turn, one in zip(SYMMETRIES[tta], turns, strict=True):
            assert torch.equal(transformed(one, turn, inverse=True), square)


def test_with_all_symmetries_a_turned_image_gives_the_turned_map(runs):
    image = photo(96, 96)
    plain, full = opened(runs / "patches"), opened(runs / "patches", tta="d4")
    for turn in (np.transpose, np.flipud, np.fliplr, np.rot90):
        moved = np.ascontiguousarray(turn(image, (1, 0, 2)) if turn is np.transpose else turn(image))
        np.testing.assert_allclose(full.of_image(moved), turn(full.of_image(image)), atol=3)
        assert np.abs(plain.of_image(moved) - turn(plain.of_image(image)).astype(float)).max() > 300
    flips = opened(runs / "patches", tta="flips")
    np.testing.assert_allclose(flips.of_image(image[:, ::-1]), flips.of_image(image)[:, ::-1], atol=3)


def test_a_film_is_cut_to_the_breast_where_training_was(runs, tmp_path):
    gray = ("dataset=ddsm", "dataset.root=gone", "model.in_channels=1")
    one, whole = (opened(write_run(tmp_path / f"{crop}", *gray, f"dataset.crop={crop}")) for crop in ("true", "false"))
    film = np.zeros((200, 150), np.uint8)
    film[40:160, 20:100] = photo(120, 80)[..., 0] // 2 + 100
    cv2.imwrite(str(tmp_path / "film.png"), film)
    box = breast_box(film)
    levels = one.of_file(str(tmp_path / "film.png"))
    np.testing.assert_array_equal(levels[box], whole.of_image(film[box]))
    levels[box] = 0
    assert not levels.any()
    assert whole.of_file(str(tmp_path / "film.png")).all()
    cv2.imwrite(str(tmp_path / "film.png"), film[:190])  # another image in the same file
    assert whole.of_file(str(tmp_path / "film.png")).shape == (190, 150)


def test_an_input_that_the_model_cannot_take_is_one_sentence(runs):
    with pytest.raises(ContractError, match="divisible by 4, got 50x50; set window=48"):
        opened(runs / "whole", window=50)
