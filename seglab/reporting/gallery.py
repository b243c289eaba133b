"""The same test images under every loss, side by side: errors in color, and their probabilities.

Each run keeps a few test images in examples.npz: `ids` (n,), `images` uint8 (n, h, w, c), `truths` (n, h, w) and
`probabilities` (n, h, w) in [0, 1], or uint8 in 0..255. They are chosen by the data alone: all runs keep the same ones.
"""

from __future__ import annotations

import base64
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from seglab.plots import outlined, paint_errors

SIDE = 176
"""Pictures are shrunk to this many pixels, so that a report stays small enough to be mailed."""


def read_examples(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """A run's kept test images by id, each with image, truth and probability (h, w); empty if it kept none."""
    try:
        with np.load(folder / "examples.npz") as file:
            arrays = {key: file[key] for key in ("ids", "images", "truths", "probabilities")}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return {}
    probability = arrays["probabilities"].astype(np.float32)
    if arrays["probabilities"].dtype == np.uint8:
        probability /= 255
    rows = zip(arrays["ids"], arrays["images"], arrays["truths"], probability, strict=True)
    return {str(key): {"image": image, "truth": truth, "probability": p} for key, image, truth, p in rows}


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
        first = next(examples[name] for examples in kept.values() if name in examples)
        cells = {}
        for label, examples in kept.items():
            if name in examples:
                seen = examples[name]
                threshold = runs[label]["config"].get("threshold", 0.5)
                cells[label] = {
                    "errors": picture(paint_errors(seen["image"], seen["truth"], seen["probability"], threshold)),
                    "probability": picture((255 * seen["probability"]).round().astype(np.uint8)),
                    "score": scores.get((runs[label].name, name), np.nan),
                }
        truth = (255 * first["truth"].astype(np.float32)).astype(np.uint8)
        rows.append(
            {
                "id": name,
                "image": picture(outlined(first["image"], first["truth"])),
                "truth": picture(truth),
                "cells": cells,
            }
        )
    return list(kept), rows


def picture(pixels: np.ndarray) -> str:
    """An uint8 picture (h, w), (h, w, 1) or (h, w, 3), shrunk if it is large, as a data address for an img tag."""
    pixels = pixels.squeeze()
    image = Image.fromarray(
        pixels[..., :3] if pixels.ndim == 3 and pixels.shape[2] > 2 else pixels.reshape(pixels.shape[:2])
    )
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
