"""An evaluation on the run's own images repeats its test; other images are read and scored like the run's own."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from seglab.contract import ContractError
from seglab.data.datasets.folder import Folder
from seglab.data.prepare_data import select_items
from seglab.engine.trained_run import TrainedRun, open_run
from seglab.evaluate import evaluate
from seglab.inference.evaluation import dataset_node, of_split, to_logits
from seglab.inference.predictor import predictor
from seglab.metrics.objects import surface_distances
from seglab.reporting.load_runs import collect
from seglab.train import train
from tests.conftest import OF_FILES, facts_of, train_small
from tests.data.fabricate import write_image, write_scenes
from tests.engine.untrained import write_run
from tests.reporting.fabricate import change


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run whose loss needs a map besides the target."""
    return train_small(tmp_path_factory.mktemp("study") / "run", "loss=weight_map")


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "study" / "run"))


@pytest.fixture
def pairs(tmp_path):
    """Six gray 16-bit images of odd sizes, each with a bright disc, and their masks."""
    for k in range(6):
        height, width = 70 + 9 * k, 101 - 5 * k
        mask = cv2.circle(np.zeros((height, width), np.uint8), (40, 35), 8 + k, 255, cv2.FILLED)
        image = np.random.default_rng(k).integers(0, 20000, mask.shape).astype(np.uint16) + mask.astype(np.uint16) * 150
        for name, pixels in (("images", image), ("masks", mask)):
            (tmp_path / "pairs" / name).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / "pairs" / name / f"{k}.png"), pixels)
    return tmp_path / "pairs"


def call(configure, run, *words):
    """Evaluate a run without pictures, which take longer than everything else."""
    return evaluate(configure("evaluate", f"run={run}", "device=cpu", "pictures=false", *words), Path("."))


def other(pairs, *more):
    return ["dataset=folder", f"dataset.root={pairs}", "dataset.cache_dir=null", *more]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_runs_own_test_images_give_its_own_tables_to_the_last_bit(configure, run, tmp_path, precision):
    if precision == "bf16-mixed":
        run = train_small(tmp_path / "run", "loss=weight_map", f"trainer.precision={precision}")
    (out,) = call(configure, run, "pictures=true")
    assert (out / "per_image.csv").read_bytes() == (run / "per_image.csv").read_bytes()
    then, now = (np.load(folder / "histograms.npz") for folder in (run, out))
    np.testing.assert_array_equal(then["test"], now["test"])
    known, facts = facts_of(run), facts_of(out, "evaluation.json")
    before = {key[5:]: value for key, value in known["metrics"].items() if key.startswith("test/")}
    assert {key: facts["metrics"][key] for key in before} == pytest.approx(before, nan_ok=True)
    assert facts["threshold"]["tuned"] == known["threshold"]["tuned"]
    assert cv2.imread(str(out / "examples.png")) is not None
    assert facts["split"] == "test"
    assert facts["own"]
    assert list(collect([run]).runs["folder"]) == [run]  # an evaluation is not a run
    assert (facts["scale"], facts["seen_in_training"], facts["data"]["images"]) == ("run", 0, 6)


@pytest.mark.slow
def test_ships_side_by_side_are_counted_one_by_one_in_training_and_evaluation(configure, tmp_path):
    table = ["ImageId,EncodedPixels"]
    for k in range(6):
        write_image(tmp_path / f"sea/train_v2/{k}.jpg", np.full((768, 768), 40 * k))
        for left in (96, 192):  # two touching ships of 48 rows and 96 columns
            table.append(f"{k}.jpg," + " ".join(f"{768 * column + 97} 48" for column in range(left, left + 96)))
    (tmp_path / "sea/train_ship_segmentations_v2.csv").write_text("\n".join(table))
    sea = ("dataset=ship", f"dataset.root={tmp_path / 'sea'}", "dataset.cache_dir=null", "dataset.size=64")
    for fit, words in (("resize", ()), ("patch", ("dataset.reduce=4",))):
        folder = tmp_path / fit
        more = (f"dataset.fit={fit}", "trainer.max_epochs=1")
        train(configure("train", *OF_FILES, *sea, *words, *more, folder=folder), folder)
        (out,) = call(configure, folder)
        rows = pd.read_csv(folder / "per_image.csv")
        pd.testing.assert_frame_equal(pd.read_csv(out / "per_image.csv"), rows)
        assert rows["objects"].tolist() == [2]
        (out,) = call(configure, folder, "scale=native")
        assert pd.read_csv(out / "per_image.csv")["objects"].tolist() == [2]


def test_a_second_call_measures_nothing_unless_the_run_was_trained_again(configure, run):
    (out,) = call(configure, run)
    (out / "per_image.csv").write_text("left alone")
    assert call(configure, run) == [out]
    assert (out / "per_image.csv").read_text() == "left alone"
    change(run, finished="later")
    (out / "examples.png").write_text("of the earlier model")
    assert call(configure, run) == [out]
    assert not (out / "examples.png").exists()
    assert (out / "per_image.csv").read_bytes() == (run / "per_image.csv").read_bytes()
    assert len(call(configure, run, "split=val")) == 1
    assert len(list((run / "evaluations").iterdir())) == 2


def test_folds_with_their_own_normalization_are_evaluated_as_one_set_of_images(configure, tmp_path, pairs):
    """The report averages over runs whose evaluations have the same name."""
    names = []
    for mean in ([0.4], [0.6]):
        run = write_run(tmp_path / str(mean[0]), f"dataset.mean={mean}")
        facts = facts_of(run)
        facts["config"]["dataset"]["mean"], facts["data"]["mean"] = "auto", mean
        change(run, **facts)
        for more in ((), ("dataset.coverage=0.3",)):
            (out,) = call(configure, run, *other(pairs, *more))
            assert facts_of(out, "evaluation.json")["dataset"]["mean"] == mean
            names.append(out.name)
    assert names[:2] == names[2:]
    assert names[0] != names[1]


def test_the_own_test_images_of_folds_are_one_set(configure, tmp_path):
    names = set()
    for fold in (0, 1):
        run = write_run(tmp_path / str(fold), "dataset.train=4", "dataset.folds=2", f"dataset.fold={fold}")
        of_run = open_run(run)
        change(run, data=of_run.facts["data"] | {"fingerprint": select_items(of_run.dataset()).fingerprint})
        (out,) = call(configure, run)
        facts = facts_of(out, "evaluation.json")
        assert (facts["own"], facts["split"], facts["dataset"]["fold"]) == (True, "test", fold)
        names.add(out.name)
    assert len(names) == 1


def test_other_images_come_to_the_model_as_the_run_would_have_them(configure, run, pairs):
    (out,) = call(configure, run, *other(pairs))
    facts, rows = facts_of(out, "evaluation.json"), pd.read_csv(out / "per_image.csv")
    assert not facts["own"]
    assert (facts["split"], facts["data"]["images"], facts["dataset"]["size"]) == ("all", 6, 32)
    assert (rows["pixels"] == 32 * 32).all()
    assert list(rows) == list(pd.read_csv(run / "per_image.csv"))
    own = {"dataset": {"_target_": "a", "size": 32, "channels": 3, "mean": [0.1], "root": "here"}}
    own["dataset"] |= {"fit": "pad", "reduce": 2, "bits": 16, "std": [1.0]}
    saved = TrainedRun(run, {"config": own, "data": {"range": [0, 1]}})
    theirs = {"_target_": "b", "size": 256, "channels": 1, "mean": [0.5], "root": "there", "coverage": 0.3}
    node = dataset_node(saved, theirs, {"size"})
    followed = {"channels": 3, "mean": [0.1], "fit": "pad", "reduce": 2, "bits": 16, "std": [1.0], "range": [0, 1]}
    assert node == theirs | followed
    assert dataset_node(saved, {"root": "moved"}, set()) == saved.dataset_options | {"root": "moved"}
    own["dataset"] |= {"crop": True, "window": "percentile"}
    node = dataset_node(saved, theirs | {"crop": False, "window": "full"}, {"size", "window"})
    assert node == theirs | followed | {"crop": True, "window": "full"}


def test_whole_images_of_a_run_on_patches_have_outlines_and_objects(configure, pairs, tmp_path):
    options = ["dataset.fit=patch", "dataset.size=64", "dataset.cache_dir=null", "loss=boundary"]
    run = write_run(tmp_path / "patches", "dataset=folder", f"dataset.root={pairs}", *options)
    (out,) = call(configure, run, *other(pairs), "split=all")
    rows, facts = pd.read_csv(out / "per_image.csv", dtype={"id": str}), facts_of(out, "evaluation.json")
    assert facts["scale"] == "native"
    assert list(rows["pixels"]) == [(70 + 9 * k) * (101 - 5 * k) for k in range(6)]
    one = predictor(open_run(run), None, 0.5, "none", 4, "cpu")
    for item, row in zip(Folder(root=str(pairs)).items(), rows.itertuples(), strict=True):
        found, true = one.of_image(item.image()) >= 32768, item.mask() > 0
        assert row.tp == (found & true).sum()
        assert row.fp == (found & ~true).sum()
        assert (row.hd95, row.asd, row.nsd) == pytest.approx(surface_distances(found, true), nan_ok=True)
        assert row.objects == 1
    tables = np.load(out / "histograms.npz")["test"]
    np.testing.assert_array_equal(tables[:, 0, 1, 128:].sum(-1), rows["tp"])
    with pytest.raises(ContractError, match=r"scale as native with dataset\.fit=patch, got run"):
        call(configure, run, *other(pairs), "scale=run", "split=all")


def test_a_run_on_patches_is_tested_on_whole_images_as_evaluate_sees_them(configure, tmp_path):
    write_scenes(tmp_path / "data", 12, height=80, width=70, radius=12)
    words = ("dataset=folder", f"dataset.root={tmp_path / 'data'}", "dataset.fit=patch", "dataset.val_fraction=0.4")
    folder = tmp_path / "run"
    train(configure("train", *OF_FILES, *words, "loss=boundary", "augment=none", folder=folder), folder)
    metrics, arrays = facts_of(folder)["metrics"], np.load(folder / "histograms.npz")
    for split in ("val", "test"):
        (out,) = call(configure, folder, f"split={split}")
        np.testing.assert_array_equal(np.load(out / "histograms.npz")["test"], arrays[split])
        measured = facts_of(out, "evaluation.json")["metrics"]
        own = {name: value for name in measured if (value := metrics.get(f"{split}/{name}")) is not None}
        assert {"iou", "loss", "iou_pooled"} <= own.keys()
        assert own == pytest.approx({name: measured[name] for name in own}, rel=1e-6)
    assert (out / "per_image.csv").read_bytes() == (folder / "per_image.csv").read_bytes()
    rows = pd.read_csv(folder / "per_image.csv")
    assert set(rows["pixels"]) == {80 * 70}
    assert rows["objects"].tolist() == [1] * len(rows)


def test_each_of_several_processes_measures_its_own_whole_images_and_a_limit_takes_the_first_ones(
    tmp_path, monkeypatch
):
    write_scenes(tmp_path / "data", 15, height=80, width=70, radius=12)
    words = ("dataset=folder", f"dataset.root={tmp_path / 'data'}", "dataset.cache_dir=null", "dataset.fit=patch")
    words += ("dataset.size=32", "dataset.test_fraction=0.35", "dataset.on_bad_item=skip")
    run = open_run(write_run(tmp_path / "run", *words))
    module, data = run.module(), run.data()

    def measured(rank, world, limit=None):
        monkeypatch.setattr("seglab.inference.evaluation.rank_and_world", lambda: (rank, world))
        return [batch["id"][0] for _, _, batch in of_split(module, data, "test", limit, "32-true")]

    names = [item.id for item in data.splits.test]
    assert [measured(rank, 2) for rank in (0, 1)] == [names[::2], names[1::2]]
    assert measured(0, 1, limit=1) == names[:1]  # a batch of its nine tiles
    data.processes = 3
    assert measured(0, 1, limit=1) == names[:3]  # every process gets an image
    (tmp_path / "data/images" / f"{names[0]}.png").write_bytes(b"")
    with pytest.raises(ContractError, match=names[0]):  # a missing row would shift the others
        measured(0, 1)


def test_maps_of_soft_targets_are_the_same_in_both_scales(configure, tmp_path):
    run = write_run(tmp_path / "soft", "dataset.soft=true", "loss=inverse_size")
    of_scale = [call(configure, run, f"scale={scale}", "split=all")[0] for scale in ("run", "native")]
    losses = [pd.read_csv(out / "per_image.csv")["loss"] for out in of_scale]
    assert list(losses[0]) == pytest.approx(list(losses[1]), rel=1e-4)


def test_native_scale_and_the_runs_scale_are_measured_side_by_side(configure, run, pairs):
    (by_run,) = call(configure, run, *other(pairs), "scale=run")
    (native,) = call(configure, run, *other(pairs), "scale=native")
    assert by_run != native
    assert (pd.read_csv(native / "per_image.csv")["pixels"] > 32 * 32).all()
    with pytest.raises(ContractError, match="split as one of all, train, val, test"):
        call(configure, run, "split=everything")


def test_images_that_the_run_trained_on_are_pointed_out(configure, run, caplog):
    (out,) = call(configure, run, "split=all")
    assert "12 of 18 images have ids from its training or validation split" in caplog.text
    assert facts_of(out, "evaluation.json")["seen_in_training"] == 12


def test_the_user_must_say_which_images_of_data_that_have_changed_since_training(configure, pairs, tmp_path):
    run = write_run(tmp_path / "run", "dataset=folder", f"dataset.root={pairs}", "dataset.cache_dir=null")
    with pytest.raises(ContractError, match="run: expected the data that it was trained on, got changed data; set s"):
        call(configure, run)


def test_runs_that_cannot_be_measured_are_named_and_the_others_continue(configure, run, pairs, caplog):
    caplog.set_level("INFO")
    gray = write_run(run.parent / "gray", "dataset.channels=1", "model.in_channels=1", "dataset.size=48")
    outs = call(configure, run.parent, *other(pairs))
    assert [out.parents[1].name for out in outs] == ["gray", "run"]
    assert "object_recall" in caplog.text
    config = facts_of(gray)["config"]
    change(gray, config=config | {"dataset": config["dataset"] | {"channels": 3}})
    shutil.copytree(run, run.parent / "closed", ignore=shutil.ignore_patterns("evaluations"))
    (run.parent / "closed/evaluations").touch()  # a file instead of a folder
    with pytest.raises(ContractError, match="2 of 3 that cannot; see the warnings above"):
        call(configure, run.parent, *other(pairs), "rerun=true")
    assert "gray: model: expected images (b,1,h,w)" in caplog.text
    assert "expected a file that can be read and written, got Not a directory" in caplog.text
    caplog.clear()
    with pytest.raises(ContractError, match="3 of 3 that cannot; see the warnings above"):
        call(configure, run.parent, "split=everything")
    assert "object_recall" not in caplog.text  # no table without rows


def test_runs_of_two_studies_with_one_name_each_have_a_row(configure, run, tmp_path, caplog):
    caplog.set_level("INFO")
    again = Path(shutil.copytree(run, tmp_path / "again" / "run"))
    outs = call(configure, f"[{run},{again}]")
    assert [out.parents[1] for out in outs] == [run, again]
    assert [line.split()[0] for line in caplog.messages if "  6  " in line] == [str(run), str(again)]


def test_certainty_stays_a_number():
    logits = to_logits(np.array([[0, 32767, 32768, 65535]], np.uint16))
    assert logits.isfinite().all()
    assert (logits[0, 0, 0] >= 0).tolist() == [False, False, True, True]
    assert float(logits.max()) == pytest.approx(11.78, abs=0.01)
