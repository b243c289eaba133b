"""Whatever value an option is given, the check before a run ends in sentences or lets the run begin."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from seglab.contract import ContractError
from seglab.engine.config import ConfigError, check, identity
from tests.conftest import SMALL, compose


def options(node: Any, path: str = "") -> Iterator[str]:
    """Every dotted option of a plain configuration."""
    for key, value in node.items():
        name = f"{path}.{key}" if path else key
        yield from options(value, name) if isinstance(value, dict) and value else [name]


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


def changed(changes: dict[str, Any]) -> DictConfig:
    cfg = CFG.copy()
    for option, value in changes.items():
        OmegaConf.update(cfg, option, value, merge=False)
    return cfg


@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(CHANGES)
def test_a_check_gives_sentences_or_passes(changes: dict[str, Any]) -> None:
    cfg, sentences = changed(changes), ""
    try:
        check(cfg)
        assert len(identity(cfg)) == 6
    except (ConfigError, ContractError) as error:
        sentences = str(error)
    assert all(": expected " in line for line in sentences.splitlines())
