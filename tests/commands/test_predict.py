"""`python -m seglab.predict` as users run it: files of every kind in, files and tables out, even if some are bad."""

import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
from filelock import FileLock
from PIL import Image

from seglab.api import Run
from seglab.contract import ContractError, Task
from seglab.inference.prediction_writer import PredictionWriter, find_images, objects, overlay
from seglab.predict import predict
from seglab.train import check_before_data
from tests.conftest import facts_of
from tests.data.fabricate import write_dicom
from tests.engine.untrained import write_run
from tests.reporting.fabricate import change

NOWHERE = Path("nowhere")
KINDS = "[mask,probability,overlay,objects]"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for seed in (1, 2):
        write_run(root / f"s{seed}", "dataset.fit=patch", "dataset.size=64", seed=seed, tuned=0.25 * seed)
    return root


def photo(seed, height=70, width=90):
    noise = np.random.default_rng(seed).random((height // 6, width // 6, 3)).astype(np.float32)
    return (cv2.resize(noise, (width, height)) * 255).astype(np.uint8)


@pytest.fixture
def photos(tmp_path):
    """A folder with PNG, JPEG, TIFF, PGM, 16-bit and DICOM files and a subfolder."""
    folder = tmp_path / "photos"
    (folder / "deeper").mkdir(parents=True)
    for k, name in enumerate(("a.png", "b.jpg", "c.tif", "deeper/a.png")):
        cv2.imwrite(str(folder / name), photo(k))
    cv2.imwrite(str(folder / "d.pgm"), photo(4)[..., 0])
    cv2.imwrite(str(folder / "e.png"), photo(5).astype(np.uint16) * 257)
    write_dicom(folder / "f.dcm", photo(6)[..., 0].astype(np.uint16) * 16, bits=12)
    return folder


def call(configure, out, run, source, *more):
    return predict(configure("predict", f"run={run}", f"input={source}", f"output={out}", *more), out)


def test_every_kind_of_file_becomes_a_mask_a_probability_an_overlay_and_rows(configure, runs, photos, tmp_path):
    out = call(configure, tmp_path / "out", runs / "s1", photos, f"format={KINDS}", "threshold=0.45", "min_area=6")
    images, found = pd.read_csv(out / "images.csv"), pd.read_csv(out / "objects.csv")
    assert sorted(images["image"]) == ["a", "b", "c", "d", "deeper/a", "e", "f"]
    assert (images["width"] == 90).all()
    for row in images.itertuples():
        mask = cv2.imread(str(out / "masks" / f"{row.image}.png"), cv2.IMREAD_UNCHANGED)
        levels = cv2.imread(str(out / "probabilities" / f"{row.image}.png"), cv2.IMREAD_UNCHANGED)
        assert mask.shape == levels.shape == (70, 90)
        assert levels.dtype == np.uint16
        assert set(np.unique(mask)) <= {0, 255}
        assert ((levels >= 0.45 * 65535) >= (mask > 0)).all()
        count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        mine = found[found["image"] == row.image]
        assert len(mine) == row.objects == count - 1
        assert sorted(mine["area"]) == sorted(stats[1:, cv2.CC_STAT_AREA])
        assert mine["area"].min() >= 6
        for one in mine.itertuples():
            box = (slice(one.top, one.top + one.height), slice(one.left, one.left + one.width))
            number = np.bincount(labels[box][labels[box] > 0]).argmax()
            assert one.confidence == pytest.approx(levels[labels == number].mean() / 65535, abs=1e-4)
        assert cv2.imread(str(out / "overlays" / f"{row.image}.png")).shape == (70, 90, 3)
    assert images["objects"].sum() > 5


def test_a_bad_file_is_named_and_the_rest_is_predicted(configure, runs, photos, tmp_path, caplog):
    (photos / "broken.png").write_bytes(b"not a picture")
    (photos / "broken.dcm").write_bytes(b"nor a film")
    with pytest.raises(ContractError, match="2 of 9 that cannot; see the warnings above"):
        call(configure, tmp_path / "out", runs / "s1", photos, "format=mask")
    assert "broken.png: expected a readable image" in caplog.text
    assert len(list((tmp_path / "out/masks").rglob("*.png"))) == 7


def test_a_second_call_makes_what_is_missing_and_nothing_else(configure, runs, photos, tmp_path):
    out = call(configure, tmp_path / "out", runs / "s1", photos)
    tables = {name: (out / name).read_text() for name in ("images.csv", "objects.csv")}
    mask = out / "masks" / "b.png"
    mask.write_bytes(b"left alone")
    call(configure, out, runs / "s1", photos)
    assert {name: (out / name).read_text() for name in tables} == tables
    assert mask.read_bytes() == b"left alone"
    # as if killed between the rows of objects.csv and images.csv, and with a changed file
    lines = tables["images.csv"].splitlines()
    (out / "images.csv").write_text("\n".join(lines[:-1]) + "\n")
    cv2.imwrite(str(photos / "b.jpg"), photo(9))
    call(configure, out, runs / "s1", photos)
    assert mask.read_bytes() != b"left alone"
    (out / "objects.csv").unlink()
    call(configure, out, runs / "s1", photos)
    images, found = pd.read_csv(out / "images.csv"), pd.read_csv(out / "objects.csv")
    said = "expected predictions made with these settings, got some made with other settings; set rerun=true to replace"
    with pytest.raises(ContractError, match=said):
        call(configure, out, runs / "s1", photos, "tta=flips")
    (out / "images.csv").write_text((out / "images.csv").read_text().replace(",", ";"))  # as saved by a spreadsheet
    with pytest.raises(ContractError, match=r"images\.csv: expected the columns image,file,.*, got image;file;"):
        call(configure, out, runs / "s1", photos)
    assert images["image"].is_unique
    assert not found.duplicated(["image", "object"]).any()
    counted = images.set_index("image")["objects"]
    assert found.groupby("image").size().to_dict() == counted[counted > 0].to_dict()


def test_a_rerun_with_other_settings_removes_the_earlier_results_and_nothing_else(
    configure, runs, photos, tmp_path, caplog
):
    cv2.imwrite(str(photos / "=1+1.png"), photo(7))
    (photos / "b.jpg").rename(photos / "b_z1.jpg")
    classes = write_run(tmp_path / "classes", "dataset.scene=disc_cup")
    out = call(configure, tmp_path / "out", classes, photos)
    assert len([*out.rglob("a.png")]) == 10  # for a and deeper/a: two masks, two maps, one overlay
    mine = [out / "notes.txt", out / "masks/mine.png", out / "masks/b.nii.gz", out / "overlays/a.txt"]
    for file in mine:
        file.write_text("mine")
    more = ("format=mask", "rerun=true")
    caplog.set_level("INFO")
    call(configure, out, runs / "s1", photos / "c.tif", *more)
    made = [out / "masks/c.png", out / "images.csv", out / "predictions.json", out / ".lock"]
    assert sorted(file for file in out.rglob("*") if file.is_file()) == sorted([*mine, *made])
    assert caplog.messages[-1] == f"{out}: images.csv masks predictions.json"
    call(configure, out, runs / "s1", photos / "d.pgm", *more)  # the same settings: nothing is removed
    assert made[0].exists()


def test_neither_classes_nor_tables_of_others_reach_files_outside_the_output(configure, photos, tmp_path):
    run = write_run(tmp_path / "run", "dataset=folder", "dataset.root=.", "dataset.masks={a: b, c: d}")
    config, before = facts_of(run)["config"], (photos / "a.png").read_bytes()
    out = call(configure, tmp_path / "out", run, photos / "a.png")
    for outside in (photos, "../../photos"):
        config["dataset"]["masks"] = {"a": "b", str(outside): "d"}
        change(run, config=config)
        with pytest.raises(ContractError, match=r"class names that name folders inside the output, got a, .*photos"):
            call(configure, tmp_path / "other", run, photos / "a.png")
        with (out / "images.csv").open("a") as table:
            table.write(f"{outside}/a,{outside}/a.png,1,1,1,1,1\n")
    config["dataset"]["masks"] = {"a": "b", "c": "d"}
    change(run, config=config)
    call(configure, out, run, photos / "a.png", "rerun=true", "min_area=2")
    assert (photos / "a.png").read_bytes() == before


@pytest.mark.parametrize("source", ["masks", "masks/a.png"])
def test_images_that_predictions_would_overwrite_are_refused(configure, runs, photos, source):
    photos.rename(photos.with_name("masks"))
    with pytest.raises(ContractError, match="an output folder that is not the input"):
        call(configure, photos.parent, runs / "s1", photos.with_name("masks").parent / source)


def test_a_folder_that_another_process_writes_into_is_refused(configure, runs, photos, tmp_path):
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out/.lock"), pytest.raises(ContractError, match="another process is writing to; wait"):
        call(configure, tmp_path / "out", runs / "s1", photos)
    assert [*(tmp_path / "out").iterdir()] == [tmp_path / "out/.lock"]


def test_each_page_of_a_stack_has_a_prediction_of_its_own(configure, runs, tmp_path):
    stack, alone = tmp_path / "in" / "stack.tif", tmp_path / "alone"
    for folder in (stack.parent, alone):
        folder.mkdir()

    def write_stack(pages):
        first, *others = [Image.fromarray(photo(k)[..., 0]) for k in range(pages)]
        first.save(stack, save_all=True, append_images=others)

    write_stack(3)
    for k in range(3):
        cv2.imwrite(str(alone / f"stack_page{k}.png"), photo(k)[..., 0])
    made = call(configure, tmp_path / "out", runs / "s1", stack.parent)
    right = call(configure, tmp_path / "right", runs / "s1", alone)
    for kind in ("masks", "probabilities"):
        files = {file.name: file.read_bytes() for file in (made / kind).iterdir()}
        assert files == {file.name: file.read_bytes() for file in (right / kind).iterdir()}
        assert len(files) == 3
    rows = pd.read_csv(made / "images.csv")
    assert rows["file"].tolist() == [str(stack)] * 3
    before = {file: file.stat().st_mtime_ns for file in (made / "masks").iterdir()}
    call(configure, made, runs / "s1", stack.parent)
    assert {file: file.stat().st_mtime_ns for file in (made / "masks").iterdir()} == before
    write_stack(2)
    call(configure, made, runs / "s1", stack.parent)
    assert pd.read_csv(made / "images.csv")["image"].tolist() == ["stack_page0", "stack_page1"]


def test_pages_that_fail_or_are_doubtful_are_named_and_counted_among_pages(configure, runs, photos, tmp_path, caplog):
    four_bands = [np.zeros((40, 50, 4), np.uint8)] * 2
    with tifffile.TiffWriter(photos / "stack.tif") as stack:
        for page in (photo(0), *four_bands):
            stack.write(page, photometric="rgb", extrasamples=["unspecified"] * (page.shape[2] - 3), metadata=None)
    with tifffile.TiffWriter(photos / "floats.tif") as stack:
        for factor in (1 / 255, 1):
            stack.write(np.float32(photo(0)) * np.float32(factor), photometric="rgb", metadata=None)
    for count in ("2 of 12 that cannot", "2 of 2 that cannot"):  # 7 files and 5 pages, then only the failed ones
        caplog.clear()
        with pytest.raises(ContractError, match=f"got {count}"):
            call(configure, tmp_path / "out", runs / "s1", photos, "format=mask")
        lines = [line for line in caplog.messages if "expected 1 band" in line]
        assert [line.partition(": expected")[0] for line in lines] == [f"page {n}: {photos}/stack.tif" for n in (1, 2)]
        doubts = [line.partition(": float values")[0] for line in caplog.messages if "float values above 1" in line]
        assert doubts == [f"page 1: {photos}/floats.tif"] * (count[5:7] == "12")


@pytest.mark.parametrize("scene", ["disc", "disc_cup", "organ"])
def test_pixels_without_data_are_of_no_class(configure, tmp_path, scene):
    run, pixels = write_run(tmp_path / "run", f"dataset.scene={scene}"), photo(0, 40, 50).astype(np.float32) / 255
    pixels[:10, :, 1] = np.nan
    (tmp_path / "in").mkdir()
    for name, place in (("there", [(33550, "d", 3, (0.5, 0.5, 0.0), True)]), ("anywhere", [])):
        tags = [*place, (42113, "s", 0, "nan", True)]
        tifffile.imwrite(tmp_path / f"in/{name}.tif", pixels, photometric="rgb", metadata=None, extratags=tags)
    words = () if scene == "organ" else ("threshold=0",)  # everything is foreground
    out = call(configure, tmp_path / "out", run, tmp_path / "in", *words)
    files = sorted((out / "masks").rglob("*.*"))
    assert [file.suffix for file in files] == [".png", ".tif"] * (2 if scene == "disc_cup" else 1)
    for file in files:
        mask = np.array(Image.open(file))
        assert (mask[:10] == (255 if scene == "organ" else 0)).all()
        assert (mask[10:] < 3).all() if scene == "organ" else (mask[10:] == 255).all()
    with tifffile.TiffFile(files[-1]) as mask:
        tag = mask.pages.first.tags.get(42113)
    assert (tag.value if tag else None) == ("255" if scene == "organ" else None)
    share = (np.array(Image.open(files[-1]))[10:] > 0).mean()
    assert pd.read_csv(out / "images.csv")["foreground"].tolist() == pytest.approx([share, share], abs=1e-5)
    assert not pd.read_csv(out / "objects.csv")["top"].lt(10).any()


def test_slices_of_a_volume_are_called_as_in_training_and_what_is_dark_is_said_once(configure, tmp_path, caplog):
    nibabel = pytest.importorskip("nibabel")
    run = write_run(tmp_path / "run")
    change(run, data=facts_of(run)["data"] | {"range": [0, 4000]})
    place = np.array([[0, -0.7, 0, 30], [0.7, 0, 0, -20], [0, 0, 5, 100], [0, 0, 0, 1.0]])
    for name, light in (("dark", 1), ("light", 20)):
        values = photo(0, 50, 40)[:, :, :2].astype(np.int16) * np.array([0, light], np.int16)
        image = nibabel.Nifti1Image(values, place)
        image.header["descrip"] = image.header["aux_file"] = "John Doe"
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension(6, b"John Doe"))
        nibabel.save(image, tmp_path / f"{name}.nii.gz")
    out = call(configure, tmp_path / "out", run, tmp_path / "*.nii.gz", "format=mask")
    [warning] = [line for line in caplog.messages if "nearly black" in line]
    assert warning.startswith(f"{tmp_path}/dark.nii.gz: ")
    sizes = {file.stem: cv2.imread(str(file), 0).shape for file in (out / "masks").glob("*.png")}
    names = ("dark_z000", "dark_z001", "light_z000", "light_z001")
    assert sizes == dict.fromkeys(names, (40, 50))  # height and width: the first axis is horizontal
    volume = nibabel.load(out / "masks/light.nii.gz")
    np.testing.assert_allclose(volume.affine, place, atol=1e-6)
    assert volume.get_data_dtype() == np.uint8
    assert b"John Doe" not in volume.to_bytes()
    for n in (0, 1):
        plane = cv2.imread(str(out / f"masks/light_z00{n}.png"), 0)
        np.testing.assert_array_equal(np.asarray(volume.dataobj)[..., n], plane.T > 0)
    assert 0 < np.asarray(volume.dataobj).mean() < 1
    (out / "masks/light.nii.gz").unlink()  # as if killed before it was written
    call(configure, tmp_path / "out", run, tmp_path / "*.nii.gz", "format=mask")
    assert (out / "masks/light.nii.gz").exists()
    with pytest.raises(ContractError, match=r"light.nii.gz: expected one page, got 2 pages; use python -m seglab\.pr"):
        Run(run).predict([tmp_path / "light.nii.gz"])
    call(configure, out, run, tmp_path / "dark.nii.gz", "format=mask", "min_area=2", "rerun=true")
    left = {file.name for file in (out / "masks").iterdir()}
    assert left == {"dark_z000.png", "dark_z001.png", "dark.nii.gz"}


def test_an_array_is_refused_by_a_run_that_windows_or_cuts_the_files_of_films(tmp_path):
    run, film = write_run(tmp_path / "run", "dataset.channels=1"), np.zeros((60, 40), np.uint16)
    film[10:50, 5:30] = np.arange(20000, 21000).reshape(40, 25)
    cv2.imwrite(str(tmp_path / "film.png"), film)
    of_films = {"_target_": "seglab.data.datasets.cbis_ddsm.CbisDdsm", "root": "."}
    for options in ({"crop": True}, {"window": "percentile"}, {}):
        change(run, data=facts_of(run)["data"] | {"raw": of_films | options})
        if options:
            with pytest.raises(
                ContractError, match=r"paths, since the run reads files with its dataset\.window and .*crop"
            ):
                Run(run).predict([film])
        assert Run(run).predict([tmp_path / "film.png"])[0].shape == film.shape
    np.testing.assert_array_equal(*Run(run).predict([film, tmp_path / "film.png"]))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_across_any_axis_are_joined_to_the_volume_that_they_were_cut_from(axis, tmp_path):
    nibabel = pytest.importorskip("nibabel")
    labels = np.random.default_rng(axis).integers(0, 3, (4, 5, 6), np.uint8)
    nibabel.save(nibabel.Nifti1Image(np.zeros(labels.shape, np.int16), np.diag([1, 2, 3, 1.0])), tmp_path / "ct.nii.gz")
    task = Task("multiclass", ("background", "liver", "spleen"))
    writer = PredictionWriter(tmp_path / "out", {}, ["mask"], {}, [0.5], task=task)
    (tmp_path / "out/masks").mkdir()
    names = [f"ct_{n}" for n in range(labels.shape[axis])]
    for n, name in enumerate(names):
        Image.fromarray(labels.take(n, axis).T).save(tmp_path / f"out/masks/{name}.png")
    writer.join_slices("ct", tmp_path / "ct.nii.gz", [*names, "ct_lost"], axis, again=True)
    assert not (tmp_path / "out/masks/ct.nii.gz").exists()  # a slice is missing
    writer.join_slices("ct", tmp_path / "ct.nii.gz", names, axis, again=True)
    np.testing.assert_array_equal(nibabel.load(tmp_path / "out/masks/ct.nii.gz").get_fdata(), labels)


def test_a_threshold_that_would_do_nothing_is_refused(configure, photos, tmp_path):
    run = write_run(tmp_path / "run", "dataset.scene=organ")
    with pytest.raises(ContractError, match=r"predict: expected no threshold for a multiclass .* got 0\.9; leave"):
        call(configure, tmp_path / "out", run, photos, "threshold=0.9")
    with pytest.raises(ContractError, match=r"threshold: expected none for a multiclass task, .* got 0\.9"):
        check_before_data(configure("train", "dataset.scene=organ", "threshold=0.9"))


def test_channels_that_would_do_nothing_and_a_monitor_that_is_empty_are_refused(configure):
    with pytest.raises(ContractError, match=r"early_stopping.monitor: expected a metric of an epoch .* got $"):
        check_before_data(configure("train", "callbacks=early_stopping", "callbacks.early_stopping.monitor="))
    with pytest.raises(ContractError, match=r"model.out_channels: expected 3, one for each class, got 7; leave it out"):
        check_before_data(configure("train", "dataset.scene=organ", "model.out_channels=7"))


def test_several_runs_agree_and_the_tuned_threshold_is_theirs(configure, runs, photos, tmp_path):
    source = photos / "a.png"
    for name, run in (("one", runs / "s1"), ("two", runs / "s2"), ("both", runs)):
        call(configure, tmp_path / name, run, source, "format=[mask,probability]", "threshold=tuned")
    files = (str(tmp_path / name / "probabilities/a.png") for name in ("one", "two", "both"))
    one, two, both = (cv2.imread(file, cv2.IMREAD_UNCHANGED).astype(float) for file in files)
    np.testing.assert_allclose(both, (one + two) / 2, atol=0.51)
    mask = cv2.imread(str(tmp_path / "both/masks/a.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(mask > 0, both >= 0.375 * 65535)


def test_names_stay_apart(tmp_path):
    for name in ("a.png", "a.jpg", "deeper/a.png", "a[1].tif", "a1.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list(find_images(str(tmp_path), NOWHERE)[0]) == ["a.jpg", "a.png", "a1", "a[1]", "deeper/a"]
    several = [str(tmp_path / "*.jpg"), str(tmp_path / "deeper"), str(tmp_path / "a[1].tif")]
    assert list(find_images(several, NOWHERE)[0]) == ["a.jpg", "a.png", "a[1]"]
    with pytest.raises(ContractError, match="an image or a folder"):
        find_images("nowhere", NOWHERE)
    for patient in ("P_1", "P_2"):
        (tmp_path / patient).mkdir()
        (tmp_path / patient / "film.png").touch()
    assert list(find_images(str(tmp_path / "P_*"), NOWHERE)[0]) == ["P_1/film", "P_2/film"]
    (tmp_path / "bare").mkdir()
    with pytest.raises(ContractError, match=r"images .* none"):
        find_images(str(tmp_path / "bare"), NOWHERE)


def test_files_that_are_not_images_of_the_user_are_left_out_and_counted(tmp_path):
    own = ["a.png", "sub/b.png", ".hidden/c.png", "__x/._d.png", "notes.txt", "old/predictions.json", "old/masks/a.png"]
    elsewhere = tmp_path / "elsewhere"
    folder = tmp_path / "photos"
    for file in (*(folder / name for name in own), elsewhere / "far.png"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (folder / "link").symlink_to(elsewhere)
    (folder / "circle").symlink_to(folder)
    (folder / "gone.png").symlink_to(tmp_path / "nothing.png")
    os.mkfifo(folder / "pipe.png")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.png")).touch()
    (folder / "out/masks").mkdir(parents=True)
    (folder / "out/masks/a.png").touch()
    names, left_out = find_images(str(folder), folder / "out")
    assert list(names) == ["a", "link/far", "sub/b"]
    assert dict(left_out) == {
        "hidden folders": 1,
        "hidden files": 1,
        "files of other types": 1,
        "pipes, devices or broken links": 2,
        "files whose names are not UTF-8": 1,
        "folders that hold predictions or were searched already": 3,
    }
    with pytest.raises(ContractError, match="an output folder that is not the input, got"):
        find_images(str(folder), folder)
    with pytest.raises(ContractError, match=r"a file, got .*pipe\.png, which is a pipe or a device"):
        find_images(str(folder / "pipe.png"), NOWHERE)


def test_objects_touch_at_corners_and_know_their_confidence():
    mask = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], np.uint8)
    levels = np.zeros(mask.shape, np.uint16)
    levels[0, 0], levels[1, 1], levels[2, 3] = 65535, 0, 13107
    boxes = [(down, across, alone.tolist(), sure) for down, across, alone, sure in objects(mask, levels)]
    assert boxes[0] == (slice(0, 2), slice(0, 2), [[True, False], [False, True]], 0.5)
    assert boxes[1] == (slice(2, 3), slice(3, 4), [[True]], pytest.approx(0.2))


def test_an_overlay_draws_the_outline_and_leaves_the_inside():
    mask = np.zeros((100, 100), np.uint8)
    mask[30:60, 30:60] = 1
    drawn = overlay(np.full((100, 100), 120, np.uint8), [mask])
    assert (drawn[30, 40] == (0, 229, 255)).all()
    assert (drawn[45, 45] == 120).all()
    assert overlay(np.zeros((3200, 1000), np.uint16), [np.zeros((3200, 1000), np.uint8)]).shape == (1600, 500, 3)
