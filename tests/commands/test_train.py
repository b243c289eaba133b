"""The main job from its configuration to its folder, on a model so small that each run takes about a second."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import DictConfig, open_dict

from seglab.contract import ContractError
from seglab.engine.config import ConfigError
from seglab.engine.module import Meter
from seglab.train import train
from tests.conftest import SMALL

Configure = Callable[..., DictConfig]


@pytest.fixture
def run(configure: Configure) -> Callable[..., float]:
    """Train in a folder with overrides of the small configuration."""

    def trained(folder: Path, *overrides: str) -> float:
        return train(configure("train", *SMALL, *overrides, folder=folder), folder)

    return trained


def epochs(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "metrics.csv").drop(columns="seconds")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def test_a_run_that_finds_nothing_says_so(
    run: Callable[..., float], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    run(tmp_path / "blind", "model.prior=1e-6", "optimizer.lr=1e-6", "trainer.max_epochs=1")
    assert "blind finds nothing in any test image that has foreground" in caplog.text
    assert "val/iou_pooled 0.0000" in caplog.text  # what chooses the checkpoint stands in the line of the epoch
    caplog.clear()
    run(tmp_path / "seeing", "threshold=0.01", "optimizer.lr=1e-6", "trainer.max_epochs=1")
    assert "finds nothing" not in caplog.text


def test_what_chooses_the_checkpoint_does_not_prefer_to_find_nothing(configure: Configure) -> None:
    target = torch.zeros(2, 1, 8, 8)
    target[0, 0, :4, :4] = 1
    blind, rough = torch.full_like(target, -9), torch.full_like(target, -9)
    rough[:, :, :4, :6] = 9  # finds the object, and something in the empty image too
    scores = []
    for logits in (blind, rough):
        meter = Meter(0.5, "correct")
        meter.update(torch.zeros(2), logits, target)
        scores.append({f"val/{name}": float(value) for name, value in meter.flush().items()})
    assert [score["val/iou"] for score in scores] == pytest.approx([1 / 2, 1 / 3])
    monitor = configure("train").monitor
    assert [score[monitor] for score in scores] == pytest.approx([0, 16 / 48])


def test_a_run_leaves_a_folder_to_look_at_and_to_read(run: Callable[..., float], tmp_path: Path) -> None:
    value = run(tmp_path, "pictures=true", "examples=9")
    facts = json.loads((tmp_path / "run.json").read_text())
    table, images = pd.read_csv(tmp_path / "metrics.csv"), pd.read_csv(tmp_path / "per_image.csv")
    assert facts["status"] == "finished"
    assert value == facts["monitor"]["value"] == pytest.approx(table["val/iou_pooled"].max())
    assert list(table["epoch"]) == [0, 1]
    assert list(table["step"]) == [2, 4]
    assert table[[f"train/gradient_{name}" for name in ("foreground", "edge", "hard")]].stack().between(0, 1).all()
    assert len(images) == 6
    assert facts["metrics"]["test/iou"] == pytest.approx(images["iou"].mean(), abs=1e-6)
    assert facts["metrics"]["test/loss"] == pytest.approx(images["loss"].mean(), abs=1e-6)
    tp, union = images["tp"].sum(), (images["tp"] + images["fp"] + images["fn"]).sum()
    assert facts["metrics"]["test/iou_pooled"] == pytest.approx(tp / union, abs=1e-6)
    tables = np.load(tmp_path / "histograms.npz")
    np.testing.assert_array_equal(tables["test"][:, 0, 1, 128:].sum(-1), images["tp"])
    np.testing.assert_array_equal(tables["test"][:, 0, 0, 128:].sum(-1), images["fp"])
    assert tables["val"].sum() == 4 * 32 * 32
    for picture in ("curves.png", "examples.png"):
        assert cv2.imread(str(tmp_path / picture)) is not None
    assert np.load(tmp_path / "examples.npz")["images"].shape == (6, 32, 32, 3)


def test_two_runs_of_one_configuration_are_equal_to_the_last_bit(run: Callable[..., float], tmp_path: Path) -> None:
    run(tmp_path / "a")
    run(tmp_path / "b", "workers=1")
    pd.testing.assert_frame_equal(epochs(tmp_path / "a"), epochs(tmp_path / "b"), check_exact=True)
    assert (tmp_path / "a/per_image.csv").read_text() == (tmp_path / "b/per_image.csv").read_text()


def test_runs_that_differ_in_the_loss_start_from_the_same_weights_and_see_the_same_images(
    configure: Configure, tmp_path: Path
) -> None:
    from seglab.engine.run import Run
    from seglab.train import load_data, make_module

    seen = []
    for loss in ("bce", "tversky"):
        cfg = configure("train", *SMALL, f"loss={loss}", folder=tmp_path)
        made = Run(tmp_path / loss)
        data = load_data(cfg, made)
        module = make_module(cfg, data, made)
        seen.append((module.state_dict(), next(iter(data.loader("train"))), torch.rand(2)))
    (first, images, numbers), (second, others, more) = seen
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())
    assert images["id"] == others["id"]
    assert torch.equal(images["image"], others["image"])
    assert torch.equal(numbers, more)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_an_interrupted_run_resumes_and_ends_like_the_undisturbed_one(
    run: Callable[..., float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    from seglab.engine.module import SegModule

    longer = ("trainer.max_epochs=4", "scheduler=plateau", "scheduler.patience=0", f"workers={workers}")
    run(tmp_path / "undisturbed", *longer)
    step = SegModule.training_step

    def killed(self: SegModule, batch: dict, batch_idx: int) -> dict[str, torch.Tensor]:
        if self.current_epoch == 2 and batch_idx == 1:
            raise RuntimeError("killed")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(SegModule, "training_step", killed)
    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path / "disturbed", *longer)
    assert json.loads((tmp_path / "disturbed/run.json").read_text())["status"] == "failed"
    monkeypatch.undo()
    run(tmp_path / "disturbed", *longer)
    undisturbed = weights(tmp_path / "undisturbed")
    assert all(torch.equal(w, undisturbed[name]) for name, w in weights(tmp_path / "disturbed").items())
    images = [(tmp_path / name / "per_image.csv").read_text() for name in ("disturbed", "undisturbed")]
    assert images[0] == images[1]
    pd.testing.assert_frame_equal(*(epochs(tmp_path / name) for name in ("disturbed", "undisturbed")), check_exact=True)


class Pooled(torch.nn.Module):
    """A batch norm of one value per image, as in the pooling branch of DeepLab."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        pool = (torch.nn.AdaptiveAvgPool2d(1), torch.nn.BatchNorm2d(in_channels))
        self.layers = torch.nn.Sequential(*pool, torch.nn.Conv2d(in_channels, out_channels, 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layers(image).expand(-1, -1, *image.shape[2:])


def test_a_batch_norm_of_one_value_trains_where_one_image_is_left_over_and_refuses_batches_of_one(
    configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    words = [word for word in SMALL if not word.startswith("model.")] + ["dataset.train=9", "trainer.max_epochs=1"]
    cfg = configure("train", *words, folder=tmp_path / "nine")
    with open_dict(cfg):
        cfg.model = {"_target_": f"{__name__}.Pooled", "in_channels": 3, "out_channels": 1}
    train(cfg, tmp_path / "nine")
    assert "the last batch of an epoch would be one image, and joins the batch before it" in caplog.text
    assert list(epochs(tmp_path / "nine")["step"]) == [2]
    cfg.batch_size, cfg.folder = 1, str(tmp_path / "one")
    with pytest.raises(ContractError, match=r"batch_size: expected at least 2 images in each batch.*set batch_size=2"):
        train(cfg, tmp_path / "one")


def test_a_plateau_schedule_steps_after_the_epochs_that_are_validated(
    run: Callable[..., float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    step = torch.optim.lr_scheduler.ReduceLROnPlateau.step
    monkeypatch.setattr(
        torch.optim.lr_scheduler.ReduceLROnPlateau,
        "step",
        lambda self, value, *rest: (seen.append(value), step(self, value, *rest))[1],
    )
    words = ("scheduler=plateau", "scheduler.patience=0", "trainer.max_epochs=5", "optimizer.lr=1e-9")
    run(tmp_path, *words, "trainer.check_val_every_n_epoch=2")
    table = epochs(tmp_path)
    assert seen == table["val/iou_pooled"].dropna().tolist()
    assert len(seen) == 2
    assert table["val/iou_pooled"].notna().tolist() == [False, True, False, True, False]


def test_a_finished_run_is_skipped_and_another_experiment_may_not_take_its_folder(
    run: Callable[..., float], tmp_path: Path
) -> None:
    value = run(tmp_path)
    stamp = (tmp_path / "per_image.csv").stat().st_mtime_ns
    assert run(tmp_path) == value
    assert (tmp_path / "per_image.csv").stat().st_mtime_ns == stamp
    with pytest.raises(ContractError, match=r"a folder of this experiment.*rerun=true"):
        run(tmp_path, "seed=2")
    run(tmp_path, "rerun=true")
    assert (tmp_path / "per_image.csv").stat().st_mtime_ns > stamp


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["loss=focal", "loss.gamma=-1"], "gamma"),
        (["loss=focal", "loss.gamma=two"], r"loss\.gamma: expected a number"),
        (["trainer.accelerator=gpu"], r"trainer\.accelerator: expected a GPU, got none here; use trainer=cpu"),
        (["dataset=folder", "dataset.root=/nowhere"], "/nowhere"),
        (["dataset.size=30", "model.depth=4"], r"30"),
        (["dataset.channels=1", "model.in_channels=3"], r"channel"),
        (["monitor=val/nothing"], r"monitor: expected a metric of an epoch such as val/iou, .*, got val/nothing"),
        (["optimizer.lr=fast"], r"optimizer\.lr: expected"),
    ],
)
def test_bad_input_is_one_sentence_before_the_first_epoch(
    configure: Configure, tmp_path: Path, overrides: list[str], sentence: str
) -> None:
    if "trainer.accelerator=gpu" in overrides and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    ours = [word for word in SMALL if "dataset=folder" not in overrides or not word.startswith("dataset.")]
    cfg = configure("train", *ours, *overrides, folder=tmp_path)
    with pytest.raises((ConfigError, ContractError), match=sentence) as fault:
        train(cfg, tmp_path)
    assert "\n" not in str(fault.value).strip()
    assert not (tmp_path / "metrics.csv").exists()


def test_a_loss_that_explodes_names_its_images_and_keeps_the_best_checkpoint(
    run: Callable[..., float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seglab.engine.module import SegModule

    scales = SegModule.scales

    def exploding(module: SegModule, image: torch.Tensor) -> list[torch.Tensor]:
        factor = float("nan") if module.training and module.current_epoch == 1 else 1
        return [factor * logits for logits in scales(module, image)]

    monkeypatch.setattr(SegModule, "scales", exploding)
    with pytest.raises(ContractError, match=r"NaN of .*; in epoch 1 for disc-train-0.*lower optimizer\.lr"):
        run(tmp_path, "loss=bce")
    assert (tmp_path / "checkpoints/best.ckpt").exists()
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "failed"


def command(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "seglab.train", *words], cwd=cwd, capture_output=True, text=True)


def test_the_command_line_says_one_sentence_and_exits_with_1(tmp_path: Path) -> None:
    said = command(*SMALL, "trainer.max_epochs=many", cwd=tmp_path)
    assert said.returncode == 1
    assert "trainer.max_epochs: expected" in said.stderr
    assert "Traceback" not in said.stderr


def photographs(root: Path, size: int) -> list[str]:
    """Paint twelve images with their masks, and give the overrides that train a small model on them."""
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for k in range(12):
        mask = np.zeros((size, size), np.uint8)
        mask[k : k + size // 3, 5 : size // 2] = 255
        cv2.imwrite(str(root / f"masks/{k}.png"), mask)
        cv2.imwrite(str(root / f"images/{k}.png"), mask // 2 + rng.integers(0, 99, (size, size), np.uint8))
    words = [word for word in SMALL if word.split("=")[0] not in ("dataset.train", "dataset.val", "dataset.test")]
    return ["dataset=folder", f"dataset.root={root}", "dataset.cache_dir=null", *words]


def test_what_chooses_the_checkpoint_on_patches_is_the_score_of_whole_images(
    configure: Configure, tmp_path: Path
) -> None:
    words = [*photographs(tmp_path / "data", 80), "dataset.fit=patch", "optimizer.lr=0.01"]
    value = train(configure("train", *words, folder=tmp_path / "run"), tmp_path / "run")
    metrics = json.loads((tmp_path / "run/run.json").read_text())["metrics"]
    assert value == pytest.approx(metrics["val/iou_pooled"], abs=1e-6)
    assert pd.read_csv(tmp_path / "run/metrics.csv")["val/iou_pooled"].max() == pytest.approx(value)
    rows = pd.read_csv(tmp_path / "run/per_image.csv")
    assert set(rows["pixels"]) == {80 * 80}  # of nine tiles that overlap
    assert 0 < value < 1


def test_a_finished_run_is_not_taken_for_one_on_data_that_have_changed(configure: Configure, tmp_path: Path) -> None:
    from seglab.engine.outcome import fingerprint_now

    cfg = configure("train", *photographs(tmp_path / "data", 32), folder=tmp_path / "run")
    value = train(cfg, tmp_path / "run")
    assert train(cfg, tmp_path / "run") == value
    cv2.imwrite(str(tmp_path / "data/images/3.png"), np.zeros((32, 32), np.uint8))
    fingerprint_now.cache_clear()
    with pytest.raises(ContractError, match=r"expected the data that it was trained on.*rerun=true"):
        train(cfg, tmp_path / "run")


def test_short_runs_that_find_nothing_are_no_ground_to_choose_a_rate(
    run: Callable[..., float], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path / "a", "tune.lr=[1e-6]", "tune.epochs=1", "model.prior=1e-6", "trainer.max_epochs=1")
    assert "tune: no rate has found anything to speak of in 1 epochs; raise tune.epochs" in caplog.text


@pytest.mark.slow
def test_the_learning_rate_is_tuned_once_for_all_seeds_of_a_loss(run: Callable[..., float], tmp_path: Path) -> None:
    words = ("tune.lr=[1e-6,1e-2]", "tune.epochs=3", "model.norm=batch")
    run(tmp_path / "a", *words)
    first = json.loads((tmp_path / "a/run.json").read_text())
    assert set(first["tuned"]["tried"]) == {"1e-06", "0.01"}
    assert first["tuned"]["lr"] == float(max(first["tuned"]["tried"], key=first["tuned"]["tried"].get))
    assert pd.read_csv(tmp_path / "a/metrics.csv")["lr"][0] == first["tuned"]["lr"]
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.glob(".tune/*/run.json")}
    assert len(stamps) == 2
    run(tmp_path / "b", *words, "seed=2")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob(".tune/*/run.json")} == stamps
    assert json.loads((tmp_path / "b/run.json").read_text())["tuned"] == first["tuned"]
