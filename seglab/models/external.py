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
        found: Any = self.module(image)
        if self.output is not None:
            try:
                found = found[self.output]
            except (KeyError, IndexError, TypeError) as error:
                got = ", ".join(found) if isinstance(found, dict) else type(found).__name__
                require(False, "model: output", f"what its module returns, with {self.output!r}", got, str(error))
        remedy = "name the one with model.output=KEY" if isinstance(found, dict | tuple | list) else ""
        got = ", ".join(found) if isinstance(found, dict) else type(found).__name__
        require(isinstance(found, Tensor), "model: module", "logits as a tensor", got, remedy)
        require(found.ndim == 4, "model: module", "logits (b, classes, h, w)", tuple(found.shape))
        if found.shape[2:] != image.shape[2:]:
            found = interpolate(found, image.shape[2:], mode="bilinear")
        return found
