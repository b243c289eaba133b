"""The losses under test are whatever conf/loss holds, with maps made as the data workers make them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from seglab.data.distance_maps import MAPS
from seglab.losses import native
from seglab.losses.base import Loss

CONF = Path(__file__).resolve().parents[2] / "conf" / "loss"
NAMES = sorted(file.stem for file in CONF.glob("*.yaml"))
IN_C = (
    "bce",
    "weighted_bce",
    "class_weighted_ce",
    "balanced_ce",
    "dice",
    "mcc",
    "bce_dice",
    "combo",
    "focal",
    "unified_focal",
    "poly1",
    "squared_dice",
    "sensitivity_specificity",
)
"""Of those that the kernel serves, the ones that are tested with it on small images too."""


def build(name: str, **parameters: object) -> Loss:
    """A loss of conf/loss as the command line would build it, fitted to one pixel of foreground in ten."""
    return instantiate(OmegaConf.load(CONF / f"{name}.yaml"), _convert_="all", **parameters).fitted(0.1)


@dataclass
class Case:
    """A loss and how to call it on any logits and target."""

    name: str
    loss: Loss

    def maps(self, target: Tensor) -> dict[str, Tensor]:
        planes = target.flatten(0, 1).numpy()
        made = {
            need: torch.stack([torch.from_numpy(MAPS[need](plane)) for plane in planes]) for need in self.loss.needs
        }
        return {need: m.view(target.shape) for need, m in made.items()}

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        return self.loss(logits, target, **self.maps(target))

    def gradient(self, logits: Tensor, target: Tensor) -> Tensor:
        z = logits.detach().requires_grad_()
        return torch.autograd.grad(self(z, target).sum(), z)[0]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every loss for each test of a `case`, those in C once more where the kernel is not gone past on purpose."""
    module = metafunc.module.__name__.rpartition(".")[2]
    if "case" in metafunc.fixturenames and module != "test_native":
        twice = IN_C if module in ("test_contract", "test_errors", "test_extremes", "test_values") else ()
        metafunc.parametrize("case", [*NAMES, *(f"{name} in C" for name in twice)], indirect=True)


@pytest.fixture
def case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Case:
    name = request.param.removesuffix(" in C")
    if name != request.param:
        if native.kernel() is None:
            pytest.skip("no C compiler")
        monkeypatch.setattr(native, "SMALLEST", 0)
    return Case(name, build(name))


@pytest.fixture
def make() -> Callable[..., Loss]:
    return build


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(3, 1, 12, 12, generator=torch.Generator().manual_seed(1)) * 2


@pytest.fixture
def target() -> Tensor:
    """An image with two objects, one without any, one with a third of the pixels."""
    mask = torch.zeros(3, 1, 12, 12, dtype=torch.uint8)
    mask[0, :, 2:5, 3:6] = mask[0, :, 8:10, 7:11] = mask[2, :, :4] = 1
    return mask
