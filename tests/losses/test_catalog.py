"""The cards are complete, docs/losses.md is up to date with them, and a new loss is one class and one YAML file."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import seglab.losses
from seglab import loss_catalog
from seglab.losses.base import Card, pixel_card, within
from seglab.losses.cross_entropy import PixelLoss
from tests.losses.conftest import ALL, TASKS, of

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_public_names_are_those_that_a_type_checker_accepts():
    names = {name for name, value in vars(seglab.losses).items() if isinstance(value, type)}
    assert names == set(seglab.losses.__all__)


@of(lambda case: case.task != "multilabel")
def test_every_card_tells_all(case):
    card = case.loss.card
    for text in (card.title, card.formula, card.paper, card.empty, card.differs, card.many):
        assert len(text) > 3
    assert card.family in loss_catalog.FAMILIES
    assert card.formula.count("{") == card.formula.count("}")
    assert "card" in type(case.loss).__dict__, "a card is not inherited: another loss has another card"
    assert isinstance(card, Card)
    assert case.task in card.tasks
    first = (type(case.loss).__doc__ or "").split("\n")[0]
    assert first.endswith(".")
    assert len(first) > 30
    assert getattr(seglab.losses, type(case.loss).__name__) is type(case.loss)


@of(lambda case: case.name != "external")
def test_the_repr_of_a_loss_recreates_it(case):
    again = eval(repr(case.loss), vars(seglab.losses))
    assert again == case.loss
    assert hash(again) == hash(case.loss)
    assert repr(again.as_module()) == f"LossModule({again})"


def test_the_table_lists_every_loss_once(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["loss_catalog"])
    loss_catalog.main()
    lines = capsys.readouterr().out.splitlines()[1:]
    assert sorted(line.split()[0] for line in lines) == ALL
    (softmax,) = (line for line in lines if line.startswith("lovasz_softmax"))
    assert "multiclass" in softmax
    assert "binary" not in softmax


def test_the_page_is_up_to_date():
    remedy = "run `python -m seglab.loss_catalog docs`"
    assert (DOCS / "losses.md").read_text() == loss_catalog.page(), remedy
    assert sorted(file.stem for file in (DOCS / "losses").glob("*.svg")) == ALL, remedy


@pytest.mark.parametrize("name", ["bce", "boundary", "unified_focal", "lovasz_hinge", "lovasz_softmax", "sum"])
def test_the_curves_are_up_to_date(name):
    drawn = loss_catalog.picture(name, loss_catalog.curves(loss_catalog.losses()[name]))
    kept = (DOCS / "losses" / f"{name}.svg").read_text()
    drawn, kept = (text.partition("</metadata>")[2] for text in (drawn, kept))  # metadata has a version
    numbers = [[float(x) for x in re.findall(r"-?\d+\.?\d*", text)] for text in (drawn, kept)]
    assert numbers[0] == pytest.approx(numbers[1], abs=0.11)
    assert re.sub(r"[\d.]+", "", drawn) == re.sub(r"[\d.]+", "", kept)


@dataclass(frozen=True, kw_only=True)
class PowerError(PixelLoss):
    """The probability of all other classes, to a power; a loss that the package does not have."""

    exponent: float = within("[1, inf)", 2.0)

    card = pixel_card(title="Power of the error", formula=r"\frac1N\sum(1-p)^a", paper="Brier 1950")

    def cost(self, y):
        return y.q**self.exponent


def test_a_new_loss_is_one_class_and_one_yaml(tmp_path, monkeypatch):
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss" / "power.yaml").write_text(
        f"# python -m seglab.train loss=power\n_target_: {__name__}.PowerError\nexponent: 2.0\nclass_weights: null\n"
    )
    monkeypatch.setattr(loss_catalog, "CONF", tmp_path)
    loss, page = loss_catalog.losses()["power"], loss_catalog.page()
    assert isinstance(loss, PowerError)
    assert "### Power of the error: `loss=power`" in page
    assert "| power | Power of the error | pixel | all | soft |" in page
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
        torch.testing.assert_close(now(logits, target), ((1 - p) ** 2).mean((1, 2, 3)))
    with pytest.raises(ValueError, match=r"PowerError: expected exponent to be in \[1, inf\), got 0"):
        PowerError(exponent=0)
