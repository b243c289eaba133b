"""Generate the Python file of an nnU-Net v2 trainer class with a loss of seglab."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from seglab.contract import require
from seglab.losses.base import Loss

TRAINER = '''"""nnU-Net with the loss {loss} of seglab, made by `python -m seglab.export what=nnunet`."""

from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from seglab.contract import Task
{imports}


class SeglabLoss(nn.Module):
    """The mean over the batch, without the pixels of nnU-Net's ignore label."""

    def __init__(self, loss, ignore_label, regions):
        super().__init__()
        self.loss, self.ignore_label, self.regions = loss, ignore_label, regions

    def forward(self, logits, target):
        valid = None
        if self.regions:  # one channel per region, and a last one for the ignore label
            target = target.bool()
            if self.ignore_label is not None:
                target, valid = target[:, :-1], ~target[:, -1:]
        else:  # ids (b, 1, *spatial)
            target = target.long()
            if self.ignore_label is not None:
                valid = target != self.ignore_label
        return self.loss(logits, target, valid).mean()


class {name}(nnUNetTrainer):
    def _build_loss(self):
        labels, ids = self.label_manager, self.label_manager.label_dict
        if labels.has_regions:
            names = [name for name, value in ids.items() if name not in ("background", "ignore")]
        else:
            names = sorted((name for name in ids if name != "ignore"), key=ids.get)
        loss = {loss}
        loss = loss.with_task(Task("multilabel" if labels.has_regions else "multiclass", tuple(names)))
        loss = SeglabLoss(loss, labels.ignore_label, labels.has_regions)
        wrapper = super()._build_loss()  # nnU-Net's weights of deep supervision
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
    require(not loss.needs, "nnunet", "a loss of logits and target alone", f"{loss.name}, which needs {loss.needs}")
    changes = loss.at_epoch([0.0] * 10_000)[1]  # longer than any training, without improvement
    require(not changes, "nnunet", "one loss for all epochs", loss.name, "export its parts one by one")
    imports: set[str] = set()
    return TRAINER.format(name=name, loss=expression(loss, imports), imports="\n".join(sorted(imports)))


def expression(value: Any, imports: set[str]) -> str:
    """Return the Python code that constructs a loss or a parameter of one, omitting parameters with default values."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {expression(inner, imports)}" for key, inner in value.items()) + "}"
    if is_dataclass(value):
        kind, words = type(value), []
        imports.add(f"from {kind.__module__} import {kind.__name__}")
        for field in fields(value):
            if field.init and field.name != "task":
                given = getattr(value, field.name)
                code = expression(given, imports)  # for a default too, which may be refused
                words += [f"{field.name}={code}"] if given != field.default else []
        return f"{kind.__name__}({', '.join(words)})"
    require(value != "auto", "nnunet", "a number, since the class frequencies are unknown", "auto")
    plain = isinstance(value, bool | int | float | str | list | tuple | None)
    require(plain, "nnunet", "a loss of seglab, or parameters that are numbers or names", value)
    return repr(value)
