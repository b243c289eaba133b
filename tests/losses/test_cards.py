"""The cards are complete, and docs/losses.md is what they say today."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from seglab.cards import curves, losses, page, picture, table
from seglab.losses.base import Card

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_every_card_tells_all(case) -> None:
    card = case.loss.card
    for text in (card.title, card.formula, card.paper, card.empty, card.differs):
        assert len(text) > 3
    assert card.family in {"pixel", "region", "boundary and order", "compound", "external"}
    assert card.formula.count("{") == card.formula.count("}")
    assert "card" in type(case.loss).__dict__, "a card is not inherited: another loss has another card"
    assert isinstance(card, Card)


def test_every_loss_says_what_it_is_in_one_sentence(case) -> None:
    first = (type(case.loss).__doc__ or "").split("\n")[0]
    assert first.endswith(".")
    assert len(first) > 30


def test_the_table_lists_every_loss_once() -> None:
    names = [line.split()[0] for line in table().splitlines()[1:]]
    assert sorted(names) == sorted(losses())


def test_the_page_is_up_to_date() -> None:
    remedy = "run `python -m seglab.cards docs`"
    assert (DOCS / "losses.md").read_text() == page(), remedy
    assert {file.stem for file in (DOCS / "losses").glob("*.svg")} == set(losses()), remedy


@pytest.mark.parametrize("name", ["bce", "dice", "boundary", "unified_focal", "lovasz_hinge", "sum"])
def test_the_curves_are_up_to_date(name: str) -> None:
    drawn = picture(curves(losses()[name]))
    kept = (DOCS / "losses" / f"{name}.svg").read_text()
    numbers = [[float(x) for x in re.findall(r"-?\d+\.?\d*", text)] for text in (drawn, kept)]
    assert numbers[0] == pytest.approx(numbers[1], abs=0.11)
    assert re.sub(r"[\d.]+", "", drawn) == re.sub(r"[\d.]+", "", kept)
