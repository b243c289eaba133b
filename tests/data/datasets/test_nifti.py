"""Slices of volumes become items: their pixels, labels and groups, and faulty volumes."""

import numpy as np
import pandas as pd
import pytest

from seglab.contract import ContractError
from seglab.data.audit import audit
from seglab.data.datasets.nifti import Nifti
from seglab.data.prepare_data import open_data
from seglab.evaluate import evaluate
from seglab.images.medical import read_volume
from seglab.predict import predict
from seglab.train import train
from tests.conftest import OF_FILES, compose

nibabel = pytest.importorskip("nibabel")
SHAPE = (20, 16, 5)
LPS = np.diag([-1.0, -1.0, 2.0, 1.0])


def write(path, values, affine=LPS, slope=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(values, affine)
    if slope is not None:
        image.header.set_slope_inter(slope, 0)
    nibabel.save(image, path)


def scan(k):
    """Return the values of a CT scan and its labels 0, 1 and 2; the first slice is all 0."""
    rng = np.random.default_rng(k)
    labels = np.zeros(SHAPE, np.uint8)
    labels[4:12, 3:9, 1:], labels[5:8, 4:6, 2:4] = 1, 2
    return (rng.integers(-1000, -900, SHAPE) + 500.0 * labels).astype(np.int16), labels


@pytest.fixture
def root(tmp_path):
    for k in range(8):
        image, labels = scan(k)
        write(tmp_path / f"images/case{k}_0000.nii.gz", image)
        write(tmp_path / f"masks/case{k}.nii", labels)
    return tmp_path


def nifti(root, **options):
    return Nifti(root=str(root), image_suffix="_0000", cache_dir=None, size=16, **options)


def test_each_slice_across_the_axis_is_an_item_of_its_volume(root):
    image, labels = scan(3)
    for axis, name in enumerate("xyz"):
        mine = [item for item in nifti(root, axis=axis).items() if item.group == "case3"]
        assert [item.id for item in mine] == [f"case3_{name}{k:03}" for k in range(SHAPE[axis])]
        for k, item in enumerate(mine):
            np.testing.assert_array_equal(item.image(), image.take(k, axis).T)
            np.testing.assert_array_equal(item.mask(), labels.take(k, axis).T > 0)


def test_labels_are_classes_and_the_range_holds_negative_values(root):
    data = nifti(root, classes={"background": 0, "organ": 1, "lesion": 2}, channels=1)
    np.testing.assert_array_equal(data.items()[2].mask(), scan(0)[1][..., 2].T)
    opened = open_data(data)
    assert opened.dataset.range == (-1024, 127)  # powers of two around the values from -1000 to 99
    groups = [{item.group for item in opened.splits[split]} for split in ("train", "val", "test")]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 8
    read_volume.cache_clear()
    for item in data.items()[:5]:
        item.image(), item.mask()
    assert read_volume.cache_info().misses == 2  # a volume is read once for all slices


def test_slices_without_foreground_are_left_out_on_demand(root):
    opened = open_data(nifti(root, empty_slices=False))
    assert opened.skipped == {f"case{k}_z000": "no foreground" for k in range(8)}
    assert not opened.facts()["empty_masks"]["train"]
    assert sum(open_data(nifti(root)).facts()["empty_masks"].values()) == 8


def test_scaled_values_and_nan_values(tmp_path):
    image, labels = scan(0)
    write(tmp_path / "masks/a.nii.gz", labels.astype(np.float32))
    write(tmp_path / "images/a.nii.gz", image, slope=0.5)
    item = Nifti(root=str(tmp_path)).items()[2]
    stored = np.asarray(nibabel.load(tmp_path / "images/a.nii.gz").dataobj)
    np.testing.assert_allclose(item.image(), stored[..., 2].T)
    np.testing.assert_array_equal(item.mask(), labels[..., 2].T > 0)
    outside = image.astype(np.float64)
    outside[:3] = np.nan
    write(tmp_path / "images/a.nii.gz", outside)
    first = Nifti(root=str(tmp_path)).items()[0].image()
    assert first.dtype == np.float32
    assert np.isnan(first[:, :3]).all()
    assert np.isfinite(first[:, 3:]).all()


def test_a_fault_of_a_volume_is_one_sentence(root):
    image, labels = scan(0)
    write(root / "masks/case1.nii", labels[:, :, :4])
    write(root / "masks/case2.nii", labels, np.diag([1.0, 1.0, 2.0, 1.0]))
    write(root / "images/case3_0000.nii.gz", np.stack([image, image], -1))
    (root / "masks/case4.nii").write_bytes(b"no volume")
    faults = [item.fault for item in nifti(root).items() if item.fault]
    fits = "expected the size and orientation of its image, 20x16x5 LPS, got"
    assert faults[:3] == [
        f"{root}/masks/case1.nii: {fits} 20x16x4 LPS",
        f"{root}/masks/case2.nii: {fits} 20x16x5 RAS",
        f"{root}/images/case3_0000.nii.gz: expected a volume with three axes, got 20x16x5x2; save each part as a "
        "separate file",
    ]
    assert faults[3].startswith(f"{root}/masks/case4.nii: expected a NIfTI volume, got ")
    whole = root / "images/case5_0000.nii.gz"
    whole.write_bytes(whole.read_bytes()[:-800])
    with pytest.raises(ContractError, match=r"case5_0000.nii.gz: expected a readable image, got a damaged NIfTI"):
        [item.image() for item in nifti(root).items() if item.group == "case5"]
    with pytest.raises(ContractError, match=r"expected no page, as all slices are read, got 1; leave dataset.page out"):
        nifti(root, page=1).items()


def test_masks_that_lie_elsewhere_and_volumes_turned_to_each_other_are_warnings(root):
    assert nifti(root).file_warnings(nifti(root).items()) == []
    near, wide, far = LPS.copy(), LPS @ np.diag([1.5, 1.5, 1.5, 1.0]), LPS.copy()
    near[0, 3], far[0, 3] = 0.5, 40
    for k, affine in enumerate((near, wide, far)):
        write(root / f"masks/case{k}.nii", scan(k)[1], affine)
    for kind in ("images/case7_0000.nii.gz", "masks/case7.nii"):
        write(root / kind, scan(7)["masks" in kind], np.diag([1.0, 1.0, 2.0, 1.0]))
    place = "voxels of 1.5x1.5x3 mm from (0, 0, 0), its image has voxels of 1x1x2 mm from (0, 0, 0)"
    said = [
        f"2 of 8 masks differ from their images in position or voxel size; the first: {root}/masks/case1.nii has "
        f"{place}; check that they belong to the same scan",
        "volumes of several orientations (7 LPS, 1 RAS), so that some slices are turned or mirrored; "
        "nibabel.as_closest_canonical converts all to RAS",
    ]
    assert open_data(nifti(root)).warnings()[:2] == said
    assert audit(nifti(root)).facts["warnings"][:2] == said


def test_the_audit_lists_a_file_once_of_which_no_slice_can_be_read(root):
    whole = root / "images/case5_0000.nii.gz"
    whole.write_bytes(whole.read_bytes()[:-800])
    facts = audit(nifti(root)).facts
    assert facts["unreadable"] == SHAPE[2]
    assert len(facts["unreadable_first"]) == 1


@pytest.mark.slow
def test_volumes_are_trained_on_evaluated_and_predicted(root, tmp_path):
    run = tmp_path / "run"
    words = [*OF_FILES, "dataset=nifti", f"dataset.root={root}", "dataset.image_suffix=_0000", "dataset.cache_dir=null"]
    train(compose("train", *words, "dataset.range=[-1000,100]", folder=run), run)
    rows = pd.read_csv(run / "per_image.csv")
    assert rows["id"].str.fullmatch(r"case\d_z00[0-4]").all()
    (again,) = evaluate(compose("evaluate", f"run={run}", "device=cpu"), tmp_path)
    pd.testing.assert_frame_equal(pd.read_csv(again / "per_image.csv"), rows, rtol=1e-5)
    scans = tmp_path / "scans"
    write(scans / "new.nii.gz", scan(9)[0])
    out = predict(compose("predict", f"run={run}", f"input={scans}", f"output={tmp_path}/out", "device=cpu"), tmp_path)
    names = sorted(path.name for path in (out / "masks").iterdir())
    assert names == ["new.nii.gz", *(f"new_z00{k}.png" for k in range(5))]
