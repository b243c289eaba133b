import numpy as np
import pytest

from seglab.contract import ContractError
from seglab.data.datasets.fundus import Fundus
from seglab.data.prepare_data import open_data
from tests.data.fabricate import write_image


@pytest.fixture
def drishti(tmp_path):
    """Images in ALL, with copies of some in GLAUCOMA; the rows of a map have the five values of four votes."""
    votes = np.repeat(np.array([[0, 64, 127, 191, 255]], np.uint8), 6, 0)
    for folder, numbers in (("Training", (2, 4, 8)), ("Test", (1, 3))):
        for n in numbers:
            name = f"drishtiGS_{n:03d}"
            write_image(tmp_path / folder / f"Images/ALL/{name}.png", np.full((6, 5, 3), n, np.uint8))
            if n > 2:
                write_image(tmp_path / folder / f"Images/GLAUCOMA/{name}.png", np.full((6, 5, 3), n, np.uint8))
            write_image(tmp_path / folder / f"GT/{name}/SoftMap/{name}_ODsegSoftmap.png", votes)
            write_image(tmp_path / folder / f"GT/{name}/SoftMap/{name}_cupsegSoftmap.png", votes // 4)
    return tmp_path


def fundus(root, **options):
    return Fundus(root=str(root), **{"size": 32, "cache_dir": None, **options})


def test_drishti_has_its_own_test_set_and_each_image_once(drishti):
    items = fundus(drishti).items()
    assert [item.id[-3:] for item in items if item.split == "train"] == ["002", "004", "008"]
    assert [item.id[-3:] for item in items if item.split == "test"] == ["001", "003"]


def test_so_many_of_the_four_experts_must_agree_or_their_fraction_is_the_target(drishti):
    rows = {0.25: [0, 1, 1, 1, 1], 0.5: [0, 0, 1, 1, 1], 0.75: [0, 0, 0, 1, 1], 1.0: [0, 0, 0, 0, 1]}
    for agreement, row in rows.items():
        assert fundus(drishti, agreement=agreement).items()[0].mask()[0].tolist() == row
    assert fundus(drishti, agreement=0.25, target="cup").items()[0].mask()[0].tolist() == [0, 0, 0, 0, 1]
    both = fundus(drishti, agreement=0.25, target="disc_cup").items()[0].mask()
    assert both[0].tolist() == [[0, 0], [1, 0], [1, 0], [1, 0], [1, 1]]
    assert fundus(drishti, agreement=0.25, target="rim_cup").items()[0].mask()[0].tolist() == [0, 1, 1, 1, 2]
    soft = fundus(drishti, soft=True).items()[0].mask()[0]
    np.testing.assert_allclose(soft, [0, 0.25, 0.5, 0.75, 1], atol=0.003)


def test_an_image_without_map_is_named(drishti):
    (drishti / "Training/GT/drishtiGS_004/SoftMap/drishtiGS_004_ODsegSoftmap.png").unlink()
    with pytest.raises(ContractError, match=r"drishtiGS_004.png: expected a mask for this image;"):
        open_data(fundus(drishti))


def test_a_map_without_an_image_and_a_missing_test_set_are_said(drishti):
    for path in (drishti / "Test/Images").rglob("*.png"):
        path.unlink()
    for target in ("disc", "rim_cup"):
        with pytest.raises(ContractError, match=r"2 of 5 .*drishtiGS_001_.*: expected an image for this mask \|"):
            open_data(fundus(drishti, target=target))
    said = open_data(fundus(drishti, on_bad_item="skip")).warnings()
    assert any(line.startswith("no images in the test folder: test images are drawn") for line in said)


@pytest.mark.parametrize("classes", [True, False])
def test_rim_one_keeps_both_eyes_of_a_patient_together_whose_folders_may_be_links(tmp_path, tmp_path_factory, classes):
    names = {"training_set": ["r1_Im069", "r3_G-18-R_left_half", "r3_N-1-L"], "test_set": ["r2_Im001", "r3_G-18-L"]}
    for folder, ids in names.items():
        for k, name in enumerate(ids):
            kind = "glaucoma" if "G-" in name else "normal"
            image = tmp_path / "partitioned_randomly" / folder / (kind if classes else "") / f"{name}.png"
            write_image(image, np.full((8, 8, 3), 10 * k + len(folder)))
            masks = tmp_path / "RIM-ONE_DL_reference_segmentations" / kind
            write_image(masks / f"{name}-1-Disc-T.png", np.full((8, 8), 255))
    (tmp_path / "RIM-ONE_DL_reference_segmentations").rename(elsewhere := tmp_path_factory.mktemp("large") / "masks")
    (tmp_path / "RIM-ONE_DL_reference_segmentations").symlink_to(elsewhere)
    (tmp_path / "partitioned_randomly/training_set").rename(elsewhere.parent / "train")
    (tmp_path / "partitioned_randomly/training_set").symlink_to(elsewhere.parent / "train")
    opened = open_data(fundus(tmp_path, val_fraction=0))
    ids = {split: sorted(names) for split, names in opened.splits.ids().items()}
    assert ids == {"train": ["r1_Im069", "r3_N-1-L"], "val": [], "test": ["r2_Im001", "r3_G-18-L"]}
    assert opened.skipped == {"r3_G-18-R_left_half": "its group is in the test set"}
    assert [[image.foreground for image in opened.images(split)] for split in ids] == [[1, 1], [], [1, 1]]


@pytest.mark.parametrize("below", ["", "data/"])
def test_the_study_has_masks_of_the_same_file_name_above_20(tmp_path, below):
    for folder, count in (("tr_images", 4), ("ts_images", 2)):
        for k in range(count):
            write_image(tmp_path / below / folder / f"{folder[:2]}{k}.png", np.zeros((4, 4, 3)))
            write_image(tmp_path / below / "clean_masks" / f"{folder[:2]}{k}.png", np.array([[0, 20, 21, 255]] * 4))
    items = fundus(tmp_path).items()
    assert [item.split for item in items] == ["train"] * 4 + ["test"] * 2
    assert items[0].mask()[0].tolist() == [0, 0, 1, 1]
    with pytest.raises(ContractError, match="target=disc in this layout without cup masks, got cup"):
        fundus(tmp_path, target="cup").items()


def test_the_real_drishti_has_50_and_51_images_and_3_percent_of_disc(shared_data):
    opened = open_data(Fundus(root=str(shared_data / "fundus/drishti-gs"), size=64, cache_dir=None))
    facts = opened.facts()
    assert facts["images"] == {"train": 42, "val": 8, "test": 51}
    assert facts["foreground"] == pytest.approx(0.03, abs=0.005)
    assert facts["empty_masks"] == {"train": 0, "val": 0, "test": 0}
