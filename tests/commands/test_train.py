"""`python -m seglab.train` from configuration to run folder, on a model so small that a run takes about a second."""

import math
import re
import shutil
import sys

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import open_dict

from seglab import api
from seglab.contract import ContractError, Task
from seglab.engine import callbacks
from seglab.engine.callbacks import EpochLines
from seglab.engine.config import ConfigError
from seglab.engine.module import Meter, SegModule
from seglab.engine.run import Run
from seglab.reporting.run_decisions import decide
from seglab.train import fingerprint_now, train, tune_learning_rate
from tests.commands.forked import begin, command_line, end, run
from tests.conftest import OF_FILES, SMALL, UNET, assert_same_tables, epochs_of, facts_of, train_small
from tests.data.fabricate import write_image, write_scenes


def without_streams(*arguments):
    """Run a command with stdout and stderr closed, as with `>&- 2>&-`."""
    sys.stdout = sys.stderr = None
    command_line(*arguments)


def test_a_run_needs_neither_stdout_nor_stderr(tmp_path):
    assert end(begin(without_streams, "train", SMALL, tmp_path), 300) == 0, (tmp_path / "said.txt").read_text()


def test_a_process_that_srun_or_torchrun_has_numbered_writes_a_run_of_its_own(tmp_path):
    numbered = {"SLURM_PROCID": "2", "RANK": "1"}
    code, said = run("train", ["hydra.run.dir=run", "trainer.max_epochs=1", *SMALL], tmp_path, numbered)
    assert code == 0, said
    assert facts_of(tmp_path / "run")["status"] == "finished"


def test_a_run_that_finds_nothing_says_so(tmp_path, caplog):
    caplog.set_level("INFO")
    train_small(tmp_path / "blind", "model.prior=1e-6", "tune.lr=[1e-6]", "tune.epochs=1", "trainer.max_epochs=1")
    assert "tune: val/iou_pooled is below 0.05 at all learning rates after 1 epochs; raise tune.epochs" in caplog.text
    assert "NaN" not in (tmp_path / "blind/run.json").read_text()  # not defined in JSON
    assert math.isnan(api.Run(tmp_path / "blind").metrics["test/precision"])
    assert "blind finds nothing in any test image with foreground" in caplog.text
    assert "val/iou_pooled 0.0000" in caplog.text  # the line of the epoch has the monitor
    caplog.clear()
    train_small(tmp_path / "seeing", "threshold=0.01", "optimizer.lr=1e-6", "trainer.max_epochs=1")
    assert "finds nothing" not in caplog.text


def test_the_monitor_does_not_prefer_a_model_that_finds_nothing(configure):
    target = torch.zeros(2, 1, 8, 8)
    target[0, 0, :4, :4] = 1
    blind, rough = torch.full_like(target, -9), torch.full_like(target, -9)
    rough[:, :, :4, :6] = 9  # the object, and a false positive in the empty image
    scores = []
    for logits in (blind, rough):
        meter = Meter(0.5, "correct")
        meter.update(torch.zeros(2), logits, target)
        scores.append({f"val/{name}": float(value) for name, value in meter.flush().items()})
    assert [score["val/iou"] for score in scores] == pytest.approx([1 / 2, 1 / 3])
    monitor = configure("train").monitor
    assert [score[monitor] for score in scores] == pytest.approx([0, 16 / 48])


def test_a_run_leaves_a_folder_to_look_at_and_to_read(configure, tmp_path):
    words = (*SMALL, "pictures=true", "examples=9", "dataset.empty=0.4")
    value = train(configure("train", *words, folder=tmp_path), tmp_path)
    facts = facts_of(tmp_path)
    table, images = pd.read_csv(tmp_path / "metrics.csv"), pd.read_csv(tmp_path / "per_image.csv")
    assert facts["status"] == "finished"
    assert value == facts["monitor"]["value"] == pytest.approx(table["val/iou_pooled"].max())
    assert list(table["epoch"]) == [0, 1]
    assert list(table["step"]) == [2, 4]
    assert len(images) == 6
    assert facts["metrics"]["test/iou"] == pytest.approx(images["iou"].mean(), abs=1e-6)
    assert facts["metrics"]["test/loss"] == pytest.approx(images["loss"].mean(), abs=1e-6)
    tp, union = images["tp"].sum(), (images["tp"] + images["fp"] + images["fn"]).sum()
    assert facts["metrics"]["test/iou_pooled"] == pytest.approx(tp / union, abs=1e-6)
    tables = np.load(tmp_path / "histograms.npz")
    np.testing.assert_array_equal(tables["test"][:, 0, 1, 128:].sum(-1), images["tp"])
    np.testing.assert_array_equal(tables["test"][:, 0, 0, 128:].sum(-1), images["fp"])
    assert tables["val"].sum() == 4 * 32 * 32
    kept = np.load(tmp_path / "decisions.npz")
    for name, array in decide(dict(tables), images, Task(), facts["threshold"]["tuned"], "correct").items():
        np.testing.assert_array_equal(kept[name], array)
    for picture in ("curves.png", "examples.png"):
        assert cv2.imread(str(tmp_path / picture)) is not None
    shown = list(images.loc[images["foreground"] > 0].sort_values("foreground")["id"])
    examples = np.load(tmp_path / "examples.npz")
    assert examples["images"].shape == (len(shown), 32, 32, 3)
    assert list(examples["ids"]) == shown != []
    assert len(shown) < len(images)  # empty images are left out


class Pooled(torch.nn.Module):
    """A model with a batch norm of one value per image and channel, as in the pooling branch of DeepLab."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        pool = (torch.nn.AdaptiveAvgPool2d(1), torch.nn.BatchNorm2d(in_channels))
        self.layers = torch.nn.Sequential(*pool, torch.nn.Conv2d(in_channels, out_channels, 1))

    def forward(self, image):
        return self.layers(image).expand(-1, -1, *image.shape[2:])


def test_a_batch_norm_of_one_value_trains_where_one_image_is_left_over_and_refuses_batches_of_one(
    configure, tmp_path, caplog
):
    caplog.set_level("INFO")
    words = [*set(SMALL).difference(UNET), "dataset.train=9", "trainer.max_epochs=1"]
    cfg = configure("train", *words, folder=tmp_path / "nine")
    with open_dict(cfg):
        cfg.model = {"_target_": f"{__name__}.Pooled", "in_channels": 3, "out_channels": 1}
    train(cfg, tmp_path / "nine")
    assert "the last batch of an epoch would be a single image, which is added to the batch before it" in caplog.text
    assert list(epochs_of(tmp_path / "nine")["step"]) == [2]
    cfg.batch_size, cfg.folder = 1, str(tmp_path / "one")
    with pytest.raises(ContractError, match=r"batch_size: expected at least 2 images in each batch.*set batch_size=2"):
        train(cfg, tmp_path / "one")


def test_validation_metrics_exist_only_for_epochs_that_are_validated(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(EpochLines.__init__, "__defaults__", (-1.0,))  # log every epoch
    seen, step = [], torch.optim.lr_scheduler.ReduceLROnPlateau.step

    def watched(self, value, *rest):
        seen.append(value)
        step(self, value, *rest)

    monkeypatch.setattr(torch.optim.lr_scheduler.ReduceLROnPlateau, "step", watched)
    words = ("scheduler=plateau", "scheduler.patience=0", "trainer.max_epochs=5", "optimizer.lr=1e-9")
    train_small(tmp_path, *words, "trainer.check_val_every_n_epoch=2")
    scores = epochs_of(tmp_path)["val/iou_pooled"]
    assert seen == scores.dropna().tolist()
    assert scores.notna().tolist() == [False, True, False, True, False]
    lines = [line for line in caplog.messages if line.startswith("epoch ")]
    assert ["val/" in line for line in lines] == [False, True, False, True, False]
    assert all("train/loss" in line for line in lines)


def test_an_epoch_that_takes_long_says_how_far_it_is(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(callbacks, "LINE_SECONDS", -1.0)
    train_small(tmp_path, "trainer.max_epochs=1", "batch_size=2")
    lines = [line for line in caplog.messages if line.startswith("epoch 1/1") and "of" in line]
    assert re.fullmatch(r"epoch 1/1  1 of \d+ training batches", lines[0])
    assert re.fullmatch(r"epoch 1/1  (\d+) of \1 validation batches", lines[-1])


def test_a_run_that_stops_early_says_why_and_shows_its_last_epoch(tmp_path, caplog):
    caplog.set_level("INFO")
    words = ("callbacks=early_stopping", "callbacks.early_stopping.patience=1", "trainer.max_epochs=6")
    train_small(tmp_path, *words, "optimizer.lr=1e-9")
    last, stopped = [line for line in caplog.messages if line.startswith(("epoch", "stopped"))][-2:]
    assert last.startswith("epoch 2/6 ")
    assert re.match(
        r"stopped after epoch 2 of 6: .*val/iou_pooled did not improve in the last 1 .*score: [.\d]+$", stopped
    )


def test_a_finished_run_is_skipped_or_made_again_to_the_last_bit_and_keeps_its_folder(configure, tmp_path):
    folder = tmp_path / "run"

    def again(*words):
        value = train(configure("train", *SMALL, *words, folder=folder), folder)
        return value, (folder / "per_image.csv").stat().st_mtime_ns

    first = again()
    assert again() == first
    with pytest.raises(ContractError, match=r"a folder of this experiment.*rerun=true"):
        again("seed=2")
    before = shutil.copytree(folder, tmp_path / "before")
    value, written = again("rerun=true", "workers=1")
    assert value == first[0]
    assert written > first[1]
    assert_same_tables(folder, before)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["trainer.accelerator=gpu"], r"trainer\.accelerator: expected a GPU, got none; use trainer=cpu"),
        (["trainer.precision=16-mixed"], r"trainer\.precision: expected one that a CPU supports, got 16-mixed"),
        (["dataset=folder", "dataset.root=/nowhere"], "/nowhere"),
        (["dataset.size=30", "model.depth=4"], r"30"),
        (["dataset.channels=1", "model.in_channels=3"], r"channel"),
        (["loss=focal", "schedule.gama={to: 1, epochs: 2}"], r"schedule\.gama: expected one of gamma, alpha, got gama"),
        (["loss=switch", "loss.at=1", "monitor=val/loss", "monitor_mode=min"], r"monitor: .*, got val/loss; set mon"),
        (
            ["dataset.scene=organ", "loss=lovasz_hinge"],
            r"LovaszHinge: expected task to be binary or multilabel, got 'multiclass'",
        ),
        (
            ["model.depth=3", "model.deep_supervision=true", "loss=boundary"],
            r"only logits and target, .*, got Boundary, which needs d",
        ),
        (["dataset.empty=1", "empty=skip"], r"monitor=val/iou_pooled: expected a validation image with foreground"),
        (["monitor=val/nothing"], r"monitor: expected a metric of an epoch such as val/iou, .*, got val/nothing"),
    ],
)
def test_bad_input_is_one_sentence_before_the_first_epoch(configure, tmp_path, overrides, sentence):
    if "trainer.accelerator=gpu" in overrides and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    ours = OF_FILES if "dataset=folder" in overrides else SMALL
    cfg = configure("train", *ours, *overrides, folder=tmp_path)
    with pytest.raises((ConfigError, ContractError), match=sentence) as fault:
        train(cfg, tmp_path)
    assert "\n" not in str(fault.value).strip()
    assert not (tmp_path / "metrics.csv").exists()
    if sentence.startswith("trainer"):  # refused before it begins, so that a sweep does not resume it
        assert not (tmp_path / "run.json").exists()


def test_a_loss_that_explodes_names_its_images_and_keeps_the_best_checkpoint(tmp_path, monkeypatch):
    scales = SegModule.scales

    def explodes(self, image):
        factor = float("nan") if self.training and self.current_epoch == 1 else 1
        return [factor * logits for logits in scales(self, image)]

    monkeypatch.setattr(SegModule, "scales", explodes)
    with pytest.raises(ContractError, match=r"NaN or infinite; in epoch 1 for disc-train-0.*lower optimizer\.lr"):
        train_small(tmp_path, "loss=bce")
    assert (tmp_path / "checkpoints/best.ckpt").exists()
    assert facts_of(tmp_path)["status"] == "failed"


def photographs(root):
    """Write twelve images with masks; return the overrides that train a small model on them."""
    write_scenes(root, 12, height=80, width=80, radius=12)
    return ["dataset=folder", f"dataset.root={root}", "dataset.cache_dir=null", *OF_FILES]


def test_the_monitor_on_patches_is_the_score_of_tiles_which_is_near_that_of_whole_images(configure, tmp_path):
    words = [*photographs(tmp_path / "data"), "dataset.fit=patch", "optimizer.lr=0.01", "seed=2"]
    value = train(configure("train", *words, folder=tmp_path / "run"), tmp_path / "run")
    assert epochs_of(tmp_path / "run")["val/iou_pooled"].max() == pytest.approx(value)
    assert value == pytest.approx(facts_of(tmp_path / "run")["metrics"]["val/iou_pooled"], abs=0.05)
    assert set(pd.read_csv(tmp_path / "run/per_image.csv")["pixels"]) == {80 * 80}
    assert 0 < value < 1


def test_a_run_does_not_resume_on_data_that_have_changed_nor_is_it_taken_for_one_on_them(configure, tmp_path):
    cfg = configure("train", *photographs(tmp_path / "data"), "stop_after=1", folder=tmp_path / "run")
    train(cfg, tmp_path / "run")
    cfg.stop_after, image = None, tmp_path / "data/images/03.png"
    right = image.read_bytes()

    def refused():
        facts = facts_of(tmp_path / "run")
        write_image(image, np.zeros((80, 80)))
        for _ in range(2):
            fingerprint_now.cache_clear()
            with pytest.raises(ContractError, match=r"expected the data that it was trained on.*rerun=true"):
                train(cfg, tmp_path / "run")
        assert facts_of(tmp_path / "run") == facts  # a paused run stays paused
        image.write_bytes(right)
        fingerprint_now.cache_clear()

    refused()
    value = train(cfg, tmp_path / "run")
    assert train(cfg, tmp_path / "run") == value
    refused()


@pytest.mark.slow
def test_the_learning_rate_is_tuned_once_for_all_seeds_of_a_loss(tmp_path):
    words = ("tune.lr=[1e-6,1e-2]", "tune.epochs=3", "model.norm=batch")
    tuned = facts_of(train_small(tmp_path / "a", *words))["tuned"]
    assert set(tuned["tried"]) == {"1e-06", "0.01"}
    assert tuned["lr"] == float(max(tuned["tried"], key=tuned["tried"].get))
    assert pd.read_csv(tmp_path / "a/metrics.csv")["lr"][0] == tuned["lr"]
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.glob(".tune/*/run.json")}
    assert len(stamps) == 2
    assert facts_of(train_small(tmp_path / "b", *words, "seed=2"))["tuned"] == tuned
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob(".tune/*/run.json")} == stamps


def test_a_rate_that_diverges_is_left_out_for_every_seed_of_a_sweep(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("SEGLAB_SWEEP", str(tmp_path / "journal"))  # a sweep does not retry a failed run
    words = ("optimizer=sgd", "tune.epochs=1", "model.norm=batch")
    for seed in (1, 2):
        run = train_small(tmp_path / str(seed), *words, "tune.lr=[1e6,1e-3]", f"seed={seed}")
        assert facts_of(run)["tuned"]["lr"] == 1e-3
        assert facts_of(run)["tuned"]["tried"]["1e+06"] is None
    assert caplog.text.count("tune: optimizer.lr=1e+06 is dropped: BCEDice: expected finite logits") == 2
    with pytest.raises(ContractError, match=r"tune.lr: expected a learning rate at which this loss trains, got none"):
        train_small(tmp_path / "none", *words, "tune.lr=[1e6]")


def test_a_rate_whose_value_is_undefined_is_left_out(configure, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("seglab.train.run_once", lambda cfg, *_, **__: math.nan if cfg.optimizer.lr < 1e-4 else 0.5)
    cfg = configure("train", "tune.lr=[1e-6,1e-3]", folder=tmp_path)
    tune_learning_rate(cfg, Run(tmp_path))
    assert cfg.optimizer.lr == 1e-3
    assert "tune: optimizer.lr=1e-06 is dropped: val/iou_pooled is undefined in each validation" in caplog.text
    cfg.tune.lr = [1e-6]
    with pytest.raises(ContractError, match=r"tune.lr: expected a learning rate at which this loss trains, got none"):
        tune_learning_rate(cfg, Run(tmp_path))


def test_a_monitor_that_was_never_defined_chooses_nothing(tmp_path):
    words = ("monitor=val/precision", "model.prior=1e-6", "optimizer.lr=1e-6", "trainer.max_epochs=4")
    words += ("callbacks=early_stopping", "callbacks.early_stopping.patience=2")  # undefined values count too
    for _ in range(2):  # the second time it resumes after its last epoch
        with pytest.raises(ContractError, match=r"monitor=val/precision: expected a validation in which it is defined"):
            train_small(tmp_path, *words)
    assert len(epochs_of(tmp_path)) == 2
    assert facts_of(tmp_path)["status"] == "failed"
    assert (tmp_path / "checkpoints/last.ckpt").exists()


def test_each_fold_is_a_training_of_its_own_the_same_for_every_loss(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("seglab.train.fit", lambda cfg, trainer, module, data, run: seen.append(module) or 1 / 0)
    for number, words in enumerate((("bce", 0), ("dice", 0), ("bce", 1))):
        fold = (f"loss={words[0]}", "dataset.folds=2", f"dataset.fold={words[1]}", "seed=4294967295")  # the largest
        with pytest.raises(ZeroDivisionError):
            train_small(tmp_path / str(number), *fold)
    first, same, other = (next(module.model.parameters()) for module in seen)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
