"""The gradient that every view sees is the textbook one."""

import torch

from seglab.losses import BCE
from seglab.views.gradients import loss_and_gradient


def test_the_gradient_at_the_logits_is_the_textbook_one_and_float32():
    z = torch.tensor([[[[2.0, -1.0]]]], dtype=torch.float16)
    losses, gradient = loss_and_gradient(BCE(), z, torch.tensor([[[[1, 0]]]]), {})
    p = z.float().sigmoid()
    torch.testing.assert_close(gradient, (p - torch.tensor([[[[1.0, 0.0]]]])) / 2)
    assert losses.shape == (1,)
