"""The store of decoded images: its contents, resuming interrupted work, and refused folders."""

import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from seglab.contract import ContractError
from seglab.data import store
from seglab.data.datasets.folder import Folder
from seglab.data.datasets.prepared import Prepared
from seglab.data.prepare_data import open_data, select_items
from seglab.data.store import Pixels, build, open_store
from tests.data.fabricate import write_image, write_pairs


@pytest.fixture
def raw(tmp_path):
    """Six images of different sizes, half of them with 16 bits, read at their own size."""
    rng = np.random.default_rng(0)
    masks = [(rng.random((8 + k, 9)) < 0.3).astype(np.uint8) for k in range(6)]
    images = [rng.integers(0, 256, mask.shape).astype(np.uint16 if k % 2 else np.uint8) for k, mask in enumerate(masks)]
    return Folder(root=str(write_pairs(tmp_path / "raw", images, masks)), fit="patch")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "ready"


def lines(folder):
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


def assert_holds(folder, raw):
    for item, before in zip(open_store(folder), raw.items(), strict=True):
        assert (item.id, item.group, item.split) == (before.id, before.group, before.split)
        for name in ("image", "mask"):
            kept, fresh = getattr(item, name)(), getattr(before, name)()
            assert kept.dtype == fresh.dtype
            np.testing.assert_array_equal(kept, fresh)


def unfinish(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["ids"]
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_pixels_are_those_of_the_files_mapped_and_read_only_and_the_facts_those_of_the_mask(raw, folder):
    for item, before in zip(build(raw.items(), raw, folder), raw.items(), strict=True):
        mask = before.mask()
        assert not item.image().flags.writeable
        assert not item.image().flags.owndata
        assert item.decoded.shape == mask.shape
        assert item.decoded.foreground == mask.mean()
        assert len(item.decoded.points) == min(64, mask.sum())
        assert (mask[tuple(item.decoded.points.T)] == 1).all()
    assert_holds(folder, raw)


def test_the_task_is_that_of_the_folder_as_it_is_now(raw, folder):
    prepared = Prepared(root=str(folder))
    assert prepared.task.kind == "binary"  # the folder does not exist yet
    build(raw.items(), replace(raw, classes={"background": 0, "a": 1}), folder, complete=True)
    assert prepared.task.classes == ("background", "a")


def test_an_interrupted_build_resumes_where_it_stopped(raw, folder, monkeypatch):
    Path(raw.root, "images/4.png").write_bytes(b"broken")
    with pytest.raises(ContractError, match=r"4\.png"):
        build(raw.items(), raw, folder)
    with pytest.raises(ContractError, match=r"a finished folder of seglab.prepare; run seglab.prepare"):
        Prepared(root=str(folder)).items()
    done = {record["id"] for record in lines(folder)}
    write_image(Path(raw.root, "images/4.png"), np.zeros((12, 9)))
    decoded, true = [], store.decode_once
    monkeypatch.setattr(store, "decode_once", lambda item, dataset: decoded.append(item.id) or true(item, dataset))
    build(raw.items(), raw, folder)
    assert set(decoded) == {str(k) for k in range(6)} - done
    assert_holds(folder, raw)


@pytest.mark.parametrize("file", ["records.jsonl", "pixels.bin"])
def test_a_tail_that_a_killed_process_or_a_loss_of_power_left_is_ignored(raw, folder, file):
    build(raw.items(), raw, folder)
    for lost in (1, 40, 700):
        unfinish(folder)
        (folder / file).write_bytes((folder / file).read_bytes()[:-lost])
        build(raw.items(), raw, folder)
        assert_holds(folder, raw)
        assert {record["id"] for record in lines(folder)} == {str(k) for k in range(6)}  # every line is complete again


def test_a_loss_of_power_and_a_repair_that_is_interrupted_mix_no_images(raw, folder):
    build(raw.items(), raw, folder)
    unfinish(folder)
    lost = lines(folder)[3]
    os.truncate(folder / "pixels.bin", lost["arrays"]["image"][0])
    others = [item for item in raw.items() if item.id != lost["id"]]
    build(others, raw, folder)  # as far as the interrupted repair gets
    unfinish(folder)
    build(raw.items(), raw, folder)
    assert_holds(folder, raw)


def test_a_changed_byte_is_found_when_its_image_is_first_read_and_in_a_store_of_before_is_not(raw, folder):
    raw = replace(raw, fit="resize", size=8)
    build(raw.items(), raw, folder)
    whole = (folder / "pixels.bin").read_bytes()
    for line in lines(folder):  # all but the first follow the empty array of points
        pixels = bytearray(whole)
        pixels[line["arrays"]["image"][0]] ^= 1
        (folder / "pixels.bin").write_bytes(pixels)
        for item in open_store(folder):
            if item.id != line["id"]:
                item.image()
                continue
            with pytest.raises(ContractError, match=r"pixels.bin as it was written, got changed bytes; remove it"):
                item.image()
    before = [{key: value for key, value in line.items() if key != "crc32"} for line in lines(folder)]
    (folder / "records.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in before))
    for item in open_store(folder):
        item.image()


def test_a_damaged_record_and_all_after_it_are_made_again(raw, folder):
    build(raw.items(), raw, folder)
    for damage in (b"\xff\xfe\0", b"\n\n\n"):
        whole = (folder / "records.jsonl").read_bytes()
        (folder / "records.jsonl").write_bytes(whole[:300] + damage + whole[303:])
        with pytest.raises(ContractError, match=r"a line in records.jsonl for every image, got none for \d; run"):
            open_store(folder)
        unfinish(folder)
        build(raw.items(), raw, folder)
        assert_holds(folder, raw)


@pytest.mark.parametrize("place", [(0, [2, 2], "O"), (-8, [16], "|u1"), (0, [10**5, 10**5], "|u1"), (0, [4], "no")])
def test_a_record_reaches_nothing_beyond_the_pixels_of_its_folder(raw, folder, place):
    build(raw.items(), raw, folder)
    pixels = Pixels(str(folder / "pixels.bin"))
    with pytest.raises(ContractError, match=r"expected arrays within pixels\.bin"):
        pixels.array(*place, None)


@pytest.mark.parametrize("other", [[1], {"files": []}])
def test_the_manifest_of_another_program_is_refused(raw, folder, other):
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps(other))
    with pytest.raises(ContractError, match=r"no manifest\.json of another program, got one; choose another folder"):
        build(raw.items(), raw, folder)


def test_several_processes_make_one_store(raw, folder):
    arguments = raw.items(), raw, folder
    with ProcessPoolExecutor(3, get_context("fork")) as pool:
        for job in [pool.submit(build, *arguments) for _ in range(6)]:
            assert len(job.result()) == 6
    assert sorted(record["id"] for record in lines(folder)) == [str(k) for k in range(6)]
    assert_holds(folder, raw)


def test_a_source_is_decoded_again_if_its_content_changes_and_not_if_its_time_does(raw, folder):
    build(raw.items(), raw, folder)
    os.utime(Path(raw.root, "images/3.png"), ns=(1, 1))
    write_image(Path(raw.root, "images/2.png"), np.full((10, 9), 200))
    build(raw.items(), raw, folder)
    assert len(lines(folder)) == 7
    assert_holds(folder, raw)


def test_a_prepared_folder_is_named_by_its_content_wherever_and_in_whatever_order_it_is_made(raw, tmp_path):
    def fingerprint(name, raw, items):
        build(items, raw, tmp_path / name)
        return select_items(Prepared(root=str(tmp_path / name), size=8)).fingerprint

    first = fingerprint("first", raw, raw.items())
    Path(raw.root).rename(tmp_path / "moved")
    moved = replace(raw, root=str(tmp_path / "moved"))
    assert fingerprint("again", moved, moved.items()[::-1]) == first
    assert fingerprint("reduced", replace(moved, reduce=2), moved.items()) != first
    write_image(Path(moved.root, "images/0.png"), np.zeros((8, 9), np.uint8))
    assert fingerprint("changed", moved, moved.items()) != first


def test_a_skipped_image_stays_out_and_is_counted(raw, folder):
    Path(raw.root, "images/4.png").write_bytes(b"broken")
    build(raw.items(), replace(raw, on_bad_item="skip"), folder)
    items = Prepared(root=str(folder)).items()
    assert [bool(item.fault) for item in items] == [False] * 4 + [True, False]
    assert "4.png: expected a readable image" in items[4].fault
    assert open_data(Prepared(root=str(folder), cache_dir=None)).skipped.keys() == {"4"}


def test_a_finished_store_of_another_version_or_that_has_lost_its_end_is_one_sentence(raw, folder):
    build(raw.items(), raw, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    for file, sentence in (
        ("pixels.bin", r"expected \d+ bytes in pixels.bin, got \d+; remove it"),
        ("records.jsonl", "got none for 1; run"),
        ("manifest.json", "in format 4, got format 2; remove it"),
    ):
        whole, other = (folder / file).read_bytes(), json.dumps(manifest | {"format": 2}).encode()
        (folder / file).write_bytes(other if file == "manifest.json" else whole[:-1])
        with pytest.raises(ContractError, match=sentence):
            open_store(folder)
        (folder / file).write_bytes(whole)
    (folder / "manifest.json").write_text(json.dumps({"options": raw.reading_options(), "items": []}))  # version 1
    for use in (lambda: build(raw.items(), raw, folder), Prepared(root=str(folder)).items):
        with pytest.raises(ContractError, match=r"in format 4, got format 1; remove it, and run seglab\.prepare again"):
            use()
