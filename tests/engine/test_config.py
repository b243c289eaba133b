"""The configuration is checked against the code that it calls, and the run is named by what defines the experiment."""

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError

from seglab.contract import ContractError, Task
from seglab.engine.config import (
    SWEPT,
    ConfigError,
    build,
    build_choices,
    check,
    check_domains,
    experiment,
    identity,
    inside,
    mark_swept,
    model_node,
    overrides,
    run_name,
    to_container,
)
from seglab.losses import Focal
from tests.conftest import compose


def test_the_shipped_configuration_has_no_fault_and_a_whole_number_is_a_float(configure):
    check(configure("train", "folder=x", "trainer.precision=32-true"))
    check(configure("train", "folder=x", "loss=focal", "loss.gamma=3", "trainer.precision=32-true"))


def test_all_faults_are_said_at_once_with_place_expectation_and_value(configure):
    cfg = configure("train", "folder=x", "loss=focal", "loss.gamma=two", "model.base=wide", "trainer.precision=32-true")
    with pytest.raises(ConfigError) as fault:
        check(cfg)
    assert "loss.gamma: expected a number, got 'two'" in str(fault.value)
    assert "model.base: expected a whole number of at least 1 and at most 1024, got wide" in str(fault.value)
    with pytest.raises(ConfigError, match="class_weights: expected a mapping or a list or auto or null, got"):
        check(configure("train", "folder=x", "loss.class_weights=atuo", "trainer.precision=32-true"))


def test_an_error_of_an_interpolated_option_names_only_its_source(configure):
    cfg = configure("train", "folder=x", "trainer.max_epochs=x", "trainer.precision=32-true")
    for checked in (check_domains, check):
        with pytest.raises(ConfigError, match=r"^trainer\.max_epochs: expected a whole number") as fault:
            checked(cfg)
        assert "T_max" not in str(fault.value)


def test_a_parameter_that_the_code_lacks_and_a_target_that_cannot_be_imported_are_named():
    node = {"_target_": "torch.optim.SGD", "_partial_": True, "learning_rate": 1}
    with pytest.raises(ConfigError, match=r"optimizer\.learning_rate: .*lr"):
        check(OmegaConf.create({"optimizer": node}))
    with pytest.raises(ConfigError, match=r"loss\._target_: .*seglab\.losses\.nowhere"):
        check(OmegaConf.create({"loss": {"_target_": "seglab.losses.nowhere.Loss"}}))


def test_a_model_is_handed_the_number_of_classes_or_refused():
    task = Task("multilabel", ("disc", "cup"))
    assert model_node({"_target_": "seglab.models.unet.UNet"}, task)["out_channels"] == 2
    with pytest.raises(ContractError, match=r"a parameter out_channels for 2 classes, got none in torch\.nn\.ReLU"):
        model_node({"_target_": "torch.nn.ReLU"}, task)


def test_a_missing_value_says_what_to_set(configure):
    with pytest.raises(ConfigError, match=r"dataset\.root: expected a value, got none; set dataset\.root="):
        to_container(configure("train", "folder=x", "dataset=folder"))


def test_a_value_out_of_range_is_one_sentence_of_the_part_itself(configure):
    cfg = configure("train", "folder=x", "loss=focal", "loss.gamma=-1")
    with pytest.raises(ConfigError, match=r"^Focal: expected gamma .*, got -1"):
        build(cfg.loss)


def test_the_identity_ignores_paths_device_workers_and_logging_only(configure):
    cfg = configure("train", "folder=a", "loss=focal")

    def of(option, value):
        other = cfg.copy()
        OmegaConf.update(other, option, value)
        return identity(other)

    quiet = {"folder": "b", "study": "other", "workers": 2, "trainer.accelerator": "cpu", "dataset.cache_gb": 1}
    quiet |= {"evaluation_processes": 2, "loss.gamma": 2.0}  # the default, given explicitly
    assert {of(*change) for change in quiet.items()} == {identity(cfg)}
    loud = {"seed": 2, "optimizer.lr": 1, "dataset.size": 64, "trainer.max_epochs": 1, "init_from": "a"}
    loud |= {"loss._target_": "x", "init_include": ["down.*"], "trainer.devices": 2, "trainer.num_nodes": 3}
    assert len({identity(cfg), *(of(*change) for change in loud.items())}) == 1 + len(loud)
    assert of("trainer.devices", 3) == of("trainer.num_nodes", 3)
    assert of("trainer.devices", [1]) == of("trainer.devices", "1") == identity(cfg)
    assert identity(configure("train", "folder=a", "loss=focal", "logger=tensorboard")) == identity(cfg)
    assert of("loss.gamma", 2) == of("loss.gamma", 2.0) != of("loss.gamma", 2.5)
    assert of("loss.class_weights", [1, 2]) == of("loss.class_weights", [1.0, 2.0])
    assert of("trainer.limit_val_batches", 1) != of("trainer.limit_val_batches", 1.0)  # one batch, and all of them
    assert experiment(configure("train", "folder=a", "trainer.max_epochs=7"))["scheduler"]["T_max"] == 7


def test_a_mapping_with_words_and_numbers_as_keys_is_one_sentence(configure):
    with pytest.raises(ContractError, match=r"dataset\.classes: expected keys that are all .*, got 0, a; use strings"):
        identity(configure("train", "dataset=folder", "dataset.classes={0: 0, a: 1}"))


def test_the_folder_of_a_run_says_its_fold_and_where_a_parameter_of_the_loss_goes():
    words = ["loss=weighted_bce", "loss.pos_weight=20", "schedule.pos_weight={to: 1, epochs: 30}", "folder=x"]
    root = compose("train", *words, "dataset.folds=5", "dataset.fold=2", return_hydra_config=True)
    assert run_name(root).startswith("weighted_bce_pos_weight-20_to-1_unet_synthetic_s1_fold2-")


def test_a_run_remembers_where_its_configurations_are(tmp_path, monkeypatch):
    words = [f"hydra.searchpath=[file://{tmp_path}]", "hydra.job.num=1", "loss=bce", "folder=x", "plan=false"]
    root = compose("train", *words, return_hydra_config=True)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", root)
    assert overrides() == [words[0], "loss=bce", "folder=x"]


def test_a_study_may_be_a_number_and_lies_inside_of_outputs():
    assert inside(2024) == "2024"
    for name in ("", None, "/tmp/x", "a/../.."):
        with pytest.raises(ContractError, match="study: expected a folder inside outputs/"):
            inside(name)


def test_an_experiment_has_two_sizes_and_no_third(configure):
    words = ("folder=x", "experiment=upsampling")
    assert configure("train", *words).dataset.size == 96
    assert configure("train", *words, "scale=full").dataset.size == 640
    with pytest.raises(InterpolationResolutionError, match="scale: expected small or full, got huge"):
        to_container(configure("train", *words, "scale=huge"))


@pytest.mark.parametrize(
    ("word", "swept"), [("A,B", True), ("choice(A,B)", True), ("A", False), ("'A,B'", False), ("[A,B", False)]
)
def test_the_root_is_a_part_of_the_experiment_where_a_sweep_goes_over_several(configure, monkeypatch, word, swept):
    monkeypatch.setenv(SWEPT, "")  # so that monkeypatch removes it at the end
    monkeypatch.delenv(SWEPT)
    cfg, roots = configure("train", "folder=a", "dataset=folder"), set()
    mark_swept(["dataset=folder", f"dataset.root={word}"])
    for cfg.dataset.root in "AB":
        roots.add(identity(cfg))
    assert len(roots) == 1 + swept


def test_names_and_names_with_values_are_built_by_label():
    made = build_choices("loss", ["bce", {"focal": {"gamma": 3.0}}, "focal"])
    assert list(build_choices("loss", "focal")) == ["focal"]
    assert list(made) == ["bce", "focal gamma=3.0", "focal"]
    assert made["focal gamma=3.0"] == Focal(gamma=3.0)


def test_a_wrong_choice_is_one_sentence():
    wrong = (
        (["dcie"], "loss: expected a choice such as dice, got dcie"),
        ([{"focal": {"gama": 3}}], "loss.focal: expected one of gamma, alpha, class_weights, got gama"),
        ([{"focal": 3}], "loss.focal: expected {OPTION: VALUE}, got 3"),
        ([{"bce": {}, "dice": {}}], "loss: expected a name or .*, got {'bce': {}, 'dice': {}}"),
        ([{}], "loss: expected a name or {NAME: {OPTION: VALUE}} as each item of the list, got {}"),
        (3, "loss: expected a list of names, got 3"),
    )
    for words, said in wrong:
        with pytest.raises((ContractError, ConfigError), match=said):
            build_choices("loss", words)
