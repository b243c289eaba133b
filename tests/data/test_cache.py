import os
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import pytest

from seglab.data import cache
from seglab.data.datasets.folder import Folder
from seglab.data.prepare_data import open_data
from seglab.data.store import Arrays, Files


@pytest.fixture
def dataset(tmp_path):
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for k in range(9):
            pixels = rng.integers(0, 2, (20, 24), np.uint8) * 255
            cv2.imwrite(str(tmp_path / folder / f"{k}.png"), pixels)
    return Folder(root=str(tmp_path), size=16, cache_dir=str(tmp_path / "cache"))


def folders(dataset):
    return sorted(path.name for path in Path(dataset.cache_dir).iterdir())


def test_cached_pixels_and_facts_equal_the_files(dataset):
    mapped, direct = open_data(dataset), open_data(replace(dataset, cache_dir=None))
    assert isinstance(mapped.store, Arrays)
    assert isinstance(direct.store, Files)
    for a, b in zip(mapped.store.batch(range(9)), direct.store.batch(range(9)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert mapped.facts() == direct.facts()
    assert mapped.facts() == open_data(dataset).facts()


def test_the_second_use_decodes_nothing(dataset, monkeypatch):
    open_data(dataset)
    monkeypatch.setattr(cache, "build", None)
    assert open_data(dataset).store.batch([0])[0].shape == (1, 16, 16, 3)


def test_a_batch_is_a_copy_that_may_be_changed(dataset):
    store = open_data(dataset).store
    before = store.batch([3])[0].copy()
    store.batch([3])[0][:] = 0
    np.testing.assert_array_equal(store.batch([3])[0], before)


def test_a_changed_file_or_reading_option_makes_a_new_cache(dataset):
    first = open_data(dataset).fingerprint
    assert open_data(replace(dataset, split_seed=5, mean=(0.4,), on_bad_item="skip")).fingerprint == first
    others = {
        open_data(replace(dataset, **knob)).fingerprint
        for knob in ({"size": 17}, {"coverage": 0.4}, {"threshold": 1}, {"fit": "pad"})
    }
    assert len(others) == 4
    assert first not in others
    os.utime(Path(dataset.root) / "masks/4.png", ns=(1, 1))
    assert open_data(dataset).fingerprint not in {first, *others}


def test_a_moved_data_set_keeps_its_cache(dataset, tmp_path_factory):
    first = open_data(dataset)
    elsewhere = tmp_path_factory.mktemp("moved") / "data"
    shutil.copytree(dataset.root, elsewhere)  # copytree keeps the times
    assert open_data(replace(dataset, root=str(elsewhere))).fingerprint == first.fingerprint


def test_it_is_pickled_as_a_path(dataset):
    store = open_data(dataset).store
    assert len(pickle.dumps(store)) < 500
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(store)).images, store.images)


def test_what_needs_more_than_the_bound_is_read_from_its_files(dataset):
    opened = open_data(replace(dataset, cache_gb=1e-9))
    assert isinstance(opened.store, Files)
    assert not Path(dataset.cache_dir).exists()
    assert "every image is decoded at every use: the cache would take 0.0 GB" in opened.warnings()[0]


def test_the_longest_unused_cache_goes_when_space_is_short(dataset):
    need = cache.needed(range(9), dataset)
    small = replace(dataset, cache_gb=2.9 * need / 1e9)
    marks = [open_data(replace(small, threshold=k)).fingerprint for k in range(2)]
    for age, mark in zip((100, 200), marks, strict=True):
        os.utime(Path(dataset.cache_dir) / mark / "cache.json", (age, age))
    open_data(small)  # the older one is used again
    newest = open_data(replace(small, threshold=2)).fingerprint
    assert folders(dataset) == sorted([marks[0], newest])


def test_a_failed_build_leaves_nothing(dataset):
    (Path(dataset.root) / "images/3.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"3\.png"):
        open_data(dataset)
    assert folders(dataset) == []


def test_a_killed_build_is_cleared_away_after_a_day(dataset):
    for name, age in ((".new-old", 100_000), (".new-running", 10)):
        (Path(dataset.cache_dir) / name).mkdir(parents=True)
        then = cache.time.time() - age
        os.utime(Path(dataset.cache_dir) / name, (then, then))
    mark = open_data(dataset).fingerprint
    assert folders(dataset) == [".new-running", mark]


def test_two_processes_may_build_at_once(dataset):
    with ProcessPoolExecutor(2, get_context("fork")) as pool:
        marks = [job.result() for job in [pool.submit(dataset_fingerprint, dataset) for _ in range(4)]]
    assert folders(dataset) == [marks[0]]


def test_losing_the_race_uses_the_winners_folder(dataset):
    winner = open_data(dataset)
    folder = Path(dataset.cache_dir) / winner.fingerprint
    cache.build(sorted(dataset.items(), key=lambda item: item.id), dataset, folder)
    assert folders(dataset) == [winner.fingerprint]


def dataset_fingerprint(dataset):
    return open_data(dataset).fingerprint
