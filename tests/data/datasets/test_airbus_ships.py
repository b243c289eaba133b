from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seglab.contract import ContractError
from seglab.data.datasets.airbus_ships import SIDE, AirbusShips, check, paint, parse, read_table
from seglab.data.datasets.prepared import Prepared
from seglab.data.decode import decode_item, objects_of
from seglab.data.module import DataModule
from seglab.data.prepare_data import open_data
from seglab.data.store import build
from seglab.metrics.objects import object_scores
from tests.data.fabricate import run_lengths, write_image


def box(top, left, height, width):
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[top : top + height, left : left + width] = 1
    return mask


TABLE = "train_ship_segmentations_v2.csv"
SHIPS = {k: [box(40 * n, 90 * n + k, 12, 60) for n in range(1 + k % 3)] for k in range(9)}


@pytest.fixture
def root(tmp_path):
    """Nine images with one to three bright ships each, and nine images without ships."""
    rows = ["ImageId,EncodedPixels"]
    for k in range(18):
        name = f"{k:09x}.jpg"
        ships = SHIPS.get(k, [])
        image = 30 + 200 * sum(ships, np.zeros((SIDE, SIDE), np.uint8))
        image[k, 0] += 9  # no two files are equal
        write_image(tmp_path / "train_v2" / name, image)
        rows += [f"{name},{run_lengths(mask)}" for mask in ships] or [f"{name},"]
    (tmp_path / TABLE).write_text("\n".join(rows) + "\n")
    return tmp_path


def ship(root, **options):
    return AirbusShips(root=str(root), **{"empty_fraction": None, "cache_dir": None, "size": 192, **options})


def read(text, height, width):
    runs = parse([text], "mask")
    check(runs, height * width, "mask")
    return paint(runs, height, width)


@given(st.integers(1, 30), st.integers(1, 30), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_any_mask_is_read_from_its_runs(height, width, fraction, seed):
    mask = (np.random.default_rng(seed).random((height, width)) < fraction).astype(np.uint8)
    np.testing.assert_array_equal(read(run_lengths(mask), height, width), mask)


def test_runs_go_down_the_columns_from_1_and_each_ship_has_its_number():
    runs = parse(["1 2", "5 1 8 1", "11 2"], "mask")
    assert paint(runs, 3, 4).tolist() == [[1, 0, 0, 0], [1, 2, 2, 3], [0, 0, 0, 3]]
    assert not read("", 4, 4).any()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("1 2 3", "pairs of start and length, got 3 numbers"),
        ("1 two", "whole numbers, got '1 two'"),
        ("-5 3", "whole numbers, got '-5 3'"),
        (f"1{'0' * 19} 3", "whole numbers, got '1000"),
        ("15 3", "runs within 1 to 16, got 15 to 17"),
        ("1 3 3 1", "runs that do not overlap, got 1 overlaps"),
        ("5 1 1 0", "lengths above 0"),
    ],
)
def test_malformed_runs_are_one_sentence(text, sentence):
    with pytest.raises(ContractError, match=f"runs of mask: expected .*{sentence}"):
        read(text, 4, 4)


def test_masks_lie_on_the_ships_and_empty_images_are_empty(root):
    items = ship(root).items()
    assert len(items) == 18
    for item in items:
        np.testing.assert_array_equal(item.mask(), item.image() > 128)


def test_a_fraction_of_the_empty_images_is_kept_and_always_the_same(root):
    items = ship(root, empty_fraction=0.25).items()
    assert len(items) == 12  # nine with ships, and a quarter of twelve
    assert [item.id for item in items] == [item.id for item in ship(root, empty_fraction=0.25).items()]
    assert {item.id for item in ship(root, empty_fraction=0.1).items()} < {item.id for item in items}


def test_each_ship_is_an_object_through_resizing_patches_and_preparing(root, tmp_path):
    beside = box(0, 60, 12, 60)  # touches the first ship of image 0
    with (root / TABLE).open("a") as file:
        file.write(f"{0:09x}.jpg,{run_lengths(beside)}\n")
    raw = ship(root)
    build(raw.items(), replace(raw, fit="patch"), tmp_path / "ready", complete=True)
    ready = Prepared(root=str(tmp_path / "ready"), cache_dir=None)
    expected = box(0, 0, 12, 60) + 2 * beside
    for data in (raw, ready):
        item = next(item for item in data.items() if item.id == f"{0:09x}.jpg")
        np.testing.assert_array_equal(objects_of(item, replace(data, size=768)), expected)
        np.testing.assert_array_equal(objects_of(item, replace(data, size=800, fit="patch")), expected)
        assert cv2.connectedComponents(item.mask())[0] == 2  # a single object in the mask
        small = objects_of(item, replace(data, size=256, fit="resize"))
        np.testing.assert_array_equal(small[:5, :41], np.pad([[1] * 20 + [2] * 20] * 4, (0, 1)))
        patch = objects_of(item, replace(data, size=128, reduce=3, fit="patch"))
        np.testing.assert_array_equal(patch, small)  # whole images, as in a test
    assert DataModule(raw).objects("test").keys() == {item.id for item in DataModule(raw).splits.test}


def replace_in_table(root, old, new):
    (root / TABLE).write_text((root / TABLE).read_text().replace(old, new))


def test_other_runs_make_another_cache(root, tmp_path):
    before = open_data(ship(root, cache_dir=str(tmp_path / "cache")))
    replace_in_table(root, "00000000a.jpg,", "00000000a.jpg,1 3072")
    after = open_data(ship(root, cache_dir=str(tmp_path / "cache")))
    assert before.fingerprint != after.fingerprint
    assert before.decoded["00000000a.jpg"].foreground == 0 < after.decoded["00000000a.jpg"].foreground


def test_known_corrupt_images_are_left_out_and_counted(root):
    (root / "train_v2" / f"{0:09x}.jpg").rename(root / "train_v2/6384c3e78.jpg")
    replace_in_table(root, f"{0:09x}.jpg", "6384c3e78.jpg")
    assert open_data(ship(root)).skipped == {"6384c3e78.jpg": "known to be broken"}


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("ImageId", "Image", "columns ImageId and EncodedPixels, got no ImageId"),
        ("000000011.jpg,", "fffffffff.jpg,1 5", "fffffffff.jpg: expected an image file, as the table lists it"),
        ("000000011.jpg,\n", "", "000000011.jpg: expected a row in train_ship"),
        ("000000011.jpg,", "000000011.jpg,no ship", "runs of 000000011.jpg: expected whole numbers, got 'no ship'"),
    ],
)
def test_a_faulty_table_is_one_sentence(root, old, new, sentence):
    replace_in_table(root, old, new)
    with pytest.raises(ContractError, match=sentence):
        open_data(ship(root))


def test_a_table_without_a_byte_is_one_sentence(root):
    (root / TABLE).write_bytes(b"")
    with pytest.raises(ContractError, match="columns ImageId and EncodedPixels, got no ImageId and no EncodedPixels"):
        ship(root).items()


def test_usual_ways_to_say_no_ship_are_read(root):
    words = ["-1", "nan", "NaN", "None", "null", "N/A", " ", "1 0", "0 0"]
    for k, word in enumerate(words, 9):
        replace_in_table(root, f"{k:09x}.jpg,", f"{k:09x}.jpg,{word}")
    items = ship(root).items()
    assert len(items) == 18
    assert [bool(item.mask().any()) for item in items] == [True] * 9 + [False] * 9


def test_shrunk_images_and_other_endings_are_read(root):
    whole = {item.id: item.mask() for item in ship(root).items()}
    for path in (root / "train_v2").iterdir():
        image = cv2.imread(str(path), 0)
        write_image(path.with_suffix(".png"), cv2.resize(image, (384, 384), interpolation=cv2.INTER_AREA))
        path.unlink()
    data = ship(root)
    for item in data.items():
        expected = cv2.resize(whole[item.id].astype(np.float32), (384, 384), interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(item.mask(), expected)
        assert item.objects().shape == (384, 384)
        assert len(np.unique(item.objects())) == 1 + len(SHIPS.get(int(item.id[:9], 16), []))
    replace_in_table(root, ".jpg", "")
    assert [item.fault for item in data.items()] == [""] * 18
    write_image(root / "train_v2/000000003.png", np.zeros((500, 400)))
    with pytest.raises(ContractError, match="image 000000003: expected a mask of the same size, 400x500"):
        open_data(data)
    write_image(root / "train_v2/000000003.jpg", np.zeros((384, 384)))
    with pytest.raises(ContractError, match=r"000000003.jpg: expected one file of this name, got .*003.png as well"):
        data.items()


def test_the_real_table_has_31_ships_that_are_unlike_the_sea(shared_data):
    data = ship(shared_data / "ship")
    items = data.items()
    ships = read_table(shared_data / "ship" / TABLE)
    assert (len(items), sum(map(len, ships.values())), list(ships.values()).count([])) == (19, 31, 3)
    for item in (item for item in items if ships[item.id]):
        mask, image = item.mask(), item.image().astype(float)
        np.testing.assert_array_equal(item.objects() > 0, mask)
        assert item.objects().max() == len(ships[item.id])
        ring = cv2.dilate(mask, np.ones((41, 41))) - mask
        away = abs(image - np.median(image[ring > 0], axis=0))
        assert away[mask > 0].mean() > 1.5 * away[ring > 0].mean()  # ships differ from the sea around them
    with pytest.raises(ContractError, match="a folder that exists"):
        ship(shared_data / "nowhere").items()


def test_the_real_ships_score_1_against_themselves_even_if_resized(shared_data):
    for size in (SIDE, 256):
        data = ship(shared_data / "ship", size=size)
        truth = [(objects_of(item, data), decode_item(item, data)[1]) for item in data.items()]
        ships = [np.where(mask, labels, 0) for labels, mask in truth]
        assert [object_scores(one, one)["object_f2"] for one in ships] == [1.0] * 19
        assert sum(len(np.unique(one[one > 0])) for one in ships) == 31
        assert sum(cv2.connectedComponents(mask)[0] - 1 for _, mask in truth) < 31  # some ships touch
