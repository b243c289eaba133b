"""Export a trained model, with its normalization, to one file that runs without seglab, checked against PyTorch."""

import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from seglab.contract import ContractError, Image
from seglab.engine.module import SegModule
from seglab.files import atomic
from seglab.images.resize import resize

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # otherwise ONNX Runtime reports models to its vendor

TOLERANCE = 1e-4
"""The largest allowed difference between a probability of the file and that of PyTorch."""

STEP = 32
"""Image sides that are multiples of this fit every model with up to five 2x2 poolings."""


class Deployed(nn.Module):
    """The exported module: maps images (b, c, h, w) float32 from 0 to 255 to probabilities (b, k, h, w)."""

    def __init__(self, module: SegModule) -> None:
        super().__init__()
        self.softmax = module.task.kind == "multiclass"
        self.normalize, self.model = module.normalize, module.model.to(memory_format=torch.contiguous_format)

    def forward(self, image: Image) -> Tensor:
        logits = self.model(self.normalize(image))
        return logits.softmax(1) if self.softmax else logits.sigmoid()


@dataclass(frozen=True)
class Exported:
    """A file, the image sizes it accepts in words, the number of images checked, and the largest difference found."""

    file: Path
    sizes: str
    checked: int
    difference: float


def write(net: Deployed, images: np.ndarray, file: Path) -> Exported:
    """Write a model to an ONNX file, checked on `images` (b, c, s, s) float32.

    The image sides are dynamic, in steps that divide the training size, if the file then agrees with PyTorch on the
    images and on resized copies in other batch sizes; else they are fixed. Raises ContractError if neither agrees.
    """
    size, batch = images.shape[-1], Dim("batch", min=1, max=4096)
    step = math.gcd(size, STEP)  # a stride that divides STEP and the size divides this; for others the size is fixed
    least, larger = size // step, size + step
    sides = {2: step * Dim("rows", min=least, max=512), 3: step * Dim("columns", min=least, max=512)}
    dynamic = f"any number of images, with sides of at least {size} that are divisible by {step}"
    attempts = (
        (dynamic, {0: batch, **sides}, (larger, larger + step)),
        (f"any number of images of {size}x{size} pixels", {0: batch}, (size, size)),
    )
    with atomic(file) as partial:
        for sizes, shapes, resized in attempts:
            try:
                run = save(net, images, partial, shapes)
                difference = max(max_difference(net, run, inputs) for inputs in check_batches(images, resized))
            except OSError:  # such as a full disk; the next attempt would fail too
                raise
            except Exception as error:  # torch.export raises a dozen types for code that it cannot trace
                got = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
                continue
            if difference <= TOLERANCE:
                return Exported(file, sizes, len({image.tobytes() for image in images}), difference)
            got = f"a difference of {difference:.2g}"
        raise ContractError(f"export: expected an ONNX file that agrees with PyTorch to {TOLERANCE:g}, got {got}")


def save(net: Deployed, images: np.ndarray, file: Path, shapes: dict[int, Any]) -> Callable[[np.ndarray], np.ndarray]:
    """Write an ONNX file; return a function that maps images (b, c, h, w) float32 to probabilities (b, k, h, w)."""
    import onnxruntime

    for logger in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    names: dict[str, Any] = {"input_names": ["image"], "output_names": ["probability"]}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch warns about its own code
        pair = torch.from_numpy(images[:2])  # a batch of one would be exported as a constant
        program = torch.export.export(net, (pair,), dynamic_shapes={"image": shapes})
        exported = torch.onnx.export(program, dynamo=True, verbose=False, **names)
    assert exported is not None
    for node in exported.model.graph.all_nodes():
        node.metadata_props.clear()  # where each operation was called, with the paths of this machine
    exported.save(file)
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, torch.get_num_threads()  # 3: only errors
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, {"image": inputs})[0]


def check_batches(images: np.ndarray, side: tuple[int, int]) -> Iterator[np.ndarray]:
    """Yield the images in batches of two, then resized images in batches of one and of three."""
    for start in range(0, len(images) - 1, 2):
        yield images[start : start + 2]
    resized = [resize(image.transpose(1, 2, 0), *side) for image in images[:2]]
    several = np.stack([image.reshape(*side, -1).transpose(2, 0, 1) for image in resized])
    yield from (several[:1], several[[0, 1, 0]])


def max_difference(net: Deployed, run: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> float:
    """Return the largest difference between the probabilities of the file and those of PyTorch."""
    with torch.no_grad():
        return float(np.abs(run(images) - net(torch.from_numpy(images)).numpy()).max())
