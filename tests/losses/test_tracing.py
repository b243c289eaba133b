"""Losses under torch.compile and torch.func, and the memory that they keep for the backward pass."""

import subprocess
import sys

import pytest
import torch

from tests.losses.conftest import Case, of, one_hot, scene

FUSED = [("bce_dice", "multiclass"), ("unified_focal", "binary"), ("lovasz_hinge", "binary"), ("cldice", "binary")]
"""One loss for each kind of arithmetic: pixels and sums, powers, sorts, neighborhoods."""
SIDES = dict.fromkeys(
    ("bce", "dice", "boundary", "hausdorff", "l1_ace", "lovasz_softmax", "unified_focal"), "multiclass"
)
"""Losses that are traced with several classes, one of each kind; all others are traced with one class."""
SORTS = {"lovasz_hinge", "lovasz_sigmoid", "lovasz_softmax", "hausdorff", "external", "batchwise", "per_component"}
"""Losses that sort, are foreign code, pool the batch, or depend on the number of objects."""


def traced(case, logits, target, valid, **options):
    """Compare value and gradient of the compiled loss with those of the eager loss."""
    maps = case.maps(target, logits)
    torch._dynamo.reset()  # all losses share __call__, and a code object is compiled at most 8 times
    compiled = torch.compile(case.loss, fullgraph=True, dynamic=False, **options)
    z = logits.requires_grad_()
    loss = compiled(z, target, valid, **maps)
    torch.testing.assert_close(loss, case(z, target, valid))
    (gradient,) = torch.autograd.grad(loss.sum(), z)
    torch.testing.assert_close(gradient, case.gradient(z, target, valid), atol=1e-7, rtol=1e-4)


def some_valid():
    return torch.rand(3, 1, 12, 12, generator=torch.Generator().manual_seed(0)) < 0.9


@of(lambda case: case.name not in {"external", "per_component"} and case.task == SIDES.get(case.name, "binary"))
@pytest.mark.slow
def test_every_graph_is_whole_and_gives_the_same(case, logits, target):
    traced(case, logits, target, some_valid() if case.task == "binary" else None, backend="eager")


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_a_graph_of_soft_targets_is_whole_too(make, task):
    """Squared Dice uses sizes, confusion and squared errors, which are all computed differently for soft targets."""
    logits, target = scene(task)
    shares = (one_hot(target, 4) if task == "multiclass" else target) * 0.9
    traced(Case("squared_dice", task, make("squared_dice", task)), logits, shares, None, backend="eager")


@pytest.mark.parametrize(("name", "task"), FUSED)
@pytest.mark.slow
def test_the_fused_kernel_gives_the_same(make, name, task):
    traced(Case(name, task, make(name, task)), *scene(task), some_valid() if task == "multiclass" else None)


@of(lambda case: case.name not in SORTS and case.task != "multilabel")
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # called by torch.func itself
def test_torch_func_differentiates_and_maps(case, logits, target):
    maps = case.maps(target, logits)
    gradient = case.gradient(logits, target)

    def alone(z, t, m):
        return case.loss(z[None], t[None], **{name: x[None] for name, x in m.items()})[0]

    torch.testing.assert_close(torch.func.grad(lambda z: case.loss(z, target, **maps).sum())(logits), gradient)
    torch.testing.assert_close(torch.func.vmap(alone)(logits, target, maps), case(logits, target))
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(alone))(logits, target, maps), gradient)


def kept(call, *given):
    """Return the bytes that a call keeps for the backward pass, without its inputs."""
    saved = {}
    own = {x.untyped_storage().data_ptr() for x in given}

    def note(x):
        saved[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        call(*given)
    return sum(size for place, size in saved.items() if place not in own)


@pytest.mark.parametrize(("name", "most"), [("bce", 1.3), ("dice", 1.3), ("bce_dice", 2.3), ("focal", 2.6)])
def test_at_most_three_tensors_of_the_logits_size_are_kept_for_20_classes(make, name, most):
    logits = torch.randn(2, 20, 64, 64, requires_grad=True)
    target = torch.randint(0, 20, (2, 1, 64, 64), dtype=torch.uint8)
    loss = type(make(name))(task="multiclass")
    assert kept(lambda z, t: loss(z, t), logits, target) <= most * 4 * logits.numel()


@pytest.mark.parametrize(("name", "most"), [("bce", 4), ("dice", 5), ("bce_dice", 7), ("focal", 8)])
def test_a_few_tensors_are_kept_for_one_class(make, name, most):
    logits = torch.randn(2, 1, 64, 64, requires_grad=True)
    target = (torch.rand(logits.shape) < 0.1).to(torch.uint8)
    assert kept(lambda z, t: make(name)(z, t), logits, target) <= most * 4 * logits.numel() + 4096


@pytest.mark.slow
def test_importing_the_losses_costs_torch_alone():
    heavy = ["pytorch_lightning", "hydra", "omegaconf", "pandas", "scipy", "cv2", "matplotlib", "seglab.data"]
    code = "import sys, torch; before = set(sys.modules); from seglab.losses import Dice, Focal, Sum\n"
    code += f"found = set({heavy}) & (set(sys.modules) - before); assert not found, found"
    subprocess.run([sys.executable, "-c", code], check=True)
