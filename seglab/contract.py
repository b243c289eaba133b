"""What every part of seglab agrees on: shapes, the task, and the sentence that says which part broke an agreement.

Everything may import this file; it imports neither torch nor anything of seglab, so that the report of a finished study
opens in a second.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

Image: TypeAlias = "Tensor"
"""(b, c, h, w): uint8 as it was decoded until it is on the device, then float32, normalized."""

Logits: TypeAlias = "Tensor"
"""(b, k, *spatial): raw scores, one channel per class; sigmoid or softmax belong to whoever needs a probability."""

Target: TypeAlias = "Tensor"
"""(b, k, *spatial): the share of each class in each pixel, in [0, 1]: bool or integer for hard labels, float for soft
ones. Multiclass hard labels are class ids, (b, 1, *spatial) integers."""

Valid: TypeAlias = "Tensor"
"""(b, 1, *spatial) bool: the pixels that count; None where all do."""

PerImage: TypeAlias = "Tensor"
"""(b,): one number per image; the mean over the batch belongs to the caller."""

Kind: TypeAlias = Literal["binary", "multilabel", "multiclass"]
"""How channels become probabilities: binary is one sigmoid, multilabel several, multiclass a softmax."""

KINDS: tuple[Kind, ...] = ("binary", "multilabel", "multiclass")

SEARCH = ("trials", "space", "sampler", "halving", "tuning_repeats", "fresh_seeds")
"""The options of a search, which are none of the runs that it makes."""

NOT_IN_IDENTITY = {"hydra", "study", "folder", "rerun", "plan", "on_fail", "stop_after", "tuned", *SEARCH}
NOT_IN_IDENTITY |= {"workers", "evaluation_processes", "store", "threads", "cuda_graph", "examples", "pictures"}
NOT_IN_IDENTITY |= {"logger", "callbacks.snapshots", "dataset.root", "dataset.cache_dir", "dataset.cache_gb"}
NOT_IN_IDENTITY |= {f"trainer.{name}" for name in ("accelerator", "devices", "num_nodes", "strategy")}
"""What may change without making another experiment of it: paths, device, workers, logging. How many processes train
together does make one, see `processes`."""


def processes(trainer: Mapping[str, Any]) -> Any:
    """How many processes train a run together, each on batches of its own; a text where the machine decides (auto)."""
    devices, nodes = trainer.get("devices", 1), trainer.get("num_nodes", 1)
    count = len(devices) if isinstance(devices, Sequence) and not isinstance(devices, str) else devices
    return int(count) * nodes if str(count).isdecimal() else f"{count} on each of {nodes}"


class ContractError(ValueError):
    """Somebody broke an agreement; the message is one sentence that a user can act upon."""


class Diverged(ContractError):
    """A step of training or validation came to numbers that are not finite."""


def require(ok: bool, who: str, expected: str, got: object = None, remedy: str = "") -> None:
    """Raise a one-sentence ContractError unless `ok`: who, what was expected, what came, and the remedy if known.

    >>> require(False, "model", "a height and width divisible by 32", "500x500", "set dataset.size=512")
    Traceback (most recent call last):
    seglab.contract.ContractError: model: expected a height and width divisible by 32, got 500x500; set dataset.size=512
    """
    if not ok:
        came = "" if got is None else f", got {got}"
        raise ContractError(f"{who}: expected {expected}{came}" + (f"; {remedy}" if remedy else ""))


@dataclass(frozen=True)
class Task:
    """What a label means: how many classes there are, what they are called, and whether they exclude each other.

    kind: "binary" (one class against the rest), "multilabel" (several that may overlap, such as disc and cup) or
    "multiclass" (every pixel belongs to one; class 0 is the background). classes: their names, in order of channels.
    """

    kind: Kind = "binary"
    classes: tuple[str, ...] = ("foreground",)

    def __post_init__(self) -> None:
        require(self.kind in KINDS, "Task", f"kind as one of {', '.join(KINDS)}", self.kind)
        object.__setattr__(self, "classes", tuple(self.classes))  # a yaml gives a list
        names = {name for name in self.classes if isinstance(name, str) and name}
        require(len(names) == len(self.classes), "Task", "class names that differ", self.classes)
        counts = {"binary": "one class", "multilabel": "a class or more", "multiclass": "two classes or more"}
        fits = {"binary": len(names) == 1, "multilabel": len(names) >= 1, "multiclass": len(names) >= 2}
        require(fits[self.kind], "Task", f"{counts[self.kind]} for kind={self.kind}", self.classes)

    @property
    def channels(self) -> int:
        """How many channels a model has for this task."""
        return len(self.classes)

    @property
    def scored(self) -> tuple[int, ...]:
        """The classes that a mean over classes goes over: all but the background of a multiclass task."""
        return tuple(range(1 if self.kind == "multiclass" else 0, len(self.classes)))
