"""For any value of any option, the check before a run either raises errors of one sentence or lets the run begin."""

import contextlib
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from seglab.contract import ContractError
from seglab.engine.config import ConfigError, check, identity
from seglab.engine.override_errors import options
from seglab.train import train
from tests.conftest import SMALL, compose

CFG = compose("train", *SMALL, "loss=focal", "callbacks=early_stopping", "examples=1", folder=Path("x"))
OPTIONS = sorted(set(options(OmegaConf.to_container(CFG, resolve=True))) - {"folder", "study", "trainer.max_epochs"})
NUMBERS = st.one_of(
    st.sampled_from([-1, 0, 1, 2, 3, 7, 0.5, -0.5, 1e-9, 1e30, 1e308, 2**31, 2**63, 10**30]), st.integers(), st.floats()
)
WORDS = st.sampled_from(
    ["", "auto", "none", "x", "/etc/hostname", "../..", "a" * 300, "$\\frac$", "=1+1", "val/iou", "é\n"]
)
VALUES = st.recursive(
    st.one_of(NUMBERS, WORDS, st.none(), st.booleans()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("ab"), inner, max_size=2)),
    max_leaves=4,
)
CHANGES = st.dictionaries(st.sampled_from(OPTIONS), VALUES, min_size=1, max_size=3)


def changed(changes):
    cfg = CFG.copy()
    for option, value in changes.items():
        OmegaConf.update(cfg, option, value, merge=False)
    return cfg


@settings(max_examples=50, suppress_health_check=list(HealthCheck))
@given(CHANGES)
def test_a_check_gives_sentences_or_passes(changes):
    cfg, said = changed(changes), ""
    try:
        check(cfg)
        assert len(identity(cfg)) == 6
    except (ConfigError, ContractError) as error:
        said = str(error)
    assert all(": expected " in line for line in said.splitlines())


FEW = st.sampled_from([-1, 0, 1, 2, 3, 0.5, -0.5, 1e-9])
"""Only small numbers, with which any machine could train."""
ORDINARY = st.one_of(FEW, WORDS, st.none(), st.booleans(), st.lists(FEW, max_size=3))


@pytest.mark.slow
@settings(max_examples=20, suppress_health_check=list(HealthCheck), derandomize=True, phases=[Phase.generate])
@given(st.dictionaries(st.sampled_from(OPTIONS), ORDINARY, min_size=1, max_size=2))
def test_a_configuration_that_passes_the_check_trains_or_ends_in_a_sentence(changes):
    with TemporaryDirectory() as place, contextlib.chdir(place):
        cfg = changed({"trainer.max_epochs": 1, "trainer.limit_train_batches": 1, "workers": 0, **changes})
        said = ""
        try:
            train(cfg, Path(place) / "run")
        except (ConfigError, ContractError) as error:
            said = str(error)
        except OSError as error:  # which the command reports in a sentence
            said = f"{error.filename}: expected a file that can be read and written" if error.filename else "of no file"
    assert all(": " in line for line in said.splitlines())  # Lightning's message may follow `trainer:`
