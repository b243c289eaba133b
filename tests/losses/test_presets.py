"""The presets equal the losses of nnU-Net, MONAI, Segment Anything and blob loss, in value and gradient."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import label
from torch import Tensor

from tests.losses.conftest import PRESETS, Case, one_hot, scene

Call = Callable[[Tensor, Tensor], Tensor]


def dice_scores(p, t, smooth, axes):
    """Compute (2 sum pt + s) / (sum p + sum t + s)."""
    return (2 * (p * t).sum(axes) + smooth) / (p.sum(axes) + t.sum(axes) + smooth)


def nnunet(axes):
    """Return nnU-Net's DC_and_CE_loss, with Dice without background, or its DC_and_BCE_loss for one class."""

    def call(z, t):
        if z.shape[1] == 1:
            score = dice_scores(z.sigmoid(), t, 1e-5, axes).mean()
            return F.binary_cross_entropy_with_logits(z, t.to(z.dtype)) - score
        score = dice_scores(z.softmax(1)[:, 1:], one_hot(t, z.shape[1])[:, 1:], 1e-5, axes).mean()
        return F.cross_entropy(z, t[:, 0].long()) - score

    return call


def sam(z, t):
    ops = pytest.importorskip("torchvision.ops")
    focal = ops.sigmoid_focal_loss(z, t.to(z.dtype), alpha=0.25, gamma=2, reduction="mean")
    return 20 * focal + 1 - dice_scores(z.sigmoid(), t, 1, (1, 2, 3)).mean()


def blob(z, t):
    """Compute 2 L(image) + the mean of L over objects, the others cut out; an empty image is its own part."""

    def plain(z, t):
        p, t = z.sigmoid(), t.to(z.dtype)
        dice = dice_scores(p, t, 0, (0,)) if t.any() else dice_scores(1 - p, 1 - t, 0, (0,))
        return F.binary_cross_entropy_with_logits(z, t) + 1 - dice

    totals = []
    for logits, mask in zip(z.flatten(1), t.flatten(1), strict=True):
        objects = torch.from_numpy(label(mask.view(12, 12).numpy(), np.ones((3, 3)))[0]).flatten()
        parts = [(objects == 0) | (objects == c) for c in range(1, int(objects.max()) + 1)] or [objects == 0]
        each = torch.stack([plain(logits[part], mask[part]) for part in parts])
        totals.append(2 * plain(logits, mask) + each.mean())
    return torch.stack(totals).mean()


def monai_dicece(z, t):
    losses, several = pytest.importorskip("monai.losses"), z.shape[1] > 1
    return losses.DiceCELoss(softmax=several, sigmoid=not several, to_onehot_y=several)(z, t.to(z.dtype))


ORIGINALS = {
    "nnunet": nnunet((2, 3)),
    "nnunet_batch": nnunet((0, 2, 3)),
    "monai_dicece": monai_dicece,
    "blob": blob,
    "sam": sam,
}


@pytest.mark.parametrize("task", ["binary", "multiclass"])
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_the_original(make, name, task):
    if name in {"sam", "blob"} and task == "multiclass":
        pytest.skip("the original has one class")
    z, target = scene(task)  # one image is empty, so the smoothing matters
    z, case = z.double().requires_grad_(), Case(name, task, make(name, task))
    ours, theirs = case(z, target).mean(), ORIGINALS[name](z, target)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    gradients = [torch.autograd.grad(value, z)[0] for value in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-10)


def test_there_is_an_original_for_every_preset():
    assert set(ORIGINALS) == set(PRESETS)
