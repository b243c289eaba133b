"""Where smp, MONAI, kornia and torch define what we do, they get the same number."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    smp = pytest.importorskip("segmentation_models_pytorch.losses")
    monai = pytest.importorskip("monai.losses", reason="needs the extra `bench`")
    kornia = pytest.importorskip("kornia.losses", reason="needs the extra `bench`")

Other = Callable[[Tensor, Tensor], Tensor]
EXACT = {"smooth_nr": 0, "smooth_dr": 1e-12}

PAIRS: dict[str, tuple[str, dict[str, object], Other]] = {
    "torch bce": ("bce", {}, F.binary_cross_entropy_with_logits),
    "torch pos_weight": (
        "weighted_bce",
        {"pos_weight": 7.0},
        lambda z, t: F.binary_cross_entropy_with_logits(z, t, pos_weight=torch.tensor(7.0)),
    ),
    "torch cross_entropy(weight)": (
        "class_weighted_ce",
        {"foreground_weight": 3.0},
        lambda z, t: F.cross_entropy(torch.cat([0 * z, z], 1), t[:, 0].long(), torch.tensor([1.0, 3.0])),
    ),
    "smp SoftBCE": ("label_smoothing", {"smoothing": 0.1}, smp.SoftBCEWithLogitsLoss(smooth_factor=0.1)),
    "smp Focal": ("focal", {}, smp.FocalLoss("binary")),
    "smp Focal alpha": ("focal", {"alpha": 0.3, "gamma": 1.5}, smp.FocalLoss("binary", alpha=0.3, gamma=1.5)),
    "smp Dice": ("dice", {}, smp.DiceLoss("binary")),
    "smp Jaccard": ("iou", {}, smp.JaccardLoss("binary")),
    "smp Tversky": ("tversky", {}, smp.TverskyLoss("binary", alpha=0.3, beta=0.7)),
    "smp focal Tversky": ("focal_tversky", {}, smp.TverskyLoss("binary", alpha=0.3, beta=0.7, gamma=0.75)),
    "smp Lovasz": ("lovasz_hinge", {}, smp.LovaszLoss("binary", per_image=True)),
    "MONAI Dice": ("dice", {}, monai.DiceLoss(sigmoid=True, **EXACT)),
    "MONAI Dice smoothed": ("dice", {"smooth": 5.0}, monai.DiceLoss(sigmoid=True, smooth_nr=5.0, smooth_dr=5.0)),
    "MONAI squared Dice": ("squared_dice", {}, monai.DiceLoss(sigmoid=True, squared_pred=True, **EXACT)),
    "MONAI Jaccard": ("iou", {}, monai.DiceLoss(sigmoid=True, jaccard=True, **EXACT)),
    "MONAI soft labels": ("jml", {}, monai.DiceLoss(sigmoid=True, jaccard=True, soft_label=True, **EXACT)),
    "MONAI Tversky": ("tversky", {}, monai.TverskyLoss(sigmoid=True, alpha=0.3, beta=0.7, **EXACT)),
    "MONAI Focal": ("focal", {}, monai.FocalLoss(gamma=2.0)),
    "MONAI DiceCE": ("bce_dice", {}, monai.DiceCELoss(sigmoid=True, **EXACT)),
    "MONAI MCC": ("mcc", {}, monai.MCCLoss(sigmoid=True, smooth_nr=0, smooth_dr=0)),
    "kornia Focal": (
        "focal",
        {"alpha": 0.25},
        kornia.BinaryFocalLossWithLogits(alpha=0.25, gamma=2.0, reduction="mean"),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_the_number_is_theirs_on_an_image_with_foreground(make, name: str, logits: Tensor, target: Tensor) -> None:
    ours, parameters, theirs = PAIRS[name]
    z, t = logits[:1], target[:1].float()
    torch.testing.assert_close(make(ours, **parameters)(z, t).mean(), theirs(z, t), rtol=2e-5, atol=1e-6)


def test_pooled_dice_is_the_dice_of_smp_on_a_batch(make, logits: Tensor, target: Tensor) -> None:
    torch.testing.assert_close(make("batchwise")(logits, target).mean(), smp.DiceLoss("binary")(logits, target))


def test_a_foreign_loss_runs_as_ours(make, logits: Tensor, target: Tensor) -> None:
    foreign = make("external", function={"_target_": "monai.losses.DiceLoss", "sigmoid": True, **EXACT})
    torch.testing.assert_close(foreign(logits, target)[[0, 2]], make("dice")(logits, target)[[0, 2]])


def test_ours_has_a_gradient_where_theirs_has_none(make) -> None:
    z, empty = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 1, 16, 16)
    for ours, theirs in (("dice", smp.DiceLoss("binary")), ("mcc", monai.MCCLoss(sigmoid=True))):
        sizes = []
        for loss in (make(ours), theirs):
            x = z.clone().requires_grad_()
            sizes.append(torch.autograd.grad(loss(x, empty).sum(), x)[0].abs().sum())
        assert sizes[0] > 0.01
        assert sizes[1] == 0
