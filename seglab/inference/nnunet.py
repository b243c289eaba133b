"""Generate the Python file of an nnU-Net v2 trainer class with a loss of seglab."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from seglab.contract import require
from seglab.losses.base import Loss

TRAINER = '''"""An nnU-Net trainer with the seglab loss {loss}, written by `python -m seglab.export what=nnunet`."""

from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from seglab.contract import Task
{imports}


class SeglabLoss(nn.Module):
    """The mean of a seglab loss over the batch, without the pixels that have nnU-Net's ignore label."""

    def __init__(self, loss, ignore_label, regions):
        super().__init__()
        self.loss, self.ignore_label, self.regions = loss, ignore_label, regions

    def forward(self, logits, target):
        valid = None
        if self.regions:  # one channel per region; with an ignore label, a last channel marks its pixels
            target = target.bool()
            if self.ignore_label is not None:
                target, valid = target[:, :-1], ~target[:, -1:]
        else:  # class numbers (b, 1, *spatial)
            target = target.long()
            if self.ignore_label is not None:
                valid = target != self.ignore_label
        return self.loss(logits, target, valid).mean()


class {name}(nnUNetTrainer):
    """nnU-Net's trainer with a seglab loss instead of its own, including deep supervision."""

    def _build_loss(self):
        labels, numbers = self.label_manager, self.label_manager.label_dict
        if labels.has_regions:
            names = [name for name in numbers if name not in ("background", "ignore")]
        else:
            names = sorted((name for name in numbers if name != "ignore"), key=numbers.get)
        loss = {loss}
        loss = loss.with_task(Task("multilabel" if labels.has_regions else "multiclass", tuple(names)))
        loss = SeglabLoss(loss, labels.ignore_label, labels.has_regions)
        wrapper = super()._build_loss()  # has nnU-Net's weights of deep supervision
        if not isinstance(wrapper, DeepSupervisionWrapper):
            return loss
        wrapper.loss = loss
        return wrapper
'''


def trainer_source(loss: Loss, name: str) -> str:
    """Return Python source whose class `name` trains nnU-Net with `loss`, on mutually exclusive classes or on regions.

    Raises ContractError if nnU-Net cannot compute the loss: it needs maps, class frequencies or a history of epochs, is
    not defined for several classes, or contains a function.
    """
    require("multiclass" in loss.tasks, "nnunet", "a loss for multiclass tasks", loss.name)
    got = f"{loss.name}, which also needs maps ({', '.join(loss.needs)})"
    require(not loss.needs, "nnunet", "a loss that needs only logits and target", got)
    changes = loss.at_epoch([0.0] * 10_000)[1]  # longer than any training, without improvement
    expected = "a loss that stays the same in all epochs"
    require(not changes, "nnunet", expected, loss.name, "export each of its parts separately")
    imports: set[str] = set()
    return TRAINER.format(name=name, loss=expression(loss, imports), imports="\n".join(sorted(imports)))


def expression(value: Any, imports: set[str]) -> str:
    """Return the Python code that constructs a loss or a parameter of one, omitting parameters with default values."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {expression(inner, imports)}" for key, inner in value.items()) + "}"
    if is_dataclass(value):
        kind, arguments = type(value), []
        imports.add(f"from {kind.__module__} import {kind.__name__}")
        for field in fields(value):
            if field.init and field.name != "task":
                argument = getattr(value, field.name)
                code = expression(argument, imports)  # for a default too, which may be refused
                arguments += [f"{field.name}={code}"] if argument != field.default else []
        return f"{kind.__name__}({', '.join(arguments)})"
    require(value != "auto", "nnunet", "numbers as loss parameters, since the class frequencies are unknown", "auto")
    plain = isinstance(value, bool | int | float | str | list | tuple | None)
    require(plain, "nnunet", "a seglab loss whose parameters are numbers or names", value)
    return repr(value)
