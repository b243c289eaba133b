"""A run opened again from its folder is the run that was measured, and other folders are one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from omegaconf import DictConfig

from seglab.contract import ContractError
from seglab.engine.trained_run import open_run, open_runs
from seglab.train import train

SMALL = ("dataset.size=32", "dataset.train=8", "dataset.val=4", "dataset.test=4", "model.base=4", "model.depth=2")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs of one study."""
    from hydra import compose, initialize_config_dir

    from seglab.engine.config import CONF

    root = tmp_path_factory.mktemp("study")
    for loss in ("weighted_bce", "dice"):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            more = [f"loss={loss}", "trainer.max_epochs=2", "trainer.accelerator=cpu", f"folder={root / loss}"]
            cfg: DictConfig = compose("train", [*SMALL, *more])
        train(cfg, root / loss)
    return root


def test_an_opened_run_gives_the_losses_it_was_measured_with(study: Path) -> None:
    run = open_run(study / "weighted_bce")
    module, rows = run.module(), pd.read_csv(run.folder / "per_image.csv")
    with torch.no_grad():
        losses = torch.cat([module.step(batch)[0] for batch in run.data().loader("test")])
    assert losses.tolist() == pytest.approx(list(rows["loss"]), rel=1e-5)


def test_a_study_and_a_pattern_open_their_finished_runs(study: Path) -> None:
    (study / "table.csv").write_text("")
    (study / "figures").mkdir()
    assert [run.name for run in open_runs(f"{study}/*")] == ["dice", "weighted_bce"]
    assert [run.name for run in open_runs(str(study))] == ["dice", "weighted_bce"]
    assert [run.name for run in open_runs(f"{study}/d*")] == ["dice"]
    assert [run.name for run in open_runs([str(study / "dice"), str(study)])] == ["dice", "weighted_bce"]


def test_a_folder_that_is_no_run_is_one_sentence(study: Path, tmp_path: Path) -> None:
    for folder, words in ((tmp_path / "gone", "the folder of a run"), (tmp_path, "a run.json written by")):
        with pytest.raises(ContractError, match=words):
            open_run(folder)
    with pytest.raises(ContractError, match="a run at"):
        open_runs(str(tmp_path))


def test_weights_of_another_model_are_one_sentence(study: Path, tmp_path: Path) -> None:
    facts = json.loads((study / "dice" / "run.json").read_text())
    facts["config"]["model"]["base"] = 8
    (tmp_path / "run.json").write_text(json.dumps(facts))
    with pytest.raises(ContractError, match="the weights of UNet"):
        open_run(tmp_path).module(study / "dice" / "checkpoints" / "best.ckpt")
