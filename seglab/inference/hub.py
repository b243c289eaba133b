"""Export a trained model to a folder for a model hub: weights, a model card, and a run.json to open it with."""

import re
from pathlib import Path
from typing import Any

from safetensors.torch import save

from seglab.contract import Task, require
from seglab.engine.trained_run import TrainedRun
from seglab.files import as_numbers, read_json, write_bytes, write_json, write_text

PRIVATE = {"root": ".", "cache_dir": None, "split_file": None}
"""Options of a dataset that reveal paths of the training machine, and their replacements."""

MAIN = ("iou", "dice", "precision", "recall", "iou_pooled")
"""The metrics that a model card lists for each class."""

CARD = """---
library_name: seglab
pipeline_tag: image-segmentation
tags: [image-segmentation, seglab, {chosen[loss]}]
---

# {run.name}

Segmentation model `{chosen[model]}` with {facts[parameters]:,} parameters, trained on `{chosen[dataset]}` with the \
loss `{chosen[loss]}` ({card[title]}) by seglab {facts[versions][seglab]}.

```python
import seglab

[probability] = seglab.Run("FOLDER").predict(["IMAGE"])
{decide}
```

On the command line: `python -m seglab.predict run=FOLDER input=IMAGES output=masks{option}`.

## Data

Images: {images}. Foreground: {percent:.3g} % of the training pixels. Fingerprint of the dataset: \
`{facts[data][fingerprint]}`.

## Test metrics

{meaning}

{metrics}

## Loss

{card[title]}: $${card[formula]}$$

- Paper: {card[paper]}
- Empty mask: {card[empty]}

## Verdict

{verdict}
"""


def write_hub(run: TrainedRun, folder: Path) -> Path:
    """Write README.md, model.safetensors and run.json to `folder`, which `run=folder` opens as a run.

    Raises ContractError if `folder` is a run, whose run.json would be lost, or a study, whose runs reports would miss.
    """
    existing = [*folder.glob("run.json"), *folder.glob("*/run.json")]
    fits = not existing or (folder / "model.safetensors").is_file()  # an earlier export may be replaced
    require(fits, "output", "a folder without runs", existing and existing[0], f"set output={folder / 'hub'}")
    private = ("files", "overrides", "sweep", "initial")  # which refer only to this machine
    facts = {key: value for key, value in run.outcome.items() if key not in private}
    facts["data"] = {**facts["data"], "skipped_why": {}}  # its sentences name files
    dataset = run.config["dataset"]
    replaced = {key: value for key, value in PRIVATE.items() if key in dataset}
    config = {**without_places(run.config), "folder": "", "init_from": None}
    config |= {"callbacks": {}, "logger": {}}  # which may name folders and servers
    config["dataset"] |= replaced
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
    data, fixed = run.config["dataset"], run.config["threshold"]
    at = "" if run.task.kind == "multiclass" else f" at the threshold {fixed}"
    how = "cut into tiles of" if data["fit"] == "patch" else "resized to"
    measured = f"images {how} {data['size']}x{data['size']} pixels; distances are in these pixels"
    measured = "whole images at their own size" if facts.get("scale") == "native" else measured
    decide, meaning = decision(run.task, fixed, facts["threshold"]["tuned"], axis=0)
    meaning += f" The metrics are computed{at} on {measured}."
    option = {"binary": " threshold=tuned", "multilabel": f" threshold={fixed}", "multiclass": ""}
    history = read_json(run.folder.parent / "looks.json")
    looks = [past[-1] for key, past in history.items() if past and f"{key} native" not in history]  # not on tiles
    # Keep the looks at this run; a look may prefix the names of runs with those of datasets and folders
    sentences = [look["said"] for look in looks if any(re.split("/|: ", name)[-1] == run.name for name in look["runs"])]
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
        verdict=" ".join(sentences) or "This run has not been compared with other runs.",
    )


def metric_lines(metrics: dict[str, float], task: Task) -> list[str]:
    """Return Markdown tables of the test metrics (means over the classes) and of the main metrics of each class."""
    shown = {name.removeprefix("test/"): value for name, value in metrics.items() if name.startswith("test/")}
    lines = ["| metric | value |", "|---|---:|"]
    lines += [f"| {name} | {value:.4g} |" for name, value in shown.items() if "/" not in name]
    if task.channels == 1:
        return lines
    lines += ["", f"| class | {' | '.join(MAIN)} |", "|---|" + "---:|" * len(MAIN)]
    rows = {name.replace("|", r"\|"): [f"{shown[f'{metric}/{name}']:.4g}" for metric in MAIN] for name in task.classes}
    return lines + [f"| {name} | {' | '.join(row)} |" for name, row in rows.items()]


def decision(task: Task, fixed: float, tuned: Any, axis: int) -> tuple[str, str]:
    """Return a line of Python that turns probabilities (classes along `axis`) into a mask, and a sentence about it."""
    names = ", ".join(task.classes)
    if task.kind == "multiclass":
        sentence = f"Classes, in this order: {names}. A pixel belongs to the class with the highest probability."
        return f"label = probability.argmax({axis})", sentence
    if task.kind == "multilabel":
        best = ", ".join(f"{name} {value:.4g}" for name, value in tuned.items())
        sentence = f"Classes, in this order: {names}. A pixel belongs to each class with a probability of at least"
        return f"mask = probability >= {fixed}", f"{sentence} {fixed}; the best thresholds on validation are {best}."
    sentence = f"A pixel with a probability of at least {fixed} is foreground; the best threshold on validation is"
    return f"mask = probability >= {tuned}", f"{sentence} {tuned:.4g}."
