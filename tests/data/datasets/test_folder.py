import numpy as np
import pytest

from seglab.contract import ContractError
from seglab.data.datasets.folder import Folder
from seglab.data.decode import decode_item
from seglab.data.prepare_data import open_data
from tests.data.fabricate import write_image


@pytest.fixture
def root(tmp_path):
    """Twelve images P<patient>_<n>.png with masks P<patient>_<n>_mask.png of values 0, 64 and 255."""
    rng = np.random.default_rng(0)
    for k in range(12):
        mask = np.zeros((40, 50), np.uint8)
        mask[5:20, 5 : 10 + k], mask[30:, 30:] = 255, 64
        write_image(tmp_path / f"images/P{k // 3}_{k}.png", rng.integers(0, 256, (40, 50), np.uint8))
        write_image(tmp_path / f"masks/P{k // 3}_{k}_mask.png", mask)
    return tmp_path


def folder(root, **options):
    return Folder(root=str(root), **{"mask_suffix": "_mask", "size": 32, "cache_dir": None, **options})


@pytest.mark.parametrize(
    ("options", "foreground"), [({}, 15 * 8 + 10 * 20), ({"mask_value": 255}, 15 * 8), ({"threshold": 100}, 15 * 8)]
)
def test_images_and_masks_are_matched_by_name_and_foreground_is_a_value_or_above_one(root, options, foreground):
    items = folder(root, **options).items()
    assert [item.id for item in items][:2] == ["P0_0", "P0_1"]
    assert len(items) == 12
    assert items[3].mask().sum() == foreground


def test_patients_stay_together(root):
    items = folder(root, group_pattern=r"^(P\d+)_").items()
    assert {item.group for item in items} == {"P0", "P1", "P2", "P3"}
    splits = open_data(folder(root, group_pattern=r"^(P\d+)_", test_fraction=0.25)).splits
    assert len({item.group for item in splits.test}) == 1
    with pytest.raises(ContractError, match=r"group_pattern \^Q to match"):
        folder(root, group_pattern="^Q").items()


def test_a_test_folder_is_the_test_set(root):
    splits = open_data(folder(root, test_images="images", test_masks="masks")).splits
    assert len(splits.test) == 12
    assert splits.test[0].id == "test/P0_0"


@pytest.mark.parametrize("suffix", ["", "_FULL"])
def test_images_and_masks_may_share_a_folder_and_end_in_their_own_suffixes(root, suffix):
    for path in (root / "images").iterdir():
        path.rename(root / "images" / f"{path.stem}{suffix}.png")
    for path in (root / "masks").iterdir():
        path.rename(root / "images" / path.name)
    items = folder(root, masks="images", image_suffix=suffix).items()
    assert [item.id for item in items][:2] == ["P0_0", "P0_1"]
    assert [item.fault for item in items] == [""] * 12


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        ("masks/P0_1_mask.png", r"1 of 12 that are not: .*P0_1.png: expected a mask of its name; .*on_bad_item=skip"),
        ("images/P0_1.png", "P0_1_mask.png: expected an image of its name"),
    ],
)
def test_a_file_without_its_partner_is_one_sentence_or_skipped_and_counted(root, broken, sentence):
    (root / broken).unlink()
    with pytest.raises(ContractError, match=sentence):
        open_data(folder(root))
    facts = open_data(folder(root, on_bad_item="skip")).facts()
    assert facts["skipped"] == 1
    assert sum(facts["images"].values()) == 11


def test_a_missing_root_or_folder_is_one_sentence(root):
    with pytest.raises(ContractError, match=r"a folder that exists, got .*nowhere; set dataset.root"):
        folder(root / "nowhere").items()
    with pytest.raises(ContractError, match=r"a folder that exists, got .*pictures"):
        folder(root, images="pictures").items()


def test_the_real_tissue_maps_are_read(shared_data):
    folders = {"images": "train_valid/fgt_seg", "test_images": "test/fgt_seg"}
    folders |= {"masks": "train_valid/fgt_seg_labels", "test_masks": "test/fgt_seg_labels"}
    options = {"mask_suffix": "_LI", "mask_value": 255, "fit": "pad", "channels": 1}
    tissue = Folder(root=str(shared_data / "ddsm/ddsm-tissue"), **folders, **options)
    items = tissue.items()
    assert [item.split for item in items].count("test") == 6
    assert len(items) == 66
    fractions = [decode_item(item, tissue)[1].mean() * 2 for item in items]  # half of the square is padding
    assert np.mean(fractions) == pytest.approx(0.10, abs=0.02)
