"""The same test images under every loss, side by side: errors in color, or predicted probabilities.

Each run keeps a few test images in examples.npz: `ids` (n,), `images` uint8 (n, h, w, c), `truths` and `probabilities`
in [0, 1], both (n, h, w), or (n, k, h, w) for several classes, and, if some pixels are ignored, `valid` (n, h, w). The
images are chosen by the data alone, so all runs keep the same ones.
"""

import base64
import io
from collections import defaultdict
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from seglab.files import read_arrays
from seglab.plots import as_image, four_pictures
from seglab.reporting.run_labels import of_run

SIDE = 176  # pictures are shrunk to this size in pixels, so that a report stays small enough to email


def read_examples(folder: Path) -> dict[str, tuple[np.ndarray, ...]]:
    """Return a run's kept test images by id: (image, truth, probability, valid or None); empty if it kept none."""
    arrays = read_arrays(folder / "examples.npz")
    if not {"ids", "images", "truths", "probabilities"} <= set(arrays):
        return {}
    valid = arrays.get("valid", [None] * len(arrays["ids"]))
    columns = arrays["images"], arrays["truths"], arrays["probabilities"].astype(np.float32), valid
    return dict(zip(map(str, arrays["ids"]), zip(*columns, strict=True), strict=True))


def pictures_of(run: pd.Series, example: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """Return the four pictures of an example of a run, for one class or for all classes that the report covers."""
    image, truth, probability, valid = example
    kind, classes = run["task"].kind, run["classes"]
    if truth.ndim == 3 and len(classes) == 1:
        truth, probability, kind = truth[classes[0]], probability[classes[0]], "binary"
    return four_pictures(image, truth, probability, valid, run["config"].get("threshold", 0.5), kind)


def one_run_each(runs: pd.DataFrame, labels: list[str]) -> dict[str, pd.Series]:
    """Choose one run per label to show: in the fold that has the most labels, with its seed that has the most labels.

    A label without that run has its smallest seed in that fold, or else a run of another fold, whose images differ.
    """
    fold = runs.groupby("fold")["label"].nunique().idxmax()  # idxmax returns the first of equals
    seed = runs[runs["fold"] == fold].groupby("seed")["label"].nunique().idxmax()
    ranked = runs.assign(other_fold=runs["fold"] != fold, other_seed=runs["seed"] != seed)
    first = ranked.sort_values(["other_fold", "other_seed", "fold", "seed"]).groupby("label").head(1)
    by_label = {run["label"]: run for _, run in first.iterrows()}
    return {label: by_label[label] for label in labels if label in by_label}


def which_runs(chosen: Mapping[str, pd.Series]) -> str:
    """Describe the seed and fold of the runs that are shown, naming the labels if they differ."""
    labels = defaultdict(list)
    for label, run in chosen.items():
        labels[of_run(run["seed"], run["fold"])].append(label)
    words = list(labels)
    if len(labels) > 1:
        words = [f"{run} ({', '.join(names)})" for run, names in labels.items()]
    if len({run["fold"] for run in chosen.values()}) > 1:
        words.append("no fold has a run of every loss, so the images differ")
    if any((run["config"].get("dataset") or {}).get("fit") == "patch" for run in chosen.values()):
        words.append("each picture is the tile with the most foreground, each score that of the whole image")
    return f"S{'; '.join(words)[1:]}"  # the sentence begins with "Seed"


def gallery(runs: Mapping[str, pd.Series], images: pd.DataFrame, metric: str) -> tuple[list[str], list[dict]]:
    """Return the labels, and one row per image with `id`, `image`, `truth` and, by label, `cells`.

    Pictures are data URLs. A cell holds `errors`, `probability` and the `score` of the image in that run.
    """
    examples = {label: each for label, run in runs.items() if (each := read_examples(run["folder"]))}
    scores = images.set_index(["run", "id"])[metric]
    rows = []
    for name in dict.fromkeys(chain(*examples.values())):  # images differ between folds
        cells = {}
        pictures = {label: pictures_of(runs[label], each[name]) for label, each in examples.items() if name in each}
        for label, (_, _, probability, errors) in pictures.items():
            score = scores.get((runs[label].name, name), np.nan)
            cells[label] = {"errors": picture(errors), "probability": picture(probability), "score": score}
        image, truth, *_ = next(iter(pictures.values()))
        rows.append({"id": name, "image": picture(image), "truth": picture(truth), "cells": cells})
    return list(examples), rows


def picture(pixels: np.ndarray) -> str:
    """Return a picture (h, w) in [0, 1] or uint8 (h, w, 3) as a data URL for an img tag, shrunk if it is large."""
    image = as_image(pixels)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82, subsampling=0)  # full color resolution: each pixel has its own color
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
