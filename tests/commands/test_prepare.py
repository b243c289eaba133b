"""`python -m seglab.prepare`, end to end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from seglab.contract import ContractError
from seglab.data.prepare_data import open_data
from seglab.engine.config import build
from seglab.prepare import knobs, run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (tmp_path / "raw" / kind).mkdir(parents=True)
    for k in range(8):
        mask = np.zeros((70, 90), np.uint8)
        mask[k : k + 20, 30:50] = 255
        coarse = cv2.resize(rng.integers(0, 256, (9, 9), np.uint8), (90, 70), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(tmp_path / f"raw/images/{k}.png"), coarse)
        cv2.imwrite(str(tmp_path / f"raw/masks/{k}.png"), mask)
    return tmp_path / "raw"


def choose(root: Path) -> list[str]:
    return ["dataset=folder", f"dataset.root={root}", "dataset.size=32", "dataset.cache_dir=null"]


def test_a_prepared_folder_trains_as_the_raw_tree_does(configure, root, tmp_path):
    raw = configure("prepare", *choose(root))
    assert run(raw, tmp_path / "ready") == 8
    ready = configure("prepare", "dataset=prepared", *choose(tmp_path / "ready")[1:])
    before, after = open_data(build(raw.dataset)), open_data(build(ready.dataset))
    assert before.splits.ids() == after.splits.ids()
    for a, b in zip(before.store.batch(range(8)), after.store.batch(range(8)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_training_on_the_folder_must_be_told_is_said(configure, root):
    plain = build(configure("prepare", *choose(root)).dataset)
    assert list(knobs(plain)) == ["dataset.size=32", "dataset.cache_dir=null"]
    words = ["dataset.coverage=0.3", "dataset.mean=[0.1,0.2,0.3]", "dataset.reduce=2", "dataset.fit=patch"]
    told = list(knobs(build(configure("prepare", *choose(root), *words).dataset)))
    assert {*told} == {*words[:2], *words[3:], "dataset.size=32", "dataset.cache_dir=null"}
    again = build(configure("prepare", "dataset=prepared", f"dataset.root={root}", *told).dataset)
    assert (again.coverage, again.mean, again.fit) == (0.3, (0.1, 0.2, 0.3), "patch")


def test_a_second_run_goes_on_and_other_options_are_refused(configure, root, tmp_path):
    folder = tmp_path / "ready"
    run(configure("prepare", *choose(root)), folder)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*.npy")}
    assert run(configure("prepare", *choose(root), "dataset.size=64"), folder) == 8  # cut later: nothing to do
    assert times == {path: path.stat().st_mtime_ns for path in folder.rglob("*.npy")}
    with pytest.raises(ContractError, match="one of others"):
        run(configure("prepare", *choose(root), "dataset.reduce=2"), folder)


def test_an_audit_leaves_its_facts_and_a_picture(configure, root, tmp_path):
    assert run(configure("prepare", "mode=audit", *choose(root)), tmp_path) == 8
    facts = json.loads((tmp_path / "audit.json").read_text())
    assert sum(facts["images"].values()) == 8
    assert facts["objects"] == 8
    assert cv2.imread(str(tmp_path / "audit.png")).shape[1] > 1000
    frozen = configure(
        "prepare", *choose(root), f"dataset.split_file={tmp_path / 'split.json'}", "dataset.split_seed=9"
    )
    free = configure("prepare", *choose(root))
    assert open_data(build(frozen.dataset)).splits.ids() == open_data(build(free.dataset)).splits.ids()


def test_a_leak_is_an_error_after_all_is_written(configure, root, tmp_path):
    for kind in ("images", "masks"):
        shutil.copytree(root / kind, root / f"test_{kind}")
    own = ["dataset.test_images=test_images", "dataset.test_masks=test_masks"]
    with pytest.raises(ContractError, match=r"no image on two sides of the split, got 8 pairs: "):
        run(configure("prepare", "mode=audit", *choose(root), *own), tmp_path)
    assert len(json.loads((tmp_path / "audit.json").read_text())["leaks"]) == 8
    assert (tmp_path / "audit.png").exists()


def test_an_unknown_mode_is_one_sentence(configure, root, tmp_path):
    with pytest.raises(ContractError, match="mode: expected one of prepare, audit, got look"):
        run(configure("prepare", "mode=look", *choose(root)), tmp_path)
