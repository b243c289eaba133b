"""Losses agree with smp, MONAI, kornia and torch where definitions agree, and are right where those libraries fail."""

import pytest
import torch
import torch.nn.functional as F

from seglab.benchmarks.peers import peers
from tests.losses.conftest import scene


def test_the_value_is_that_of_the_other_library_on_images_with_all_classes(make):
    same = [peer for peer in peers() if peer.same]
    if not same:
        pytest.skip("needs the extra `bench`")
    for peer in same:
        logits, target = scene(peer.task)
        images = [0] if not peer.per_image or peer.task != "binary" else [0, 2]
        z, t = logits[images], target[images]
        theirs = peer.call(z, t.long() if peer.task == "multiclass" else t.float())
        ours = make(peer.loss, peer.task, **peer.parameters)(z, t).mean()
        note = f"{peer.library}: {peer.loss} of a {peer.task} task with {peer.parameters}"
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=1e-6, msg=lambda text, note=note: f"{note}: {text}")


def test_pixels_that_are_not_valid_are_what_others_ignore(make):
    smp = pytest.importorskip("segmentation_models_pytorch.losses")
    logits, target = scene("multiclass")
    z, ids = logits[:1], target[:1].long()
    valid = torch.rand(ids.shape, generator=torch.Generator().manual_seed(0)) < 0.7
    marked = ids.where(valid, 255)
    others = {
        "bce": (F.cross_entropy(z, marked[:, 0], ignore_index=255), {}),
        "dice": (smp.DiceLoss("multiclass", ignore_index=255)(z, marked[:, 0]), {"classes": "all"}),
        "tversky": (
            smp.TverskyLoss("multiclass", alpha=0.3, beta=0.7, ignore_index=255)(z, marked[:, 0]),
            {"classes": "all"},
        ),
        "lovasz_softmax": (smp.LovaszLoss("multiclass", per_image=True, ignore_index=255)(z, marked[:, 0]), {}),
    }
    for name, (theirs, parameters) in others.items():
        ours = make(name, "multiclass", **parameters)(z, marked, valid)
        torch.testing.assert_close(ours[0], theirs, rtol=2e-5, atol=1e-6)


def test_pooled_dice_is_the_dice_of_smp_on_a_batch(make):
    smp = pytest.importorskip("segmentation_models_pytorch.losses")
    logits, target = scene()
    torch.testing.assert_close(make("batchwise")(logits, target).mean(), smp.DiceLoss("binary")(logits, target))


def test_a_foreign_loss_runs_as_ours(make):
    pytest.importorskip("monai")
    logits, target = scene()
    exact = {"smooth_nr": 0, "smooth_dr": 1e-12}
    foreign = make("external", function={"_target_": "monai.losses.DiceLoss", "sigmoid": True, **exact})
    torch.testing.assert_close(foreign(logits, target)[[0, 2]], make("dice")(logits, target)[[0, 2]])
    logits, target = scene("multiclass")
    function = {"_target_": "segmentation_models_pytorch.losses.DiceLoss", "mode": "multiclass"}
    foreign = make("external", "multiclass", function=function, labels="ids")
    every = make("dice", "multiclass", classes="all")
    torch.testing.assert_close(foreign(logits, target)[0], every(logits, target)[0])


def test_ours_has_a_gradient_where_theirs_has_none(make):
    smp, monai = pytest.importorskip("segmentation_models_pytorch.losses"), pytest.importorskip("monai.losses")
    z = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    empty = torch.zeros(1, 1, 16, 16)
    for ours, theirs in (("dice", smp.DiceLoss("binary")), ("mcc", monai.MCCLoss(sigmoid=True))):
        sizes = []
        for loss in (make(ours), theirs):
            x = z.clone().requires_grad_()
            sizes.append(torch.autograd.grad(loss(x, empty).sum(), x)[0].abs().sum())
        assert sizes[0] > 0.01
        assert sizes[1] == 0
