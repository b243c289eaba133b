"""Contracts shared by all parts of seglab: tensor shapes, the task, and the error raised when a contract is violated.

Every module may import this one. It imports neither torch nor any other part of seglab, so that the report of a
finished study opens in a second.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

Image: TypeAlias = "Tensor"
"""(b, c, h, w): uint8 as decoded until it is on the device, then normalized float32."""

Logits: TypeAlias = "Tensor"
"""(b, k, *spatial): raw scores, one channel per class; code that needs probabilities applies sigmoid or softmax."""

Target: TypeAlias = "Tensor"
"""(b, k, *spatial): the share of each class in each pixel, in [0, 1]: bool or integer for hard labels, float for soft
labels. Hard labels of a multiclass task are class ids: (b, 1, *spatial) integers."""

Valid: TypeAlias = "Tensor"
"""(b, 1, *spatial) bool: True for valid pixels, False for pixels to ignore; None if all pixels are valid."""

PerImage: TypeAlias = "Tensor"
"""(b,): one number per image; averaging over the batch is left to the caller."""

Kind: TypeAlias = Literal["binary", "multilabel", "multiclass"]
"""How channels become probabilities: binary by one sigmoid, multilabel by one per channel, multiclass by a softmax."""

KINDS: tuple[Kind, ...] = ("binary", "multilabel", "multiclass")

SEARCH = ("trials", "space", "sampler", "halving", "tuning_repeats", "fresh_seeds")
"""The options of a search, which are not options of the runs that it starts."""

NOT_IN_IDENTITY = {"hydra", "study", "folder", "rerun", "plan", "on_fail", "stop_after", "tuned", *SEARCH}
NOT_IN_IDENTITY |= {"workers", "evaluation_processes", "store", "threads", "cuda_graph", "examples", "pictures"}
NOT_IN_IDENTITY |= {"logger", "callbacks.snapshots", "dataset.root", "dataset.cache_dir", "dataset.cache_gb"}
NOT_IN_IDENTITY |= {f"trainer.{name}" for name in ("accelerator", "devices", "num_nodes", "strategy")}
"""Options that may differ between runs of the same experiment: paths, device, workers, logging. The number of training
processes is not one of them, see `processes`."""


def processes(trainer: Mapping[str, Any]) -> Any:
    """Return how many processes train a run, each on its own batches; text if the machine decides (devices=auto)."""
    devices, nodes = trainer.get("devices", 1), trainer.get("num_nodes", 1)
    count = len(devices) if isinstance(devices, Sequence) and not isinstance(devices, str) else devices
    return int(count) * nodes if str(count).isdecimal() and isinstance(nodes, int) else f"{count} on each of {nodes}"


_CONTROL = (*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
ESCAPED = {code: repr(chr(code))[1:-1] for code in _CONTROL}
"""Control characters except tab and line break, by which a file name could erase or reorder text in a terminal."""


class ContractError(ValueError):
    """Raised when a contract is violated; the message is one sentence that the user can act on."""

    def __str__(self) -> str:
        return super().__str__().translate(ESCAPED)


def sentence(error: BaseException) -> str:
    """Return the message of an error, without the traceback that precedes it if it comes from a data worker."""
    return str(error).rpartition("seglab.contract.ContractError: ")[2].strip()


class Diverged(ContractError):
    """Raised when a training or validation step produces values that are not finite."""


def require(ok: bool, who: str, expected: str, got: object = None, remedy: str = "") -> None:
    """Raise a one-sentence ContractError unless `ok`: who, what was expected, what was got, and the remedy if known.

    >>> require(False, "model", "a height and width divisible by 32", "500x500", "set dataset.size=512")
    Traceback (most recent call last):
    seglab.contract.ContractError: model: expected a height and width divisible by 32, got 500x500; set dataset.size=512
    """
    if not ok:
        received = "" if got is None else f", got {got}"
        raise ContractError(f"{who}: expected {expected}{received}" + (f"; {remedy}" if remedy else ""))


@dataclass(frozen=True)
class Task:
    """The meaning of labels: how many classes there are, their names, and whether they are mutually exclusive.

    Args:
        kind: "binary" (one class against the rest), "multilabel" (several that may overlap, such as disc and cup) or
            "multiclass" (one class per pixel; class 0 is the background).
        classes: the class names in channel order.
    """

    kind: Kind = "binary"
    classes: tuple[str, ...] = ("foreground",)

    def __post_init__(self) -> None:
        require(self.kind in KINDS, "Task", f"kind to be one of {', '.join(KINDS)}", self.kind)
        object.__setattr__(self, "classes", tuple(self.classes))  # YAML gives a list
        names = {name for name in self.classes if isinstance(name, str) and name}
        require(len(names) == len(self.classes), "Task", "distinct class names that are not empty", self.classes)
        counts = {"binary": "one class", "multilabel": "at least one class", "multiclass": "at least two classes"}
        fits = {"binary": len(names) == 1, "multilabel": len(names) >= 1, "multiclass": len(names) >= 2}
        require(fits[self.kind], "Task", f"{counts[self.kind]} for kind={self.kind}", self.classes)

    @property
    def channels(self) -> int:
        """The number of output channels of a model for this task."""
        return len(self.classes)

    @property
    def scored(self) -> tuple[int, ...]:
        """The indices of the classes in a mean over classes: all but the background of a multiclass task."""
        return tuple(range(1 if self.kind == "multiclass" else 0, len(self.classes)))
