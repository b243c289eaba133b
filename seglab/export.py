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

The model of the run `{run.name}`, including its normalization and the {activation}.

```python
import numpy as np, onnxruntime
values = np.zeros({shape}, np.uint8)  # {example}; black where it has no data (NaN)
black, white = {ends}
image = np.clip((values.astype(np.float32) - black) * (65535 / (white - black)), 0, 65535).round()
image = {converted}  # as in training; next, resize it (see Input)
batch = np.atleast_3d(image).transpose(2, 0, 1)[None].astype(np.float32){divided}
probability = onnxruntime.InferenceSession("{made.file.name}").run(None, {{"image": batch}})[0]
{decide}
```

- Input: `image` (b, {data.channels}, h, w) from 0 (black) to 255 (white), {made.sizes}. {scale}.
- Values: apply the EXIF orientation; {bands}; {stored}; invert MONOCHROME1, so that the background is dark{crop}.
- Output: `probability` (b, {data.task.channels}, h, w). {back}, and only then apply the last line of the code. {out}
- Check: on {source} ({made.checked}) and on resized copies, the file differs from PyTorch by at most \
{made.difference:.1e}.
- Precision: float32; `seglab.predict` uses {precision} on the type of device that the run was trained on.
"""

WINDOWS = {
    "percentile": "np.percentile((seen := values[::4, ::4])[seen > seen.min()], (1, 99.5))",
    "header": "center - width / 2, center + width / 2  # window in the DICOM header",
}
"""Code for the black and white values of a mammogram, for windows that are not a fixed range."""


def export(cfg: DictConfig, folder: Path) -> Path:
    """Write the model of `cfg.run` to `cfg.output` with a README, or write an nnU-Net trainer; return the path."""
    require(cfg.what in ("model", "nnunet"), "export", "what as one of model, nnunet", cfg.what)
    if cfg.what == "nnunet":
        return export_trainer(cfg)
    require(cfg.run is not None, "run", "the folder of a run", "none", "set run=outputs/STUDY/RUN")
    require(isinstance(cfg.run, str), "export", "one run", cfg.run, "export each run separately")

    from seglab.engine.trained_run import open_run
    from seglab.files import write_text
    from seglab.inference.export import Deployed, write

    if cfg.format == "hub":
        from seglab.inference.hub import write_hub

        run = open_run(cfg.run, to_container(cfg.trust))
        hub = write_hub(run, Path(cfg.output or run.folder / "export" / "hub"))
        log.info("%s: README.md model.safetensors run.json", hub)
        return hub
    require(cfg.format == "onnx", "export", "format as one of onnx, hub", cfg.format)
    for package in ("onnx", "onnxscript", "onnxruntime"):
        importlib.import_module(package)  # a missing package is reported now, not after the conversion
    run = open_run(cfg.run, to_container(cfg.trust))
    tuned = run.outcome["threshold"]["tuned"]
    file = Path(cfg.output or run.folder / "export/model.onnx")
    require(not file.is_dir(), "output", "a file", f"the folder {file}", f"set output={file / 'model.onnx'}")
    images, source = images_of(run)
    exported = write(Deployed(run.module()), images, file)
    write_text(file.with_name(f"{file.name}.md"), readme(run, exported, source, tuned))
    check = f"on {source} ({exported.checked}), it differs from PyTorch by at most {exported.difference:.1e}"
    log.info("%s: %s; %s", file, exported.sizes, check)
    return file


def export_trainer(cfg: DictConfig) -> Path:
    """Write an nnU-Net trainer with the loss `cfg.loss`; file and class share a name, by default that of the choice."""
    from seglab.files import write_text
    from seglab.inference.nnunet import trainer_source

    require("loss" in cfg, "loss", "the name of a loss", "none", "set loss=NAME")
    loss = build_loss(cfg.loss)
    parts = choices().get("loss", loss.name).split("_")  # several choices may share a class
    file = Path(cfg.output or f"nnUNetTrainerSeglab{''.join(part[:1].upper() + part[1:] for part in parts)}.py")
    is_class_name = file.suffix == ".py" and file.stem.isidentifier()
    require(is_class_name, "output", "a file name that is a valid class name, such as nnUNetTrainerMine.py", file.name)
    write_text(file, trainer_source(loss, file.stem))
    log.info("%s: set nnUNet_extTrainer to its folder, then run nnUNetv2_train ... -tr %s", file, file.stem)
    return file


def images_of(run: TrainedRun) -> tuple[np.ndarray, str]:
    """Return images for the check and their description: the test images kept by the run if any, else noise."""
    import numpy as np

    dataset = run.raw_dataset()
    if "examples.npz" in run.facts.get("files", {}):
        examples = np.load(run.file("examples.npz"))["images"].transpose(0, 3, 1, 2).astype(np.float32)
        if examples.shape[1] == dataset.channels:  # of more than three bands only three are kept
            return np.concatenate([examples, examples])[:4], "test images of the run"  # at least two
    shape = (4, dataset.channels, dataset.size, dataset.size)
    return np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32), "images of random noise"


def readme(run: TrainedRun, made: Exported, source: str, tuned: Any) -> str:
    """Return the README of an exported file: how to use it in Python, and what was checked."""
    from seglab.data.datasets.cbis_ddsm import CbisDdsm
    from seglab.inference.hub import decision

    data = run.raw_dataset()
    window, crop = (data.window, data.crop) if isinstance(data, CbisDdsm) else ("full", False)
    size, reduced = f"{data.size}x{data.size} pixels", "reduced " * (data.reduce > 1)
    scale, back = f"Resize the whole {reduced}image to {size}", "Resize the map"
    if data.fit == "pad":
        scale = f"Resize the whole {reduced}image to fit into {size} in proportion, and center it on black"
        back = "Remove the padding, and resize the rest of the map"
    scale += ", as in training: sides that shrink first (cv2.INTER_AREA), then sides that grow (cv2.INTER_LINEAR)"
    back += f" to the size of the {reduced}image in the same way"
    if data.fit == "patch":
        scale = f"Use the {reduced}image without resizing it, as in training on tiles of {size}"
        back = "Average the maps of overlapping tiles"
    if reduced:
        array = "`values`" if window == "full" else "the first `image`, as uint16,"
        scale = f"Reduce {array} by a factor of {data.reduce} (cv2.INTER_AREA). {scale}"
        back += ", then resize it to the size in the file"
    activation = "softmax" if data.task.kind == "multiclass" else "sigmoid"
    texts: dict[str, Any] = {"scale": scale, "back": back, "activation": activation, "source": source}
    texts["decide"], texts["out"] = decision(data.task, run.config["threshold"], tuned, axis=1)
    full = "0, np.iinfo(values.dtype).max  # for floats, white is 1"
    texts["ends"] = WINDOWS.get(window, full if isinstance(data.range, str) else "{}, {}".format(*data.range))
    texts["stored"] = "keep DICOM values as stored" if window == "header" else "scale the stored bits of DICOM to 16"
    channels = {1: "convert color to gray with cv2.COLOR_RGB2GRAY", 3: "bands in RGB order, gray three times"}
    bands = getattr(data, "bands", None)
    in_order = f"bands {', '.join(map(str, bands))} of the file, in this order" if bands else ""
    texts["bands"] = in_order or channels.get(data.channels, "all bands of the file")
    crop_box = "; crop to the breast after the line `black, white` (breast_box of seglab.data.datasets.cbis_ddsm)"
    texts["crop"] = crop_box if crop else ""
    texts["converted"] = "(image // 256).astype(np.uint8)" if data.bits == 8 else "image.astype(np.uint16)"
    texts["divided"] = "" if data.bits == 8 else " / 257"
    texts["example"] = "your image"
    if hasattr(data, "axis"):
        texts["example"] = f"a slice of your volume, volume.take(n, {data.axis}).T, whose later axis runs down"
    texts["shape"] = (data.size, data.size, data.channels)[: 2 + (data.channels > 1)]
    texts["precision"] = run.facts["host"]["precision"]
    return README.format(run=run, made=made, data=data, **texts)


main = command("export")(export)

if __name__ == "__main__":
    main()
