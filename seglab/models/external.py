"""A wrapper that turns any network, your own or another library's, into a model."""

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import interpolate

from seglab.contract import Image, Logits, require


class External(nn.Module):
    """Any module that takes images (b, c, h, w) and returns raw logits, one channel per class of the task.

    output: key or index of the logits if the module returns several things, such as "out" (torchvision) or "logits"
    (transformers). Logits of another resolution are resized bilinearly to that of the image.
    """

    def __init__(self, module: nn.Module, output: str | int | None = None) -> None:
        super().__init__()
        require(isinstance(module, nn.Module), "model: module", "an nn.Module", type(module).__name__)
        self.module, self.output = module, output

    def forward(self, image: Image) -> Logits:
        """Return the logits (b, classes, h, w) of images (b, c, h, w)."""
        logits: Any = self.module(image)
        if self.output is not None:
            try:
                logits = logits[self.output]
            except (KeyError, IndexError, TypeError):
                expected = f"its module to return an output with the key or index {self.output!r}"
                remedy = "set model.output to another key or index, or to null"
                require(False, "model: output", expected, _describe_output(logits), remedy)
        remedy = "select the logits with model.output=KEY" if isinstance(logits, dict | tuple | list) else ""
        require(isinstance(logits, Tensor), "model: module", "a tensor of logits", _describe_output(logits), remedy)
        require(logits.ndim == 4, "model: module", "logits (b, classes, h, w)", tuple(logits.shape))
        if logits.shape[2:] != image.shape[2:]:
            logits = interpolate(logits, image.shape[2:], mode="bilinear")
        return logits


def _describe_output(output: Any) -> str:
    """Return the keys of a dictionary, or the type of any other output."""
    return ", ".join(output) if isinstance(output, dict) else type(output).__name__
