"""The same test images under every loss, side by side: errors in color, and their probabilities.

Each run keeps a few test images in examples.npz: `ids` (n,), `images` uint8 (n, h, w, c), `truths` (n, h, w) and
`probabilities` (n, h, w) in [0, 1], or uint8 in 0..255, both (n, k, h, w) of several classes, and `valid` (n, h, w)
where not all pixels count. They are chosen by the data alone: all runs keep the same ones.
"""

import base64
import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from seglab.contract import Task
from seglab.plots import outlined, paint_classes, paint_errors

SIDE = 176
"""Pictures are shrunk to this many pixels, so that a report stays small enough to be mailed."""


def read_examples(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """A run's kept test images by id, each with image, truth, probability and valid; empty if it kept none."""
    try:
        with np.load(folder / "examples.npz") as file:
            arrays = {key: file[key] for key in ("ids", "images", "truths", "probabilities")}
            valid = file["valid"] if "valid" in file else [None] * len(file["ids"])
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return {}
    probability = arrays["probabilities"].astype(np.float32) / (255 if arrays["probabilities"].dtype == np.uint8 else 1)
    rows = zip(arrays["ids"], arrays["images"], arrays["truths"], probability, valid, strict=True)
    return {str(key): dict(zip(("image", "truth", "probability", "valid"), row, strict=True)) for key, *row in rows}


def of_class(seen: dict[str, np.ndarray], task: Task, chosen: Sequence[int]) -> tuple[dict[str, np.ndarray], str]:
    """An example as the report shows it, and its kind of task: of one class alone, (h, w), or of all, (k, h, w)."""
    if seen["truth"].ndim == 2:
        return seen, "binary"
    if len(chosen) > 1:
        return seen, task.kind
    return seen | {key: seen[key][chosen[0]] for key in ("truth", "probability")}, "binary"


def one_seed(runs: pd.DataFrame, labels: list[str]) -> dict[str, pd.Series]:
    """One run of each label to show: the smallest seed that most labels have, or else the label's own smallest."""
    common = runs.groupby("seed")["label"].nunique()
    seed = common.index[common == common.max()].min()
    first = runs.assign(other=runs["seed"] != seed).sort_values(["other", "seed"]).groupby("label").head(1)
    found = {run["label"]: run for _, run in first.iterrows()}
    return {label: found[label] for label in labels if label in found}


def gallery(runs: Mapping[str, pd.Series], images: pd.DataFrame, metric: str) -> tuple[list[str], list[dict]]:
    """The pictures to show: the labels, and a row per image with `id`, `image`, `truth` and, by label, `cells`.

    Pictures are data addresses; a cell holds `errors`, `probability` and the `score` of that image in that run.
    """
    kept = {label: examples for label, run in runs.items() if (examples := read_examples(run["folder"]))}
    scores = images.set_index(["run", "id"])[metric]
    rows = []
    for name in dict.fromkeys(name for examples in kept.values() for name in examples):
        cells = {}
        having = {label: examples[name] for label, examples in kept.items() if name in examples}
        seen = {label: of_class(one, runs[label]["task"], runs[label]["classes"]) for label, one in having.items()}
        for label, (one, kind) in seen.items():
            threshold, p = runs[label]["config"].get("threshold", 0.5), one["probability"]
            errors = paint_errors(one["image"], one["truth"], p, threshold, kind, one["valid"])
            several = paint_classes(one["image"], p, threshold, kind, one["valid"]) if p.ndim == 3 else None
            cells[label] = {
                "errors": picture(errors),
                "probability": picture((255 * p).round().astype(np.uint8) if several is None else several),
                "score": scores.get((runs[label].name, name), np.nan),
            }
        first, kind = next(iter(seen.values()))
        truth = first["truth"]
        if truth.ndim == 2:
            shown, outline = (255 * truth.astype(np.float32)).astype(np.uint8), truth
        else:
            shown = paint_classes(first["image"], truth, 0.5 + 1e-6, kind, first["valid"])
            outline = truth[1 if kind == "multiclass" else 0 :].max(0)
        image = picture(outlined(first["image"], outline))
        rows.append({"id": name, "image": image, "truth": picture(shown), "cells": cells})
    return list(kept), rows


def picture(pixels: np.ndarray) -> str:
    """An uint8 picture (h, w), (h, w, 1) or (h, w, 3), shrunk if it is large, as a data address for an img tag."""
    pixels = pixels.squeeze()
    colored = pixels.ndim == 3 and pixels.shape[2] > 2
    image = Image.fromarray(pixels[..., :3] if colored else pixels.reshape(pixels.shape[:2]))
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
