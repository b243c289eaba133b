"""A trained model as one file that runs without seglab: its normalization inside, checked against PyTorch."""

import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from seglab.contract import ContractError, Image, require
from seglab.data.dataset import Dataset
from seglab.data.decode import convert, decode_native
from seglab.data.prepare_data import select_items
from seglab.engine.module import SegModule
from seglab.files import atomic
from seglab.images.resize import crop, fit, resize, to_units

SUFFIXES = {"onnx": ".onnx", "pt2": ".pt2"}
TOLERANCE = 1e-4
"""How far a probability of the file may be from PyTorch's."""

STEP = 32
"""Sides of this and its multiples fit every model that is made of poolings."""


class Deployed(nn.Module):
    """What is exported: images (b, c, h, w) float32 from 0 to 255 to probabilities (b, k, h, w)."""

    def __init__(self, module: SegModule) -> None:
        super().__init__()
        self.softmax = module.task.kind == "multiclass"
        self.normalize, self.model = module.normalize, module.model.to(memory_format=torch.contiguous_format)

    def forward(self, image: Image) -> Tensor:
        logits = self.model(self.normalize(image))
        return logits.softmax(1) if self.softmax else logits.sigmoid()


@dataclass(frozen=True)
class Exported:
    """A file, what sizes it takes in words, how many images it was checked on, and the largest difference seen."""

    file: Path
    sizes: str
    checked: int
    difference: float


Run = Callable[[np.ndarray], np.ndarray]
"""A file that was loaded again: images (b, c, h, w) float32 to probabilities (b, k, h, w)."""


def write(net: Deployed, images: np.ndarray, kind: str, file: Path) -> Exported:
    """Write a model that was checked on `images` (b, c, s, s) float32, of the freest sizes that it can be given.

    The sizes are tried from any multiple of 32 to the very size of the images; those hold that agree with PyTorch
    within TOLERANCE, also on the images resized and in another number. Raises a ContractError where none does.
    """
    worst = "none"
    with atomic(file) as partial:
        for words, shapes, others in freedoms(images.shape[-1]):
            try:
                run = save(net, images, kind, partial, shapes)
                seen = max(max_difference(net, run, some) for some in check_batches(images, others))
            except (ContractError, OSError):
                raise
            except Exception as error:  # torch.export raises a dozen kinds for what it cannot follow
                worst = str(error).strip().splitlines()[0][:200]
                continue
            if seen <= TOLERANCE:
                return Exported(file, words, len(images), seen)
            worst = f"a difference of {seen:.2g}"
        raise ContractError(f"export: expected a {kind} file within {TOLERANCE:g} of PyTorch, got {worst}")


def freedoms(size: int) -> Iterator[tuple[str, dict[int, Any], list[tuple[int, int]]]]:
    """The sizes to try, from the freest: in words, as dynamic dimensions, and others to check."""
    batch, near = Dim("batch", min=1, max=4096), size // STEP * STEP + STEP
    sides = {2: STEP * Dim("rows", min=2, max=512), 3: STEP * Dim("columns", min=2, max=512)}
    if size % STEP == 0:
        words = f"any number of images, sides of 64 and more divisible by {STEP}"
        yield words, {0: batch, **sides}, [(near, near + STEP)]
    free = {0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO}
    for step in (1, 2, 4, 8, 16):
        of = f" divisible by {step}" if step > 1 else ""
        others = [(size + 5 * step, size + 9 * step)]
        if size % step == 0:
            yield f"any number of images, sides from about that of training{of}", free, others
    yield f"any number of images of {size}x{size} pixels", {0: batch}, [(size, size)]
    yield f"two images of {size}x{size} pixels", {}, []


def check_batches(images: np.ndarray, others: Sequence[tuple[int, int]]) -> Iterator[np.ndarray]:
    """The images two at a time, and, where the sizes are free, one and three of them in other sizes."""
    for first in range(0, len(images) - 1, 2):
        yield images[first : first + 2]
    for height, width in others:
        resized = [resize(np.ascontiguousarray(image.transpose(1, 2, 0)), height, width) for image in images[:3]]
        several = np.stack([image.reshape(height, width, -1).transpose(2, 0, 1) for image in resized])
        yield from (several[:1], np.concatenate([several, several])[:3])


def max_difference(net: Deployed, run: Run, images: np.ndarray) -> float:
    """The largest difference between the probabilities of the file and those of PyTorch, which may refuse the size."""
    try:
        with torch.no_grad():
            expected = net(torch.from_numpy(images)).numpy()
    except ContractError:
        return float("inf")
    seen = run(images)
    return float(np.abs(seen - expected).max()) if seen.shape == expected.shape else float("inf")


def save(net: Deployed, images: np.ndarray, kind: str, file: Path, shapes: dict[int, Any]) -> Run:
    """Write a file of one of SUFFIXES, and load it again."""
    example = torch.from_numpy(images[:2])
    for logger in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch about itself
        program = torch.export.export(net, (example,), dynamic_shapes={"image": shapes or None})
        if kind == "onnx":
            return save_onnx(program, file)
        buffer = io.BytesIO()  # on a full disk the writer of torch ends the process
        torch.export.save(program, buffer)
        file.write_bytes(buffer.getvalue())
        again = torch.export.load(file).module()
        return lambda some: again(torch.from_numpy(some)).detach().numpy()


def save_onnx(program: torch.export.ExportedProgram, file: Path) -> Run:
    """Write an ONNX file, and open it in onnxruntime."""
    import onnxruntime

    made = torch.onnx.export(program, dynamo=True, verbose=False, input_names=["image"], output_names=["probability"])
    assert made is not None
    made.save(file)
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, torch.get_num_threads()
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda some: session.run(None, {"image": some})[0]


def require_format(kind: str) -> None:
    """Raise a ContractError for a format that is unknown, or lacks its packages."""
    require(kind in SUFFIXES, "export", f"format as one of {', '.join(SUFFIXES)}, hub", kind)
    needed = ("onnx", "onnxscript", "onnxruntime") if kind == "onnx" else ()
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    require(not missing, "export", f"the package {' and '.join(missing)}", "none", 'pip install "seglab[export]"')


def real_images(dataset: Dataset, count: int) -> np.ndarray:
    """Decode some test images as the model is to see them: (b, c, size, size) float32, from 0 to 255.

    Of images that patches are cut from, the middle. Raises a ContractError where the data are not there.
    """
    items = [item for item in select_items(dataset).splits.test if not item.fault and not item.left_out][:count]
    require(bool(items), "dataset", "test images", "none")
    size, seen = dataset.size, []
    for item in items:
        image = convert(np.asarray(decode_native(item, dataset)[0]), dataset)
        top, left = (max(n - size, 0) // 2 for n in image.shape[:2])
        patch = dataset.fit == "patch"
        image = crop(image, top, left, size, size) if patch else fit(image, size, dataset.fit)
        seen.append(to_units(image).astype(np.float32).reshape(size, size, -1).transpose(2, 0, 1))
    return np.stack(seen)
