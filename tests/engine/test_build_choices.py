"""A list of choices on the command line, such as the losses of a view."""

import pytest

from seglab.contract import ContractError
from seglab.engine.config import ConfigError, build_choices
from seglab.losses import Focal


def test_names_and_names_with_values_are_built_by_label():
    made = build_choices("loss", ["bce", {"focal": {"gamma": 3.0}}, "focal"])
    assert list(build_choices("loss", "focal")) == ["focal"]
    assert list(made) == ["bce", "focal gamma=3.0", "focal"]
    assert made["focal gamma=3.0"] == Focal(gamma=3.0)


def test_a_wrong_choice_is_one_sentence():
    wrong = (
        (["dcie"], "loss: expected one of .*dice"),
        ([{"focal": {"gama": 3}}], "loss.focal: expected some of gamma, alpha, class_weights, got gama"),
        ([{"focal": 3}], "loss.focal: expected {OPTION: VALUE}, got 3"),
    )
    for words, said in wrong:
        with pytest.raises((ContractError, ConfigError), match=said):
            build_choices("loss", words)
