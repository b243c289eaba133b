from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest

from seglab.contract import ContractError
from seglab.data.datasets.cbis_ddsm import breast_box, is_mask, read_lesion, read_mammogram, shape_of
from seglab.images.image_io import read_image
from seglab.images.masks import read_mask
from seglab.images.medical import read_dicom
from tests.data.fabricate import write_dicom, write_image


@pytest.fixture
def ramp():
    return np.linspace(0, 65535, 20 * 30).astype(np.uint16).reshape(20, 30)


def test_16_bits_come_as_they_are_and_monochrome1_is_turned_over(tmp_path, ramp):
    np.testing.assert_array_equal(read_dicom(write_dicom(tmp_path / "a.dcm", ramp)), ramp)
    np.testing.assert_array_equal(read_dicom(write_dicom(tmp_path / "b.dcm", 65535 - ramp, "MONOCHROME1")), ramp)


def test_fewer_bits_are_spread_over_the_full_range_and_signed_values_begin_below_0(tmp_path):
    for bits, kind in ((12, np.uint16), (8, np.uint8)):
        pixels = np.array([[0, 2**bits - 1], [2 ** (bits - 1), 1]], kind)
        image = read_dicom(write_dicom(tmp_path / "a.dcm", pixels, bits=bits))
        assert image[0].tolist() == [0, 65535]
        assert int(image[1, 0]) == pytest.approx(32768, abs=130)
    pixels = np.array([[0, 1, 255]], np.uint8)
    path = write_dicom(tmp_path / "a.dcm", pixels, bits=8)
    np.testing.assert_array_equal(read_image(path), pixels)
    assert read_mask(path, value=1).tolist() == [[0, 1, 0]]
    signed = np.array([[-2048, 0, 2047]], np.int16)
    path = write_dicom(tmp_path / "b.dcm", signed, bits=12)
    assert read_image(path).tolist() == [[0, 32776, 65535]]


def test_the_preamble_of_a_dicom_may_be_the_header_of_a_tiff(tmp_path):
    pixels = np.array([[0, 1, 255]], np.uint8)
    path = Path(write_dicom(tmp_path / "a.dcm", pixels, bits=8))
    path.write_bytes(b"II*\0" + path.read_bytes()[4:])
    np.testing.assert_array_equal(read_image(str(path)), pixels)


def test_frames_are_pages_and_colors_are_refused(tmp_path):
    frames = np.stack([np.full((4, 5), level, np.uint8) for level in (10, 20, 30)])
    path = write_dicom(tmp_path / "a.dcm", frames, bits=8)
    with pytest.raises(ContractError, match=r"a.dcm: expected one page, got 3 pages; set dataset.page"):
        read_image(path)
    assert (read_image(path, page=2) == 30).all()
    color = np.zeros((4, 5, 3), np.uint8)
    path = write_dicom(tmp_path / "b.dcm", color, "RGB", bits=8)
    with pytest.raises(ContractError, match=r"b.dcm: expected a gray image \(h, w\), got 4x5x3"):
        read_image(path)
    indices = pydicom.dcmread(write_dicom(tmp_path / "c.dcm", color[..., 0], bits=8))
    indices.PhotometricInterpretation = "PALETTE COLOR"
    for name in ("Red", "Green", "Blue"):
        indices.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [256, 0, 16])
        indices.add_new(f"{name}PaletteColorLookupTableData", "OW", bytes(512))
    indices.save_as(tmp_path / "c.dcm")
    with pytest.raises(ContractError, match=r"c.dcm: expected a gray image \(h, w\), got PALETTE COLOR"):
        read_image(str(tmp_path / "c.dcm"))


def test_the_windows_of_the_header_and_of_percentiles(tmp_path, ramp):
    path = write_dicom(tmp_path / "a.dcm", ramp, WindowCenter=30000, WindowWidth=20000)
    image = read_mammogram(path, "header")
    assert (image[ramp <= 20000] == 0).all()
    assert (image[ramp >= 40000] == 65535).all()
    assert int(image[ramp <= 30000].max()) == pytest.approx(32768, abs=400)
    narrow = write_dicom(tmp_path / "b.dcm", (20000 + ramp // 10).astype(np.uint16))
    assert read_mammogram(narrow, "percentile").min() == 0
    assert read_mammogram(narrow, "percentile").max() == 65535
    empty = write_dicom(tmp_path / "c.dcm", ramp, WindowCenter=None, WindowWidth=None)
    for path in (narrow, empty):
        with pytest.raises(ContractError, match=r"dcm: expected a window in its header, got none"):
            read_mammogram(path, "header")


def test_a_file_that_is_not_dicom_is_one_sentence_with_its_name(tmp_path, ramp):
    whole = write_dicom(tmp_path / "a.dcm", ramp)
    (tmp_path / "short.dcm").write_bytes((tmp_path / "a.dcm").read_bytes()[:-300])
    (tmp_path / "text.dcm").write_text("hello")
    empty = pydicom.dcmread(whole)
    del empty.PixelData
    empty.save_as(tmp_path / "empty.dcm")
    (tmp_path / "nothing.dcm").write_bytes(b"")
    other = "another kind of file"
    for name, got in (("short", ""), ("empty", ""), ("missing", ""), ("text", other), ("nothing", other)):
        for read in (read_mammogram,) if name in ("short", "empty") else (read_mammogram, shape_of):
            with pytest.raises(ContractError, match=f"{name}.dcm: expected a DICOM with pixels, got {got}"):
                read(str(tmp_path / f"{name}.dcm"))


def test_the_mask_is_distinguished_from_the_crop_by_content(tmp_path):
    mask = np.zeros((98, 61), np.uint8)
    mask[40:60, 20:40] = 255
    crop = np.random.default_rng(0).integers(0, 65535, (98, 61)).astype(np.uint16)
    paths = (write_dicom(tmp_path / "1-1.dcm", crop), write_dicom(tmp_path / "1-2.dcm", mask, bits=8))
    for order in (paths, paths[::-1]):
        found = read_lesion(order, (100, 60))  # off by two rows and a column: resized to the image
        assert found.shape == (100, 60)
        assert found.sum() == pytest.approx(400, rel=0.1)
    words = "1-1.dcm: expected a mask with two values and a size of about 100x60, got 98x61"
    with pytest.raises(ContractError, match=words):
        read_lesion(paths[:1], (100, 60))
    with pytest.raises(ContractError, match="about 200x60, got 98x61, 98x61"):
        read_lesion(paths, (200, 60))


def test_a_mask_blurred_by_jpeg_is_still_a_mask(tmp_path):
    mask = np.zeros((200, 200), np.uint8)
    cv2.circle(mask, (90, 110), 30, 255, -1)
    path = write_image(tmp_path / "m.jpg", mask)
    assert is_mask(cv2.imread(path, 0))
    found = read_lesion((path,), (200, 200))
    assert (found != (mask > 0)).mean() < 0.002


def test_the_breast_is_found_beside_a_label(tmp_path):
    film = np.zeros((1200, 800), np.uint16)
    cv2.ellipse(film, (0, 600), (400, 500), 0, -90, 90, 30000, -1)
    film[50:150, 650:750] = 65535
    rows, columns = breast_box(film)
    assert (rows.start, rows.stop) == pytest.approx((100, 1100), abs=20)
    assert (columns.start, columns.stop) == pytest.approx((0, 400), abs=20)
    nothing = breast_box(np.zeros((30, 20), np.uint8))
    assert nothing == (slice(0, 30), slice(0, 20))
