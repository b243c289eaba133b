"""seglab from a script: it trains, opens, compares and predicts with the same folders as the command line."""

import io
import os
import re
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import seglab
from seglab import api
from seglab.contract import ContractError
from seglab.data.pairs import write_pairs
from seglab.files import is_held
from seglab.inference.predictor import checked
from tests.commands.forked import begin, end, program
from tests.conftest import SMALL, python
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


@pytest.mark.slow
def test_only_commands_turn_warnings_of_albumentations_into_errors(tmp_path):
    code = "import albumentations as A, seglab.data.augment; A.HorizontalFlip(q=1); import seglab.train\n"
    refused = "try: A.HorizontalFlip(q=1)\nexcept UserWarning: print('refused')"
    assert said_by(code + refused, tmp_path).strip() == "refused"


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


MISPLACED = [
    (lambda: seglab.run("-m", "loss=bce,dice"), "run: expected one run, got -m; use seglab.sweep"),
    (lambda: seglab.run(["loss=bce"]), r"""overrides: expected text such as "loss=focal", got \['loss=bce'\]"""),
    (lambda: seglab.sweep("study=b", study="a"), "sweep: expected the study as the argument study=NAME, got study=b"),
    (lambda: seglab.sweep("hydra.sweep.dir=b", study="a"), "sweep: expected the study as .*, got hydra.sweep.dir=b"),
    (lambda: seglab.sweep(study="a,b"), "sweep: expected study as a name such as .*, got 'a,b'"),
    (lambda: seglab.load(["a", "b"]), r"load: expected folders such as load\(.*\), got \(\['a', 'b'\],\)"),
]


@pytest.mark.parametrize(("call", "said"), MISPLACED, ids=[said[:25] for _, said in MISPLACED])
def test_an_argument_that_would_be_misunderstood_is_refused_before_training(call, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ContractError, match=said):
        call()
    assert not list(tmp_path.iterdir())


def command(monkeypatch, stdout, code):
    """Replace the command of `seglab.run` by one with this output and exit code; return the signals that it gets."""
    received = []
    process = SimpleNamespace(stdout=stdout, wait=lambda: code, send_signal=received.append)
    monkeypatch.setattr(api, "subprocess", SimpleNamespace(Popen=lambda *_, **__: process, PIPE=1, STDOUT=2))
    return received


FAILED = ["sweep: 40 runs: 40 failed; 9 s", *(f"  failed: run {k}" for k in range(40)), "  report: ..."]
ENDS = [
    (["sweep: 40 runs, 2 at once", "run 1 of 40: failed", *FAILED], 1, "\n".join(FAILED)),
    (["data: 8 images", "epoch 1/2", "loss: expected a number"], 1, "loss: expected a number"),
    (["epoch 1/2"], -9, "run: expected a process that ends, got one that died with signal 9 (SIGKILL); repeat"),
]


@pytest.mark.parametrize(("lines", "code", "said"), ENDS, ids=["sweep", "run", "killed"])
def test_the_error_is_the_summary_of_the_sweep_or_how_the_run_ended(lines, code, said, monkeypatch):
    command(monkeypatch, io.StringIO("\n".join([*lines, ""])), code)
    with pytest.raises(ContractError) as error:
        seglab.run()
    assert str(error.value).startswith(said)


def test_an_interrupt_that_only_this_process_gets_is_passed_on_to_the_command(monkeypatch, capsys):
    class Interrupted(io.StringIO):
        def __next__(self):
            raise KeyboardInterrupt

    received = command(monkeypatch, Interrupted("interrupted; run the same command again\n"), 130)
    with pytest.raises(KeyboardInterrupt):
        seglab.run()
    assert received == [signal.SIGINT]
    assert "run the same command again" in capsys.readouterr().out


@pytest.mark.slow
def test_a_sweep_ends_when_the_process_that_called_it_is_killed(tmp_path):
    words = [*SMALL, "loss=bce,dice", "trainer.max_epochs=100000"]
    begun = begin(program, f"import seglab; seglab.sweep(*{words}, study='s')", tmp_path)
    deadline, runs = time.monotonic() + 120, []
    while len(runs) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
        runs = [file.parent for file in tmp_path.glob("outputs/s/*/metrics.csv")]
    assert list(map(is_held, runs)) == [True] * 2
    end(begun, 0)  # as the out-of-memory killer, and some editors when a kernel is restarted
    while any(map(is_held, runs)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(is_held, runs))


def test_a_study_of_folders_is_opened_and_judged(tmp_path, monkeypatch):
    write_sweep(tmp_path / "s", [FakeLoss("bce", 0.6), FakeLoss("dice", 1.5)], [1, 2])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    study = seglab.load("~/s")
    os.chdir("/")  # as a cell of a notebook may
    verdict = study.verdict()
    assert str(verdict).startswith(verdict.study.title)
    assert repr(verdict) == f"Verdict({verdict.study.title}: {verdict.headline})"
    assert len({verdict, study.verdict()}) == 2
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
    write_run(tmp_path / "other", FakeLoss("bce"), 1, data={"fingerprint": "other"})
    with pytest.raises(ContractError, match=r"got bce with seed 1, 2 times; open one by seglab.Run\(FOLDER\)"):
        seglab.load(tmp_path).run("bce")


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
    assert checked(WHITE, up_to_1=False) is WHITE  # for a run trained on such values
    said = r"predict: expected (paths, or arrays .* of uint8.*|floats from 0 to 1), got"
    with pytest.raises(ContractError, match=said):
        checked(image, up_to_1=True)


def test_a_failed_run_shows_its_error(tmp_path):
    facts = {"status": "failed", "error": {"message": "loss: expected a number"}}
    folder = write_run(tmp_path, FakeLoss("bce"), 1, metrics={}, **facts)
    assert "<div>loss: expected a number</div>" in seglab.Run(folder)._repr_html_()


WRONG = [
    ({"masks": []}, r"expected a mask and a group for each image, got 2 images, 0 masks and 2 groups"),
    ({"groups": [1]}, r"expected a mask and a group for each image, got 2 images, 2 masks and 1 groups"),
    ({"images": [np.zeros((4, 4)), np.zeros((4, 4))]}, r"image 0 as \(h, w\) .*, got \(4, 4\) float64; scale its"),
    ({"images": [np.zeros((0, 4), np.uint8)] * 2}, r"image 0 as \(h, w\) .*, got \(0, 4\) uint8$"),
    ({"images": [[[1]], [[2]]]}, r"arrays or paths as image 0 and mask, got \['list'\]; use numpy.asarray"),
    ({"images": "photos"}, "images as a list with an entry for each image, got str"),
    ({"masks": [np.full((4, 4), np.nan)] * 2}, "a mask without NaN for image 0"),
    ({"groups": {"a": 1, "b": 2}}, "groups as a list with an entry for each image, got dict"),
    ({"groups": ["a", None]}, r"a group for each image, such as the name of its patient, got \[None\]"),
    ({"groups": [["a"], "b"]}, r"a group for each image, such as the name of its patient, got \[\['a'\]\]"),
    ({"masks": [np.zeros((4, 5)), np.zeros((4, 4))]}, r"a mask of shape \(4, 4\) for image 0, got \(4, 5\)"),
    ({"images": ["no.png", "no.png"]}, "an array or an existing file, got no.png"),
]


@pytest.mark.parametrize("wrong", [{"losses": "dice"}, {"losses": [1]}, {"seeds": [1, 2]}, {"seeds": 0}])
def test_losses_and_seeds_of_another_kind_are_one_sentence(wrong):
    with pytest.raises(ContractError, match=rf"compare: expected {next(iter(wrong))} (such|as) .*, got ."):
        seglab.compare([], [], **wrong)


@pytest.mark.parametrize(("change", "said"), WRONG, ids=[said[:30] for _, said in WRONG])
def test_arrays_that_do_not_fit_are_one_sentence(change, said, tmp_path):
    right = {"images": [np.zeros((4, 4), np.uint8)] * 2, "masks": [np.zeros((4, 4))] * 2, "groups": None}
    with pytest.raises(ContractError, match=said):
        write_pairs(**{**right, **change}, place=tmp_path)
    assert not list(tmp_path.glob("*"))


def test_the_groups_of_a_shuffled_table_and_generators_are_taken_in_order(tmp_path):
    images, masks = zip(*map(scene, range(3)), strict=True)
    groups = pd.Series(["b", "a", "b"], index=[1, 0, 2])  # by label, the first group would be "a"
    first = write_pairs(iter(images), iter(masks), groups, tmp_path)
    assert first == write_pairs(images, masks, ["b", "a", "b"], tmp_path)
    assert first != write_pairs(images, masks, ["a", "b", "b"], tmp_path)


def test_the_same_images_are_the_same_folder(tmp_path):
    images, masks = zip(*map(scene, range(3)), strict=True)
    first = write_pairs(images, masks, ["b", "a", "b"], tmp_path)
    names = sorted(file.stem for file in (first / "images").iterdir())
    assert names == ["g00000_00000", "g00000_00002", "g00001_00001"]
    assert write_pairs(images, masks, ["b", "a", "b"], tmp_path) == first
    files = [sorted((first / kind).iterdir()) for kind in ("images", "masks")]
    assert write_pairs(*files, None, tmp_path) != first
    assert len(list(tmp_path.iterdir())) == 2
