import cv2
import numpy as np
import pytest

from seglab.contract import ContractError
from seglab.data.image_io import files_in, read_image, read_mask


@pytest.fixture
def colours():
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def write(path, image):
    assert cv2.imwrite(str(path), image)
    return str(path)


@pytest.mark.parametrize("ending", ["png", "tif", "bmp", "ppm"])
def test_colour_comes_in_rgb_order(tmp_path, colours, ending):
    path = write(tmp_path / f"a.{ending}", colours[..., ::-1])
    np.testing.assert_array_equal(read_image(path), colours)


def test_alpha_is_dropped_and_16_bits_are_kept(tmp_path, colours):
    path = write(tmp_path / "a.png", np.dstack([colours[..., ::-1], colours[..., 0]]))
    np.testing.assert_array_equal(read_image(path), colours)
    deep = np.arange(600, dtype=np.uint16).reshape(20, 30) * 100
    np.testing.assert_array_equal(read_image(write(tmp_path / "b.pgm", deep)), deep)


@pytest.mark.parametrize("ending", ["jpg", "png", "pgm", "tif"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
@pytest.mark.filterwarnings("ignore")
def test_a_file_cut_short_is_one_sentence_with_its_name(tmp_path, colours, ending, share):
    whole = cv2.imencode(f".{ending}", np.tile(colours[..., :1], (8, 8, 1)))[1].tobytes()
    path = tmp_path / f"broken.{ending}"
    path.write_bytes(whole[: int(share * len(whole))])
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
    path = write(tmp_path / "m.png", labels)
    assert read_mask(path).tolist() == [[0, 1, 1], [1, 1, 1]]
    assert read_mask(path, threshold=20).tolist() == [[0, 0, 1], [1, 1, 0]]
    assert read_mask(path, value=2).tolist() == [[0, 1, 0], [0, 0, 1]]


def test_a_mask_in_colour_counts_by_its_brightest_channel(tmp_path):
    red = np.zeros((1, 2, 3), np.uint8)
    red[0, 1, 2] = 255
    assert read_mask(write(tmp_path / "m.png", red)).tolist() == [[0, 1]]


def test_hidden_files_and_texts_are_no_images(tmp_path):
    for name in ("b.png", "a.JPG", "._a.jpg", "notes.txt", ".DS_Store"):
        (tmp_path / name).touch()
    assert [path.name for path in files_in(tmp_path)] == ["a.JPG", "b.png"]
