import cv2
import numpy as np
import pytest

from seglab.contract import ContractError
from seglab.data.image_io import files_in, read_image, read_mask
from tests.data.fabricate import write_image


@pytest.fixture
def colors():
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


@pytest.mark.parametrize("ending", ["png", "tif", "bmp", "ppm"])
def test_color_comes_in_rgb_order(tmp_path, colors, ending):
    np.testing.assert_array_equal(read_image(write_image(tmp_path / f"a.{ending}", colors)), colors)


def test_alpha_is_dropped_and_16_bits_are_kept(tmp_path, colors):
    cv2.imwrite(str(tmp_path / "a.png"), np.dstack([colors[..., ::-1], colors[..., 0]]))
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.png")), colors)
    deep = np.arange(600, dtype=np.uint16).reshape(20, 30) * 100
    np.testing.assert_array_equal(read_image(write_image(tmp_path / "b.pgm", deep)), deep)


@pytest.mark.parametrize("ending", ["jpg", "png", "pgm", "tif"])
@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.9])
@pytest.mark.filterwarnings("ignore")
def test_a_truncated_file_is_one_sentence_with_its_name(tmp_path, colors, ending, fraction):
    whole = cv2.imencode(f".{ending}", np.tile(colors[..., :1], (8, 8, 1)))[1].tobytes()
    path = tmp_path / f"broken.{ending}"
    path.write_bytes(whole[: int(fraction * len(whole))])
    with pytest.raises(ContractError, match=f"broken.{ending}: expected a"):
        read_image(str(path))


def test_a_missing_file_and_a_text_are_one_sentence(tmp_path):
    with pytest.raises(ContractError, match=r"gone.png: expected a readable file, got No such file"):
        read_image(str(tmp_path / "gone.png"))
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(ContractError, match="5 bytes that no decoder takes"):
        read_image(str(tmp_path / "a.png"))


def test_a_mask_is_a_threshold_or_a_value(tmp_path):
    labels = np.array([[0, 2, 64], [128, 255, 2]], np.uint8)
    path = write_image(tmp_path / "m.png", labels)
    assert read_mask(path).tolist() == [[0, 1, 1], [1, 1, 1]]
    assert read_mask(path, threshold=20).tolist() == [[0, 0, 1], [1, 1, 0]]
    assert read_mask(path, value=2).tolist() == [[0, 1, 0], [0, 0, 1]]


def test_a_mask_in_color_counts_by_its_brightest_channel(tmp_path):
    red = np.zeros((1, 2, 3), np.uint8)
    red[0, 1, 0] = 255
    assert read_mask(write_image(tmp_path / "m.png", red)).tolist() == [[0, 1]]


def test_hidden_files_and_texts_are_no_images(tmp_path):
    for name in ("b.png", "a.JPG", "._a.jpg", "notes.txt", ".DS_Store"):
        (tmp_path / name).touch()
    assert [path.name for path in files_in(tmp_path)] == ["a.JPG", "b.png"]
