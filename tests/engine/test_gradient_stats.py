"""Where the gradient falls is counted as by hand, and training logs it without touching what is trained."""

import pytest
import torch

from seglab.engine.gradient_stats import GradientFractions, hard, loss_and_gradient, near_edge
from seglab.losses import BCE, Dice
from tests.engine.test_module import module


def test_the_gradient_at_the_logits_is_the_textbook_one_and_float32():
    z = torch.tensor([[[[2.0, -1.0]]]], dtype=torch.float16)
    losses, gradient = loss_and_gradient(BCE(), z, torch.tensor([[[[1, 0]]]]), {})
    p = z.float().sigmoid()
    torch.testing.assert_close(gradient, (p - torch.tensor([[[[1.0, 0.0]]]])) / 2)
    assert losses.shape == (1,)


def test_the_edge_is_both_sides_of_the_outline():
    mask = torch.zeros(1, 1, 7, 7, dtype=torch.uint8)
    mask[..., 3:] = 1
    assert near_edge(mask, 1)[0, 0, 0].tolist() == [False, False, True, True, False, False, False]
    assert near_edge(mask, 2).float().mean().item() == pytest.approx(4 / 7)
    assert not near_edge(torch.zeros_like(mask)).any()
    assert not near_edge(torch.ones_like(mask)).any()


def test_a_pixel_is_hard_where_its_true_class_is_the_less_likely():
    z, t = torch.tensor([[[[2.0, 2.0, -2.0, -2.0]]]]), torch.tensor([[[[1, 0, 1, 0]]]], dtype=torch.uint8)
    assert hard(z, t)[0, 0, 0].tolist() == [False, True, True, False]


class Single:
    """A trainer of one process."""

    class strategy:
        @staticmethod
        def reduce(sums, reduce_op):
            return sums


def shares(loss, logits, target):
    trained, seen = module(loss), dict[str, float]()
    trained.log_values = lambda values: seen.update({key: float(value) for key, value in values.items()})
    watch, trainer = GradientFractions(), Single()
    seen_batch = {"image": None, "target": target, "id": [""]}
    watch.on_train_batch_end(trainer, trained, {"logits": logits}, seen_batch, 0)
    watch.on_train_batch_end(trainer, trained, {"logits": -logits}, seen_batch, 1)
    watch.on_train_epoch_end(trainer, trained)
    return seen


def test_the_shares_of_cross_entropy_are_those_of_the_errors_in_the_first_batch():
    target = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    target[..., :2] = 1  # 16 of 64 pixels; 32 lie within two columns of the other class
    logits = torch.full((1, 1, 8, 8), -1.0)  # so that all foreground is hard
    p = torch.tensor(-1.0).sigmoid().item()
    foreground, background = 16 * (1 - p), 48 * p
    seen = shares(BCE(), logits, target)
    whole = foreground + background
    assert seen["train/gradient_foreground"] == pytest.approx(foreground / whole)
    assert seen["train/gradient_hard"] == pytest.approx(foreground / whole)
    assert seen["train/gradient_edge"] == pytest.approx((foreground + 16 * p) / whole)


def test_no_gradient_has_no_shares():
    seen = shares(Dice(empty="skip"), torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4))
    assert all(value != value for value in seen.values())
