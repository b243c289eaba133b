"""`python -m seglab.prepare`, end to end."""

import shlex
import shutil

import cv2
import numpy as np
import pytest

from seglab.contract import ContractError
from seglab.data.prepare_data import open_data
from seglab.engine.config import build
from seglab.engine.trained_run import open_run
from seglab.files import write_json
from seglab.inference.evaluation import dataset_node
from seglab.inference.predictor import predictor
from seglab.prepare import options, run, spell
from tests.conftest import facts_of
from tests.data.fabricate import save_palette, save_turned, write_image, write_scenes
from tests.engine.untrained import write_run
from tests.reporting.fabricate import change


@pytest.fixture
def root(tmp_path):
    return write_scenes(tmp_path / "raw", 8, height=70, width=90)


def choose(root):
    return ["dataset=folder", f"dataset.root={root}", "dataset.size=32", "dataset.cache_dir=null"]


def test_the_options_for_a_training_on_the_folder_are_listed(configure, root):
    plain = build(configure("prepare", *choose(root)).dataset)
    assert list(options(plain)) == ["dataset.size=32", "dataset.cache_dir=null"]
    words = ["dataset.coverage=0.3", "dataset.mean=[0.1,0.2,0.3]", "dataset.reduce=2", "dataset.fit=patch"]
    listed = list(options(build(configure("prepare", *choose(root), *words).dataset)))
    assert {*listed} == {*words[:2], *words[3:], "dataset.size=32", "dataset.cache_dir=null"}
    again = build(configure("prepare", "dataset=prepared", f"dataset.root={root}", *listed).dataset)
    assert (again.coverage, again.mean, again.fit) == (0.3, (0.1, 0.2, 0.3), "patch")


def test_the_command_that_is_shown_can_be_pasted_into_a_shell(configure, root, tmp_path, caplog):
    caplog.set_level("INFO")
    split, folder = root / "für Ä.json", tmp_path / "made ready"
    write_json(split, {"train": ["00"], "val": ["01"], "test": ["02"]})
    run(configure("prepare", *choose(root), f"dataset.split_file='{split}'", "dataset.range=[0,255]"), folder)
    words = shlex.split(next(line for line in caplog.messages if line.startswith("python -m seglab.train")))
    assert {f"dataset.root={folder}", f"dataset.split_file={split}", "dataset.range=[0.0,255.0]"} <= {*words}


def test_a_second_run_decodes_nothing_and_other_options_are_refused(configure, root, tmp_path):
    folder = tmp_path / "ready"
    run(configure("prepare", *choose(root)), folder)
    before = (folder / "records.jsonl").read_bytes(), (folder / "pixels.bin").stat().st_mtime_ns
    assert run(configure("prepare", *choose(root), "dataset.size=64"), folder) == 8  # resized later: nothing to do
    assert before == ((folder / "records.jsonl").read_bytes(), (folder / "pixels.bin").stat().st_mtime_ns)
    with pytest.raises(ContractError, match="expected one made with these options, got other options; remove it"):
        run(configure("prepare", *choose(root), "dataset.reduce=2"), folder)


def test_a_model_trained_on_the_folder_reads_files_as_those_of_the_folder_were_read(configure, root, tmp_path):
    options, ready = ["dataset.fit=patch", "dataset.reduce=2", "dataset.bands=[3,2,1]"], tmp_path / "ready"
    run(configure("prepare", *choose(root), *options), ready)
    words = ["dataset=prepared", f"dataset.root={ready}", "dataset.fit=patch"]
    opened = open_data(build(configure("train", *words).dataset))
    facts = opened.facts()
    assert not opened.notes
    older = facts_of(ready, "manifest.json")
    del older["raw"]  # as written by an earlier version
    write_json(ready / "manifest.json", older)
    [warning] = open_data(build(configure("train", *words).dataset)).notes
    assert warning.startswith("the folder does not record how its source files were read")
    raw = write_run(tmp_path / "of_raw", "dataset=folder", f"dataset.root={root}", *options)
    prepared = write_run(tmp_path / "of_ready", *words)
    change(prepared, data=facts_of(prepared)["data"] | {"raw": facts["raw"]})
    shutil.rmtree(ready)  # a model does not need it
    file = sorted((root / "images").iterdir())[0]
    maps = [predictor(open_run(one), None, 0.5, "none", 4, "cpu").of_file(str(file)) for one in (raw, prepared)]
    np.testing.assert_array_equal(*maps)
    other = {"_target_": "seglab.data.datasets.folder.Folder", "root": "there", "bands": None, "reduce": 1}
    node = dataset_node(open_run(prepared), other, set())
    assert (node["reduce"], node["bands"], node["fit"], node["root"]) == (2, [3, 2, 1], "patch", "there")


def test_images_that_cannot_be_used_are_refused_or_counted(configure, root, tmp_path, caplog):
    table = ["0 CIRC B 9 9 3", *[f"{k} NORM" for k in range(1, 9)]]
    (root / "Info.txt").write_text("".join(f"mdb00{line.replace(' ', ' G ', 1)}\n" for line in table))
    write_image(root / "images/mdb000.png", np.zeros((64, 64)))
    mias = ["dataset=mias", f"dataset.root={root}", "dataset.images=images", "dataset.cache_dir=null"]
    with pytest.raises(ContractError, match=r"to be usable, got 8 of 9 that are not: .*mdb001\.pgm: expected the film"):
        run(configure("prepare", *mias), tmp_path / "mias")
    skip = "dataset.on_bad_item=skip"
    assert run(configure("prepare", *mias, skip), tmp_path / "mias") == 1
    (root / "images/mdb000.png").unlink()
    with pytest.raises(ContractError, match=r"usable images, got none; reason 1 of 9: .*mdb000\.pgm: expec"):
        run(configure("prepare", *mias, skip), tmp_path / "none")
    (root / "images/03.png").write_bytes(b"")  # only found when it is decoded
    (root / "masks/05.png").unlink()
    caplog.set_level("INFO")
    assert run(configure("prepare", *choose(root), skip), tmp_path / "pairs") == 6
    assert "6 images, 2 left out" in caplog.text


def test_an_audit_leaves_its_facts_and_a_picture(configure, root, tmp_path):
    assert run(configure("prepare", "mode=audit", *choose(root)), tmp_path) == 8
    facts = facts_of(tmp_path, "audit.json")
    assert sum(facts["images"].values()) == 8
    assert facts["objects"] == 8
    assert cv2.imread(str(tmp_path / "audit.png")).shape[1] > 1000
    frozen = (f"dataset.split_file={tmp_path / 'split.json'}", "dataset.split_seed=9")
    configs = [configure("prepare", *choose(root), *words) for words in ((), frozen)]
    free, fixed = (open_data(build(cfg.dataset)).splits.ids() for cfg in configs)
    assert fixed == free


def test_a_coco_file_without_images_is_one_sentence(configure, tmp_path):
    write_json(tmp_path / "annotations.json", {"images": [], "annotations": [], "categories": []})
    coco = ["dataset=coco", f"dataset.root={tmp_path}", "dataset.cache_dir=null"]
    with pytest.raises(ContractError, match=r"usable images, got none$"):
        run(configure("prepare", *coco), tmp_path / "ready")


def test_large_numbers_of_an_audit_are_whole():
    assert spell({"min": 1024.0, "mean": 0.00034444, "max": 121966.75}) == "min 1024, mean 0.000344, max 121967"


def test_an_audit_that_reads_nothing_is_an_error_after_all_is_written(configure, root, tmp_path):
    for path in (root / "masks").iterdir():
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ContractError, match=r"readable images, got none; error 1 of 8: .*masks/00.png: expec"):
        run(configure("prepare", "mode=audit", *choose(root)), tmp_path)
    facts = facts_of(tmp_path, "audit.json")
    assert (facts["unreadable"], sum(facts["images"].values())) == (8, 0)


def test_an_audit_says_how_files_are_stored_and_a_leak_is_an_error_after_all_is_written(configure, tmp_path):
    def image(path, pixels):
        save_turned(path, pixels, 6 if int(path.stem) < 2 else 1, quality=95)

    raw = write_scenes(tmp_path / "raw", image=(".jpg", image), mask=(".png", save_palette))
    for kind in ("images", "masks"):
        shutil.copytree(raw / kind, raw / f"test_{kind}")
    own = ["dataset.test_images=test_images", "dataset.test_masks=test_masks"]
    with pytest.raises(ContractError, match=r"no image in two splits, got 6 pairs: "):
        run(configure("prepare", "mode=audit", *choose(raw), *own), tmp_path)
    facts = facts_of(tmp_path, "audit.json")
    assert (facts["images_stored_turned"], len(facts["leaks"])) == (2, 6)
    assert facts["mask_kinds"] == {"palette": 6}
    assert facts["mask_values"].startswith("0 #000000 (9")
    assert "1 #800000 (" in facts["mask_values"]
