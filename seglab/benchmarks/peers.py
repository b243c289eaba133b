"""The same losses in torch, smp, MONAI and kornia: one table, compared by tests and timed by the benchmark."""

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from seglab.contract import Kind

Call = Callable[[Tensor, Tensor], Tensor]
"""Maps logits and target to a scalar; the target has floats of the logits' shape, or int64 ids (b, 1, *spatial)."""


class Peer(NamedTuple):
    """A loss of conf/loss with some parameters, and its counterpart in another library.

    per_image: whether the counterpart is a mean over images, too; otherwise it pools the batch. same: whether the
    definitions agree if all classes are present (up to MONAI's smoothing of 1e-5 pixels); otherwise it is only timed.
    """

    loss: str
    library: str
    call: Call
    parameters: Mapping[str, Any] = MappingProxyType({})
    task: Kind = "binary"
    per_image: bool = True
    same: bool = True


def peers() -> list[Peer]:
    """Return every peer; empty if the extra `bench` is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import kornia.losses
            import monai.losses
            import segmentation_models_pytorch.losses
    except ImportError:
        return []
    return [
        *in_torch(),
        *in_smp(segmentation_models_pytorch.losses),
        *in_monai(monai.losses),
        *in_kornia(kornia.losses),
    ]


def channel(call: Call) -> Call:
    """Adapt a loss that takes class ids without a channel axis, (b, *spatial)."""
    return lambda z, t: call(z, t[:, 0])


def in_torch() -> list[Peer]:
    bce, ce = F.binary_cross_entropy_with_logits, F.cross_entropy
    weights = [1.0, 2.0, 3.0, 4.0]

    def many(name: str, parameters: dict[str, Any], **options: Any) -> Peer:
        return Peer(name, "torch", channel(partial(ce, **options)), parameters, "multiclass", not parameters)

    def of_two(z: Tensor, t: Tensor) -> Tensor:
        return ce(torch.cat([0 * z, z], 1), t[:, 0].long(), torch.tensor([1.0, 3.0]))

    return [
        Peer("bce", "torch", bce),
        Peer("weighted_bce", "torch", partial(bce, pos_weight=torch.tensor(7.0)), {"pos_weight": 7.0}),
        Peer("class_weighted_ce", "torch", of_two, {"foreground_weight": 3.0}, per_image=False),
        Peer("bce", "torch", bce, task="multilabel"),
        many("bce", {}),
        many("label_smoothing", {"smoothing": 0.075}, label_smoothing=0.1),  # s (k - 1) / k
        many("class_weighted_ce", {"foreground_weight": 1.0, "class_weights": weights}, weight=torch.tensor(weights)),
    ]


def in_smp(smp: Any) -> list[Peer]:
    result = [
        Peer("bce", "smp", smp.SoftBCEWithLogitsLoss()),
        Peer("label_smoothing", "smp", smp.SoftBCEWithLogitsLoss(smooth_factor=0.1)),
        Peer("focal", "smp", smp.FocalLoss("binary", alpha=0.3, gamma=1.5), {"alpha": 0.3, "gamma": 1.5}),
        Peer("lovasz_hinge", "smp", smp.LovaszLoss("binary", per_image=True)),
        Peer("lovasz_softmax", "smp", channel(smp.LovaszLoss("multiclass", per_image=True)), task="multiclass"),
        Peer("focal", "smp", smp.FocalLoss("binary")),
        Peer("focal", "smp", channel(smp.FocalLoss("multiclass")), task="multiclass", same=False),  # k sigmoids
    ]
    tversky = {"alpha": 0.3, "beta": 0.7}
    for name, kind, options in (
        ("dice", smp.DiceLoss, {}),
        ("iou", smp.JaccardLoss, {}),
        ("tversky", smp.TverskyLoss, tversky),
        ("focal_tversky", smp.TverskyLoss, tversky | {"gamma": 0.75}),
    ):
        result.append(Peer(name, "smp", kind("binary", **options), per_image=False))
        if name != "focal_tversky":  # smp applies its power after the mean over classes
            result.append(Peer(name, "smp", kind("multilabel", **options), task="multilabel", per_image=False))
            many, every = channel(kind("multiclass", **options)), {"classes": "all"}
            result.append(Peer(name, "smp", many, every, "multiclass", per_image=False))
    return result


def in_monai(monai: Any) -> list[Peer]:
    exact = {"smooth_nr": 0, "smooth_dr": 1e-12}  # practically no smoothing, without 0/0
    far = [[0.0, 2.0, 2.0, 2.0], [2.0, 0.0, 1.0, 0.5], [2.0, 1.0, 0.0, 0.5], [2.0, 0.5, 0.5, 0.0]]
    wasserstein = channel(monai.GeneralizedWassersteinDiceLoss(torch.tensor(far), smooth_nr=0, smooth_dr=0))
    overlap: list[tuple[str, Any, dict[str, Any]]] = [
        ("dice", monai.DiceLoss, exact),
        ("squared_dice", monai.DiceLoss, exact | {"squared_pred": True}),
        ("iou", monai.DiceLoss, exact | {"jaccard": True}),
        ("jml", monai.DiceLoss, exact | {"jaccard": True, "soft_label": True}),
        ("tversky", monai.TverskyLoss, exact | {"alpha": 0.3, "beta": 0.7}),
        ("bce_dice", monai.DiceCELoss, exact),
    ]
    result = [
        Peer("focal", "MONAI", monai.FocalLoss()),
        Peer("focal", "MONAI", monai.FocalLoss(use_softmax=True, to_onehot_y=True), task="multiclass", same=False),
        Peer("mcc", "MONAI", monai.MCCLoss(sigmoid=True, smooth_nr=0, smooth_dr=0)),
        Peer("generalized_dice", "MONAI", monai.GeneralizedDiceLoss(sigmoid=True), same=False),  # equals Dice
        Peer("generalized_wasserstein_dice", "MONAI", wasserstein, {"distances": far}, "multiclass"),
        Peer("unified_focal", "MONAI", monai.AsymmetricUnifiedFocalLoss(), same=False),  # on raw logits
        Peer("dice", "MONAI", monai.DiceLoss(sigmoid=True, smooth_nr=5.0, smooth_dr=5.0), {"smooth": 5.0}),
    ]
    for name, kind, options in overlap:
        result.append(Peer(name, "MONAI", kind(sigmoid=True, **options)))
        softmax_ce = name == "bce_dice"  # which MONAI uses for several channels, even with sigmoid
        result.append(Peer(name, "MONAI", kind(sigmoid=True, **options), task="multilabel", same=not softmax_ce))
        for classes, background in (("scored", False), ("all", True)):
            call = kind(softmax=True, to_onehot_y=True, include_background=background, **options)
            parameters = {} if classes == "scored" else {"classes": classes}
            same = name != "jml"  # with softmax, MONAI's soft_label counts whole pixels
            result.append(Peer(name, "MONAI", call, parameters, "multiclass", same=same))
    return result


def in_kornia(kornia: Any) -> list[Peer]:
    def focal(z: Tensor, t: Tensor) -> Tensor:
        return z.shape[1] * kornia.focal_loss(z, t, alpha=None, gamma=2.0, reduction="mean")  # it divides by k, too

    binary = partial(kornia.BinaryFocalLossWithLogits, gamma=2.0, reduction="mean")
    return [
        Peer("focal", "kornia", binary(alpha=0.25), {"alpha": 0.25}),
        Peer("focal", "kornia", binary(alpha=None)),
        Peer("focal", "kornia", channel(focal), task="multiclass"),
        Peer("dice", "kornia", channel(kornia.dice_loss), {"classes": "all"}, "multiclass", same=False),
        Peer("lovasz_softmax", "kornia", channel(kornia.lovasz_softmax_loss), task="multiclass"),
    ]
