"""The reader of image files: formats, orientation, pages, bands and bits, and errors in one sentence."""

import os
import struct
import zlib
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from seglab.contract import ContractError
from seglab.images.image_io import SUFFIXES, files_in, has_8_bits, read_image
from seglab.images.masks import read_mask
from tests.data.fabricate import save, save_palette, save_turned, scene, write_image


@pytest.fixture
def colors():
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def save_cmyk(path, image):
    Image.fromarray(image).convert("CMYK").save(path)


def bands_apart(path, image):
    tifffile.imwrite(path, image.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")


def opaque(path, image):
    save(path, np.dstack([image, np.full((20, 30), 255, np.uint8)]))


SAME = {
    "PNG": (".png", save),
    "lossless WebP": (".webp", partial(save, lossless=True)),
    "LZW TIFF": (".tif", partial(save, compression="tiff_lzw")),
    "zstd TIFF": (".tiff", lambda path, image: tifffile.imwrite(path, image, compression="zstd")),
    "tiled TIFF": (".tif", lambda path, image: tifffile.imwrite(path, image, tile=(16, 16), photometric="rgb")),
    "bands apart": (".tif", bands_apart),
    "opaque alpha": (".png", opaque),
    "opaque alpha TIFF": (".tif", opaque),
    "another name": (".jpg", partial(save, format="PNG")),
    "CMYK TIFF": (".tif", save_cmyk),
}


def test_color_comes_in_rgb_order(tmp_path, colors):
    for kind, (suffix, write) in SAME.items():
        write(tmp_path / f"a{suffix}", colors)
        np.testing.assert_array_equal(read_image(str(tmp_path / f"a{suffix}")), colors, kind)


def test_a_palette_is_applied_to_images(tmp_path):
    for suffix in (".png", ".gif", ".tif"):
        save_palette(tmp_path / f"a{suffix}", np.array([[0, 1, 2]]))
        assert read_image(str(tmp_path / f"a{suffix}")).tolist() == [[[0, 0, 0], [128, 0, 0], [0, 128, 0]]]


def test_alpha_is_dropped_and_16_bits_are_kept(tmp_path, colors):
    cv2.imwrite(str(tmp_path / "a.png"), np.dstack([colors[..., ::-1], colors[..., 0]]))
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.png")), colors)
    deep = np.arange(600, dtype=np.uint16).reshape(20, 30) * 100
    for suffix in (".pgm", ".tif", ".png"):
        np.testing.assert_array_equal(read_image(write_image(tmp_path / f"b{suffix}", deep)), deep)


def test_a_header_tells_8_bits_from_16_in_gray_and_in_color(tmp_path, colors):
    gray, alpha = colors[..., 0], np.dstack([colors, colors[..., 0]])
    for name, pixels in (("a.png", colors), ("b.ppm", colors), ("c.png", gray), ("d.pgm", gray), ("e.png", alpha)):
        path = str(tmp_path / name)
        assert cv2.imwrite(path, pixels)
        assert has_8_bits(path) == (name != "b.ppm")  # the header of PPM is not read
        assert cv2.imwrite(path, pixels.astype(np.uint16) * 16)
        assert not has_8_bits(path)


def test_a_jpeg_may_be_followed_by_anything_but_must_end(tmp_path, colors):
    save(tmp_path / "thumbnail.jpg", colors)
    thumbnail = (tmp_path / "thumbnail.jpg").read_bytes()
    save(tmp_path / "a.jpg", np.tile(colors, (8, 8, 1)), exif=b"Exif\0\0" + thumbnail, progressive=True)
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "b.jpg").write_bytes(whole + bytes(100_000))  # as if a phone appended a video
    np.testing.assert_array_equal(read_image(str(tmp_path / "b.jpg")), read_image(str(tmp_path / "a.jpg")))
    (tmp_path / "b.jpg").write_bytes(whole[:2] + b"\xff\xff" + whole[2:])  # fill bytes before a segment
    np.testing.assert_array_equal(read_image(str(tmp_path / "b.jpg")), read_image(str(tmp_path / "a.jpg")))
    (tmp_path / "b.jpg").write_bytes(whole[:-2])
    with pytest.raises(ContractError, match="a complete JPEG, got one without an end marker; copy the file again"):
        read_image(str(tmp_path / "b.jpg"))


def test_an_index_without_a_color_is_black(tmp_path):
    pixels = zlib.compress(bytes([0, 0, 1, 5]))
    data = png(3, 1, 3, [(b"PLTE", bytes([0, 0, 9, 255, 0, 0])), (b"IDAT", pixels)])
    (tmp_path / "a.png").write_bytes(data)
    assert read_image(str(tmp_path / "a.png")).tolist() == [[[0, 0, 9], [255, 0, 0], [0, 0, 0]]]


def test_other_kinds_of_numbers_come_as_float32_and_are_finite(tmp_path):
    for kind in (np.float32, np.float64, np.float16, np.int16, np.int32, np.uint32, np.int8):
        values = np.array([[0, 1, 100], [-5 if kind != np.uint32 else 5, 7, 9]]).astype(kind)
        tifffile.imwrite(tmp_path / "a.tif", values, compression="deflate")
        image = read_image(str(tmp_path / "a.tif"))
        assert image.dtype == np.float32
        np.testing.assert_array_equal(image, values)
    tifffile.imwrite(tmp_path / "a.tif", np.array([[1, np.nan, np.inf]], np.float32))
    with pytest.raises(ContractError, match=r"a.tif: expected finite values, got 2 of 3 that are not; replace them"):
        read_image(str(tmp_path / "a.tif"))
    values = np.array([[1, np.nan, -9999, np.inf]], np.float32)
    tifffile.imwrite(tmp_path / "a.tif", values, extratags=[(42113, "s", 0, "-9999", True)])
    with pytest.raises(ContractError, match=r"a.tif: expected finite values, got 1 of 4 that are not"):
        read_image(str(tmp_path / "a.tif"))
    deep = np.arange(20, dtype=np.uint16).reshape(4, 5)
    tifffile.imwrite(tmp_path / "a.tif", 4095 - deep, bitspersample=12, photometric="miniswhite")
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.tif")), deep)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".jpg"])
def test_pictures_come_upright_and_masks_too(tmp_path, suffix):
    image, mask = scene(3)
    image[:] = np.where(mask[..., None], 200, 60)
    options = {"lossless": True} if suffix == ".webp" else {}
    for orientation in range(1, 9):
        save_turned(tmp_path / f"a{suffix}", image, orientation, **options)
        found = read_image(str(tmp_path / f"a{suffix}"))
        assert found.shape == image.shape
        assert found[mask].min() > 130 > found[~mask].max(), orientation
        assert suffix == ".jpg" or (found == image).all()
        save_turned(tmp_path / f"m{suffix}", mask.astype(np.uint8) * 255, orientation, **options)
        assert (read_mask(str(tmp_path / f"m{suffix}")) != mask).mean() < 0.01


def pages(path, images, **options):
    first, *others = map(Image.fromarray, images)
    first.save(path, save_all=True, append_images=others, **options)


@pytest.mark.parametrize("suffix", [".tif", ".gif", ".webp", ".png"])
def test_several_pages_are_refused_with_their_number_or_one_is_chosen(tmp_path, suffix):
    images, path = [np.full((8, 9), level, np.uint8) for level in (0, 255, 128)], str(tmp_path / f"a{suffix}")
    pages(path, images, **({"lossless": True} if suffix == ".webp" else {}))
    with pytest.raises(ContractError, match=r"one page, got 3 pages; set dataset.page to a number from 0 to 2"):
        read_image(path)
    assert abs(read_image(path, page=1).astype(int) - 255).max() < 2
    with pytest.raises(ContractError, match="expected page 3, got 3 pages"):
        read_image(path, page=3)
    single = write_image(tmp_path / f"b{suffix}", images[1]) if suffix != ".gif" else path
    assert read_image(single, page=1).max() == 255  # in a file of one page the choice is ignored


def test_overviews_and_the_thumbnail_of_a_phone_are_no_pages(tmp_path, colors):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(colors, photometric="rgb", subifds=0)
        file.write(colors[::2, ::2], photometric="rgb", subfiletype=1)
        file.write(np.ones((20, 30), bool), photometric="mask", subfiletype=4)
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.tif")), colors)
    tifffile.imwrite(tmp_path / "a.tif", colors, photometric="rgb", subfiletype=1)  # an overview in its own file
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.tif")), colors)
    pages(tmp_path / "b.jpg", [colors, colors[::2, ::2]], format="MPO")
    assert read_image(str(tmp_path / "b.jpg")).shape == colors.shape


@pytest.mark.parametrize(
    ("kind", "photometric", "others", "words"),
    [
        (np.uint8, "minisblack", [0], "got 2 bands; train with dataset.bands"),
        (np.uint16, "rgb", [0], "got 4 bands; train"),
        (np.uint8, "rgb", [2], "got 4 bands, of which the last is declared as alpha but"),
        (np.float32, "minisblack", [0] * 12, "got 13 bands"),
    ],
)
def test_more_bands_than_an_image_has_colors_are_refused_with_their_number(tmp_path, kind, photometric, others, words):
    bands = len(others) + (3 if photometric == "rgb" else 1)
    image = np.random.default_rng(0).integers(1, 200, (8, 9, bands)).astype(kind)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric=photometric, extrasamples=others, planarconfig="contig")
    expected = r"a.tif: expected 1 band \(gray\) or 3 bands \(red, green, blue\)"
    with pytest.raises(ContractError, match=f"{expected}, {words}"):
        read_image(str(tmp_path / "a.tif"))


@pytest.mark.parametrize("ending", ["jpg", "png", "pgm", "tif", "bmp", "webp", "gif"])
@pytest.mark.filterwarnings("ignore")
def test_a_truncated_file_is_one_sentence_with_its_name(tmp_path, colors, ending):
    path = tmp_path / f"broken.{ending}"
    save(path, np.tile(colors, (8, 8, 1))[..., 0])
    whole = path.read_bytes()
    for fraction in (0.0, 0.5, 0.9):
        path.write_bytes(whole[: int(fraction * len(whole))])
        with pytest.raises(ContractError, match=f"broken.{ending}: expected "):
            read_image(str(path))


def test_a_compression_without_a_decoder_is_no_damage(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 8), np.uint8))
    tag = struct.pack("<HHI", 259, 3, 1)
    stored = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(stored.replace(tag + b"\1\0", tag + struct.pack("<H", 32766)))
    with pytest.raises(ContractError, match=r"got a TIFF \(.*NEXT.* not supported\)"):
        read_image(str(tmp_path / "a.tif"))


GRAY = zlib.compress(bytes(100))


def png(width, height, kind=0, parts=((b"IDAT", GRAY),)):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in (head, *parts, (b"IEND", b"")))


@pytest.mark.parametrize(
    ("name", "data"), [("a.png", png(40000, 40000)), ("a.pgm", b"P5 100000 100000 255\n" + bytes(50))]
)
def test_more_pixels_than_can_be_decoded_are_one_sentence(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ContractError, match=rf"{name}: expected 1 to 2\^30 pixels, got \d+x\d+ .*; cut it into parts"):
        read_image(str(tmp_path / name))


def test_a_file_that_is_not_an_image_is_one_sentence(tmp_path):
    with pytest.raises(ContractError, match=r"gone.png: expected a readable file, got No such file"):
        read_image(str(tmp_path / "gone.png"))
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(ContractError, match=r"readable image \(PNG, JPEG, .*got 5 bytes of an unknown format"):
        read_image(str(tmp_path / "a.png"))
    (tmp_path / "b.png").mkdir()
    os.mkfifo(tmp_path / "c.png")
    os.symlink(tmp_path / "gone.png", tmp_path / "d.png")
    for name, words in (("b", "got a folder"), ("c", "got a pipe or device"), ("d", "got No such file")):
        with pytest.raises(ContractError, match=rf"{name}.png: expected a .* file, {words}"):
            read_image(str(tmp_path / f"{name}.png"))


def test_files_are_found_at_any_depth_through_links_but_for_hidden_ones(tmp_path):
    for name in ("b.png", "a.JPG", "._a.jpg", "notes.txt", ".DS_Store", "p/c.webp", ".hidden/d.png", "q/masks/e.png"):
        (tmp_path / "all" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "all" / name).touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/f.tif").touch()
    os.symlink(tmp_path / "elsewhere", tmp_path / "all/link")
    os.symlink(tmp_path / "all", tmp_path / "all/p/above")  # an endless cycle
    os.symlink(tmp_path / "nowhere.png", tmp_path / "all/gone.png")
    found = files_in(tmp_path / "all", without={tmp_path / "all/q/masks"})
    names = [path.relative_to(tmp_path / "all").as_posix() for path in found]
    assert names == ["a.JPG", "b.png", "gone.png", "link/f.tif", "p/c.webp"]


def test_a_folder_that_may_not_be_read_is_not_left_out(tmp_path, monkeypatch):
    (tmp_path / "patient").mkdir()

    def scandir(path, true=os.scandir):
        if str(path).endswith("patient"):
            raise PermissionError(13, "Permission denied", str(path))
        return true(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PermissionError, match="patient"):
        files_in(tmp_path)


def test_the_documentation_lists_every_ending():
    page = (Path(__file__).parents[2] / "docs/reference/formats.md").read_text()
    assert [suffix for suffix in SUFFIXES if f"`{suffix}`" not in page] == []
