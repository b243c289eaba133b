"""The command from its words to its page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from seglab.contract import ContractError
from seglab.surface import surface

Configure = Callable[..., DictConfig]


def test_an_unknown_view_is_one_sentence(configure: Configure, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="surface: expected view as one of curve"):
        surface(configure("surface", "view=curves"), tmp_path)


@pytest.mark.slow
def test_the_curves_of_the_study_are_a_preset_that_leaves_pictures_numbers_and_a_page(
    configure: Configure, tmp_path: Path
) -> None:
    page = surface(configure("surface", "preset=study", "curve.size=8", "curve.points=5"), tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {
        "surface.html",
        *(f"{name}.{kind}" for name in ("pixel", "image") for kind in ("png", "svg", "csv")),
    }
    html = page.read_text()
    assert "focal gamma=5" in html
    assert html.count('type="range"') == 2
