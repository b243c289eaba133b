import json

import cv2
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from seglab.data.audit import audit, image_hash, near_duplicates, picture
from seglab.data.datasets.airbus_ships import AirbusShips
from seglab.data.datasets.folder import Folder
from seglab.data.datasets.fundus import Fundus
from seglab.data.datasets.synthetic import Synthetic
from seglab.data.datasets.synthetic_scenes import clouds
from seglab.plots import CLASS_COLORS
from tests.data.fabricate import write_image


def texture(k, size=96):
    field = clouds(np.random.default_rng(k), size, 4, 8, 16)
    return np.clip(128 + 40 * field, 0, 255).astype(np.uint8)


@pytest.fixture
def dataset(tmp_path):
    """Ten train and four test images; test image 2 is a recompressed copy of train image 5."""
    for folder, count, quality in (("a", 10, 95), ("b", 4, 70)):
        for k in range(count):
            image = texture(5 if (folder, k) == ("b", 2) else k + 100 * (folder == "b"))
            mask = np.zeros((96, 96))
            mask[10:30, 10:30], mask[50:51, 60 : 62 + k] = 255, 255
            write_image(tmp_path / folder / f"images/{k}.jpg", image, cv2.IMWRITE_JPEG_QUALITY, quality)
            write_image(tmp_path / folder / f"masks/{k}.png", mask * (k > 0))
    folders = {"images": "a/images", "masks": "a/masks", "test_images": "b/images", "test_masks": "b/masks"}
    return Folder(root=str(tmp_path), **folders, size=24, cache_dir=None)


def test_a_copy_in_another_split_is_a_leak_and_nothing_else_is(dataset):
    found = audit(dataset)
    assert [leak.replace("(val)", "(train)") for leak in found.leaks] == [
        "train/5 (train) and test/2 (test) look the same"
    ]


def test_facts_are_those_of_the_files(dataset, tmp_path):
    (tmp_path / "a/images/9.jpg").write_bytes(b"no")
    (tmp_path / "b/masks/3.png").unlink()
    found = audit(dataset)
    facts = json.loads(json.dumps(found.facts))
    assert sum(facts["images"].values()) == 12
    assert facts["unreadable"] == 2
    assert any("9.jpg" in line for line in facts["unreadable_first"])
    assert sum(facts["empty_masks"].values()) == 2
    percent = 100 * (10 * 400 + sum(range(3, 11)) + 3 + 4) / (12 * 96**2)
    assert facts["mask_values"] == f"0 ({100 - percent:.3g} %), 255 ({percent:.3g} %)"
    assert facts["objects"] == 20
    assert facts["objects_erased_at_size"] == 10  # lines of height 1 cover a quarter of a pixel
    assert facts["objects_per_image"] == {"0": 2, "2": 10}
    assert facts["object_pixels"]["max"] == 400
    assert facts["height"]["max"] == 96
    assert len(found.samples) == 12


def test_near_duplicates_are_found_across_splits_alone():
    hashes = [image_hash(texture(k)) for k in (1, 2, 1, 1)]
    assert near_duplicates(hashes, ["train", "train", "test", "train"]) == [(0, 2), (2, 3)]
    assert near_duplicates([], []) == []
    flat = image_hash(np.full((50, 50), 70, np.uint8))
    assert near_duplicates([flat, flat], ["train", "test"]) == []  # flat images are not duplicates
    image = texture(3, 200)  # its copy is smaller and has other brightness
    copy = cv2.resize((image * 0.8 + 20).astype(np.uint8), (150, 150), interpolation=cv2.INTER_AREA)
    assert near_duplicates([image_hash(image), image_hash(copy)], ["train", "val"]) == [(0, 1)]
    many = [image_hash(texture(k % 140, 16)) for k in range(150)]  # in blocks of 64
    assert near_duplicates(many, ["train"] * 140 + ["val"] * 10) == [(k, 140 + k) for k in range(10)]
    assert many[0][1].nbytes == 8192  # of 200,000 images 1.6 GB


@pytest.mark.parametrize("scene", ["disc", "lesion", "ships"])
def test_painted_scenes_do_not_look_the_same(scene):
    assert audit(Synthetic(scene=scene, size=64, train=30, val=10, test=20)).leaks == []


@pytest.mark.parametrize(("kind", "root"), [(Fundus, "fundus/drishti-gs"), (AirbusShips, "ship")])
def test_the_real_sets_have_no_false_warning(kind, root, shared_data):
    found = audit(kind(root=str(shared_data / root), size=64))
    assert found.leaks == []
    assert found.facts["unreadable"] == 0


def test_the_picture_of_a_stored_mask_has_the_colors_of_its_classes_and_hatches_what_does_not_count(tmp_path):
    mask = np.zeros((60, 80), np.uint8)
    mask[10:30, 10:30], mask[10:30, 40:60], mask[45:] = 1, 2, 255
    write_image(tmp_path / "images/a.png", np.full((60, 80, 3), 90, np.uint8))
    write_image(tmp_path / "masks/a.png", mask)
    classes = {"background": 0, "rim": 1, "cup": 2}
    folder = Folder(root=str(tmp_path), images="images", masks="masks", classes=classes, ignore=255, size=32)
    drawn = picture(folder.items()[0], folder).mask
    scale = drawn.shape[0] / 60
    rim, cup, none = (drawn[int(20 * scale), int(column * scale)] for column in (20, 50, 70))
    for found, color in zip((rim, cup), CLASS_COLORS, strict=False):
        np.testing.assert_allclose(found, 0.75 * 255 * np.array(to_rgb(color)), atol=1)
    assert none.tolist() == [0, 0, 0]
    assert set(np.unique(drawn[int(50 * scale) :])) == {0, 128}
