"""The trainer exported for nnU-Net: its loss compared with cross-entropy and Dice computed by torch.

nnU-Net is not a test dependency: two classes with its names and calls replace it.
"""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from seglab.contract import ContractError
from seglab.export import export

WEIGHTS = (2 / 3, 1 / 3, 0.0)
SIZES = (16, 8, 4)
LABELS = {"ignore": 3, "cup": 2, "background": 0, "ring": 1}
REGIONS = {"background": 0, "disc": [1, 2], "cup": 2, "ignore": 3}


class DeepSupervisionWrapper(nn.Module):
    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def forward(self, *args):
        return sum(w * self.loss(*inputs) for w, *inputs in zip(WEIGHTS, *args, strict=True) if w)


class Trainer:
    def __init__(self, labels, deep=True):
        regions = any(isinstance(value, list) for value in labels.values())
        ignore = labels.get("ignore")
        self.label_manager = SimpleNamespace(has_regions=regions, ignore_label=ignore, label_dict=labels)
        self.deep = deep

    def _build_loss(self):
        own = nn.Identity()
        return DeepSupervisionWrapper(own) if self.deep else own


@pytest.fixture
def exported(configure, tmp_path, monkeypatch):
    """A function that exports with overrides and returns the trainer class in the file."""
    for path, kind in (("loss.deep_supervision", DeepSupervisionWrapper), ("nnUNetTrainer.nnUNetTrainer", Trainer)):
        module = ModuleType(path)
        setattr(module, path.rpartition(".")[2] if kind is Trainer else kind.__name__, kind)
        monkeypatch.setitem(sys.modules, f"nnunetv2.training.{path}", module)

    def run(*overrides):
        words = ("what=nnunet", f"output={tmp_path}/nnUNetTrainerMine.py", *overrides)
        file, names = export(configure("export", *words), tmp_path), {}
        exec(file.read_text(), names)
        return names[file.stem]

    return run


def ids(size, k):
    return torch.randint(0, k, (2, 1, size, size), dtype=torch.int16)  # as from nnU-Net's data loader


def test_classes_and_the_ignore_label_under_deep_supervision(exported):
    torch.manual_seed(0)
    loss = exported("loss=class_weighted_ce", "loss.class_weights={cup:5,ring:3,background:1}")(LABELS)._build_loss()
    logits = [torch.randn(2, 3, size, size, requires_grad=True) for size in SIZES]
    targets = [ids(size, 4) for size in SIZES]
    value = loss(logits, targets)

    def reference(z, t):
        weights = torch.tensor([1.0, 6.0, 10.0])  # times foreground_weight=2
        images = zip(z.split(1), t[:, 0].long().split(1), strict=True)
        return torch.stack([F.cross_entropy(*image, weights, ignore_index=3) for image in images]).mean()

    wanted = sum(w * reference(z, t) for w, z, t in zip(WEIGHTS, logits, targets, strict=True))
    torch.testing.assert_close(value, wanted)
    value.backward()
    assert logits[0].grad is not None
    assert not logits[0].grad.mul(targets[0] == 3).any()
    assert logits[2].grad is None  # nnU-Net gives the coarsest scale the weight 0


def test_regions_are_channels_of_their_own_and_the_last_is_ignored(exported):
    torch.manual_seed(0)
    loss = exported("loss=dice")(REGIONS, deep=False)._build_loss()
    logits, target = torch.randn(2, 2, 16, 16), torch.rand(2, 3, 16, 16) > 0.5
    counted = ~target[:, 2:]
    p, t = logits.sigmoid() * counted, (target[:, :2] & counted).float()
    dice = 2 * (p * t).sum((2, 3)) / (p.sum((2, 3)) + t.sum((2, 3)))
    torch.testing.assert_close(loss(logits, target), 1 - dice.mean())


def test_volumes_without_an_ignore_label_and_losses_inside_of_losses(exported):
    words = ("loss.terms.dice.weight=3", "loss.terms.boundary=null", "loss.terms.dice.loss.classes=all")
    loss = exported("loss=sum", *words)({"background": 0, "organ": 1}, deep=False)._build_loss()
    torch.manual_seed(0)
    logits, target = torch.randn(2, 2, 4, 8, 8), torch.randint(0, 2, (2, 1, 4, 8, 8))
    p, t = logits.softmax(1), F.one_hot(target[:, 0], 2).movedim(-1, 1)
    dice = 2 * (p * t).sum((2, 3, 4)) / (p + t).sum((2, 3, 4))
    torch.testing.assert_close(loss(logits, target), F.cross_entropy(logits, target[:, 0]) + 3 * (1 - dice.mean()))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["loss=boundary"], r"only logits and target, got Boundary, which also needs maps \(distance\)"),
        (["loss=lovasz_hinge"], "a loss for multiclass tasks, got LovaszHinge"),
        (["loss=switch"], "a loss that stays the same in all epochs, got Switch; export each of its parts"),
        (["loss=weighted_bce"], "numbers as loss parameters, since the class frequencies are unknown, got auto"),
        (["loss=external"], "a seglab loss whose parameters are numbers or names, got BCEWithLogitsLoss"),
        (["loss=dice", "output=my-dice.py"], "a file name that is a valid class name, .* got my-dice.py"),
        ([], "loss: expected the name of a loss, got none; set loss=NAME"),
    ],
)
def test_a_loss_that_cannot_be_exported_is_one_sentence(configure, words, sentence):
    with pytest.raises(ContractError, match=sentence):
        export(configure("export", *(["what=nnunet"] if "what" not in "".join(words) else []), *words), Path())


def test_two_choices_of_one_class_have_files_of_their_own(configure, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("nnunet", "nnunet_batch"):
        monkeypatch.setattr("seglab.export.choices", lambda name=name: {"loss": name})
        export(configure("export", "what=nnunet", f"loss={name}"), tmp_path)
    made = sorted(file.name for file in tmp_path.iterdir())
    assert made == ["nnUNetTrainerSeglabNnunet.py", "nnUNetTrainerSeglabNnunetBatch.py"]
