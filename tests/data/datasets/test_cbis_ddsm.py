import os

import cv2
import numpy as np
import pytest

from seglab.contract import ContractError
from seglab.data.audit import audit
from seglab.data.datasets.cbis_ddsm import CbisDdsm, read_tables
from seglab.data.prepare_data import open_data
from seglab.prepare import prepare
from tests.data.fabricate import write_dicom, write_image

BEFORE, AFTER = "left or right breast,image view,abnormality id,abnormality type", "assessment,pathology,subtlety"
FILES = "image file path,cropped image file path,ROI mask file path"
HEADS = {
    "mass": f"patient_id,breast_density,{BEFORE},mass shape,mass margins,{AFTER},{FILES}",
    "calc": f"patient_id,breast density,{BEFORE},calc type,calc distribution,{AFTER},{FILES}",
}
# kind, split, patient, side, view, abnormality, pathology, density, the lesion's top row
LESIONS = [
    ("mass", "train", "P_00001", "LEFT", "CC", 1, "MALIGNANT", 3, 20),
    ("mass", "train", "P_00001", "LEFT", "CC", 2, "BENIGN", 3, 60),
    ("mass", "train", "P_00001", "LEFT", "MLO", 1, "MALIGNANT", 3, 30),
    ("mass", "test", "P_00002", "RIGHT", "MLO", 1, "BENIGN_WITHOUT_CALLBACK", 1, 40),
    ("mass", "train", "P_00003", "LEFT", "CC", 1, "BENIGN", 2, 10),
    ("calc", "test", "P_00003", "LEFT", "CC", 1, "MALIGNANT", 2, 70),  # the same film in a test table
    ("mass", "train", "P_00003", "RIGHT", "CC", 1, "BENIGN", 2, 10),  # so its patient is a test patient
    ("calc", "train", "P_00004", "RIGHT", "CC", 1, "BENIGN", 4, 50),
]
FILMS = sorted({"_".join(lesion[2:5]) for lesion in LESIONS})
HEIGHT, WIDTH = 100, 80


def uid(*words):
    return "1.3.6.1.4." + "".join(str(ord(letter) % 10) for word in words for letter in str(word)) + "77"


def paths(kind, split, patient, side, view, number, *rest):
    case = f"{kind.capitalize()}-{'Training' if split == 'train' else 'Test'}_{patient}_{side}_{view}"
    image = f"{case}/{uid(case)}/{uid(case, 'full')}/000000.dcm"
    roi = f"{case}_{number}/{uid(case, number)}"
    return image, f"{roi}/{uid(case, number, 'crop')}/000001.dcm", f"{roi}/{uid(case, number, 'mask')}/000000.dcm"


def tables(root):
    root.mkdir(parents=True, exist_ok=True)
    rows = {(kind, split): [head] for kind, head in HEADS.items() for split in ("train", "test")}
    for lesion in LESIONS:
        kind, split, *place, pathology, density, _ = lesion
        image, crop, mask = paths(*lesion)
        facts = [place[0], density, *place[1:], kind, "N/A", "N/A", 4, pathology, 4]
        rows[kind, split].append(",".join(map(str, facts)) + f',{image},"{crop}\n","{mask}\n"')
    for (kind, split), lines in rows.items():
        (root / f"{kind}_case_description_{split}_set.csv").write_text("\n".join(lines) + "\n")


def film(patient):
    image = np.zeros((HEIGHT, WIDTH), np.uint16)
    image[:, 10:60] = np.random.default_rng(int(patient[2:])).integers(20000, 60000, (HEIGHT, 50))
    return image


def roi(top, off):
    mask = np.zeros((HEIGHT + off, WIDTH), np.uint8)
    mask[top : top + 10, 20:40] = 255
    return mask


@pytest.fixture(params=["nbia", "classic", "png", "series", "flat"])
def root(request, tmp_path):
    """The lesions in the five layouts that users have."""
    tables(tmp_path / "csv")
    for lesion in LESIONS:
        kind, patient, top = lesion[0], lesion[2], lesion[-1]
        image, crop, mask = paths(*lesion)
        off = 3 if patient == "P_00002" else 0
        small = film(patient)[top : top + 10, 20:40]
        if request.param == "nbia":
            nbia = {}
            for name, words in ((image, "full mammogram images"), (mask, "ROI mask images")):
                case, study, series, _ = name.split("/")
                below = f"07-20-2016-DDSM-{study[-5:]}/1.000000-{words}-{series[-5:]}"
                nbia[name] = tmp_path / "CBIS-DDSM" / case / below
            write_dicom(nbia[image] / "1-1.dcm", film(patient))
            if kind == "mass":  # crop and mask are in one series
                write_dicom(nbia[mask] / "1-1.dcm", small)
                write_dicom(nbia[mask] / "1-2.dcm", roi(top, off), bits=8)
            else:  # or only the mask, in a series named as the crop
                alone = nbia[mask].with_name(nbia[mask].name.replace("ROI mask images", "cropped images"))
                write_dicom(alone / "1-1.dcm", roi(top, off), bits=8)
        elif request.param == "classic":
            write_dicom(tmp_path / image, film(patient))
            write_dicom(tmp_path / mask, small)  # the two names are swapped
            write_dicom(tmp_path / crop, roi(top, off), bits=8)
        elif request.param == "flat":
            case = image.split("/")[0]
            known = cv2.imread(str(tmp_path / f"png/{case}_MASK.png"), 0)
            write_image(tmp_path / f"png/{case}_FULL.png", film(patient))
            write_image(tmp_path / f"png/{case}_MASK.png", (roi(top, off) > 0) * 2 | (0 if known is None else known))
        else:
            series = {name: tmp_path / f"jpeg/{name.split('/')[2]}" for name in (image, crop, mask)}
            if request.param == "png":
                series = {name: (tmp_path / name).parent for name in series}
            write_image(series[image] / "1-1.png", film(patient))
            write_image(series[crop] / "1-1.png", small)
            write_image(series[mask] / "1-2.png", roi(top, off))
    return tmp_path


def ddsm(root, **options):
    return CbisDdsm(root=str(root), **{"size": 100, "fit": "pad", "cache_dir": None, **options})


def top_rows(item):
    rows = np.flatnonzero(item.mask().any(1))
    return [int(row) for row in rows if row - 1 not in rows]


def test_every_layout_gives_films_with_the_union_of_their_lesions(root):
    items = {item.id: item for item in ddsm(root).items()}
    assert [item.fault for item in items.values()] == [""] * 6
    assert list(items) == FILMS
    assert top_rows(items["P_00001_LEFT_CC"]) == [20, 60]
    assert top_rows(items["P_00003_LEFT_CC"]) == [10, 70]
    for item in items.values():
        np.testing.assert_array_equal(item.image(), film(item.group))
        assert item.mask().shape == (HEIGHT, WIDTH)
    assert top_rows(items["P_00002_RIGHT_MLO"])[0] == pytest.approx(40, abs=2)


def test_masses_and_calcifications_are_two_classes(root):
    data = ddsm(root, target="mass_calc")
    assert data.task.classes == ("mass", "calc")
    apart, union = ({item.id: item.mask() for item in one.items()} for one in (data, ddsm(root)))
    for name, mask in apart.items():
        np.testing.assert_array_equal(mask.max(2), union[name])
    both = apart["P_00003_LEFT_CC"]
    assert [int(np.flatnonzero(both[..., k].any(1))[0]) for k in (0, 1)] == [10, 70]
    assert not apart["P_00001_LEFT_CC"][..., 1].any()
    with pytest.raises(ContractError, match="abnormality=both with target=mass_calc, got mass"):
        ddsm(root, target="mass_calc", abnormality="mass")


def test_no_patient_is_in_two_splits(root):
    opened = open_data(ddsm(root, val_fraction=0.4))
    assert {item.id for item in opened.splits.test} == {"P_00002_RIGHT_MLO", "P_00003_LEFT_CC"}
    assert opened.skipped == {"P_00003_RIGHT_CC": "its group is in the test set"}
    assert {item.group for item in opened.splits.train} != {item.group for item in opened.splits.val}


classic = pytest.mark.parametrize("root", ["classic"], indirect=True)


@classic
@pytest.mark.parametrize(
    ("options", "films"),
    [
        ({"abnormality": "calc"}, [FILMS[3], FILMS[5]]),
        ({"view": "MLO", "side": "LEFT"}, FILMS[1:2]),
        ({"pathology": "MALIGNANT"}, [*FILMS[:2], FILMS[3]]),
        ({"density": [1, 4]}, [FILMS[2], FILMS[5]]),
    ],
)
def test_filters_keep_lesions(root, options, films):
    assert [item.id for item in ddsm(root, **options).items()] == films


@classic
def test_a_filter_of_lesions_leaves_the_other_lesions_out_of_the_mask(root):
    assert top_rows(ddsm(root, pathology="MALIGNANT").items()[0]) == [20]
    assert top_rows(ddsm(root, abnormality="mass").items()[3]) == [10]


@classic
def test_the_breast_can_be_cut_out(root):
    data = ddsm(root, crop=True, density=[1, 2, 3])
    item = data.items()[0]
    np.testing.assert_array_equal(data.decode(item.files[0])[data.region(item.files[0])], item.image())
    assert ddsm(root).region(item.files[0]) is None
    assert hash(data) != hash(ddsm(root))
    assert item.image().shape == item.mask().shape
    assert item.image().shape[1] < 65
    assert item.mask().sum() == ddsm(root).items()[0].mask().sum()


@classic
def test_missing_files_are_counted_and_named(root):
    gone = [paths(*LESIONS[k])[2] for k in (1, 3)]
    for path in (*gone, *(paths(*LESIONS[k])[1] for k in (1, 3))):
        (root / path).unlink()
    os.mkfifo(root / gone[0])  # waiting for it to be written would never end
    words = rf"2 of 6 that are not: {gone[0]}: expected a file \| {gone[1]}: expected a file;"
    with pytest.raises(ContractError, match=words):
        open_data(ddsm(root))
    assert set(open_data(ddsm(root, on_bad_item="skip")).skipped) >= {FILMS[0], FILMS[2]}


@classic
def test_faulty_tables_and_choices_are_one_sentence(root):
    table = root / "csv/mass_case_description_train_set.csv"
    table.write_text(table.read_text().replace("pathology", "verdict"))
    with pytest.raises(ContractError, match=r"train_set.csv: expected comma-separated columns .*, got no pathology"):
        ddsm(root).items()
    table.write_bytes(b"")
    with pytest.raises(ContractError, match=r"expected comma-separated columns .*, got no patient_id and no"):
        ddsm(root).items()
    with pytest.raises(ContractError, match="lesions that match view, side, pathology and density, got none"):
        ddsm(root, abnormality="calc", view="MLO").items()


@classic
@pytest.mark.parametrize("pattern", ["mass*", "*_test_*"])
def test_missing_tables_and_masks_of_another_size_are_warnings(root, pattern, tmp_path, caplog):
    words = "1 of 6 films have masks of a slightly different size, which are resized; the first: "
    said = ddsm(root).file_warnings(ddsm(root).items())
    assert said == [f"{words}{root / paths(*LESIONS[3])[1]} is 103x80, its film is 100x80"]
    gone = sorted(path.name for path in (root / "csv").glob(pattern))
    for name in gone:
        (root / "csv" / name).unlink()
    drawn = ", and test images are drawn from the other images" if pattern == "*_test_*" else ""
    names = " and no ".join(sorted(gone, reverse=True))
    words = f"no {names}: lesions listed only there count as background{drawn}; dataset.abnormality selects"
    assert ddsm(root).file_warnings(ddsm(root).items())[0].startswith(words)
    prepare(ddsm(root), {}, tmp_path / "ready")
    assert any(line.startswith(f"data: {words}") for line in caplog.messages)


@classic
@pytest.mark.parametrize(("level", "percent"), [(0, "0"), (255, "97.5")])
def test_a_black_or_inverted_mask_is_damaged(root, level, percent):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8) if level == 0 else 255 - roi(10, 0)
    path = write_dicom(root / paths(*LESIONS[4])[1], mask, bits=8)
    with pytest.raises(ContractError, match=rf"100x80 with {percent} % foreground, which cannot be a lesion"):
        open_data(ddsm(root))
    audited = audit(ddsm(root)).facts
    assert audited["unreadable"] == 1
    assert f"{path.rsplit('/', 1)[0]}" in audited["unreadable_first"][0]


def test_the_real_tables_have_the_known_counts(shared_data):
    table = read_tables(shared_data / "ddsm", "both")
    table["kind"] = table["image file path"].str[:4]
    rows = table.groupby(["kind", "split"]).size().to_dict()
    patients = table.groupby(["kind", "split"])["patient_id"].nunique().to_dict()
    assert rows == {("Mass", "train"): 1318, ("Mass", "test"): 378, ("Calc", "train"): 1546, ("Calc", "test"): 326}
    assert patients == {("Mass", "train"): 691, ("Mass", "test"): 201, ("Calc", "train"): 602, ("Calc", "test"): 151}
    sides = {split: set(group["patient_id"]) for split, group in table.groupby("split")}
    kinds = {key: set(group["patient_id"]) for key, group in table.groupby(["kind", "split"])}
    assert len(kinds["Calc", "train"] & kinds["Mass", "test"]) == 18
    assert len(kinds["Calc", "test"] & kinds["Mass", "train"]) == 13
    assert len(sides["train"] & sides["test"]) >= 31


def test_every_film_of_a_real_nbia_download_is_found_unless_its_case_is_not_there(shared_data, tmp_path):
    import pandas as pd

    lists = shared_data / "ddsm/nbia-path-lists"
    for name in ("full_mass-test", "mask_mass-test"):
        for path in pd.read_csv(lists / f"{name}.csv")["img_path"]:
            file = tmp_path / path.split("/datasets/")[1]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    (tmp_path / "csv").symlink_to(shared_data / "ddsm/csv")
    items = [item for item in ddsm(tmp_path, abnormality="mass").items() if item.split == "test"]
    assert len(items) == 361
    there = {path.name for path in (tmp_path / "CBIS-DDSM").iterdir()}
    absent = [item.fault.split("/")[0] for item in items if item.fault]
    assert len(absent) == 13  # missing in the download
    assert not there & set(absent)


def test_the_real_films_of_a_png_conversion_have_small_lesions(shared_data):
    data = ddsm(shared_data / "ddsm", abnormality="mass", on_bad_item="skip", size=512)
    opened = open_data(data)
    assert opened.facts()["skipped"] > 1000
    assert sorted(image.foreground for image in opened.decoded.values()) == pytest.approx([0.0019, 0.0061], abs=0.0002)
