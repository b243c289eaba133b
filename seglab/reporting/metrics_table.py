"""Every metric of every loss, as mean and spread over its runs: at fixed and tuned thresholds, and within strata."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from seglab.contract import Task
from seglab.reporting.class_rows import chosen_classes, threshold_of
from seglab.reporting.cube import finite_mean
from seglab.reporting.decisions import calibration_scores
from seglab.reporting.load_runs import Sweep
from seglab.reporting.run_decisions import CONFIDENCES, Decisions, decisions_of, mean_scores
from seglab.reporting.thresholds import MIDDLES, average_precision, scores_at

THRESHOLDED = ("iou", "dice", "precision", "recall")  # the scores that a histogram of an image gives at any threshold
FRACTIONS = {*THRESHOLDED, *CONFIDENCES, "f2", "accuracy", "specificity", "nsd", "object_dice", "object_f2"}
"""The metrics that lie between 0 and 1."""

QUARTERS = ("smallest quarter", "second quarter", "third quarter", "largest quarter")
CALIBRATION = {"nll": "NLL", "brier": "Brier score", "ece": "calibration error"}
TUNED = ("tuned/threshold", *(f"tuned/{name}" for name in THRESHOLDED))
POOLED = (*(f"{name}_pooled" for name in (*THRESHOLDED, "accuracy")), "average_precision")
OBJECTS = ("object_recall", "object_dice", "object_f2", "found/object_f1", "found/false_objects", "found/area_error")
EPOCHS = ("epochs/train roughness", "epochs/val roughness", "epochs/seconds")
LOWER_IS_BETTER = {"loss", "fp", "fn", "hd95", "asd", "found/nothing", "found/false_objects", *CALIBRATION, *EPOCHS}
RESCALED = (f"{rule}/{key}" for rule in ("scaled", "calibrated") for key in CALIBRATION)
CALIBRATED = (*CALIBRATION, "scaled/temperature", *RESCALED)
SIZES = (f"iou/{stratum}" for stratum in ("with foreground", "worst tenth", *QUARTERS))
STRATA = (*SIZES, "empty/left empty", "image_accuracy", "image_recall")
OUTLINES = (
    "Distances between the outlines, mean over the test images with foreground in which some foreground was predicted"
)
TILES = (
    "Scores were computed on tiles without overlap and summed for each image: an object that is cut by the border of a "
    "tile is found less well than in the whole image. python -m seglab.evaluate scores whole images."
)
BLOCKS: dict[str, tuple[str, ...]] = {
    "Mean over the test images, {decision}": (*THRESHOLDED, "f2", "accuracy", *CONFIDENCES, "specificity"),
    "Mean over the test images, threshold tuned on validation": TUNED,
    "Pooled over all pixels of the test set": POOLED,
    "Calibration over all test pixels: as predicted, after temperature scaling, after isotonic calibration": CALIBRATED,
    OUTLINES: ("hd95", "asd", "nsd", "found/nothing"),
    "Objects (connected components, found if the IoU is above 0.5) and the area of the foreground": OBJECTS,
    "IoU by the size of the foreground, and detection of empty images": STRATA,
    "Over the epochs: roughness of the IoU (mean absolute second difference), and seconds per epoch": EPOCHS,
}
TITLES = {
    "iou": "IoU",
    "dice": "Dice",
    "f2": "F2",
    "hd95": "HD95 (px)",
    "asd": "ASD (px)",
    "nsd": "NSD at 1 px",
    "object_dice": "object Dice",
    "object_f2": "object F2",
    **CALIBRATION,
    **{f"scaled/{key}": f"{name}, scaled" for key, name in CALIBRATION.items()},
    **{f"calibrated/{key}": f"{name}, isotonic" for key, name in CALIBRATION.items()},
    "scaled/temperature": "temperature",
    "empty/left empty": "empty images predicted empty",
    "found/nothing": "images with foreground, nothing predicted",
    "found/object_f1": "object F1",
    "found/false_objects": "false objects per image",
    "found/area_error": "relative area error",
}


def blocks(columns: Iterable[str], decision: str = "") -> dict[str, list[str]]:
    """Return the titles and columns of the table's blocks: BLOCKS, and the IoU of each class if there are several.

    `decision` describes how masks were made from probabilities, for example "threshold 0.5".
    """
    have, assigned = list(dict.fromkeys(columns)), set().union(*BLOCKS.values())  # a spread repeats keys
    classes = [key for key in have if key.startswith("iou/") and key not in assigned]
    every = {**BLOCKS, "IoU of each class, mean over the test images": classes}
    present = {name.format(decision=decision): [key for key in keys if key in have] for name, keys in every.items()}
    return {name: keys for name, keys in present.items() if keys}


def title(key: str) -> str:
    """Return the display name of a metric."""
    name = key.removesuffix("_pooled").removeprefix("tuned/").removeprefix("iou/").removeprefix("epochs/")
    return TITLES.get(name, name.replace("_", " "))


def worse_if_higher(key: str) -> bool:
    """Whether lower values of the metric are better, regardless of its prefix for a decision rule or calibration."""
    plain = key.removesuffix("_pooled").removeprefix("tuned/").removeprefix("scaled/").removeprefix("calibrated/")
    return plain in LOWER_IS_BETTER


def read_decisions(sweep: Sweep, score: str = "iou") -> dict[int, Decisions]:
    """Return the decisions of each used run, read one at a time; runs without histograms are left out.

    `score`, iou or dice, is the score that masks of best expected score maximize.
    """
    facts = ["folder", "task", "thresholds", "config", "classes"]
    decisions = {}
    for row, folder, task, tuned, config, classes in sweep.used[facts].itertuples(name=None):
        decision = decisions_of(folder, task, tuned, config.get("empty", "correct"), classes, score)
        if decision is not None:
            decisions[row] = decision
    return decisions


def at_threshold(table: np.ndarray, task: Task, tuned: Any, empty: str) -> dict[str, float]:
    """Return average precision, calibration error and scores at tuned thresholds, from histograms (n, classes, 2, 256).

    With several classes, these are means over the scored classes, plus one entry per class such as `tuned/iou/cup`.
    """
    parts, per_class = [], dict[str, float]()
    for k in chosen_classes(task):
        of_class, threshold = table[:, k], threshold_of(tuned, task.classes[k])
        pooled = of_class.sum(0)
        ece = calibration_scores(pooled, MIDDLES)["ece"]
        scores = {"average_precision": average_precision(pooled), "ece": ece}
        if np.isfinite(threshold):
            edge = round(threshold * 256)  # exact, since thresholds are tuned on bin edges
            at_edges = scores_at(of_class, empty)
            scores |= {f"tuned/{key}": finite_mean(values[:, edge]) for key, values in at_edges.items()}
            scores["tuned/threshold"] = threshold
        parts.append(scores)
        per_class |= {f"{key}/{task.classes[k]}": value for key, value in scores.items()}
    return mean_scores(parts) | (per_class if task.channels > 1 else {})


def under(rule: str, images: pd.DataFrame, decisions: dict[int, Decisions]) -> pd.DataFrame:
    """Return the rows of per_image.csv with each run's scores under a decision rule; NaN if it has none."""
    names = [name for name in THRESHOLDED if name in images]
    available = {run: found.images[rule] for run, found in decisions.items() if rule in found.images}
    if not available:
        return images.assign(**dict.fromkeys(names, np.nan))
    scores = pd.concat(available).reindex(pd.MultiIndex.from_frame(images[["run", "id"]]))  # in the order of the rows
    return images.assign(**{name: scores[name].to_numpy() for name in names})


def size_strata(images: pd.DataFrame) -> pd.Series:
    """Return the stratum of each row: empty, or the image's quarter among non-empty images by foreground fraction.

    The quarters are those of the images, not of the rows, so they are the same for every run.
    """
    fraction = (images["foreground"] / images["pixels"]).where(images["foreground"] > 0)
    per_image = fraction.groupby(images["id"]).first().dropna()
    edges = np.quantile(per_image, [0.25, 0.5, 0.75]) if len(per_image) else np.zeros(3)
    quarter = np.searchsorted(edges, fraction.to_numpy(), side="left")
    return pd.Series(np.where(fraction.isna(), "empty", np.array(QUARTERS)[quarter]), images.index)


def per_run(sweep: Sweep, decisions: dict[int, Decisions], histories: pd.DataFrame) -> pd.DataFrame:
    """Return all metrics, one row per used run: label, seed, then the available keys of BLOCKS."""
    runs = sweep.used
    recorded = runs.filter(regex="^test/").rename(columns=lambda column: column.removeprefix("test/"))
    images = sweep.images.assign(stratum=size_strata(sweep.images))
    numeric = images.drop(columns="seed").groupby("run").mean(numeric_only=True)
    histograms = pd.DataFrame({row: found.scores for row, found in decisions.items()}).T
    strata = images.pivot_table(index="run", columns="stratum", values="iou", aggfunc="mean")
    empty, nonempty = images[images["foreground"] == 0], images[images["foreground"] > 0]
    if "ece" in histograms:  # in run.json it is a mean over all classes
        recorded = recorded.drop(columns="ece", errors="ignore")
    parts = [  # if a score of a class is undefined, run.json averages in a different order than the verdict
        recorded[[column for column in recorded if column not in numeric]],
        numeric,
        histograms[[column for column in histograms if column not in recorded]],
        nonempty.groupby("run")["iou"].mean().rename("iou/with foreground"),
        strata.drop(columns="empty", errors="ignore").add_prefix("iou/"),
        (empty["tp"] + empty["fp"] == 0).groupby(empty["run"]).mean().rename("empty/left empty"),
        _object_metrics(images),
        epochs(histories),
    ]
    return pd.concat([runs[["label", "seed"]], *parts], axis=1)


def _object_metrics(images: pd.DataFrame) -> pd.DataFrame:
    """Return the IoU of the worst tenth of the images and object metrics, one row per run."""
    runs = images.groupby("run")
    place = runs["iou"].rank(method="first")  # one image each, even if many scores are 0
    worst = images[place <= np.ceil(runs["iou"].transform("count") / 10)].groupby("run")["iou"].mean()
    table = pd.DataFrame({"iou/worst tenth": worst})
    if "objects_found" in images:  # min_count: objects of tiled images are unknown, which is not 0
        true, predicted, hit = (runs[key].sum(min_count=1) for key in ("objects", "objects_predicted", "objects_found"))
        table["found/object_f1"] = 2 * hit / (true + predicted)
        table["found/false_objects"] = (predicted - hit) / runs["objects"].count()
    return table


def nothing_found(images: pd.DataFrame, metric: str, runs: pd.DataFrame) -> str:
    """Return sentences about runs that predict nothing, or get no foreground pixel right overall or for one class.

    The text is empty if there are none. `images` holds means over classes, which hide a class that is never found.
    """
    nonempty, empty = images[images["foreground"] > 0], images[images["foreground"] == 0]
    none_correct = (nonempty["tp"] == 0).groupby(nonempty["run"]).all()
    none_predicted = none_correct & (nonempty["fp"] == 0).groupby(nonempty["run"]).all()
    of_empty = empty.groupby("run")[metric].max().reindex(none_correct.index) > 0  # False for NaN, without empty images
    of_empty &= (empty["fp"] == 0).groupby(empty["run"]).all().reindex(none_correct.index, fill_value=False)
    of_empty &= none_predicted & (nonempty.groupby("run")[metric].max() == 0)
    cases = (
        ("Nothing is predicted by", of_empty, "; the score comes from the empty images alone"),
        ("Nothing is predicted in any image with foreground by", none_predicted & ~of_empty, ""),
        ("No foreground pixel is predicted correctly by", none_correct & ~none_predicted, ""),
    )
    found = [f"{begin} {_of_runs(affected, runs)}{end}." for begin, affected, end in cases if affected.any()]
    classes: dict[str, list[str]] = {}  # a model of sixty classes may miss many
    for name in dict.fromkeys(task.classes[k] for task in runs["task"] for k in task.scored):
        recall = runs.get(f"test/recall_pooled/{name}", pd.Series(dtype=float)).dropna()
        missed = (recall == 0) & ~none_correct.reindex(recall.index, fill_value=False)
        if missed.any():
            classes.setdefault(_of_runs(missed, runs), []).append(name)
    for those, names in classes.items():
        which = f"class{'es' * (len(names) > 1)} {', '.join(names)}"
        found.append(f"No pixel of the {which} is predicted correctly by {those}.")
    return " ".join(found)


def undefined(metric: str, images: str, labels: list[str], tiled: bool) -> str:
    """Return a sentence about losses for which a metric is undefined, so that nothing is compared, and why if known."""
    cut = tiled and metric in ("hd95", "asd", "nsd", "object_dice", "object_f2")
    why = ": tiles cut outlines and objects; python -m seglab.evaluate scores whole images" if cut else ""
    return f"There is nothing to compare: {title(metric)} is undefined in {images} for {', '.join(labels)}{why}."


def _of_runs(chosen: pd.Series, runs: pd.DataFrame) -> str:
    """Return how many runs of each loss are chosen, for example `2 of 3 runs of dice`."""
    counts = chosen.groupby(runs["label"].reindex(chosen.index)).agg(["sum", "size"])
    return ", ".join(f"{k} of {n} runs of {label}" for label, (k, n) in counts.iterrows() if k)


def epochs(histories: pd.DataFrame) -> pd.DataFrame:
    """Return the roughness of training and validation IoU, and the median seconds per epoch, one row per run."""
    runs, columns = histories.groupby("run"), {}
    for split in ("train", "val"):
        if f"{split}/iou" in histories:
            columns[f"epochs/{split} roughness"] = runs[f"{split}/iou"].agg(lambda curve: roughness(curve.to_numpy()))
    if "seconds" in histories:
        columns["epochs/seconds"] = runs["seconds"].median()
    return pd.DataFrame(columns)


def roughness(curve: np.ndarray) -> float:
    """Return the mean absolute second difference, |x(e+1) - 2 x(e) + x(e-1)|: 0 for a line, NaN for under 3 epochs."""
    bends = np.abs(np.diff(curve, 2))
    return float(bends.mean()) if bends.size else float("nan")


def over_seeds(metrics: pd.DataFrame, keys: Iterable[str], by: list[str]) -> pd.DataFrame:
    """Return mean and standard deviation over the runs of each group `by`, with columns (key, mean | sd | runs).

    `runs` counts the runs with a value; precision, for example, is undefined for a run that predicts nothing. Keys
    without any value are left out. The standard deviation of a single run is NaN.
    """
    keys = [key for key in keys if key in metrics and metrics[key].notna().any()]
    grouped = metrics.groupby(by, sort=False)[keys]
    parts = {"mean": grouped.mean(), "sd": grouped.std(ddof=1), "runs": grouped.count()}
    return pd.concat(parts, axis=1).swaplevel(axis=1)[[(key, part) for key in keys for part in parts]]


def rows_of(spread: pd.DataFrame, keys: list[str]) -> Iterator[tuple[Any, list[tuple[float, float, str]]]]:
    """Yield each row's index and the (mean, sd, runs) of these metrics; `runs` is a text if some runs lack a value."""
    mean, sd, runs = (part_of(spread, part) for part in ("mean", "sd", "runs"))
    values = [part[keys].to_numpy().tolist() for part in (mean, sd, runs)]
    for index, count, *row in zip(spread.index, runs.max(axis=1), *values, strict=True):
        yield index, [(*value, f"{k} of {count} runs" if 0 < k < count else "") for *value, k in zip(*row, strict=True)]


def part_of(spread: pd.DataFrame, part: str) -> pd.DataFrame:
    """Return the columns (key, part) of a table, named by key."""
    return pd.DataFrame(spread.xs(part, axis=1, level=1))
