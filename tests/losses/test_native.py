"""The kernel in C: the same sums and gradients as torch's operations, whatever the shape, the labels and the logits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from seglab.losses import native
from seglab.losses.base import Loss
from seglab.losses.boundary import Boundary
from seglab.losses.combine import Sum, Term
from seglab.losses.compound import UnifiedFocal
from seglab.losses.focal import Focal
from seglab.losses.pixel import BCE
from seglab.losses.region import Dice
from seglab.losses.tile import Pixels
from tests.losses.conftest import IN_C

pytestmark = pytest.mark.skipif(native.kernel() is None, reason="no C compiler")


@pytest.fixture
def smallest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "SMALLEST", 0)


def batch(*shape: int, soft: bool = False) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    z, t = 6 * torch.randn(shape, generator=generator), torch.rand(shape, generator=generator)
    return z, t if soft else (t < 0.1).float()


def slope(loss: Callable[[Tensor, Tensor], Tensor], z: Tensor, t: Tensor) -> Tensor:
    z = z.detach().requires_grad_()
    return torch.autograd.grad(loss(z, t).sum(), z)[0]


@pytest.mark.parametrize("shape", [(1, 1, 7), (2, 1, 1023), (2, 3, 1025), (1, 2, native.UNIT + 1), (3, 1, 300, 301)])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("case", [f"{name} in C" for name in IN_C], indirect=True)
def test_sums_and_gradients_are_those_of_float64(case, shape: tuple[int, ...], soft: bool) -> None:
    z, t = batch(*shape, soft=soft)
    torch.testing.assert_close(case(z, t).double(), case(z.double(), t.double()), rtol=2e-6, atol=1e-9)
    slopes = case.gradient(z, t).double(), case.gradient(z.double(), t.double())
    torch.testing.assert_close(*slopes, rtol=1e-4, atol=2e-6 * float(slopes[1].abs().max()))


def test_every_pixel_is_exact_at_the_extremes() -> None:
    z = torch.tensor([0.0, -0.0, 1e-6, 1, 12, 20, 50, 87, 88, 95, 103, 110, 1e4, 3e38])
    z = torch.cat([z, -z])
    t = torch.ones_like(z)
    each = native.moments(z.view(-1, 1, 1), t.view(-1, 1, 1))
    exact = z.double().numpy()
    np.testing.assert_allclose(each.missed.flatten(), np.logaddexp(0, -exact), rtol=1e-6, atol=3e-45)
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(each.tp.flatten(), 1 / (1 + np.exp(-exact)), rtol=1e-6, atol=3e-45)
        np.testing.assert_allclose(each.fn.flatten(), 1 / (1 + np.exp(exact)), rtol=1e-6, atol=3e-45)
    assert not each.alarmed.any()
    assert not each.fp.any()
    assert not each.tn.any()


def test_nan_stays_nan() -> None:
    z = torch.full((1, 1, 3), torch.nan)
    assert native.moments(z, torch.ones_like(z)).missed.isnan().all()


def test_flushed_numbers_do_not_change_sides(smallest: None) -> None:
    z = torch.tensor([1e4, -1e4, 95.0, -95.0]).view(1, 1, 4).requires_grad_()
    if not torch.set_flush_denormal(True):
        pytest.skip("not on this processor")
    try:
        BCE()(z, torch.tensor([0.0, 1.0, 0.0, 1.0]).view(1, 1, 4)).sum().backward()
    finally:
        torch.set_flush_denormal(False)
    assert z.grad is not None
    assert z.grad.flatten().tolist() == [0.25, -0.25, 0.25, -0.25]


def test_the_sums_do_not_depend_on_the_number_of_threads() -> None:
    z, t = batch(3, 1, 200_000)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(torch.stack(native.moments(z, t)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, found[0]) for one in found)


def test_strides_and_label_types_do_not_matter(smallest: None) -> None:
    z, t = batch(2, 1, 40, 30)
    for labels in (t, t.bool(), t.to(torch.uint8), t.to(torch.int8), t.double(), t.mT.contiguous().mT):
        torch.testing.assert_close(BCE()(z, labels), BCE()(z, t), rtol=0, atol=0)
        torch.testing.assert_close(slope(Dice(), z, labels), slope(Dice(), z, t), rtol=0, atol=0)
    both = z.repeat(1, 2, 1, 1), t.expand(2, 2, 40, 30)
    torch.testing.assert_close(BCE()(*both), BCE()(z, t))
    sideways = z.transpose(2, 3), t.transpose(2, 3)
    torch.testing.assert_close(Dice()(*sideways), Dice()(z, t))


def test_a_mask_of_bytes_is_not_copied(smallest: None) -> None:
    saved: list[Tensor] = []
    z, t = batch(2, 1, 40, 30)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        Dice()(z.requires_grad_(), t.byte())
    assert sum(x.nbytes for x in saved if x.numel() == z.numel() and x.data_ptr() != z.data_ptr()) == t.numel()


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@pytest.mark.parametrize("focus", [None, [0.6, 0.0, 0.4, 2.0]])
def test_compilers_are_told_the_truth_about_the_kernel(focus: list[float] | None) -> None:
    z, t = batch(2, 1, 50)
    torch.library.opcheck(native.opaque_sums, (z, t, focus))
    torch.library.opcheck(native.opaque_sums, (z.requires_grad_(), t.byte(), focus))


@pytest.mark.parametrize("loss", [Dice(), Focal(), UnifiedFocal()])
def test_a_compiler_uses_the_kernel(smallest: None, loss: Loss) -> None:
    graphs = []

    def look(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph.print_readable(print_output=False))
        return graph.forward

    z, t = batch(2, 1, 50)
    torch._dynamo.reset()
    compiled = torch.compile(loss, backend=look, fullgraph=True)
    torch.testing.assert_close(compiled(z, t), loss(z, t), rtol=0, atol=0)
    torch.testing.assert_close(slope(compiled, z, t), slope(loss, z, t), rtol=0, atol=0)
    assert all("seglab.moments_10" in graph for graph in graphs)


def test_a_sum_takes_from_the_kernel_what_it_has(smallest: None) -> None:
    z, t = batch(2, 1, 12, 15)
    terms = {"dice": Term(loss=Dice(), weight=1.0), "boundary": Term(loss=Boundary(), weight=0.5)}
    distance = 10 * torch.randn(2, 1, 12, 15)
    apart = Dice()(z, t) + 0.5 * Boundary()(z, t, distance=distance)
    torch.testing.assert_close(Sum(terms=terms)(z, t, distance=distance), apart)


def test_a_graph_may_be_walked_twice_and_differentiated_twice(smallest: None) -> None:
    z, t = batch(2, 1, 50)
    z.requires_grad_()
    loss = (BCE()(z, t) + Dice()(z, t)).sum()
    first = torch.autograd.grad(loss, z, retain_graph=True)[0].clone()
    second = torch.autograd.grad(loss, z, create_graph=True)[0]
    torch.testing.assert_close(first, second.detach(), rtol=1e-5, atol=1e-8)
    again = torch.autograd.grad(second.square().sum(), z)[0]
    exact = z.detach().double().requires_grad_()
    slope = torch.autograd.grad((BCE()(exact, t) + Dice()(exact, t)).sum(), exact, create_graph=True)[0]
    torch.testing.assert_close(
        again.double(), torch.autograd.grad(slope.square().sum(), exact)[0], rtol=1e-4, atol=1e-7
    )


def test_an_heir_with_other_weights_is_not_taken_for_its_parent(smallest: None) -> None:
    class Doubled(BCE):
        def weights(self, x: Pixels) -> tuple[float, float]:
            return 2.0, 2.0

    z, t = batch(2, 1, 50)
    torch.testing.assert_close(Doubled()(z, t), 2 * BCE()(z, t))


def test_where_nothing_may_be_loaded_nothing_is_missing(smallest: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise OSError("failed to map segment from shared object")

    z, t = batch(2, 1, 50)
    expected = Dice()(z, t)
    monkeypatch.setattr(native, "CDLL", refuse)
    native.kernel.cache_clear()
    try:
        torch.testing.assert_close(Dice()(z, t), expected)
    finally:
        native.kernel.cache_clear()


def test_a_kernel_of_one_thread_leaves_many_to_torch(smallest: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "FURTHER", native.FURTHER[-1:])
    native.kernel.cache_clear()
    before, z = torch.get_num_threads(), batch(2, 1, 50)[0]
    try:
        found = []
        for threads in (1, native.ALONE, native.ALONE + 1):
            torch.set_num_threads(threads)
            found.append(native.serves(z))
        assert found == [True, True, False]
    finally:
        torch.set_num_threads(before)
        native.kernel.cache_clear()


def test_inference_mode_sees_the_same(smallest: None) -> None:
    z, t = batch(2, 1, 50)
    with torch.inference_mode():
        inside = Dice()(z.clone(), t.clone()).clone()
    assert inside.tolist() == Dice()(z, t).tolist()


@pytest.mark.parametrize(("variable", "value"), [("CC", "no-such-compiler"), ("CC", "false"), ("SEGLAB_NATIVE", "0")])
def test_without_a_compiler_nothing_is_missing(
    smallest: None, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    z, t = batch(2, 1, 50)
    expected = Dice()(z, t)
    monkeypatch.setenv(variable, value)
    native.kernel.cache_clear()
    try:
        assert native.kernel() is None
        torch.testing.assert_close(Dice()(z, t), expected)
    finally:
        native.kernel.cache_clear()
