"""The configuration is checked against the code that it calls, and names the run by what makes the experiment."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from seglab.engine.config import (
    CONF,
    SWEPT,
    ConfigError,
    build,
    check,
    experiment,
    identity,
    mark_swept,
    run_name,
    to_container,
)

Configure = Callable[..., DictConfig]


def test_the_shipped_configuration_has_no_fault(configure: Configure) -> None:
    check(configure("train", "folder=x", "trainer.precision=32-true"))


def test_all_faults_are_said_at_once_with_place_expectation_and_value(configure: Configure) -> None:
    cfg = configure("train", "folder=x", "loss=focal", "loss.gamma=two", "model.base=wide", "trainer.precision=32-true")
    with pytest.raises(ConfigError) as fault:
        check(cfg)
    assert "loss.gamma: expected a number, got 'two'" in str(fault.value)
    assert "model.base: expected a whole number of at least 1 and at most 1024, got wide" in str(fault.value)


def test_a_number_in_quotes_is_not_a_number_but_a_whole_number_is_a_float(configure: Configure) -> None:
    check(configure("train", "folder=x", "loss=focal", "loss.gamma=3", "trainer.precision=32-true"))
    with pytest.raises(ConfigError, match=r"loss\.gamma"):
        check(configure("train", "folder=x", "loss=focal", "loss.gamma='3'", "trainer.precision=32-true"))


def test_a_target_that_cannot_be_imported_is_named() -> None:
    with pytest.raises(ConfigError, match=r"loss\._target_: .*seglab\.losses\.nowhere"):
        check(OmegaConf.create({"loss": {"_target_": "seglab.losses.nowhere.Loss"}}))


def test_a_parameter_that_the_code_lacks_is_named() -> None:
    node = {"_target_": "torch.optim.SGD", "_partial_": True, "learning_rate": 1}
    with pytest.raises(ConfigError, match=r"optimizer\.learning_rate: .*lr"):
        check(OmegaConf.create({"optimizer": node}))


def test_a_missing_value_says_what_to_set(configure: Configure) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.root: expected a value, got none; set dataset\.root="):
        to_container(configure("train", "folder=x", "dataset=folder"))


def test_a_value_out_of_range_is_one_sentence_of_the_part_itself(configure: Configure) -> None:
    cfg = configure("train", "folder=x", "loss=focal", "loss.gamma=-1")
    with pytest.raises(ConfigError, match=r"^Focal: expected gamma .*, got -1"):
        build(cfg.loss)


def test_the_identity_ignores_paths_device_workers_and_logging_only(configure: Configure) -> None:
    same = identity(configure("train", "folder=a"))
    quiet = (
        "folder=b",
        "study=other",
        "workers=2",
        "trainer.accelerator=cpu",
        "logger=tensorboard",
        "dataset.cache_gb=1",
    )
    for override in quiet:
        assert (
            identity(configure("train", *({"folder=c", override} if "folder" not in override else {override}))) == same
        )
    for override in (
        "seed=2",
        "loss=dice",
        "optimizer.lr=1",
        "dataset.size=64",
        "trainer.max_epochs=1",
        "augment=none",
    ):
        assert identity(configure("train", "folder=a", override)) != same, override


def test_a_default_written_out_is_the_same_experiment(configure: Configure) -> None:
    written = configure("train", "folder=a", "loss=focal", "loss.gamma=2.0")
    assert identity(written) == identity(configure("train", "folder=a", "loss=focal"))


def test_the_experiment_holds_what_interpolations_point_to(configure: Configure) -> None:
    assert experiment(configure("train", "folder=a", "trainer.max_epochs=7"))["scheduler"]["T_max"] == 7


def test_the_folder_of_a_run_says_where_a_parameter_of_the_loss_goes() -> None:
    words = ["loss=weighted_bce", "loss.pos_weight=20", "schedule.pos_weight={to: 1, epochs: 30}", "folder=x"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        root = compose("train", words, return_hydra_config=True)
    assert run_name(root).startswith("weighted_bce_pos_weight-20_to-1_unet_synthetic_s1-")


def test_an_experiment_has_two_sizes_and_no_third(configure: Configure) -> None:
    words = ("folder=x", "experiment=upsampling")
    assert configure("train", *words).dataset.size == 96
    assert configure("train", *words, "scale=full").dataset.size == 640
    with pytest.raises(InterpolationResolutionError, match="scale: expected small or full, got huge"):
        to_container(configure("train", *words, "scale=huge"))


def test_an_unknown_loss_inside_another_is_named(configure: Configure) -> None:
    with pytest.raises(InterpolationResolutionError, match=r"loss: expected one of .*focal.*, got nonsense"):
        to_container(configure("train", "folder=x", "loss=batchwise", "loss.loss=${inner:loss,nonsense}"))


@pytest.mark.parametrize(
    ("word", "swept"),
    [("A,B", True), ("choice(A,B)", True), ("A", False), ("'A,B'", False), ("[A,B", False)],
)
def test_the_root_is_a_part_of_the_experiment_where_a_sweep_goes_over_several(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, word: str, swept: bool
) -> None:
    monkeypatch.setenv(SWEPT, "")  # so that it is removed in the end
    monkeypatch.delenv(SWEPT)
    mark_swept(["dataset=folder", f"dataset.root={word}"])
    roots = [identity(configure("train", "folder=a", "dataset=folder", f"dataset.root={root}")) for root in "AB"]
    assert (roots[0] != roots[1]) == swept
