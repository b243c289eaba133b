"""The losses under test: all of conf/loss, for every task that they support, with maps computed as for training."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from seglab.contract import Task
from seglab.data.distance_maps import MAPS
from seglab.losses.base import Loss

CONF = Path(__file__).resolve().parents[2] / "conf" / "loss"
ALL = sorted(file.stem for file in CONF.glob("*.yaml"))
PRESETS = [name for name in ALL if "\n# Preset: " in (CONF / f"{name}.yaml").read_text()]
"""Losses of this package with other parameters, which are tested in `test_presets.py`."""
NAMES = [name for name in ALL if name not in {"lovasz_softmax", *PRESETS}]
"""The losses defined for a binary task."""
TASKS = {
    "binary": Task(),
    "multilabel": Task("multilabel", ("disc", "cup")),
    "multiclass": Task("multiclass", ("background", "liver", "spleen", "kidney")),
}
FREQUENCY = {"binary": (0.1,), "multilabel": (0.1, 0.25), "multiclass": (0.6, 0.2, 0.15, 0.05)}
ONE_LINE = {"lovasz_hinge", "lovasz_sigmoid"}
"""Losses that are not defined for a softmax."""
CASES = [(name, "binary") for name in NAMES] + [(name, "multilabel") for name in NAMES]
CASES += [(name, "multiclass") for name in ALL if name not in {*ONE_LINE, *PRESETS}]


@cache
def config(name: str) -> DictConfig:
    return OmegaConf.load(CONF / f"{name}.yaml")  # type: ignore[return-value]


def build(name: str, task: str = "binary", **parameters: Any) -> Loss:
    """Build a loss of conf/loss as the command line does, bound to a task and to class frequencies."""
    if name == "external" and task == "multiclass":
        parameters = {"function": {"_target_": "torch.nn.CrossEntropyLoss"}} | parameters
    made = instantiate(config(name), _convert_="all", **parameters)
    return made.with_task(TASKS[task]).with_class_frequency(FREQUENCY[task])


built = cache(build)
"""`build` with a cache, which is safe since losses are frozen."""


def one_hot(ids: Tensor, classes: int) -> Tensor:
    return torch.nn.functional.one_hot(ids[:, 0].long(), classes).movedim(-1, 1)


@cache
def mapped(need: str, shape: tuple[int, ...], content: bytes, dtype: torch.dtype) -> Tensor:
    """Compute the map of each plane of a target; cached, since most tests use the same target."""
    planes = torch.frombuffer(bytearray(content), dtype=dtype).view(-1, *shape[2:]).numpy()
    return torch.stack([torch.from_numpy(MAPS[need](plane)) for plane in planes]).view(shape)


@dataclass
class Case:
    """A loss, its task, and how to call it on any logits and target."""

    name: str
    task: str
    loss: Loss

    @property
    def pools(self) -> bool:
        """Whether the images of a batch share one value by design."""
        return self.name == "batchwise"

    @property
    def local(self) -> bool:
        """Whether the loss does not depend on the position of pixels."""
        return not self.loss.needs and self.name not in {"cldice", "nacl", "boundary_dou"}

    @property
    def fitted(self) -> bool:
        """Whether the loss takes weights from the class frequencies."""
        return self.name in {"weighted_bce", "weight_map", "exp_log", "logit_adjusted"}

    def maps(self, target: Tensor, like: Tensor) -> dict[str, Tensor]:
        planes = one_hot(target, like.shape[1]) if target.shape != like.shape else target
        made = {need: mapped(need, planes.shape, planes.numpy().tobytes(), planes.dtype) for need in self.loss.needs}
        return {need: m.to(torch.promote_types(like.dtype, torch.float32), copy=True) for need, m in made.items()}

    def __call__(self, logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
        return self.loss(logits, target, valid, **self.maps(target, logits))

    def gradient(self, logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
        z = logits.detach().requires_grad_()
        return torch.autograd.grad(self(z, target, valid).sum(), z)[0]


def of(holds: Callable[[Case], bool]) -> Callable:
    """Restrict a test with a `case` argument to the cases for which `holds` is true."""

    def marked(test: Any) -> Any:
        test.of = holds
        return test

    return marked


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize tests with a `case` argument over all losses and tasks (restricted by `of`), one id per file."""
    if "case" in metafunc.fixturenames:
        holds = getattr(metafunc.function, "of", lambda case: True)
        cases: dict[str, list[Case]] = {}
        for name, task in CASES:
            if holds(case := Case(name, task, built(name, task))):
                cases.setdefault(type(case.loss).__module__.rpartition(".")[2], []).append(case)
        metafunc.parametrize("case", cases.values(), ids=cases.keys())


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Call a test for all cases of a file in turn: a separate test for each would take longer to start."""
    if "case" not in pyfuncitem.funcargs:
        return None
    for case in pyfuncitem.funcargs["case"]:
        given = {"case": case, **dict(zip(("logits", "target"), scene(case.task), strict=True))}
        given = {word: given.get(word, x) for word, x in pyfuncitem.funcargs.items()}
        try:
            pyfuncitem.obj(**{word: given[word] for word in inspect.signature(pyfuncitem.obj).parameters})
        except BaseException as error:
            error.add_note(f"of {case.name} for a {case.task} task")
            raise
    return True


@pytest.fixture
def make() -> Callable[..., Loss]:
    return build


def scene(task: str = "binary") -> tuple[Tensor, Tensor]:
    """Return logits and target of three images: two objects (all classes), empty (only background), a third filled."""
    channels = TASKS[task].channels
    logits = torch.randn(3, channels, 12, 12, generator=torch.Generator().manual_seed(1)) * 2
    mask = torch.zeros(3, 1, 12, 12, dtype=torch.uint8)
    mask[0, :, 2:5, 3:6] = mask[0, :, 8:10, 7:11] = mask[2, :, :4] = 1
    if task == "multilabel":
        mask = torch.cat([mask, mask.flip(0, 3)], 1)
    if task == "multiclass":
        mask[0, :, 8:10] *= 2
        mask[0, :, 5:7, 0:6] = 3
    return logits, mask


@pytest.fixture
def logits() -> Tensor:
    """The logits of a binary task, in tests without a case."""
    return scene()[0]


@pytest.fixture
def target() -> Tensor:
    return scene()[1]
