"""Functions, modules and classes of the user as losses, configured by name."""

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from seglab.engine.config import ConfigError, build_loss, check
from seglab.engine.dry_run import try_external
from seglab.losses import BCE, Sum
from seglab.losses.external import External

HERE = __name__
Z, T = torch.randn(3, 1, 4, 5, generator=torch.Generator().manual_seed(0)), torch.ones(3, 1, 4, 5)


def weighted(probability, target, weight):
    return weight * (probability - target).square().mean()


def make(power=1):
    return Power(power)


def nothing():
    return "no loss"


class Power(nn.Module):
    def __init__(self, power):
        super().__init__()
        self.power = power

    def forward(self, logits, target):
        return (logits - target).abs().pow(self.power).mean()


class Mine(BCE):
    pass


def per_image(values):
    return values.flatten(1).mean(1)


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ({"_target_": "weighted", "weight": 3.0, "takes": "probabilities"}, per_image(3 * (Z.sigmoid() - T).square())),
        ({"_target_": "Power", "power": 2}, per_image((Z - T).square())),
        ({"_target_": "make"}, per_image((Z - T).abs())),
        ({"_target_": "make", "power": 2, "image_by_image": False}, (Z - T).square().mean().expand(3)),
        ({"_target_": "Mine"}, BCE()(Z, T)),
    ],
    ids=["function", "module", "factory", "whole batch", "class of ours"],
)
def test_whatever_a_target_is_it_becomes_a_loss(node, expected):
    cfg = OmegaConf.create({"loss": {**node, "_target_": f"{HERE}.{node['_target_']}"}})
    check(cfg)
    torch.testing.assert_close(build_loss(cfg.loss)(Z, T), expected)


def test_a_function_may_stand_inside_of_a_sum_and_of_external():
    function = {"_target_": "torch.nn.functional.binary_cross_entropy_with_logits"}
    external = {"_target_": "seglab.losses.external.External", "function": function}
    term = {"_target_": "seglab.losses.composite.Term", "weight": 2.0}
    node = {"_target_": "seglab.losses.composite.Sum", "terms": {"a": {**term, "loss": function}}}
    made = build_loss(node)
    assert isinstance(made, Sum)
    torch.testing.assert_close(made(Z, T), 2 * BCE()(Z, T))
    torch.testing.assert_close(build_loss(external)(Z, T), BCE()(Z, T))


def test_a_target_that_is_not_a_loss_or_is_misspelled_is_one_sentence():
    with pytest.raises(ConfigError, match="expected function to be callable, got 'no loss'"):
        build_loss({"_target_": f"{HERE}.nothing"})
    sentence = r"loss\.function\.wait: expected .*weight, got a parameter that weighted does not have"
    with pytest.raises(ConfigError, match=sentence):
        check(OmegaConf.create({"loss": {"_target_": f"{HERE}.weighted", "wait": 3}}))
    with pytest.raises(ConfigError, match=r"loss\._target_: expected .* imported, got mine\.Missing"):
        check(OmegaConf.create({"loss": {"_target_": "mine.Missing"}}))
    with pytest.raises(ConfigError, match=r"got __main__\.Mine \(.*\); write it to a file MODULE"):
        check(OmegaConf.create({"loss": {"_target_": "__main__.Mine"}}))


def dice_without_sigmoid(logits, target):
    """Compute MONAI's DiceLoss on raw logits, as if its `sigmoid` had been forgotten."""
    return 1 - 2 * (logits * target).sum() / (logits.sum() + target.sum())


@pytest.mark.parametrize(
    ("function", "doubtful"),
    [
        (nn.functional.binary_cross_entropy_with_logits, False),
        (dice_without_sigmoid, True),
        (lambda z, t: (z * t).mean(), True),
    ],
    ids=["BCE", "Dice without sigmoid", "rising"],
)
def test_an_external_loss_that_does_not_fall_when_logits_become_right_is_warned_of(function, doubtful, caplog):
    binary = torch.zeros(2, 1, 16, 16)
    try_external(External(function=function), binary, 1)
    assert ("loss: its values for logits from wrong to right do not decrease (" in caplog.text) == doubtful


@pytest.mark.parametrize("labels", ["ids", "shares"])
def test_an_external_loss_of_several_classes_that_rises_is_warned_of(labels, caplog):
    def score(z, t):
        shares = t if t.shape == z.shape else nn.functional.one_hot(t, 3).movedim(-1, 1)
        return (z.softmax(1) * shares).sum() / shares.sum()

    for function, doubtful in ((score, True), (lambda z, t: 1 - score(z, t), False)):
        caplog.clear()
        loss = External(function=function, labels=labels, task="multiclass")
        try_external(loss, torch.zeros(2, 1, 16, 16, dtype=torch.uint8), 3)
        assert ("loss: its values for logits from wrong to right do not decrease (" in caplog.text) == doubtful
