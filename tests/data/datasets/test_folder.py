import json
import shutil
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
import tifffile
from PIL import Image

from seglab.contract import ContractError
from seglab.data.datasets.folder import Folder
from seglab.data.decode import decode_item
from seglab.data.names import read_csv, read_rows
from seglab.data.prepare_data import open_data
from seglab.data.split import split_from_file
from tests.data.fabricate import save, white, write_image, write_scenes


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


def test_images_and_masks_are_matched_by_name_and_foreground_is_a_value_or_above_one(root):
    for options, foreground in (({}, 15 * 8 + 10 * 20), ({"mask_value": 255}, 15 * 8), ({"threshold": 100}, 15 * 8)):
        items = folder(root, **options).items()
        assert (items[0].id, items[1].id, len(items)) == ("P0_0", "P0_1", 12)
        assert items[3].mask().sum() == foreground


def test_names_of_two_unicode_forms_are_the_same(tmp_path):
    forms = {form: normalize(form, "b\u00e4r") for form in ("NFC", "NFD")}
    write_image(tmp_path / f"images/{forms['NFD']}.png", np.zeros((8, 9)))
    write_image(tmp_path / f"masks/{forms['NFC']}.png", np.zeros((8, 9)))
    (item,) = folder(tmp_path, mask_suffix="").items()
    assert (item.id, item.fault) == (forms["NFC"], "")
    file = tmp_path / "split.json"
    file.write_text(json.dumps({"train": [f"{forms['NFD']}.png"], "val": [], "test": []}))
    assert split_from_file([item], str(file)).train == [item]


def test_patients_stay_together(root):
    items = folder(root, group_pattern=r"^(P\d+)_").items()
    assert {item.group for item in items} == {"P0", "P1", "P2", "P3"}
    splits = open_data(folder(root, group_pattern=r"^(P\d+)_", test_fraction=0.25)).splits
    assert len({item.group for item in splits.test}) == 1
    assert [item.group for item in folder(root, group_pattern=r"^P\d+").items()] == [item.group for item in items]
    with pytest.raises(ContractError, match=r"group_pattern \^Q to match each name, got P0_0"):
        folder(root, group_pattern="^Q").items()


def test_the_same_images_for_training_and_test_are_refused(root):
    shutil.copytree(root / "images", root / "more")
    words = (
        r"12 of 24 that are not: train/(P\d_\d+): expected in one split, got its file in \w+ and in test \(as test/\1\)"
    )
    for images in ("more", "images"):
        with pytest.raises(ContractError, match=words):
            open_data(folder(root, test_images=images, test_masks="masks"))


def test_folders_of_their_own_are_the_splits(tmp_path):
    for split, count in (("train", 5), ("val", 3), ("test", 4)):
        named = (f"{split}/images/{split}{{}}", f"{split}/masks/{split}{{}}")
        write_scenes(tmp_path, count, named=named, width=50 + count)
    options = {"images": "train/images", "masks": "train/masks", "mask_suffix": ""}
    options |= {"test_images": "test/images", "test_masks": "test/masks"}
    with pytest.raises(ContractError, match=r"although .*val/images exists; set dataset.val_images=val/images and"):
        folder(tmp_path, **options).items()
    drawn = open_data(folder(tmp_path, **options, val_images="")).splits
    assert [len(ids) for ids in drawn.ids().values()] == [4, 1, 4]
    own = open_data(folder(tmp_path, **options, val_images="val/images", val_masks="val/masks")).splits
    assert [len(ids) for ids in own.ids().values()] == [5, 3, 4]
    assert own.val[0].id == "val/val00"
    with pytest.raises(ContractError, match="val_images and val_masks to be set together"):
        folder(tmp_path, **options, val_images="val/images")


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        ("masks/P0_1_mask.png", r"1 of 12 images without a mask \(first P0_1.png\), 0 of 11 .*on_bad_item=skip leaves"),
        ("images/P0_1.png", r"0 of 11 images without a mask, 1 of 12 masks without an image \(first P0_1_mask.png\)"),
    ],
)
def test_a_file_without_its_partner_is_one_sentence_or_skipped_and_counted(root, broken, sentence):
    (root / broken).unlink()
    with pytest.raises(ContractError, match=sentence):
        open_data(folder(root))
    facts = open_data(folder(root, on_bad_item="skip")).facts()
    assert facts["skipped"] == 1
    assert sum(facts["images"].values()) == 11


@pytest.mark.parametrize("fit", ["resize", "patch"])
def test_an_image_of_another_number_of_bands_is_named_before_the_first_epoch_or_skipped(root, fit):
    bands = np.random.default_rng(1)
    for file in sorted(root.glob("images/*.png"))[1:]:
        file.unlink()
        tifffile.imwrite(file.with_suffix(".tif"), bands.integers(0, 256, (40, 50, 4), np.uint8), photometric="rgb")
    with pytest.raises(ContractError, match=r"P0_0.*: expected 4 bands.*, got 1"):
        open_data(folder(root, channels=4, fit=fit, mean=[0.5], std=[0.5]))
    opened = open_data(folder(root, channels=4, fit=fit, mean=[0.5], std=[0.5], on_bad_item="skip"))
    assert opened.facts()["skipped"] == 1


NAMES = {
    "nested": ("images/p/{}", "masks/p/{}", {}),
    "suffix": ("images/{}", "masks/{}_mask", {"mask_suffix": "_mask"}),
    "two suffixes": ("images/{}_img", "masks/{}_lab", {"image_suffix": "_img", "mask_suffix": "_lab"}),
    "nested prefix": ("images/p/a_{}", "masks/p/b_{}", {"image_prefix": "a_", "mask_prefix": "b_"}),
    "a blank": ("images/eye ({})", "masks/eye ({}) mask", {"mask_suffix": " mask"}),
}


@pytest.mark.parametrize("kind", NAMES)
def test_names_are_matched_and_what_to_set_is_proposed(tmp_path, kind):
    image, mask, options = NAMES[kind]
    write_scenes(tmp_path, named=(image, mask))
    if options:
        words = r"6 of 6 images without a mask \(first .*\), 6 of 6 masks without an image \(first .*\); .*: set "
        with pytest.raises(ContractError, match=words) as raised:
            folder(tmp_path, mask_suffix="").items()
        for name, value in options.items():
            assert f"dataset.{name}={value}" in str(raised.value)
    items = folder(tmp_path, **{"mask_suffix": "", **options}).items()
    assert [item.fault for item in items] == [""] * 6
    assert all((item.image()[item.mask() > 0] > 130).all() for item in items)


def test_several_masks_of_one_image_are_united(tmp_path):
    write_scenes(tmp_path, named=("all/case ({})", "all/case ({})_mask"))
    more = np.zeros((40, 48), bool)
    more[30:35, 30:40] = True
    save(tmp_path / "all/case (03)_mask_1.png", white(more))
    suffixes = r"mask names end in _mask or _mask_1: set 'dataset.mask_suffix=\[_mask,_mask_1\]'"
    words = f"distinguish masks from images, got every file of .* as both; {suffixes}"
    with pytest.raises(ContractError, match=words):
        folder(tmp_path, images="all", masks="all", mask_suffix="").items()
    both = {"images": "all", "masks": "all", "mask_suffix": ["_mask", "_mask_1"]}
    items = folder(tmp_path, **both).items()
    assert len(items) == 6
    single = folder(tmp_path, images="all", masks="all", on_bad_item="skip").items()
    assert items[3].mask().sum() == single[3].mask().sum() + 50
    assert len(items[3].files) == 3
    soft = folder(tmp_path, **both, soft=True, ignore=255).items()[3].mask()
    np.testing.assert_array_equal(np.isnan(soft), items[3].mask())  # 255 in either mask is ignored
    save(tmp_path / "all/case (03)_mask_1.png", white(more[1:]))
    with pytest.raises(ContractError, match=r"\(03\)_mask.png: expected masks of the same size, got 48x39, 48x40"):
        folder(tmp_path, **both, classes={"background": 0, "object": 255}).items()[3].mask()


def test_an_image_without_a_mask_may_have_no_foreground(tmp_path):
    write_scenes(tmp_path)
    for k in (1, 4):
        (tmp_path / f"masks/{k:02d}.png").unlink()
    words = r"2 of 6 images without a mask \(first 01.png\).*dataset.missing_mask=empty treats their masks as empty"
    with pytest.raises(ContractError, match=words):
        open_data(folder(tmp_path, mask_suffix=""))
    opened = open_data(folder(tmp_path, mask_suffix="", missing_mask="empty"))
    assert sum(opened.facts()["empty_masks"].values()) == 2
    tifffile.imwrite(tmp_path / "images/09.tif", np.ones((9, 8, 4), np.uint8), photometric="rgb")
    bands = folder(tmp_path, mask_suffix="", missing_mask="empty", channels=4).items()[6]
    np.testing.assert_array_equal(bands.mask(), np.zeros((9, 8)))
    (tmp_path / "images/09.tif").unlink()
    (tmp_path / "masks/07.png").write_bytes((tmp_path / "masks/00.png").read_bytes())
    words = r"0 of 6 images without a mask, 1 of 5 masks without an image \(first 07.png\)"
    with pytest.raises(ContractError, match=words):
        open_data(folder(tmp_path, mask_suffix="", missing_mask="empty"))
    shutil.rmtree(tmp_path / "masks")
    write_scenes(tmp_path, 4, named=("other/{}", "masks/z{}"))  # a wrong folder of masks
    with pytest.raises(ContractError, match=r"0 of 6 images without a mask, 4 of 4 masks"):
        open_data(folder(tmp_path, mask_suffix="", missing_mask="empty"))


def test_two_files_of_one_name_are_refused_or_left_out(tmp_path):
    write_scenes(tmp_path)
    write_image(tmp_path / "masks/02.jpg", np.zeros((40, 48)))
    words = r"1 of 6 that are not: .*masks/02.jpg: expected one file of this name, got .*masks/02.png as well"
    with pytest.raises(ContractError, match=words):
        open_data(folder(tmp_path, mask_suffix=""))
    assert open_data(folder(tmp_path, mask_suffix="", on_bad_item="skip")).skipped.keys() == {"02"}


def test_home_is_expanded_and_a_pattern_is_checked(tmp_path, monkeypatch):
    write_scenes(tmp_path / "data (1), new=2", 3)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(folder(Path("~/data (1), new=2"), mask_suffix="").items()) == 3
    with pytest.raises(ContractError, match=r"group_pattern to be a regular expression, got '\^\(P' \(missing \)"):
        folder(tmp_path, group_pattern="^(P")
    with pytest.raises(ContractError, match="numbers and colors such as \"#ff8000\", got 'red'"):
        folder(tmp_path, mask_value=["red"])


def test_one_page_of_each_file_is_read_by_training_and_prediction(tmp_path):
    write_scenes(tmp_path)
    for path in (tmp_path / "masks").iterdir():
        mask = Image.open(path)
        Image.new("L", mask.size, 255).save(path.with_suffix(".tif"), save_all=True, append_images=[mask])
        path.unlink()
    with pytest.raises(ContractError, match=r"00.tif: expected one page, got 2 pages; set dataset.page to a number"):
        open_data(folder(tmp_path, mask_suffix=""))
    paged = folder(tmp_path, mask_suffix="", page=1)
    assert 0.02 < open_data(paged).facts()["foreground"] < 0.1
    assert paged.decode(str(tmp_path / "masks/00.tif")).min() == 0


def test_a_table_names_the_files_of_each_image_its_split_and_its_group(tmp_path):
    write_scenes(tmp_path, 4, named=("scans/{}", "labels/of_{}"))
    cells = [f"scans/{k:02d}.png,labels/of_{k:02d}.png,{'test' if k == 3 else 'train'},p{k // 2}" for k in range(3)]
    table = tmp_path / "list.csv"
    table.write_text("\n".join(["image,mask,split,group", *cells, "scans/03.png,,test,p9"]))
    with pytest.raises(
        ContractError, match=r"1 of 4 that are not: .*scans/03.png: expected a mask for this image; .*skip"
    ):
        open_data(folder(tmp_path, table="list.csv"))
    items = folder(tmp_path, table="list.csv", missing_mask="empty").items()
    for separator in ";\t":  # of locales with a decimal comma
        (tmp_path / "other.csv").write_text(table.read_text().replace(",", separator))
        assert folder(tmp_path, table="other.csv", missing_mask="empty").items()[0].files == items[0].files
    assert [item.id for item in items] == [f"scans/0{k}" for k in range(4)]
    assert [item.split for item in items] == ["train", "train", "train", "test"]
    assert [item.group for item in items] == ["p0", "p0", "p1", "p9"]
    plainly = folder(tmp_path, images="scans", masks="labels", mask_prefix="of_", mask_suffix="").items()
    for item, plain in zip(items[:3], plainly[:3], strict=True):
        np.testing.assert_array_equal(item.mask(), plain.mask())
        np.testing.assert_array_equal(item.image(), plain.image())
    assert items[3].mask().sum() == 0


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "image,mask\ngone.png,list.csv",
            "1 of 1 that are not: list.csv: expected files that exist, got .*/gone.png; ",
        ),
        ("picture,mask\na.png,b.png", "expected the columns image and mask, and optionally split and group, got"),
        ("image,mask\na.png,b.png\na.png,c.png", "expected a different image in each row, got a.png"),
        ("image,mask\nd\u00e4.png,b.png", "expected a text file in UTF-8, got another encoding; save it as CSV UTF-8"),
        (f'image,mask\na.png,"b.png\n{"c.png,d.png" * 20000}', "list.csv: expected a CSV file, got field larger than"),
        ("image,mask,split\na.png,b.png,valid", "expected train, val or test in each cell of split, or all empty, got"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_sentence(tmp_path, text, sentence):
    (tmp_path / "list.csv").write_text(text, encoding="latin-1")
    with pytest.raises(ContractError, match=sentence):
        open_data(folder(tmp_path, table="list.csv"))


def test_a_table_with_the_empty_rows_of_a_spreadsheet_is_read(tmp_path):
    (tmp_path / "list.csv").write_text("\n\nimage,mask,split,group\na.png,b.png,train,p1\n,,,\n,,,\n")
    assert read_rows(tmp_path / "list.csv", tmp_path) == [(tmp_path / "a.png", [tmp_path / "b.png"], "train", "p1")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\ufeffa;b\n01;N/A\n", [{"a": "01", "b": "N/A"}]),
        ("a\tb\r\n01\t\r\n", [{"a": "01", "b": ""}]),
        ('a,b\n"1,5",x\n', [{"a": "1,5", "b": "x"}]),
        (" \n", []),
    ],
)
def test_tables_of_datasets_are_read_as_text(tmp_path, text, expected):
    (tmp_path / "list.csv").write_text(text, encoding="utf-8")
    assert read_csv(tmp_path / "list.csv").to_dict("records") == expected


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"a,b\n1,2\n1,2,3,4\n", "list.csv: expected as many cells in each row as columns, got: Expected 2 fields"),
        ("a,b\n\u00e4,2\n".encode("latin-1"), "list.csv: expected a text file in UTF-8, got another encoding; save it"),
        ("a,b\n1,2\n".encode("utf-16"), "list.csv: expected a text file in UTF-8, got another encoding; save it"),
    ],
)
def test_a_table_of_a_dataset_that_cannot_be_read_is_one_sentence(tmp_path, data, sentence):
    (tmp_path / "list.csv").write_bytes(data)
    with pytest.raises(ContractError, match=sentence):
        read_csv(tmp_path / "list.csv")


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
