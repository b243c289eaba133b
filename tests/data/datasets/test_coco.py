"""COCO annotations become masks: each kind of region, overlapping classes, crowds, and faulty files."""

import json
import math

import numpy as np
import pytest

from seglab.contract import ContractError, Task
from seglab.data.datasets.coco import Coco
from seglab.data.prepare_data import open_data
from tests.data.fabricate import write_image

pytest.importorskip("pycocotools")
HEIGHT, WIDTH = 24, 32
SHIP, PLANE = 7, 3  # ids need not be in order


def square(left, top, right, bottom):
    return [[left, top, right, top, right, bottom, left, bottom]]


def write(root, annotations, count=1, **change):
    names = [f"deep/{k}.png" for k in range(count)]
    for k, name in enumerate(names):
        write_image(root / "images" / name, np.full((HEIGHT, WIDTH), k))
    images = [{"id": 10 + k, "file_name": name, "height": HEIGHT, "width": WIDTH} for k, name in enumerate(names)]
    categories = [{"id": SHIP, "name": "ship"}, {"id": PLANE, "name": "plane"}]
    content = {"images": images, "annotations": annotations, "categories": categories} | change
    (root / "annotations.json").write_text(json.dumps(content))
    return root


def region(category, segmentation, image=10, crowd=0):
    return {"image_id": image, "category_id": category, "segmentation": segmentation, "iscrowd": crowd}


def coco(root, **options):
    return Coco(root=str(root), cache_dir=None, size=32, **options)


def test_outlines_are_kept_once_as_text(root):
    item, *_ = coco(root).items()
    assert item.mask.args[0] is item.objects.args[0] is item.labels


@pytest.fixture
def root(tmp_path):
    runs = {"counts": [2 * HEIGHT, HEIGHT, (WIDTH - 3) * HEIGHT], "size": [HEIGHT, WIDTH]}  # the whole third column
    crowd = {"counts": [0, HEIGHT, (WIDTH - 1) * HEIGHT], "size": [HEIGHT, WIDTH]}
    regions = [region(SHIP, square(4, 6, 12, 10)), region(PLANE, square(10, 6, 14, 10)), region(PLANE, runs)]
    return write(tmp_path, [*regions, region(SHIP, crowd, crowd=1), region(SHIP, square(0, 0, 4, 4), image=11)], 8)


def test_regions_are_filled_and_crowds_do_not_count(root):
    first, second, third, *_ = coco(root).items()
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[6:10, 4:14] = expected[:, 2] = 1
    expected[:, 0] = 255
    np.testing.assert_array_equal(first.mask(), expected)
    assert (first.id, second.mask().sum(), third.mask().sum()) == ("deep/0", 16, 0)
    assert np.bincount(first.objects().ravel())[1:].tolist() == [24, 16, HEIGHT]


def test_categories_are_classes_that_may_overlap(root):
    data = coco(root, classes=["plane", "ship"])
    planes, ships = np.moveaxis(data.items()[0].mask(), 2, 0)
    assert (planes[6:10, 10:14] == 1).all()
    assert (ships[6:10, 4:12] == 1).all()
    assert [int((one == 1).sum()) for one in (planes, ships)] == [16 + HEIGHT, 32]
    opened = open_data(data)
    assert opened.facts()["task"] == {"kind": "multilabel", "classes": ["plane", "ship"]}
    assert opened.decoded["deep/0"].facts["ignored"] == pytest.approx(1 / WIDTH)
    assert coco(root, classes=["ship"]).task == Task("binary", ("ship",))
    assert coco(root, classes=["ship"]).items()[0].mask().shape == (HEIGHT, WIDTH)
    with pytest.raises(ContractError, match=r"dataset.classes among ship, plane, got boat"):
        coco(root, classes=["boat"]).items()


def test_packed_run_lengths_are_those_of_the_tools(tmp_path):
    from pycocotools import mask

    truth = np.random.default_rng(0).integers(0, 2, (HEIGHT, WIDTH)).astype(np.uint8)
    packed = mask.encode(np.asfortranarray(truth))
    packed["counts"] = packed["counts"].decode()
    (item,) = coco(write(tmp_path, [region(SHIP, packed)])).items()
    np.testing.assert_array_equal(item.mask(), truth)


HOSTILE = {
    "far outside, infinite": [
        [[math.nan, 5, 20, 5, 20, 20]],
        [[1e9, 5, 20, 5, 20, 20]],
        [[5, 5, 20, 5, 20, -math.inf]],
    ],
    "do not add up to 32x24": [
        {"counts": [9, 9], "size": [HEIGHT, WIDTH]},
        {"counts": [-9, 9 + HEIGHT * WIDTH], "size": [HEIGHT, WIDTH]},
        {"counts": [0, 10**6], "size": [1000, 1000]},
        {"counts": "", "size": [HEIGHT, WIDTH]},
        [{"counts": [9], "size": [HEIGHT, WIDTH]}, {"counts": [HEIGHT * WIDTH], "size": [HEIGHT, WIDTH]}],
    ],
    "could not convert": [[list("abcdef")]],
}


@pytest.mark.parametrize(("words", "shape"), [(words, shape) for words, shapes in HOSTILE.items() for shape in shapes])
def test_objects_that_would_crash_or_mislead_the_tools_are_refused(tmp_path, words, shape):
    (item,) = coco(write(tmp_path, [region(SHIP, shape)])).items()
    with pytest.raises(ContractError, match=f"image deep/0: expected objects that the COCO .* {words}"):
        item.mask()


def test_a_fault_in_a_file_is_one_sentence(root):
    (root / "images/deep/3.png").unlink()
    (fault,) = (item.fault for item in coco(root).items() if item.fault)
    assert fault == f"{root}/images/deep/3.png: expected an image file, as the COCO file lists it"
    with pytest.raises(ContractError, match=r"a COCO file that exists, got .*other.json; set dataset.annotations"):
        coco(root, annotations={"train": "other.json"}).items()
    with pytest.raises(ContractError, match="to be one file, or a file each for train, val and test, got valid"):
        coco(root, annotations={"valid": "annotations.json"})
    write(root, [region(SHIP, square(4, 6, 12, 10)), region(SHIP, [])])
    with pytest.raises(ContractError, match="an outline of each object, got 1 without one, such as a box alone"):
        coco(root).items()
    for degenerate in ([[1, 2]], [[5, 5, 10, 10]], [[]], [[1, 2, 9, 9], *square(4, 6, 12, 10)], [1, 2, 3, 4, 5, 6]):
        (item,) = coco(write(root, [region(SHIP, degenerate)])).items()
        assert item.fault == f"{root}/images/deep/0.png: expected outlines of at least three points"
    write(root, [region(SHIP, square(4, 6, 12, 10)), region(9, square(4, 6, 12, 10))])
    with pytest.raises(ContractError, match="expected a category for each category_id, got none for 9"):
        coco(root).items()
    write(root, [], images=[{"id": 10, "file_name": "deep/0.png"}])
    with pytest.raises(ContractError, match="expected id, file_name, height, width in all images, got 1 incomplete"):
        coco(root).items()
    for entry in ({"id": [], "file_name": "a", "height": 1, "width": 1}, {"id": 1, "file_name": 2, "height": 1}, 5):
        write(root, [], images=[entry])
        with pytest.raises(ContractError, match="in all images, got 1 incomplete"):
            coco(root).items()
    write(root, [], images=[{"id": 10, "file_name": name, "height": 1, "width": 1} for name in "ab"])
    with pytest.raises(ContractError, match="a different id for each of the images, got one for several"):
        coco(root).items()
    for damage in ("{", "3", "[" * 10**5):
        (root / "annotations.json").write_text(damage)
        with pytest.raises(ContractError, match="expected the keys images, annotations and categories, got no images"):
            coco(root).items()
