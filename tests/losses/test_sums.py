"""The one pass: tiles, what it keeps, what it shares, and that its closed-form slopes are the derivatives."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from seglab.losses import sums
from seglab.losses.combine import Sum, Term
from seglab.losses.focal import Focal
from seglab.losses.pixel import BCE
from seglab.losses.region import Dice, IoU, Tversky
from seglab.losses.sums import Part, Pass, SumLoss, plain
from seglab.losses.tile import Pixels


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sums, "TILE", 50)
    return


@pytest.mark.usefixtures("small_tiles")
def test_tiles_change_nothing(case, logits: Tensor, target: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = case(logits.double(), target), case.gradient(logits.double(), target)
    monkeypatch.setattr(sums, "TILE", 1 << 20)
    torch.testing.assert_close(cut, (case(logits.double(), target), case.gradient(logits.double(), target)))


def test_tiles_cover_every_pixel_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (1, 7, 50, 144, 300, 10**6):
        monkeypatch.setattr(sums, "TILE", size)
        for shape in ((3, 1, 144), (5, 2, 10), (1, 3, 7)):
            seen = torch.zeros(shape)
            for tile in sums.Tiles(seen).cut(seen):
                tile += 1
            assert (seen == 1).all()


def test_tiles_stay_small_on_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    z = torch.zeros(()).expand(100, 1, 512 * 512)
    for threads, pixels in ((1, sums.TILE), (4, 4 * sums.TILE), (64, sums.MOST)):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert max(tile.numel() for tile in sums.Tiles(z).cut(z)) == pixels


def test_the_slope_is_the_derivative_of_the_terms(case, logits: Tensor, target: Tensor) -> None:
    if not isinstance(case.loss, SumLoss):
        pytest.skip("not a function of sums")
    soft = case.loss.soft
    t = (target * 0.8 + 0.1).double() if soft else target
    z, t = logits.double().flatten(2).requires_grad_(), t.flatten(2)
    maps = {name: m.flatten(2) for name, m in case.maps(target).items()}
    for part in case.loss.parts():
        assert torch.autograd.gradcheck(lambda x, p=part: Pass.apply(x, t, maps, (p,)), z)
        eager, ordinary = Pass.apply(z, t, maps, (part,)), plain(z, t, maps, (part,))
        torch.testing.assert_close(eager, ordinary)
        weights = torch.rand_like(eager)
        slopes = [torch.autograd.grad(x, z, weights)[0] for x in (eager, ordinary)]
        torch.testing.assert_close(*slopes)
        assert len(eager) == part.count


@pytest.mark.parametrize(
    "name", ["bce", "focal", "dice", "mcc", "bce_dice", "unified_focal", "squared_dice", "weight_map"]
)
def test_at_most_four_bytes_a_pixel_are_kept_for_the_gradient(make, name: str) -> None:
    target = (torch.rand(2, 1, 64, 64) < 0.1).float()
    maps = {need: torch.rand(target.shape) for need in make(name).needs}
    logits = torch.randn(target.shape, requires_grad=True)
    given = {x.untyped_storage().data_ptr() for x in (logits, target, *maps.values())}
    saved: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        saved[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        loss = make(name)(logits, target, **maps)
    nodes = {loss.grad_fn}
    while more := {parent for node in nodes for parent, _ in node.next_functions if parent is not None} - nodes:
        nodes |= more
    (kept,) = (node.kept for node in nodes if hasattr(node, "kept"))
    extra = (0 if kept is None else kept.untyped_storage().nbytes()) + sum(
        size for place, size in saved.items() if place not in given
    )
    assert extra <= 4 * logits.numel() + 4096


class Counting(Pixels):
    """Pixels that count how often a probability is made."""

    made_p = 0

    @property
    def p(self) -> Tensor:  # type: ignore[override]
        Counting.made_p += "p" not in self.made
        return Pixels.p.fget(self)  # type: ignore[attr-defined]


def test_the_terms_of_a_sum_share_one_pass(logits: Tensor, target: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "Pixels", Counting)
    losses = {"dice": Dice(), "iou": IoU(), "tversky": Tversky(), "bce": BCE(), "focal": Focal()}
    Counting.made_p = 0
    together = Sum(terms={name: Term(loss=loss, weight=2.0) for name, loss in losses.items()})
    value = together(logits, target)
    assert Counting.made_p == 1
    torch.testing.assert_close(value, 2 * torch.stack([loss(logits, target) for loss in losses.values()]).sum(0))


def test_a_sum_of_any_losses_has_the_sum_of_their_gradients(make, logits: Tensor, target: Tensor) -> None:
    weights = {"dice": 0.5, "lovasz_hinge": 2.0, "focal": 1.0, "topk": 0.25}
    total = Sum(terms={name: Term(loss=make(name), weight=w) for name, w in weights.items()} | {"off": None})
    z = logits.requires_grad_()
    (gradient,) = torch.autograd.grad(total(z, target).sum(), z)
    apart = sum(w * torch.autograd.grad(make(name)(z, target).sum(), z)[0] for name, w in weights.items())
    torch.testing.assert_close(gradient, apart)


def test_a_loss_works_without_a_gradient_and_under_torch_func(make, logits: Tensor, target: Tensor) -> None:
    for name in ("bce", "dice", "unified_focal", "mcc"):
        loss = make(name)
        with torch.no_grad():
            value = loss(logits, target)
        gradient = torch.func.grad(lambda z, f=loss: f(z, target).sum())(logits)
        z = logits.clone().requires_grad_()
        torch.testing.assert_close(gradient, torch.autograd.grad(loss(z, target).sum(), z)[0])
        rows = torch.func.vmap(lambda z, t, f=loss: f(z[None], t[None])[0])(logits, target)
        torch.testing.assert_close(rows, value)


def test_a_hessian_vector_product_is_the_difference_of_gradients(make, logits: Tensor, target: Tensor) -> None:
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    for name in ("bce", "dice", "focal", "unified_focal", "squared_dice"):
        loss = make(name)
        z = logits.double().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(z, target).sum(), z, create_graph=True)
        (product,) = torch.autograd.grad((gradient * direction).sum(), z)
        ahead, back = (z.detach() + e * direction for e in (1e-5, -1e-5))
        sides = [torch.autograd.grad(loss(x.requires_grad_(), target).sum(), x)[0] for x in (ahead, back)]
        torch.testing.assert_close(product, (sides[0] - sides[1]) / 2e-5, rtol=1e-5, atol=1e-9)


def test_a_part_without_a_closed_form_is_differentiated_automatically(logits: Tensor, target: Tensor) -> None:
    class Cubes(Part):
        count = 2

        def terms(self, x: Pixels) -> tuple[Tensor, ...]:
            return x.z**3, x.t

    z = logits.flatten(2).requires_grad_()
    cubes, _ = Pass.apply(z, target.flatten(2), {}, (Cubes(),))
    torch.testing.assert_close(torch.autograd.grad(cubes.sum(), z)[0], 3 * z.detach() ** 2)
