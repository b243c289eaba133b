"""The command from its options to its page."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from seglab.contract import ContractError
from seglab.surface import surface

Configure = Callable[..., DictConfig]
OF_RUNS = ("pixels", "landscape")


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
        "image.gif",
        *(f"{name}.{kind}" for name in ("pixel", "image") for kind in ("png", "svg", "csv")),
    }
    html = page.read_text()
    assert "focal gamma=5" in html
    assert html.count('type="range"') == 1


@pytest.mark.slow
def test_an_xray_warns_in_words(configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = ("view=xray", "dataset.size=32", "dataset.train=4", "dataset.val=2", "dataset.test=2", "model.base=4")
    losses = "losses=[bce,{dice: {empty: skip}}]"
    with caplog.at_level("INFO"):
        page = surface(
            configure("surface", *words, "model.depth=2", "xray.images=4", losses, folder=tmp_path), tmp_path
        )
    warning = "dice empty=skip: no gradient against false positives on empty images"
    assert f"! {warning}" in caplog.text
    assert warning in page.read_text()
    tables = ("regions", "norms", "empty", "learning_rates")
    assert all((tmp_path / f"{name}.csv").is_file() for name in tables)


@pytest.mark.parametrize("name", ["curve", "xray", *OF_RUNS])
def test_the_yaml_lists_the_options_of_each_view(configure: Configure, name: str) -> None:
    view = importlib.import_module(f"seglab.views.{name}").view
    from_elsewhere = {"runs", "run", "losses", "folder", "dataset", "module", "optimizer"}
    assert set(configure("surface")[name]) == set(inspect.signature(view).parameters) - from_elsewhere


@pytest.mark.parametrize("name", OF_RUNS)
def test_a_view_of_runs_without_a_run_is_one_sentence(configure: Configure, tmp_path: Path, name: str) -> None:
    with pytest.raises(ContractError, match=f"expected run=outputs/STUDY/RUN for view={name}, got none"):
        surface(configure("surface", f"view={name}"), tmp_path)
    (tmp_path / "empty").mkdir()
    for where, message in ((tmp_path / "gone", "the folder of a run"), (tmp_path / "empty", "run.json at")):
        with pytest.raises(ContractError, match=message):
            surface(configure("surface", f"view={name}", f"run={where}"), tmp_path)
