"""A trained model as a folder for a model hub: weights, a model card, and run.json, which opens it again."""

from pathlib import Path

from safetensors.torch import save

from seglab.engine.trained_run import TrainedRun
from seglab.files import read_json, write_bytes, write_json, write_text

PRIVATE = {"root": ".", "cache_dir": None, "split_file": None}
"""Options of a data set that tell of the machine that it lay on, and what stands for them."""

CARD = """---
library_name: seglab
pipeline_tag: image-segmentation
tags: [image-segmentation, seglab, {chosen[loss]}]
---

# {run.name}

{chosen[model]} with {facts[parameters]:,} parameters, trained with the loss `{chosen[loss]}` ({card[title]}) on \
`{chosen[dataset]}`.

```python
import seglab

[probability] = seglab.Run("FOLDER").predict(["photo.png"])
mask = probability >= {tuned}
```

or `python -m seglab.predict run=FOLDER input=photos output=masks`.

## Data

{images} images. Foreground is {percent:.3g} % of the training pixels. Fingerprint of the data set: \
`{facts[data][fingerprint]}`.

## Test metrics

At the threshold {run.config[threshold]}; the one that validation found best is {tuned}.

| metric | value |
|---|---:|
{metrics}

## Loss

{card[title]}: $${card[formula]}$$

{card[paper]}. On an image without foreground: {card[empty]}

## Verdict

{verdict}
"""


def write_hub(run: TrainedRun, folder: Path) -> Path:
    """Write README.md, model.safetensors and run.json into `folder`, which opens as a run: `run=folder`."""
    private = ("files", "overrides", "sweep", "initial")  # which name folders of this machine, and what stays here
    facts = {key: value for key, value in run.outcome.items() if key not in private}
    dataset = run.config["dataset"]
    hidden = {key: value for key, value in PRIVATE.items() if key in dataset}
    config = {**run.config, "folder": "", "init_from": None, "dataset": {**dataset, **hidden}}
    config |= {"callbacks": {}, "logger": {}}  # which name folders and servers too
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous() for name, value in run.module().state_dict().items()}  # or safetensors refuses
    write_bytes(folder / "model.safetensors", save(state))
    write_json(folder / "run.json", facts | {"config": config})
    write_text(folder / "README.md", card(run))
    return folder


def card(run: TrainedRun) -> str:
    """The model card: what it was trained on, what it scored, what its loss does, and what its study found."""
    facts = run.outcome
    tuned = facts["threshold"]["tuned"]
    shown = {name.removeprefix("test/"): value for name, value in facts["metrics"].items() if name.startswith("test/")}
    looks = read_json(run.folder.parent / "looks.json").values()
    said = [each["said"] for each in (known[-1] for known in looks if known)]
    return CARD.format(
        run=run,
        facts=facts,
        card=facts["card"],
        chosen={"loss": "loss", "model": "model", "dataset": "images"} | facts["choices"],
        images=", ".join(f"{count} {split}" for split, count in facts["data"]["images"].items()),
        percent=100 * facts["data"]["foreground"],
        tuned=f"{tuned:.4g}" if isinstance(tuned, float) else tuned,
        metrics="\n".join(f"| {name} | {value:.4g} |" for name, value in shown.items()),
        verdict=" ".join(said) or "This run was not compared with others.",
    )
