import cv2
import numpy as np
import pytest

from seglab.contract import ContractError
from seglab.data.datasets.mias import Mias, read_info
from seglab.data.prepare_data import open_data
from tests.data.fabricate import write_image

INFO = """Some prose about the films, such as mdb001 and its fellows.
mdb001 G CIRC B 535 425 197
mdb002 G NORM
mdb005 F CIRC B 477 133 30
mdb005 F CIRC M 500 168 26
mdb006 F NORM 
mdb059 F CIRC B
mdb216 D CALC M *NOTE 3*
"""


@pytest.fixture
def root(tmp_path):
    (tmp_path / "Info.txt").write_text(INFO)
    for n in (1, 2, 5, 6, 59, 216):
        write_image(tmp_path / f"all-mias/mdb{n:03d}.pgm", np.full((1024, 1024), n))
    return tmp_path


def mias(root, **options):
    return Mias(root=str(root), **{"size": 128, "cache_dir": None, **options})


def test_circles_are_filled_and_y_is_counted_from_the_bottom(root):
    items = {item.id: item for item in mias(root).items()}
    mask = items["mdb001"].mask()
    rows, columns = np.nonzero(mask)
    assert rows.mean() == pytest.approx(1023 - 425, abs=0.5)
    assert columns.mean() == pytest.approx(535, abs=0.5)
    assert mask.sum() == pytest.approx(np.pi * 197**2, rel=0.01)
    two = items["mdb005"].mask()
    assert two[1023 - 133, 477] == two[1023 - 168, 500] == 1
    assert not items["mdb002"].mask().any()
    groups = [items[f"mdb00{n}"].group for n in (1, 2, 5, 6)]  # both films of a patient share a group
    assert groups[0] == groups[1] != groups[2] == groups[3]


def test_films_with_a_lesion_of_unknown_position_are_left_out_and_counted(root):
    opened = open_data(mias(root))
    assert opened.skipped == dict.fromkeys(("mdb059", "mdb216"), "lesion of unknown place")
    assert opened.facts()["skipped_why"] == {"lesion of unknown place": 2}
    assert open_data(mias(root, external=True)).facts()["images"] == {"train": 0, "val": 0, "test": 4}


def test_a_missing_film_or_table_is_one_sentence(root):
    (root / "all-mias/mdb002.pgm").unlink()
    with pytest.raises(ContractError, match=r"1 of 6 that are not: .*mdb002.pgm: expected the film listed in Info.txt"):
        open_data(mias(root))
    with pytest.raises(ContractError, match="a table that exists"):
        mias(root, table="info.txt").items()
    for text in ("nothing here", "mdb001 G CIRC B 535 425 999999999999"):  # OpenCV cannot draw this circle
        (root / "Info.txt").write_text(text)
        with pytest.raises(ContractError, match="expected rows such as `mdb001"):
            mias(root).items()


def test_a_film_that_is_not_listed_and_a_damaged_row_are_one_sentence(root):
    write_image(root / "all-mias/README.png", np.zeros((4, 4)))
    rows, damaged = [row for row in INFO.splitlines() if not row.startswith("mdb005")], "mdb005 F CIRC B 477 133"
    for row, sentence in (("", r"1 of 6 .*mdb005.pgm: expected a row in Info.txt"), (damaged, f"got '{damaged}'")):
        (root / "Info.txt").write_text("\n".join([*rows, row]))
        with pytest.raises(ContractError, match=sentence):
            open_data(mias(root))


@pytest.mark.parametrize("side", [512, 300])
def test_shrunk_films_have_smaller_circles(root, side):
    for path in (root / "all-mias").iterdir():
        write_image(path, np.full((side, side), 9))
    # Pixel centers in coordinates of the published film.
    rows, columns = (np.mgrid[:side, :side] + 0.5) * 1024 / side - 0.5
    for item in mias(root).items():
        if not item.left_out:
            circles = read_info(root / "Info.txt")[item.id]
            outside = [np.hypot(columns - x, rows - (1023 - y)) - radius for x, y, radius in circles]
            distance, mask = np.min([np.full((side, side), np.inf), *outside], 0), item.mask()
            half = 512 / side  # half a pixel, in film pixels; the drawn circle is off by up to 0.5
            assert mask[distance < -half - 0.5].all()
            assert not mask[distance > half + 0.5].any()


def test_films_shrunk_out_of_proportion_are_refused_and_a_small_circle_leaves_a_pixel(root):
    (root / "Info.txt").write_text(INFO.replace("535 425 197", "535 425 3"))
    write_image(root / "all-mias/mdb001.pgm", np.full((64, 64), 9))
    mask = mias(root).items()[0].mask()
    assert list(zip(*np.nonzero(mask), strict=True)) == [((1023 - 425) // 16, 535 // 16)]
    write_image(root / "all-mias/mdb001.pgm", np.full((256, 128), 9))
    words = "mdb001.pgm: expected a square film, of 1024x1024 pixels or shrunk, got 128x256"
    with pytest.raises(ContractError, match=words):
        open_data(mias(root))


@pytest.mark.parametrize(("separator", "end"), [(",", "\n"), ("\t", "\r\n"), (", ", "\n"), ("  ", "\r\n")])
def test_tables_of_other_separators_and_films_of_other_formats_are_read(root, separator, end):
    whole = {item.id: item.mask() for item in mias(root).items() if not item.left_out}
    rows = [separator.join(row.split()) for row in INFO.splitlines()[1:]]
    header = separator.join(["REFNUM", "BG", "CLASS", "SEVERITY", "X", "Y", "RADIUS"])
    (root / "Info.txt").write_bytes(end.join([header, *rows]).encode())
    for path in (root / "all-mias").iterdir():
        path.rename(path.with_name(path.stem.upper() + ".pgm"))
    found = {item.id: item.mask() for item in mias(root).items() if not item.left_out}
    assert len(found) == 4
    for name, mask in found.items():
        np.testing.assert_array_equal(mask, whole[name])


def test_a_byte_order_mark_hides_no_film(root):
    before = read_info(root / "Info.txt")
    (root / "Info.txt").write_text("\n".join(INFO.splitlines()[1:]), encoding="utf-8-sig")
    assert read_info(root / "Info.txt") == before


def test_the_real_list_holds_322_films(shared_data):
    films = read_info(shared_data / "mias/Info.txt")
    assert len(films) == 322
    assert sum(not lesions for lesions in films.values()) == 207
    assert sum(circle is not None for lesions in films.values() for circle in lesions) == 119
    assert [film for film, lesions in films.items() if None in lesions] == ["mdb059", "mdb216", "mdb233", "mdb245"]
    twice = [film for film, lesions in films.items() if len(lesions) > 1]
    assert twice == [f"mdb{n}" for n in ("005", 132, 144, 223, 226, 239, 249)]


def test_the_real_circles_of_mdb005_lie_on_bright_tissue(shared_data):
    film = next(item for item in mias(shared_data / "mias").items() if item.id == "mdb005")
    image, mask = film.image(), film.mask()
    ring = cv2.dilate(mask, np.ones((81, 81), np.uint8)) - mask
    assert cv2.connectedComponents(mask)[0] == 2  # the two circles overlap
    assert image[mask > 0].mean() > image[ring > 0].mean() + 10
