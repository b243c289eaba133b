"""The cards are complete, docs/losses.md is what they say today, and a new loss is one class and one yaml."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

import seglab.losses
from seglab import loss_catalog
from seglab.losses.base import Card, pixel_card, within
from seglab.losses.cross_entropy import PixelLoss
from seglab.losses.labels import Label
from tests.losses.conftest import ALL, CONF, TASKS, of

if TYPE_CHECKING:
    from conftest import Case

DOCS = Path(__file__).resolve().parents[2] / "docs"


@of(lambda case: case.task != "multilabel")
def test_every_card_tells_all(case: Case) -> None:
    card = case.loss.card
    for text in (card.title, card.formula, card.paper, card.empty, card.differs, card.many):
        assert len(text) > 3
    assert card.family in loss_catalog.FAMILIES
    assert card.formula.count("{") == card.formula.count("}")
    assert "card" in type(case.loss).__dict__, "a card is not inherited: another loss has another card"
    assert isinstance(card, Card)
    assert case.task in card.tasks


@of(lambda case: case.task != "multilabel")
def test_every_loss_says_what_it_is_in_one_sentence(case: Case) -> None:
    first = (type(case.loss).__doc__ or "").split("\n")[0]
    assert first.endswith(".")
    assert len(first) > 30
    assert getattr(seglab.losses, type(case.loss).__name__) is type(case.loss)


def test_the_table_lists_every_loss_once(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["loss_catalog"])
    loss_catalog.main()
    lines = capsys.readouterr().out.splitlines()[1:]
    assert sorted(line.split()[0] for line in lines) == ALL
    (softmax,) = (line for line in lines if line.startswith("lovasz_softmax"))
    assert "multiclass" in softmax
    assert "binary" not in softmax


def test_the_page_is_up_to_date() -> None:
    remedy = "run `python -m seglab.loss_catalog docs`"
    assert (DOCS / "losses.md").read_text() == loss_catalog.page(), remedy
    assert sorted(file.stem for file in (DOCS / "losses").glob("*.svg")) == ALL, remedy


@pytest.mark.parametrize("name", ["bce", "boundary", "unified_focal", "lovasz_hinge", "lovasz_softmax", "sum"])
def test_the_curves_are_up_to_date(name: str) -> None:
    drawn = loss_catalog.picture(loss_catalog.curves(loss_catalog.losses()[name]))
    kept = (DOCS / "losses" / f"{name}.svg").read_text()
    numbers = [[float(x) for x in re.findall(r"-?\d+\.?\d*", text)] for text in (drawn, kept)]
    assert numbers[0] == pytest.approx(numbers[1], abs=0.11)
    assert re.sub(r"[\d.]+", "", drawn) == re.sub(r"[\d.]+", "", kept)


@dataclass(frozen=True, kw_only=True)
class GeneralizedCE(PixelLoss):
    """Cross-entropy that wrong labels pull less: (1 - p^q) / q."""

    exponent: float = within("(0, 1]", 0.7)

    card = pixel_card(title="Generalized CE", formula=r"\frac1N\sum(1-p^q)/q", paper="Zhang and Sabuncu 2018")

    def cost(self, y: Label) -> Tensor:
        return -torch.expm1(-self.exponent * y.nll) / self.exponent


def test_a_new_loss_is_one_class_and_one_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in CONF.glob("*.yaml"):
        (tmp_path / "loss").mkdir(exist_ok=True)
        (tmp_path / "loss" / file.name).write_text(file.read_text())
    text = (
        f"# python -m seglab.train loss=gce\n_target_: {__name__}.GeneralizedCE\nexponent: 0.7\nclass_weights: null\n"
    )
    (tmp_path / "loss" / "gce.yaml").write_text(text)
    monkeypatch.setattr(loss_catalog, "CONF", tmp_path)
    loss, page = loss_catalog.losses()["gce"], loss_catalog.page()
    assert isinstance(loss, GeneralizedCE)
    assert "### Generalized CE: `loss=gce`" in page
    assert "| gce | Generalized CE | pixel | binary, multilabel, multiclass | soft |" in page
    assert len(loss_catalog.curves(loss)["value"]) == 49
    for task, bound in TASKS.items():
        logits = torch.randn(2, bound.channels, 6, 6, generator=torch.Generator().manual_seed(0))
        target = (logits[:, : 1 if task == "multiclass" else None] > 0).to(torch.uint8)
        now = loss.with_task(bound)
        p = (
            logits.softmax(1).gather(1, target.long())
            if task == "multiclass"
            else (logits * (2.0 * target - 1)).sigmoid()
        )
        torch.testing.assert_close(now(logits, target), ((1 - p**0.7) / 0.7).mean((1, 2, 3)))
    with pytest.raises(ValueError, match=r"GeneralizedCE: expected exponent in \(0, 1\], got 2"):
        GeneralizedCE(exponent=2)
