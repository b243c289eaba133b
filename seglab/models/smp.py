"""Any architecture and encoder of segmentation-models-pytorch, with pretrained weights from a hub or a file."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from seglab.contract import Image, Logits, require
from seglab.files import read_weights
from seglab.models.parts import check_input, coarse_logits, scale_heads, set_prior

FILES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")


class Smp(nn.Module):
    """A network of segmentation-models-pytorch (Iakubovskii 2019), given the names of its architecture and encoder.

    Takes (b, in_channels, h, w), returns logits (b, out_channels, h, w).

    Args:
        encoder_weights: None, the name of weights that the library downloads ("imagenet"), or a local file (.pt, .pth,
            .bin, .ckpt, .safetensors) with the encoder, alone or inside a whole model; weights for color images are
            adapted to any number of channels.
        options: passed to the library unchanged, e.g. {decoder_attention_type: scse}.
        prior: the foreground probability of the untrained network; None leaves it unchanged.
        deep_supervision: in training, return the logits of all scales of the decoder except the coarsest, the finest
            first; for arch unet and manet.
    """

    def __init__(
        self,
        in_channels: int,
        arch: str = "unet",
        encoder_name: str = "resnet34",
        encoder_weights: str | None = None,
        options: Mapping[str, Any] | None = None,
        prior: float | None = None,
        out_channels: int = 1,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.net: Any
        extra = dict(options or {})
        if encoder_weights is None or not encoder_weights.endswith(FILES):
            self.net = create(arch, encoder_name, encoder_weights, in_channels, extra, out_channels)
        else:
            state = read_weights(Path(encoder_weights), "model.encoder_weights")
            self.net = create(arch, encoder_name, None, 3, extra, out_channels)  # `fill` changes the 3 channels
            fill(self.net.encoder, state, in_channels, encoder_weights)
        convolutions = [m for m in self.net.segmentation_head.modules() if isinstance(m, nn.Conv2d)]
        set_prior(convolutions[-1], prior)
        self.step = self.net.encoder.output_stride if self.net.requires_divisible_input_shape else 1
        remedy = "use an encoder with patch size 16, such as tu-vit_small_patch16_dinov3 with model.arch=dpt"
        doubles = self.step.bit_count() == 1  # the decoders double the size of their maps
        expected = "an encoder with a stride of 8, 16 or 32"
        require(doubles, "model: encoder_name", expected, f"{encoder_name} with {self.step}", remedy)
        self.smallest = 128 if arch.lower() == "pan" else 32  # PAN halves its smallest map three times more
        self.grown: list[Tensor] = []
        supported = not deep_supervision or arch.lower() in ("unet", "manet")
        require(supported, "model: deep_supervision", "arch to be unet or manet", arch)
        decoder = extra.get("decoder_channels", (256, 128, 64, 32, 16))  # the library's default, the coarsest first
        widths = decoder[-2:0:-1] if deep_supervision else ()  # without the finest (the main output) and the coarsest
        self.heads = scale_heads(widths, out_channels, prior)
        for block in self.net.decoder.blocks if deep_supervision else ():
            block.register_forward_hook(self.keep)

    def forward(self, image: Image) -> Logits | list[Logits]:
        """Return the logits (b, out_channels, h, w) of images (b, in_channels, h, w), or a list of logits by scale."""
        check_input(image, self.in_channels, self.step, self.smallest)
        self.grown.clear()
        logits = self.net(image)
        coarse = coarse_logits(self.heads if self.training else (), self.grown)
        self.grown.clear()  # a module that holds tensors with a gradient history cannot be copied
        return [logits, *coarse] if coarse else logits

    def keep(self, block: nn.Module, inputs: Any, features: Tensor) -> None:
        """Store the output of a block; because the hook is a method, a copy of this module has its own hook."""
        self.grown.append(features)


def create(arch: str, encoder: str, weights: str | None, in_channels: int, options: dict, classes: int) -> Any:
    """Build the library's model; raises ContractError for unknown names and for a hub that cannot be reached."""
    import segmentation_models_pytorch as smp

    require_known("arch", arch.lower(), list(smp.MODEL_ARCHITECTURES_MAPPING))
    if not encoder.startswith("tu-"):  # timm's encoders are too many to list and have their own options
        require_known("encoder_name", encoder, smp.encoders.get_encoder_names())
        for option in options:  # the library would ignore it silently
            require_known("options", option, list(signature(smp.MODEL_ARCHITECTURES_MAPPING[arch.lower()]).parameters))
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it logs six lines about retries
    try:
        return smp.create_model(arch, encoder, weights, in_channels, classes, **options)
    except OSError as error:
        expected = f"weights {weights} of {encoder} from the hub or its local cache"
        remedy = "check the network connection, or set model.encoder_weights to a local file or null"
        require(False, "model", expected, f"none ({type(error).__name__})", remedy)
        raise
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        expected = "compatible arch, encoder, weights and options"
        require(False, "model", expected, f"{arch} with {encoder}", str(error))
        raise


def require_known(option: str, name: str, names: list[str]) -> None:
    """Raise ContractError for a name that the library does not have, suggesting the nearest names that it has."""
    suggestions = difflib.get_close_matches(name, names, n=5, cutoff=0.3) or names[:12]
    require(name in names, f"model: {option}", f"a name such as {', '.join(suggestions)}", name)


def fill(encoder: Any, state: dict[str, Tensor], in_channels: int, source: str) -> None:
    """Load the encoder's weights from `state`, under any prefix, and adapt the first layer to `in_channels`."""
    # files of older versions of torch lack the counters of batch norms
    wanted = [name for name in encoder.state_dict() if not name.endswith("num_batches_tracked")]
    prefixes = {name.removesuffix(wanted[0]) for name in state if name.endswith(wanted[0])}  # blocks have a conv1 too
    prefix = max(prefixes, key=lambda p: sum(p + name in state for name in wanted), default="")
    missing = [name for name in wanted if prefix + name not in state]
    expected = f"all {len(wanted)} weights of the encoder"
    got = f"a file without {len(missing)} of them, the first being {missing[0]}" if missing else None
    require(not missing, f"model: {source}", expected, got, "set model.encoder_name to the encoder of the file")
    encoder_state = {name: state[prefix + name] for name in wanted}
    channels = next(value.shape[1] for value in encoder_state.values() if value.dim() == 4)  # of the first layer
    if channels == in_channels:  # the file's first layer fits as it is
        encoder.set_in_channels(in_channels, pretrained=False)
    try:
        encoder.load_state_dict(encoder_state, strict=False)
    except RuntimeError as error:
        require(False, f"model: {source}", expected, "weights of other shapes", str(error).splitlines()[-1].strip())
    if channels != in_channels:
        encoder.set_in_channels(in_channels, pretrained=True)  # sums or repeats the weights of the color channels
