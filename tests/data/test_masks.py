"""The meaning of mask pixels in every file format."""

from functools import partial

import numpy as np
import pytest
import tifffile
from PIL import Image

from seglab.contract import ContractError
from seglab.images.masks import mask_facts, read_classes, read_mask
from tests.data.fabricate import LOSSY, SAME_MASK, save, save_palette, scene, two_colors, white, with_alpha, write_image


def iou(found, truth):
    return (found.astype(bool) & truth).sum() / (found.astype(bool) | truth).sum()


def test_a_mask_is_the_same_in_every_format(tmp_path):
    mask = scene(2)[1]
    for kind, (suffix, write) in SAME_MASK.items():
        write(tmp_path / f"m{suffix}", mask)
        found = read_mask(str(tmp_path / f"m{suffix}"))
        assert found.dtype == np.uint8, kind
        np.testing.assert_array_equal(found, mask, kind)


def test_edges_blurred_by_lossy_compression_are_cut_at_half_with_a_warning(tmp_path):
    mask = scene(2, 96, 96, 20)[1]
    for kind, (suffix, write) in LOSSY.items():
        write(tmp_path / f"m{suffix}", mask)
        path = str(tmp_path / f"m{suffix}")
        assert iou(read_mask(path), mask) > (0.95 if kind == "coarse JPEG" else 0.985), kind
        np.testing.assert_array_equal(read_mask(path, value=255), read_mask(path))
        assert mask_facts(path)["lossy"] == {".webp": "WEBP", ".tif": "TIFF"}.get(suffix, "JPEG")
        with pytest.raises(ContractError, match=r"a lossless mask to select single values, got .*; save it as PNG"):
            read_mask(path, value=1)


def test_a_mask_is_a_threshold_or_some_values(tmp_path):
    labels = np.array([[0, 2, 64], [128, 255, 2]], np.uint8)
    path = write_image(tmp_path / "m.png", labels)
    assert read_mask(path).tolist() == [[0, 1, 1], [1, 1, 1]]
    assert read_mask(path, threshold=20).tolist() == [[0, 0, 1], [1, 1, 0]]
    assert read_mask(path, value=2).tolist() == [[0, 1, 0], [0, 0, 1]]
    assert read_mask(path, value=(0, 128)).tolist() == [[1, 0, 0], [1, 0, 0]]
    assert read_mask(path, value="#404040").tolist() == [[0, 0, 1], [0, 0, 0]]


def test_one_index_of_a_palette_is_one_class(tmp_path):
    values = r"0 #000000 \(25 %\), 1 #800000 \(25 %\), 2 #008000 \(50 %\); set dataset.mask_value to"
    words = f"expected one palette index besides 0, or dataset.mask_value, got {values}"
    for suffix in (".png", ".gif", ".bmp", ".tif"):
        save_palette(tmp_path / f"m{suffix}", np.array([[0, 1, 2, 2]]))
        path = str(tmp_path / f"m{suffix}")
        assert read_mask(path, value=2).tolist() == [[0, 0, 1, 1]]
        assert read_mask(path, value="#008000").tolist() == [[0, 0, 1, 1]]
        assert read_mask(path, value=[1, "#008000"]).tolist() == [[0, 1, 1, 1]]
        with pytest.raises(ContractError, match=words):
            read_mask(path)
        assert mask_facts(path)["values"] == {"0 #000000": 0.25, "1 #800000": 0.25, "2 #008000": 0.5}


def three_colors(mask):
    painted = two_colors(mask, (0, 0, 0), (0, 255, 0))
    painted[-10:] = (255, 0, 0)
    return painted


@pytest.mark.parametrize(
    ("paint", "color"),
    [
        (partial(two_colors, background=(68, 1, 84), foreground=(253, 231, 36)), "#fde724"),
        (partial(two_colors, background=(255, 255, 255), foreground=(0, 0, 1)), "#000001"),
        (three_colors, "#00ff00"),
        (lambda mask: np.dstack([three_colors(mask), white(mask | True)]), "#00ff00"),
    ],
)
def test_a_mask_in_color_needs_the_color_of_the_foreground(tmp_path, paint, color):
    mask = scene(4)[1]
    save(tmp_path / "m.png", paint(mask))
    path = str(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(path, value=color), mask)
    words = rf"(?i)a gray mask, or colors in dataset.mask_value, got .*{color} \(\d.*dataset.mask_value"
    for value in (None, 255, 1):
        with pytest.raises(ContractError, match=words):
            read_mask(path, value=value)


def test_an_ignored_index_is_no_second_one_and_bands_are_no_mask(tmp_path):
    save_palette(tmp_path / "m.png", np.array([[0, 1, 3]]))
    assert read_mask(str(tmp_path / "m.png"), ignore=3).tolist() == [[0, 1, 255]]
    for bands in (2, 5):
        tifffile.imwrite(tmp_path / "m.tif", np.ones((4, 6, bands), np.uint8), planarconfig="contig", photometric=1)
        for read in (read_mask, mask_facts, partial(read_classes, classes=(("a", (0,)), ("b", (1,))))):
            with pytest.raises(ContractError, match=rf"m.tif: expected a mask with 1 band .*, got {bands} bands"):
                read(str(tmp_path / "m.tif"))


def test_lossy_color_and_two_masks_in_one_file_are_refused(tmp_path):
    mask = scene(4)[1]
    save(tmp_path / "m.jpg", three_colors(mask))
    with pytest.raises(ContractError, match=r"save it as PNG, and set dataset.mask_value to the foreground"):
        read_mask(str(tmp_path / "m.jpg"))
    with pytest.raises(ContractError, match="a lossless mask to select single values, got JPEG"):
        read_mask(str(tmp_path / "m.jpg"), value="#00ff00")
    rgba = with_alpha(mask, 0)
    rgba[:3, :, :3] = 255
    save(tmp_path / "m.png", rgba)
    with pytest.raises(ContractError, match="a mask in its colors or in its alpha channel, got two that differ"):
        read_mask(str(tmp_path / "m.png"))


def test_soft_masks_keep_their_levels_as_fractions(tmp_path):
    quarters = np.array([[0, 63, 127, 191, 255]])
    expected = quarters / 255
    save(tmp_path / "a.png", quarters.astype(np.uint8))
    save(tmp_path / "b.png", (quarters * 257).astype(np.uint16))
    tifffile.imwrite(tmp_path / "c.tif", expected.astype(np.float32))
    Image.fromarray(quarters.astype(np.uint8), "L").save(tmp_path / "d.gif")
    for name in ("a.png", "b.png", "c.tif", "d.gif"):
        np.testing.assert_allclose(read_mask(str(tmp_path / name), soft=True), expected, atol=1e-6)
    ones = write_image(tmp_path / "e.png", np.array([[0, 1]]))
    assert read_mask(ones, soft=True).tolist() == [[0, 1]]
    assert read_mask(str(tmp_path / "a.png"), threshold=100, soft=True).tolist() == [[0, 0, 1, 1, 1]]
