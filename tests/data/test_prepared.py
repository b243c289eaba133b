import hashlib
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from seglab.contract import ContractError
from seglab.data import prepared
from seglab.data.datasets.folder import Folder
from seglab.data.prepared import Prepared, mapped, prepare


@pytest.fixture
def raw(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / "raw" / folder).mkdir(parents=True)
        for k in range(6):
            cv2.imwrite(str(tmp_path / f"raw/{folder}/{k}.png"), np.full((8 + k, 9), k * 10, np.uint8))
    return Folder(root=str(tmp_path / "raw"), cache_dir=None)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "ready"


def test_the_manifest_holds_each_source_with_size_and_hash(raw, folder):
    prepare(raw.items(), raw, folder, "o")
    items = json.loads((folder / "manifest.json").read_text())["items"]
    for item, record in zip(raw.items(), items, strict=True):
        assert record["id"] == item.id
        for path, source in zip(item.files, record["files"], strict=True):
            data = Path(path).read_bytes()
            assert (source["path"], source["size"]) == (path, len(data))
            assert source["sha256"] == hashlib.sha256(data).hexdigest()


def test_pixels_are_mapped_not_read(raw, folder):
    prepare(raw.items(), raw, folder, "o")
    for item, before in zip(Prepared(root=str(folder)).items(), raw.items(), strict=True):
        assert isinstance(item.image(), np.memmap)
        np.testing.assert_array_equal(item.image(), before.image())
        np.testing.assert_array_equal(item.mask(), before.mask())


def test_what_was_cut_short_goes_on_where_it_stopped(raw, folder, monkeypatch):
    (Path(raw.root) / "images/4.png").write_bytes(b"broken")
    with pytest.raises(ContractError, match=r"4\.png"):
        prepare(raw.items(), raw, folder, "o")
    assert not (folder / "manifest.json").exists()
    with pytest.raises(ContractError, match="a finished prepared folder"):
        Prepared(root=str(folder)).items()
    done = {path.stem for path in (folder / "records").glob("[0-9]*.json")}
    cv2.imwrite(str(Path(raw.root) / "images/4.png"), np.zeros((12, 9), np.uint8))
    decoded = []
    true = prepared.decode_native
    monkeypatch.setattr(prepared, "decode_native", lambda item, dataset: decoded.append(item.id) or true(item, dataset))
    prepare(raw.items(), raw, folder, "o")
    assert set(decoded) == {str(k) for k in range(6)} - done
    assert "4" in decoded
    assert len(Prepared(root=str(folder)).items()) == 6


def test_a_changed_source_is_decoded_again(raw, folder):
    prepare(raw.items(), raw, folder, "o")
    cv2.imwrite(str(Path(raw.root) / "images/2.png"), np.full((10, 9), 200, np.uint8))
    prepare(raw.items(), raw, folder, "o")
    assert Prepared(root=str(folder)).items()[2].image().max() == 200


def test_a_folder_of_other_options_is_refused(raw, folder):
    prepare(raw.items(), raw, folder, "reduce 1")
    with pytest.raises(ContractError, match="one of these options, got one of others"):
        prepare(raw.items(), replace(raw, reduce=2), folder, "reduce 2")


def test_a_skipped_image_stays_out_and_is_counted(raw, folder):
    (Path(raw.root) / "images/4.png").write_bytes(b"broken")
    prepare(raw.items(), replace(raw, on_bad_item="skip"), folder, "o")
    items = Prepared(root=str(folder)).items()
    assert [bool(item.left_out) for item in items] == [False] * 4 + [True, False]


def test_ids_with_slashes_are_files_all_the_same(raw, folder):
    own = replace(raw, test_images="images", test_masks="masks")
    prepare(own.items(), own, folder, "o")
    assert [item.id for item in Prepared(root=str(folder)).items()] == [item.id for item in own.items()]
    assert [item.split for item in Prepared(root=str(folder)).items()] == ["train"] * 6 + ["test"] * 6


def test_a_lost_array_is_one_sentence(raw, folder):
    prepare(raw.items(), raw, folder, "o")
    (folder / "images/1.npy").unlink()
    with pytest.raises(ContractError, match=r"1.npy: expected an array of a prepared folder"):
        mapped(str(folder / "images/1.npy"))
