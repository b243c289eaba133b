"""What training reports about images and masks before the first epoch."""

import json
from dataclasses import replace

import numpy as np
import pytest

from seglab.data.audit import audit
from seglab.data.datasets.folder import Folder
from seglab.data.prepare_data import open_data
from tests.data.fabricate import LOSSY, save, save_palette, white, write_scenes


def folder(root, **options):
    return Folder(root=str(root), **{"size": 48, "cache_dir": None, **options})


def with_ring(path, mask):
    """Write class 1 with a border of 255, as in PASCAL VOC."""
    near = np.pad(mask, 1)[1:-1, :-2] | np.pad(mask, 1)[1:-1, 2:]
    save(path, np.where(mask, 1, np.where(near, 255, 0)).astype(np.uint8))


def two_ids(path, mask):
    save(path, np.where(mask, 2, np.arange(40)[:, None] > 30).astype(np.uint8))


def changing_palette(path, mask):
    save_palette(path, mask, [0, 0, 0, 0, 128, 0] if int(path.stem) % 2 else [0, 0, 0, 128, 0, 0])


DOUBTS = {
    "inverted": (lambda path, mask: save(path, white(~mask)), "foreground covers more than half of 6 of 6 images"),
    "JPEG": (LOSSY["JPEG"][1], "6 of 6 masks are JPEG files, whose compression blurs edges: they are"),
    "void": (with_ring, "the masks contain 255 besides 1, and it counts as foreground"),
    "ids": (two_ids, "the masks contain several values, and all above 0 count as foreground: 0 ("),
    "classes": (two_ids, "dataset.mask_value selects some of them, dataset.classes makes each a class"),
    "palettes": (changing_palette, "the palettes of the masks differ: index 1 is #008000 or #800000"),
    "full": (lambda path, mask: save(path, white(mask | True)), "masks are foreground everywhere; check what"),
    "all above 0": (lambda path, mask: save(path, white(mask) // 2 + 64), "(dataset.threshold, mask_value, classes, "),
    "empty": (lambda path, mask: save(path, white(mask & False)), "no mask has any foreground; their values are 0 ("),
}


@pytest.mark.parametrize("kind", DOUBTS)
def test_masks_that_may_be_misread_are_a_warning(tmp_path, kind):
    write, words = DOUBTS[kind]
    write_scenes(tmp_path, mask=(".jpg" if kind == "JPEG" else ".png", write))
    assert any(words in line for line in open_data(folder(tmp_path)).warnings())


def test_ordinary_masks_and_what_the_user_has_named_are_no_warning(tmp_path):
    write_scenes(tmp_path)
    assert open_data(folder(tmp_path)).warnings() == []
    write_scenes(tmp_path, mask=(".png", two_ids))
    assert open_data(folder(tmp_path, mask_value=2)).warnings() == []
    assert open_data(folder(tmp_path, threshold=1)).warnings() == []


def test_objects_that_vanish_at_size_are_counted_with_their_images(tmp_path):
    write_scenes(tmp_path, height=200, width=240, radius=2)
    dataset = folder(tmp_path, size=16)
    words = "6 of 6 objects vanish at dataset.size=16, in 6 images all of them;"
    assert any(words in line for line in open_data(dataset).warnings())
    for enough in (replace(dataset, size=240), replace(dataset, fit="patch"), replace(dataset, coverage=0.01)):
        assert open_data(enough).warnings() == []


def test_at_most_five_lines_are_said(tmp_path):
    write_scenes(tmp_path, 8, mask=(".jpg", LOSSY["JPEG"][1]), height=200, width=240, radius=2)
    for k in (0, 1):
        (tmp_path / f"images/{k:02d}.png").write_bytes(b"")
    said = open_data(folder(tmp_path, size=16, on_bad_item="skip")).warnings()
    assert 3 <= len(said) <= 5
    assert said[0].startswith("2 of 8 images are left out; the first: ")


def test_foreground_in_few_images_names_the_split(tmp_path):
    write_scenes(tmp_path, 30)
    for k in range(4, 30):
        save(tmp_path / f"masks/{k:02d}.png", np.zeros((40, 48), np.uint8))
    dataset = next(
        one
        for one in (folder(tmp_path, split_seed=seed) for seed in range(100))
        if open_data(one).facts()["empty_masks"]["test"] == open_data(one).facts()["images"]["test"]
    )
    words = "test: no mask has any foreground, unlike 4 in the other splits: if splits are drawn, dataset.stratify=true"
    assert any(words in line for line in open_data(dataset).warnings())
    facts = open_data(replace(dataset, stratify=True)).facts()
    assert all(facts["images"][split] > facts["empty_masks"][split] for split in ("train", "val", "test"))


def test_a_class_that_no_image_of_a_split_has_is_a_warning(tmp_path):
    write_scenes(tmp_path, 12, mask=(".png", lambda path, mask: save(path, mask.astype(np.uint8))))
    for k in range(6):
        save(tmp_path / f"masks/{k:02d}.png", np.full((40, 48), 2, np.uint8))
    ids = [f"{k:02d}" for k in range(12)]
    file = tmp_path / "split.json"
    dataset = folder(tmp_path, classes={"background": 0, "liver": 1, "spleen": 2}, split_file=str(file))
    for val, test, absent in ((ids[8:10], ids[3:8], ("val", "spleen")), (ids[4:8], ids[:2], ("test", "liver"))):
        rest = [name for name in ids if name not in (*val, *test)]
        file.write_text(json.dumps({"train": rest, "val": val, "test": test}))
        split, name = absent
        words = f"no {split} image has {name}, so the {split} scores cover only the other classes"
        said = [f"{words}; if splits are drawn, another dataset.split_seed may draw some"]
        assert [line for line in open_data(dataset).warnings() if line.startswith("no ")] == said
        assert [line for line in audit(dataset).facts["warnings"] if line.startswith("no ")] == said
