"""`python -m seglab.surface`, from its options to its page."""

import importlib
import inspect

import pytest

from seglab.contract import ContractError
from seglab.surface import run_beside, surface, untrained

OF_RUNS = ("pixels", "landscape")


@pytest.mark.slow
def test_the_curves_of_the_study_are_a_preset_that_leaves_pictures_numbers_and_a_page(configure, tmp_path):
    page = surface(configure("surface", "preset=study", "curve.size=8", "curve.points=5"), tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {
        "surface.html",
        *(f"{name}.{kind}" for name in ("pixel", "image") for kind in ("png", "svg", "csv")),
    }
    assert "focal gamma=5" in page.read_text()


@pytest.mark.slow
def test_an_xray_warns_in_words(configure, tmp_path, caplog):
    words = ("view=xray", "dataset.size=32", "dataset.train=4", "dataset.val=2", "dataset.test=2", "model.base=4")
    losses = "losses=[bce,{dice: {empty: skip}}]"
    with caplog.at_level("INFO"):
        page = surface(configure("surface", *words, "model.depth=2", "xray.images=4", losses), tmp_path)
    warning = "dice empty=skip: no gradient against false positives on empty images"
    assert f"! {warning}" in caplog.text
    assert warning in page.read_text()
    assert all((tmp_path / f"{name}.csv").is_file() for name in ("regions", "norms", "empty"))


def test_the_xray_of_a_run_is_of_its_own_images_unless_others_are_named(
    configure, trained_study, tmp_path, monkeypatch
):
    words = (f"run={trained_study / 'bce'}", "dataset.train=5", "dataset.size=32", "model.base=4", "model.depth=2")
    cfg = configure("surface", "view=xray", *words)
    assert run_beside(cfg).name == "bce"
    assert (cfg.dataset.train, cfg.dataset.test) == (8, 6)
    dataset, module = untrained(cfg)
    assert len(dataset.items()) == 8 + 4 + 6
    assert module.model.in_channels == 3
    for chosen, test in (((), 6), (("dataset=synthetic",), 48)):
        cfg = configure("surface", "view=xray", *words, *chosen)
        for place in ("seglab.surface", "seglab.engine.config"):
            monkeypatch.setattr(f"{place}.overrides", lambda chosen=chosen: [*words, *chosen])
        run_beside(cfg)
        assert (cfg.dataset.train, cfg.dataset.test) == (5, test)


@pytest.mark.parametrize("name", ["curve", "xray", *OF_RUNS])
def test_the_yaml_lists_the_options_of_each_view(configure, name):
    view = importlib.import_module(f"seglab.views.{name}").view
    from_elsewhere = {"runs", "run", "losses", "dataset", "module"}
    assert set(configure("surface")[name]) == set(inspect.signature(view).parameters) - from_elsewhere


def test_a_wrong_view_and_a_view_of_runs_without_a_run_are_one_sentence(configure, tmp_path):
    with pytest.raises(ContractError, match="surface: expected view as one of curve"):
        surface(configure("surface", "view=curves"), tmp_path)
    with pytest.raises(ContractError, match="expected run=outputs/STUDY/RUN for view=pixels, got none"):
        surface(configure("surface", "view=pixels"), tmp_path)
    with pytest.raises(ContractError, match=r"run\.json of a finished run at"):
        surface(configure("surface", "view=landscape", f"run={tmp_path}"), tmp_path)
