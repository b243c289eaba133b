"""`python -m seglab.export`: export a trained model to ONNX or a model hub folder, or a loss to nnU-Net."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from seglab.contract import require
from seglab.engine.cli import command
from seglab.engine.config import build_loss, choices, to_container

if TYPE_CHECKING:
    import numpy as np

    from seglab.engine.trained_run import TrainedRun
    from seglab.inference.export import Exported

log = logging.getLogger(__name__)

README = """# {made.file.name}

The model of the run `{run.name}`, with its normalization and the {squash} inside.

```python
import numpy as np, onnxruntime
values = np.zeros({shape}, np.uint8)  # {yours}; black where it has no data (NaN)
black, white = {ends}
image = np.clip((values.astype(np.float32) - black) * (65535 / (white - black)), 0, 65535).round()
image = {whole}  # as in training; now resize it, see In
batch = np.atleast_3d(image).transpose(2, 0, 1)[None].astype(np.float32){divided}
probability = onnxruntime.InferenceSession("{made.file.name}").run(None, {{"image": batch}})[0]
{decide}
```

- In: `image` (b, {data.channels}, h, w) from 0 (black) to 255 (white), {made.sizes}: {scale}.
- Values: upright (EXIF), {bands}; {stored}, dark background (MONOCHROME1 turned){crop}.
- Out: `probability` (b, {data.task.channels}, h, w), {back}, and then decided. {out}
- Checked: {source} ({made.checked}), and resized copies; from PyTorch it differs by {made.difference:.1e} at most.
- Computes in float32; `seglab.predict`, on a device like that of training, in {precision}.
"""

WINDOWS = {
    "percentile": "np.percentile((seen := values[::4, ::4])[seen > seen.min()], (1, 99.5))",
    "header": "center - width / 2, center + width / 2  # of the file's own window",
}
"""Code for the black and white values of a mammogram, for windows that are not a fixed range."""


def export(cfg: DictConfig, folder: Path) -> Path:
    """Write the model of `cfg.run` to `cfg.output` with a README, or write an nnU-Net trainer; return the path."""
    require(cfg.what in ("model", "nnunet"), "export", "what as one of model, nnunet", cfg.what)
    if cfg.what == "nnunet":
        return export_trainer(cfg)
    require(cfg.run is not None, "run", "a value", "none", "set run=...")
    require(isinstance(cfg.run, str), "export", "one run", cfg.run, "export each by itself")

    from seglab.engine.trained_run import open_run
    from seglab.files import write_text
    from seglab.inference.export import Deployed, write

    if cfg.format == "hub":
        from seglab.inference.hub import write_hub

        run = open_run(cfg.run, to_container(cfg.trust))
        written = write_hub(run, Path(cfg.output or run.folder / "export" / "hub"))
        log.info("%s: README.md model.safetensors run.json", written)
        return written
    require(cfg.format == "onnx", "export", "format as one of onnx, hub", cfg.format)
    for package in ("onnx", "onnxscript", "onnxruntime"):
        importlib.import_module(package)  # a missing package is reported now, not after the conversion
    run = open_run(cfg.run, to_container(cfg.trust))
    tuned = run.outcome["threshold"]["tuned"]
    file = Path(cfg.output or run.folder / "export/model.onnx")
    require(not file.is_dir(), "output", "a file", f"the folder {file}", f"set output={file / 'model.onnx'}")
    images, source = images_of(run)
    made = write(Deployed(run.module()), images, file)
    write_text(file.with_name(f"{file.name}.md"), readme(run, made, source, tuned))
    log.info("%s: %s; %s (%d) differ by %.1e at most", file, made.sizes, source, made.checked, made.difference)
    return file


def export_trainer(cfg: DictConfig) -> Path:
    """Write an nnU-Net trainer with the loss `cfg.loss`; file and class share a name, by default that of the choice."""
    from seglab.files import write_text
    from seglab.inference.nnunet import trainer_source

    require("loss" in cfg, "loss", "a value", "none", "set loss=NAME")
    loss = build_loss(cfg.loss)
    words = choices().get("loss", loss.name).split("_")  # several choices may share a class
    file = Path(cfg.output or f"nnUNetTrainerSeglab{''.join(word[:1].upper() + word[1:] for word in words)}.py")
    fits = file.suffix == ".py" and file.stem.isidentifier()
    require(fits, "output", "a file named as a class of Python, such as nnUNetTrainerMine.py", file.name)
    write_text(file, trainer_source(loss, file.stem))
    log.info("%s: set nnUNet_extTrainer to its folder, then nnUNetv2_train ... -tr %s", file, file.stem)
    return file


def images_of(run: TrainedRun) -> tuple[np.ndarray, str]:
    """Return images for the check and their description: the test images kept by the run if any, else noise."""
    import numpy as np

    dataset = run.raw_dataset()
    if "examples.npz" in run.facts.get("files", {}):
        shown = np.load(run.file("examples.npz"))["images"].transpose(0, 3, 1, 2).astype(np.float32)
        if shown.shape[1] == dataset.channels:  # of more than three bands only three are kept
            return np.concatenate([shown, shown])[:4], "test images of the run"  # at least two
    shape = (4, dataset.channels, dataset.size, dataset.size)
    return np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32), "images of noise"


def readme(run: TrainedRun, made: Exported, source: str, tuned: Any) -> str:
    """Return the README of an exported file: how to use it in Python, and what was checked."""
    from seglab.data.datasets.cbis_ddsm import CbisDdsm
    from seglab.inference.hub import decision

    data = run.raw_dataset()
    window, crop = (data.window, data.crop) if isinstance(data, CbisDdsm) else ("full", False)
    whole = "`values`" if window == "full" else "the first `image`, as uint16,"
    reduced = f", {whole} reduced by {data.reduce} before (cv2.INTER_AREA)" if data.reduce > 1 else ""
    how = f"stretched to {data.size}x{data.size}"
    if data.fit == "pad":
        how = f"brought to {data.size} on their longer side, and centered in a black square"
    scale = f"whole images {how}, as in training: sides that shrink by area (cv2.INTER_AREA), then those that grow"
    scale += f" linearly (cv2.INTER_LINEAR){reduced}"
    back = f"brought back likewise to the size of the {'reduced ' * (data.reduce > 1)}image"
    if data.fit == "patch":
        scale = f"the images' own pixels{reduced}, as in training on squares of {data.size}"
        back = "averaged over squares that overlap"
    back += ", then to the size in the file" if data.reduce > 1 else ""
    squash = "softmax" if data.task.kind == "multiclass" else "sigmoid"
    words: dict[str, Any] = {"scale": scale, "back": back, "squash": squash, "source": source}
    words["decide"], words["out"] = decision(data.task, run.config["threshold"], tuned, axis=1)
    full = "0, np.iinfo(values.dtype).max  # 1 of fractions"
    words["ends"] = WINDOWS.get(window, full if isinstance(data.range, str) else "{}, {}".format(*data.range))
    words["stored"] = "numbers as stored" if window == "header" else "the stored bits of a DICOM spread over 16"
    several = {1: "gray, of colors by cv2.COLOR_RGB2GRAY", 3: "red first, gray three times"}.get(
        data.channels, "all bands of a file"
    )
    bands = getattr(data, "bands", None)
    words["bands"] = f"bands {', '.join(map(str, bands))} of a file in this order" if bands else several
    cut = "; cut to the breast after the line `black, white` (breast_box of seglab.data.datasets.cbis_ddsm)"
    words["crop"] = cut if crop else ""
    words["whole"] = "(image // 256).astype(np.uint8)" if data.bits == 8 else "image.astype(np.uint16)"
    words["divided"] = "" if data.bits == 8 else " / 257"
    words["yours"] = "an image of yours"
    if hasattr(data, "axis"):
        words["yours"] = f"a slice, volume.take(n, {data.axis}).T, rows along its later axis"
    words["shape"] = (data.size, data.size, data.channels)[: 2 + (data.channels > 1)]
    words["precision"] = run.facts["host"]["precision"]
    return README.format(run=run, made=made, data=data, **words)


main = command("export")(export)

if __name__ == "__main__":
    main()
