"""seglab from a script: it trains, opens, compares and predicts with the same folders as the command line."""

import re
from pathlib import Path

import numpy as np
import pytest

import seglab
from seglab.api import _checked
from seglab.contract import ContractError
from seglab.data.pairs import write_pairs
from tests.commands.forked import begin, end, program
from tests.conftest import python
from tests.data.fabricate import scene
from tests.reporting.fabricate import FakeLoss, write_run, write_sweep


def said_by(code, folder):
    done = python("-c", code, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_import_loads_nothing_and_the_modules_of_commands_keep_their_names(tmp_path):
    code = (
        "import sys; before = set(sys.modules); import seglab; seglab.run; seglab.__version__; dir(seglab)\n"
        "loaded = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "assert not loaded & {'torch', 'hydra', 'pandas', 'numpy', 'pytorch_lightning'}, loaded\n"
        "import seglab.train; assert seglab.train.main and callable(seglab.run)"
    )
    said_by(code, tmp_path)


def test_composing_before_or_after_the_import_makes_no_difference(tmp_path):
    own = "import hydra\nwith hydra.initialize_config_dir(CONF, version_base='1.3'): cfg = hydra.compose('train')\n"
    conf = f"CONF = {str(tmp_path / 'conf')!r}\n"
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/train.yaml").write_text("mine: 1\n")
    ours = (
        "from seglab.engine.config import CONF as ours, identity\n"
        "with hydra.initialize_config_dir(str(ours), version_base='1.3'): print(identity(hydra.compose('train')))\n"
    )
    before = said_by(conf + own + ours, tmp_path)
    after = said_by("import hydra, seglab\n" + ours + conf + own, tmp_path)
    assert before == after != ""


AFTERWARDS = """
import json, pathlib
assert verdict.headline in pathlib.Path("outputs/notebook/report.html").read_text()
assert (probability.shape, str(probability.dtype)) == ((48, 48), "float32") and 0 <= probability.min() < 1
assert "<table" in study._repr_html_()
assert all(shown._repr_html_().count("data:image/png") == 2 for shown in (verdict, run))
split = json.loads((run.folder / "split.json").read_text())
sides = [{name.rpartition("/")[2].partition("_")[0] for name in split[side]} for side in ("train", "val", "test")]
assert sum(map(len, sides)) == len(set.union(*sides)) == 8  # a patient is on one side
before = run.facts["finished"]
again = seglab.run(*run.facts["overrides"])
assert again.folder == run.folder.resolve() and again.facts["finished"] == before
"""


@pytest.mark.slow
def test_the_notebook_runs_and_what_it_leaves_is_used_again(tmp_path):
    page = Path(__file__).parents[1] / "docs/notebooks/quickstart.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    code = end(begin(program, "".join([*blocks, AFTERWARDS]), tmp_path), 300)
    assert code == 0, (tmp_path / "said.txt").read_text()


def test_a_run_and_a_study_have_a_hash_with_a_list_of_modules_too():
    for one in (seglab.Run, lambda folder, trust: seglab.api.Study((folder,), trust)):
        assert len({one(Path("a"), ["mine"]), one(Path("a"), ["mine"]), one(Path("b"), ["mine"])}) == 2


def test_a_wrong_word_is_the_sentence_of_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ContractError, match=r"^epochs: expected an option .*trainer\.max_epochs"):
        seglab.run("epochs=3")
    with pytest.raises(ContractError, match=r"^run: expected overrides that start a training run, got --cfg job"):
        seglab.run("--cfg", "job")


def test_a_study_of_folders_is_opened_and_judged(tmp_path):
    study = seglab.load(write_sweep(tmp_path, [FakeLoss("bce", 0.6), FakeLoss("dice", 1.5)], [1, 2]))
    verdict = study.verdict()
    assert str(verdict).startswith(verdict.study.title)
    assert list(verdict.table) == ["first", "second", "verdict", "ahead", "low", "high"]
    far = study.verdict(metric="hd95").table.iloc[0]
    of_loss = study.images.groupby("label")["hd95"].mean()
    assert far["ahead"] == pytest.approx(of_loss[far["second"]] - of_loss[far["first"]], rel=0.05)
    assert len(study.images) > len(study.runs)
    with pytest.raises(ContractError, match=r"verdict: expected options among question, .*, got metrics"):
        study.verdict(metrics="dice")
    with pytest.raises(ContractError, match=r"study: expected a finished run of one of bce, dice, got nothing$"):
        study.run("nothing")
    said = "study: expected one of bce with seed 1, bce with seed 2, got bce with seed 3"
    with pytest.raises(ContractError, match=said):
        study.run("bce", seed=3)


def test_a_run_of_a_study_with_folds_is_chosen_by_its_fold(tmp_path):
    for fold in (0, 1):
        write_run(tmp_path / str(fold), FakeLoss("dice"), 1, extra={"dataset": {"folds": 2, "fold": fold}})
    study = seglab.load(tmp_path)
    assert study.run("dice", fold=1).folder.parent.name == "1"
    with pytest.raises(ContractError, match="study: expected fold to be one of 0, 1, got none"):
        study.run("dice")


WHITE = np.full((8, 8), 200, np.float32)


@pytest.mark.parametrize("image", [None, np.zeros((8, 8), np.int64), np.zeros((0, 8), np.uint8), WHITE])
def test_an_image_that_would_be_misread_is_one_sentence(image):
    assert _checked(WHITE, up_to_1=False) is WHITE  # for a run trained on such values
    said = r"predict: expected (paths, or arrays .* of uint8.*|floats from 0 to 1), got"
    with pytest.raises(ContractError, match=said):
        _checked(image, up_to_1=True)


WRONG = [
    ({"masks": []}, r"expected a mask and a group for each image, got 2 images, 0 masks and 2 groups"),
    ({"groups": [1]}, r"expected a mask and a group for each image, got 2 images, 2 masks and 1 groups"),
    ({"images": [np.zeros((4, 4)), np.zeros((4, 4))]}, r"image 0 as \(h, w\) .*, got \(4, 4\) float64; convert"),
    ({"masks": [np.zeros((4, 5)), np.zeros((4, 4))]}, r"a mask of shape \(4, 4\) for image 0, got \(4, 5\)"),
    ({"images": ["no.png", "no.png"]}, "an array or an existing file, got no.png"),
]


@pytest.mark.parametrize("wrong", [{"losses": "dice"}, {"losses": []}, {"seeds": [1, 2]}, {"seeds": 0}])
def test_losses_and_seeds_of_another_kind_are_one_sentence(wrong):
    with pytest.raises(ContractError, match=rf"compare: expected {next(iter(wrong))} (such|as) .*, got ."):
        seglab.compare([], [], **wrong)


@pytest.mark.parametrize(("change", "said"), WRONG, ids=[said[:30] for _, said in WRONG])
def test_arrays_that_do_not_fit_are_one_sentence(change, said, tmp_path):
    right = {"images": [np.zeros((4, 4), np.uint8)] * 2, "masks": [np.zeros((4, 4))] * 2, "groups": None}
    with pytest.raises(ContractError, match=said):
        write_pairs(**{**right, **change}, place=tmp_path)
    assert not list(tmp_path.glob("*"))


def test_the_same_images_are_the_same_folder(tmp_path):
    images, masks = zip(*map(scene, range(3)), strict=True)
    first = write_pairs(images, masks, ["b", "a", "b"], tmp_path)
    names = sorted(file.stem for file in (first / "images").iterdir())
    assert names == ["g00000_00000", "g00000_00002", "g00001_00001"]
    assert write_pairs(images, masks, ["b", "a", "b"], tmp_path) == first
    files = [sorted((first / kind).iterdir()) for kind in ("images", "masks")]
    assert write_pairs(*files, None, tmp_path) != first
    assert len(list(tmp_path.iterdir())) == 2
