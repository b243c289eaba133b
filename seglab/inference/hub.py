"""Export a trained model to a folder for a model hub: weights, a model card, and a run.json to open it with."""

import re
from pathlib import Path
from typing import Any

from safetensors.torch import save

from seglab.contract import Task, require
from seglab.engine.trained_run import TrainedRun
from seglab.files import as_numbers, read_json, write_bytes, write_json, write_text

PRIVATE = {"root": ".", "cache_dir": None, "split_file": None}
"""Options of a data set that reveal paths of the training machine, and their replacements."""

MAIN = ("iou", "dice", "precision", "recall", "iou_pooled")
"""The metrics that a model card lists for each class."""

CARD = """---
library_name: seglab
pipeline_tag: image-segmentation
tags: [image-segmentation, seglab, {chosen[loss]}]
---

# {run.name}

{chosen[model]} with {facts[parameters]:,} parameters, trained with the loss `{chosen[loss]}` ({card[title]}) on \
`{chosen[dataset]}` by seglab {facts[versions][seglab]}.

```python
import seglab

[probability] = seglab.Run("FOLDER").predict(["IMAGE"])
{decide}
```

or `python -m seglab.predict run=FOLDER input=IMAGES output=masks{option}`.

## Data

{images} images. Foreground is {percent:.3g} % of the training pixels. Fingerprint of the data set: \
`{facts[data][fingerprint]}`.

## Test metrics

{meaning}

{metrics}

## Loss

{card[title]}: $${card[formula]}$$

{card[paper]}. On an image without foreground: {card[empty]}

## Verdict

{verdict}
"""


def write_hub(run: TrainedRun, folder: Path) -> Path:
    """Write README.md, model.safetensors and run.json to `folder`, which `run=folder` opens as a run.

    Raises ContractError if `folder` is a run, whose run.json would be lost, or a study, whose runs reports would miss.
    """
    taken = [*folder.glob("run.json"), *folder.glob("*/run.json")]
    known = not taken or (folder / "model.safetensors").is_file()  # an earlier export
    require(known, "output", "a folder without runs", taken and taken[0], f"set output={folder / 'hub'}")
    private = ("files", "overrides", "sweep", "initial")  # which refer only to this machine
    facts = {key: value for key, value in run.outcome.items() if key not in private}
    facts["data"] = {**facts["data"], "skipped_why": {}}  # its sentences name files
    dataset = run.config["dataset"]
    hidden = {key: value for key, value in PRIVATE.items() if key in dataset}
    config = {**without_places(run.config), "folder": "", "init_from": None}
    config |= {"callbacks": {}, "logger": {}}  # which may name folders and servers
    config["dataset"] |= hidden
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous() for name, value in run.module().state_dict().items()}  # for safetensors
    write_bytes(folder / "model.safetensors", save(state))
    write_json(folder / "run.json", without_places(facts) | {"config": config})
    write_text(folder / "README.md", card(run))
    return folder


def without_places(value: Any) -> Any:
    """Return plain data with each absolute or home-relative path replaced by its last component."""
    if isinstance(value, dict):
        return {key: without_places(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_places(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and value.startswith(("/", "~")) else value


def card(run: TrainedRun) -> str:
    """Return the model card: the training data, the test metrics, the loss, and the verdict of the study."""
    facts = run.outcome
    decide, meaning = decision(run.task, run.config["threshold"], facts["threshold"]["tuned"], axis=0)
    data, at = run.config["dataset"], "" if run.task.kind == "multiclass" else f" at {run.config['threshold']},"
    how = "cut into squares of" if data["fit"] == "patch" else "brought to"
    seen = f"images {how} {data['size']}x{data['size']} pixels, which distances count"
    seen = "whole images in their own size" if facts.get("scale") == "native" else seen
    meaning += f" The metrics are{at} of {seen}."
    option = {"binary": " threshold=tuned", "multilabel": f" threshold={run.config['threshold']}", "multiclass": ""}
    known = read_json(run.folder.parent / "looks.json")
    looks = [some[-1] for key, some in known.items() if some and f"{key} native" not in known]  # not on tiles
    # Keep the looks at this run; a look may prefix the names of runs with those of data sets and folders
    said = [look["said"] for look in looks if any(re.split("/|: ", name)[-1] == run.name for name in look["runs"])]
    return CARD.format(
        run=run,
        facts=facts,
        card=facts["card"],
        chosen={"loss": "loss", "model": "model", "dataset": "images"} | facts["choices"],
        images=", ".join(f"{count} {split}" for split, count in facts["data"]["images"].items()),
        percent=100 * facts["data"]["foreground"],
        decide=decide,
        option=option[run.task.kind],
        meaning=meaning,
        metrics="\n".join(metric_lines(as_numbers(facts["metrics"]), run.task)),
        verdict=" ".join(said) or "This run was not compared with others.",
    )


def metric_lines(metrics: dict[str, float], task: Task) -> list[str]:
    """Return Markdown tables of the test metrics (means over the classes) and of the main metrics of each class."""
    shown = {name.removeprefix("test/"): value for name, value in metrics.items() if name.startswith("test/")}
    lines = ["| metric | value |", "|---|---:|"]
    lines += [f"| {name} | {value:.4g} |" for name, value in shown.items() if "/" not in name]
    if task.channels == 1:
        return lines
    lines += ["", f"| class | {' | '.join(MAIN)} |", "|---|" + "---:|" * len(MAIN)]
    rows = {name: [f"{shown[f'{one}/{name}']:.4g}" for one in MAIN] for name in task.classes}
    return lines + [f"| {name} | {' | '.join(row)} |" for name, row in rows.items()]


def decision(task: Task, fixed: float, tuned: Any, axis: int) -> tuple[str, str]:
    """Return a line of Python that turns probabilities (classes along `axis`) into a mask, and a sentence about it."""
    names = ", ".join(task.classes)
    if task.kind == "multiclass":
        return f"label = probability.argmax({axis})", f"Classes in this order: {names}; a pixel is of the likeliest."
    if task.kind == "multilabel":
        best = ", ".join(f"{name} {value:.4g}" for name, value in tuned.items())
        words = f"Classes in this order: {names}, each from {fixed} upwards, or as validation found best: {best}."
        return f"mask = probability >= {fixed}", words
    words = f"Foreground is from {fixed} upwards, or from {tuned:.4g}, which validation found best."
    return f"mask = probability >= {tuned}", words
