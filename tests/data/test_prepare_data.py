"""Opening a dataset: the cache and its size limit, the fingerprint, and where pixels are kept without a cache."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from seglab.contract import ContractError
from seglab.data import memo, prepare_data
from seglab.data.datasets.folder import Folder
from seglab.data.datasets.synthetic import Synthetic
from seglab.data.module import DataModule
from seglab.data.prepare_data import cache_bytes, cache_name, open_data, select_items
from seglab.data.split import split_by_group
from tests.data.fabricate import write_image, write_pairs

ALL = [(0, k) for k in range(9)]


@pytest.fixture(params=["resize", "patch"])
def dataset(request, tmp_path):
    rng = np.random.default_rng(0)
    images, masks = rng.integers(0, 256, (9, 20, 24), np.uint8), rng.integers(0, 2, (9, 20, 24), np.uint8)
    root = str(write_pairs(tmp_path, images, masks))
    return Folder(
        root=root, size=16, fit=request.param, cache_dir=str(tmp_path / "cache"), test_fraction=0, val_fraction=0
    )


def folders(dataset):
    return sorted(path.name for path in Path(dataset.cache_dir).glob("*") if path.is_dir())


def test_cached_pixels_and_facts_equal_the_files_and_the_second_use_decodes_nothing(dataset, monkeypatch):
    mapped, direct = open_data(dataset), open_data(replace(dataset, cache_dir=None))
    monkeypatch.setattr(prepare_data, "build", None)
    for opened in (mapped, open_data(dataset)):
        for a, b in zip(opened.source("train").batch(ALL, 0), direct.source("train").batch(ALL, 0), strict=True):
            np.testing.assert_array_equal(a, b)
        assert opened.facts() == direct.facts()


def test_a_batch_is_a_copy_that_may_be_changed(dataset):
    for source in (open_data(one).source("train") for one in (dataset, Synthetic(size=32, train=6, val=1, test=1))):
        before = source.batch([(0, 3)], 0)[0].copy()
        source.batch([(0, 3)], 0)[0][:] = 0
        np.testing.assert_array_equal(source.batch([(0, 3)], 0)[0], before)


def test_a_changed_file_or_reading_option_makes_a_new_cache(dataset):
    first = open_data(dataset).fingerprint
    assert open_data(replace(dataset, split_seed=5, mean=(0.4,), on_bad_item="skip")).fingerprint == first
    changes = [{"coverage": 0.4}, {"threshold": 1}, {"reduce": 2}, {"fit": "pad"}]
    after_cutting = [{"size": 17}, {"channels": 1}, {"bits": 16}]
    others = {open_data(replace(dataset, **change)).fingerprint for change in changes}
    assert len(others) == 4
    assert first not in others
    for change in after_cutting:  # one cache serves patches of any size, channels and bits
        assert (open_data(replace(dataset, **change)).fingerprint == first) == (dataset.fit == "patch")
    os.utime(Path(dataset.root) / "masks/4.png", ns=(1, 1))
    assert open_data(dataset).fingerprint == first  # only the content matters
    write_image(Path(dataset.root) / "masks/4.png", np.full((20, 24), 255))
    assert open_data(dataset).fingerprint not in {first, *others}


@pytest.mark.parametrize("copy", [shutil.copy2, shutil.copyfile])
def test_a_copy_of_the_data_keeps_its_cache_with_old_times_and_with_new(dataset, tmp_path_factory, copy):
    first = open_data(dataset)
    moved = tmp_path_factory.mktemp("moved") / "data"
    shutil.copytree(dataset.root, moved, copy_function=copy)
    assert open_data(replace(dataset, root=str(moved))).fingerprint == first.fingerprint
    assert folders(dataset) == [cache_name(first.fingerprint)]


def test_the_longest_unused_cache_goes_when_space_is_short(dataset):
    first = cache_name(open_data(dataset).fingerprint)
    for name in ("notes", "f" * 20):  # not caches, so never removed
        (Path(dataset.cache_dir) / name).mkdir()
        (Path(dataset.cache_dir) / name / "mine.txt").touch()
    size = sum(path.stat().st_size for path in (Path(dataset.cache_dir) / first).iterdir())
    items = dataset.items()
    bound = replace(dataset, cache_gb=(1.5 * size + cache_bytes(items, dataset)) / 1e9)  # room for this and another
    second = cache_name(open_data(replace(bound, threshold=1)).fingerprint)
    former = Path(dataset.cache_dir) / ("0" * 20)  # a cache of version 1, without records
    former.mkdir()
    (former / "cache.json").write_bytes(bytes(size))
    for age, mark in ((300, first), (200, second)):
        os.utime(Path(dataset.cache_dir) / mark / "records.jsonl", (age, age))
    open_data(bound)  # uses the first cache again
    third = cache_name(open_data(replace(bound, threshold=2)).fingerprint)
    assert folders(dataset) == sorted([first, third, "notes", "f" * 20])


def test_a_cache_that_another_process_builds_is_not_removed(dataset):
    first = cache_name(open_data(dataset).fingerprint)
    bound = replace(dataset, cache_gb=1.2 * cache_bytes(dataset.items(), dataset) / 1e9, threshold=1)
    with FileLock(Path(dataset.cache_dir) / first / ".lock"):
        second = cache_name(open_data(bound).fingerprint)
    assert folders(dataset) == sorted([first, second])
    third = cache_name(open_data(replace(bound, threshold=2)).fingerprint)
    assert first not in folders(dataset)
    assert third in folders(dataset)


def test_a_change_of_the_decoder_makes_another_cache_and_the_data_of_a_run_stay_its_own(dataset, monkeypatch):
    before = open_data(dataset).fingerprint
    monkeypatch.setattr(prepare_data, "VERSION", 99)
    assert open_data(dataset).fingerprint == before
    assert len(folders(dataset)) == 2


def test_a_cache_of_which_a_part_is_gone_is_built_anew_and_one_beyond_the_bound_is_not_built(dataset):
    before = open_data(dataset).source("train").batch(ALL, 0)
    bounded = replace(dataset, cache_gb=1e-9, threshold=1)
    words = (
        "decoded at each start and each time they are used: the cache would take 0.0 GB, but dataset.cache_gb is 1e-09"
    )
    assert f"{words}; dataset.cache_gb=1 keeps them" in open_data(bounded).warnings()[0]
    for lost in ("pixels.bin", "records.jsonl"):
        (Path(dataset.cache_dir) / cache_name(select_items(dataset).fingerprint) / lost).unlink()
        for a, b in zip(open_data(dataset).source("train").batch(ALL, 0), before, strict=True):
            np.testing.assert_array_equal(a, b)
    assert len(folders(dataset)) == 1


def test_remembered_results_survive_half_a_line_and_garbage(dataset):
    first = open_data(dataset).fingerprint
    file = Path(dataset.cache_dir) / "hashes.jsonl"
    for path in Path(dataset.root).rglob("*.png"):
        os.utime(path, ns=(1, 1))  # old, else it may still change
    memo._known.clear()
    open_data(dataset)
    lines = file.read_bytes().splitlines(keepends=True)
    assert len(lines) == 18
    in_full = json.dumps([json.dumps(["", [str(path), path.stat().st_size, 1]]), "as before"]).encode() + b"\n"
    file.write_bytes(in_full)
    memo._known.clear()
    assert memo.content([str(path)], dataset.cache_dir) == {str(path): "as before"}
    for start in (lines[0][:25], b"\xff\xfe]\n", b"7\n"):
        file.write_bytes(start + b"".join(lines))
        memo._known.clear()
        assert open_data(dataset).fingerprint == first


def test_many_images_cost_little_to_remember_and_say_how_far_they_are(dataset, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(memo, "LINE_SECONDS", -1.0)
    for path in Path(dataset.root).rglob("*.png"):
        os.utime(path, ns=(1, 1))
    items = open_data(replace(dataset, mean="auto")).splits.train
    for file in ("hashes.jsonl", "ranges.jsonl"):
        assert max(map(len, (Path(dataset.cache_dir) / file).read_bytes().splitlines())) < 110  # no reading options
    assert {"hashes: 17 of 18", "ranges: 8 of 9", "decode: 8 of 9", "normalize: 8 of 9"} <= {*caplog.messages}
    [one, other] = (next(iter(open_data(dataset).decoded[item.id].facts)) for item in items[:2])
    assert one is other  # keys are shared


@pytest.mark.parametrize("cache", [True, False])
def test_an_image_that_cannot_be_used_is_named_or_skipped_before_the_split_is_drawn(dataset, cache):
    dataset = replace(dataset, test_fraction=0.3, cache_dir=dataset.cache_dir if cache else None)
    whole = Path(dataset.root, "images/3.png").read_bytes()
    Path(dataset.root, "images/3.png").write_bytes(b"")
    write_image(Path(dataset.root, "masks/5.png"), np.zeros((7, 9)))
    for _ in range(2):  # the second time from the cache
        with pytest.raises(ContractError, match=r"3\.png: expected a readable|5: expected a mask of.*on_bad_item=skip"):
            open_data(dataset)
        opened = open_data(replace(dataset, on_bad_item="skip"))
        assert opened.skipped.keys() == {"3", "5"}
        assert opened.skipped["5"] == "image 5: expected a mask of the same size, 24x20 (width x height), got 9x7"
        good = [item for item in dataset.items() if item.id not in ("3", "5")]
        assert opened.splits.ids() == split_by_group(good, 0, 0.3, 0).ids()  # as if the others did not exist
        assert "2 of 9 images are left out; the first: " in opened.warnings()[0]
    Path(dataset.root, "images/3.png").write_bytes(whole)
    assert open_data(replace(dataset, on_bad_item="skip")).skipped.keys() == {"5"}


def test_a_split_file_may_name_images_that_are_skipped(dataset, tmp_path):
    splits = {"train": ["0", "1", "5"], "val": ["2"], "test": ["3"]}
    (tmp_path / "split.json").write_text(json.dumps(splits))
    (tmp_path / "masks/5.png").unlink()
    dataset = replace(dataset, split_file=str(tmp_path / "split.json"))
    with pytest.raises(ContractError, match=r"first 5\.png.*on_bad_item=skip"):
        open_data(dataset)
    opened = open_data(replace(dataset, on_bad_item="skip"))
    assert opened.splits.ids() == splits | {"train": ["0", "1"]}
    assert opened.skipped.keys() == {"5"}


def test_an_image_that_is_smaller_than_its_patches_is_filled_up_with_black(dataset):
    write_image(Path(dataset.root, "images/0.png"), np.full((3, 5), 9))
    write_image(Path(dataset.root, "masks/0.png"), np.full((3, 5), 9))
    image, mask, _ = open_data(replace(dataset, fit="patch")).source("train").sample((0, 0), 0)
    assert (image[:3, :5] == 9).all()
    assert image.sum() == 9 * 3 * 15
    assert mask.sum() == 15


def test_a_dataset_that_is_computed_is_so_once_in_a_process():
    first, again, other = (
        DataModule(Synthetic(size=32, train=3, val=1, test=1, image_seed=k)).opened for k in (0, 0, 1)
    )
    assert first is again
    assert other.fingerprint != first.fingerprint
