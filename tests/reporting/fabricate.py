"""Fabricate run folders like those of training from known effects, without training a network.

Logits are normal around a mean that depends on the loss, the seed and the image. Histograms, counts, scores and metrics
follow from the same draw, so that every result of the report can be recomputed from the files.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import logit, ndtr

from seglab.reporting.cube import Cube

EDGES = logit(np.linspace(0, 1, 257)[1:-1])
CARDS = {
    "bce": ("Binary cross-entropy", r"-\frac{1}{N}\sum_i t_i\log p_i+(1-t_i)\log q_i", "Good 1952"),
    "dice": ("Soft Dice", r"1-\frac{2\sum_i p_i t_i}{\sum_i p_i+\sum_i t_i}", "Milletari et al. 2016, V-Net"),
    "focal": ("Focal", r"-\frac{1}{N}\sum_i \alpha_i(1-p_i)^\gamma\log p_i", "Lin et al. 2017"),
}


@dataclass(frozen=True)
class FakeLoss:
    """A loss that raises foreground logits by `skill`, with a standard deviation of `seed_noise` over seeds."""

    name: str
    skill: float = 1.0
    seed_noise: float = 0.1
    params: dict = field(default_factory=dict)


def write_sweep(root: Path, losses: list[FakeLoss], seeds: list[int], images: int = 30, **more: object) -> Path:
    """Write a run folder for each loss and seed; `more` is passed to `write_run`."""
    for number, loss in enumerate(losses):
        for seed in seeds:
            write_run(root, loss, seed, images, number=number, **more)
    return root


def write_run(
    root: Path, loss: FakeLoss, seed: int, images: int = 30, number: int = 0, extra: dict | None = None, **more: object
) -> Path:
    """Write a finished run; `extra` is merged into the configuration, and `more` replaces facts of run.json."""
    words = [loss.name, *(f"{key}-{value}" for key, value in loss.params.items()), f"s{seed}"]
    folder = root / "_".join(words)
    folder.mkdir(parents=True)
    own = np.random.default_rng([number, seed])
    shift = loss.skill + loss.seed_noise * own.normal()
    table, rows = draw(own, shift, images)
    rows.to_csv(folder / "per_image.csv", index=False)
    ids = rows["id"].to_numpy(str)
    np.savez(folder / "histograms.npz", test=table, test_ids=ids, val=table[::2], val_ids=ids[::2])
    history(shift).to_csv(folder / "metrics.csv", index=False)
    scores = rows.drop(columns=["id", "group", "class", "pixels", "foreground"]).mean()
    metrics = {f"test/{key}": value for key, value in scores.items()} | {"test/ece": 0.05, "val/iou": scores["iou"]}
    whole = scored(table.sum(0)[None], table.sum()).iloc[0]
    metrics |= {f"test/{key}_pooled": whole[key] for key in ("iou", "dice", "precision", "recall", "accuracy")}
    write_examples(folder / "examples.npz", own, shift)
    known = facts(folder.name, loss, seed, metrics, extra or {}) | more
    (folder / "run.json").write_text(json.dumps(known, indent=1))
    return folder


def change(folder: Path, **facts: object) -> None:
    """Replace facts in the run.json of a run."""
    file = folder / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | facts))


def a_cube(values: np.ndarray, groups: np.ndarray | None = None) -> Cube:
    """Return a cube of values (losses, seeds, images); each image is its own group unless `groups` are given."""
    losses, seeds, images = values.shape
    groups = np.arange(images).astype(str) if groups is None else groups
    return Cube([f"l{i}" for i in range(losses)], list(range(seeds)), [str(i) for i in range(images)], groups, values)


def draw(own: np.random.Generator, shift: float, images: int) -> tuple[np.ndarray, pd.DataFrame]:
    """Draw histograms (images, 2, 256) and the rows of per_image.csv; `own` is the random generator of the run."""
    world, pixels = np.random.default_rng(0), 4096
    foreground = (pixels * np.exp(world.uniform(np.log(0.005), np.log(0.12), images))).astype(int)
    foreground[::5] = 0
    ease = world.normal(0, 0.5, images) + own.normal(0, 0.2, images)
    table = np.zeros((images, 2, 256), int)
    for row, (mean, count) in enumerate(((-5.5, pixels - foreground), (0.0, foreground))):
        center = mean + (shift + ease if row else 0 * ease)
        cumulative = ndtr((EDGES - center[:, None]) / 1.6)
        shares = np.diff(cumulative, axis=1, prepend=0, append=1)
        table[:, row] = own.multinomial(count, shares)
    return table, scored(table, pixels)


def scored(table: np.ndarray, pixels: int) -> pd.DataFrame:
    """Return the rows that the engine would write for these histograms, at threshold 0.5."""
    (tn, fp), (fn, tp) = ((table[:, row, :128].sum(1), table[:, row, 128:].sum(1)) for row in (0, 1))
    middle = (np.arange(256) + 0.5) / 256
    true, found = tp + fn, tp + fp
    with np.errstate(invalid="ignore", divide="ignore"):
        scores = {
            "iou": np.where(true == 0, found == 0, tp / (true + fp)),
            "dice": np.where(true == 0, found == 0, 2 * tp / (true + found)),
            "accuracy": (tp + tn) / pixels,
            "precision": tp / found,
            "recall": tp / true,
            "specificity": tn / (tn + fp),
            "foreground_confidence": (table[:, 1] @ middle) / true,
            "background_confidence": (table[:, 0] @ (1 - middle)) / (tn + fp),
            "hd95": np.where(true * found > 0, 40 * (1 - tp / (true + fp)), np.nan),
        }
    size = len(table)
    names = {"id": [f"image_{i:03d}" for i in range(size)], "group": [f"patient_{i // 2}" for i in range(size)]}
    names["class"] = ["foreground"] * size
    counts = {"pixels": pixels, "foreground": true, "tp": tp, "fp": fp, "fn": fn, "tn": tn}
    return pd.DataFrame({**names, **counts, "loss": 1 - scores["dice"], **scores})


def history(shift: float) -> pd.DataFrame:
    """Return a metrics.csv with curves that rise towards a level that depends on the loss and the seed."""
    epoch = np.arange(6)
    rise = 1 - np.exp(-(epoch + 1) / 3)
    columns = {"epoch": epoch, "step": 10 * epoch, "lr": 0.001, "seconds": 1.0}
    for stage, gap in (("train", 0.0), ("val", 0.04)):
        columns[f"{stage}/loss"] = 0.7 - 0.5 * rise + gap
        levels = {"iou": 0.75, "iou_pooled": 0.74, "accuracy": 0.95}
        levels |= {"foreground_confidence": 0.8, "background_confidence": 0.97}
        for name, level in levels.items():
            columns[f"{stage}/{name}"] = (level - gap + 0.05 * np.tanh(shift - 1)) * rise
    return pd.DataFrame(columns)


def write_examples(file: Path, own: np.random.Generator, shift: float, count: int = 3, size: int = 48) -> None:
    """Write images of a bright disc, the same for every run, and the run's own blurred predictions."""
    y, x = np.mgrid[:size, :size]
    radius = np.linspace(5, 16, count)[:, None, None]
    distance = np.hypot(y - size / 2, x - size / 2)[None]
    texture = np.random.default_rng(1).normal(0, 12, (count, size, size, 3))
    images = (90 + 70 * (distance < radius)[..., None] * [1, 0.9, 0.5] + texture).clip(0, 255).astype(np.uint8)
    edge = radius + 2 * (shift - 1) + own.normal(0, 0.5)
    probabilities = 1 / (1 + np.exp((np.hypot(y - size / 2, x - size / 2 - 1.5)[None] - edge) / 1.5))
    ids, truths = np.array([f"image_{i:03d}" for i in range(1, count + 1)]), (distance < radius).astype(np.uint8)
    np.savez(file, ids=ids, images=images, truths=truths, probabilities=probabilities.astype(np.float16))


def facts(name: str, loss: FakeLoss, seed: int, metrics: dict, extra: dict) -> dict:
    """Return the contents of run.json of a finished run."""
    title, formula, paper = CARDS.get(loss.name, (loss.name.title(), "1-p", "nobody"))
    config = {"study": "made-up", "seed": seed, "batch_size": 8, "workers": 0, "threshold": 0.5, "empty": "correct"}
    config |= {"folder": f"/somewhere/{name}", "trainer": {"max_epochs": 6, "accelerator": "auto"}}
    config["dataset"] = {"_target_": "a.Synthetic", "scene": "disc", "size": 64, "mean": [0.5]}
    config["model"] = {"_target_": "a.UNet", "base": 16}
    config["loss"] = {"_target_": f"a.{loss.name.title()}", **loss.params}
    config["optimizer"] = {"_target_": "a.AdamW", "lr": 0.001}
    for key, value in extra.items():
        config[key] = config.get(key, {}) | value if isinstance(value, dict) else value
    return {
        "name": name,
        "status": "finished",
        "config": config,
        "choices": {"loss": loss.name, "dataset": "synthetic", "model": "unet", "optimizer": "adamw"},
        "seed": seed,
        "versions": {"python": "3.11.7", "seglab": "2.0.0", "torch": "2.15.0"},
        "git": {"commit": "0123456789abcdef", "dirty": False},
        "host": {"gpu": None, "cpu": "a processor", "threads": 1, "precision": "32-true"},
        "data": {"images": {"train": 60, "val": 15, "test": 30}, "foreground": 0.03, "fingerprint": "0ad80aae1441b82f"},
        "card": {"title": title, "family": "made up", "formula": formula, "paper": paper, "empty": "", "differs": ""},
        "threshold": {"tuned": 0.375},
        "monitor": {"name": "val/iou_pooled", "value": metrics["val/iou"], "epoch": 5},
        "metrics": {key: value for key, value in metrics.items() if value == value},
        "finished": f"2026-11-22T11:{seed % 60:02d}:30+00:00",
        "seconds": 30.5,
        "error": None,
    }
