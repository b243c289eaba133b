"""Every experiment of conf/experiment composes at both scales and plans the runs that its question needs."""

import itertools

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from seglab.engine.config import CONF, build, check, identity, to_container

EXPERIMENTS = sorted((CONF / "experiment").glob("*.yaml"))
CLAIMS = {  # claims from the literature, with the number of runs of each
    "fundus_ce_focal": 18,
    "iou_vs_weighted_ce": 12,
    "switch_to_iou": 6,
    "upsampling": 12,
    "tversky_tradeoff": 12,
    "smoothness": 12,
    "empty_images": 30,
    "grow_images": 9,
    "generalise": 15,
}


def choices(name):
    """Return, for each parameter of an experiment's sweep, the overrides that Hydra's sweeper makes of it."""
    spec = yaml.safe_load((CONF / f"experiment/{name}.yaml").read_text())
    params = spec["hydra"]["sweeper"]["params"] if "hydra" in spec else {}
    words = [f"{key}={value}" for key, value in params.items() if not str(value).startswith("glob(")]
    return [
        [f"{one.get_key_element()}={value}" for value in one.sweep_string_iterator()]
        if one.is_sweep_override()
        else [f"{one.get_key_element()}={one.get_value_element_as_str()}"]
        for one in OverridesParser.create().parse_overrides(words)
    ]


def composed(configure, name, *words):
    eyes = "override /dataset: fundus" in (CONF / f"experiment/{name}.yaml").read_text()
    root = ["dataset.root=/data"] if eyes else []
    return configure("train", "folder=x", "trainer.precision=32-true", f"experiment={name}", *root, *words)


@pytest.mark.parametrize(
    ("name", "scale"),
    [(file.stem, "small") for file in EXPERIMENTS]
    + [pytest.param(name, "full", marks=pytest.mark.slow) for name in CLAIMS],
)
def test_the_first_and_the_last_arm_fit_the_code(name, scale, configure):
    first, last = ([words[k] for words in choices(name) if not words[0].startswith("seed=")] for k in (0, -1))
    arms = [first, last] if first != last else [first]
    configs = [composed(configure, name, *arm, *["scale=full"] * (scale == "full")) for arm in arms]
    for cfg in configs:
        check(cfg)
        build(cfg.loss)
        build(cfg.model if scale == "full" else None)
    assert len({identity(cfg) for cfg in configs}) == len(arms)
    for key, value in (word.split("=", 1) for words in choices(name) for word in words):
        known = {file.stem for file in (CONF / key.lstrip("+")).glob("*.yaml")}
        assert not known or value in known, f"{key}={value}"


@pytest.mark.parametrize(("name", "runs"), CLAIMS.items())
def test_a_claim_says_its_question_and_cost_and_is_put_to_three_seeds_of_each_arm(name, runs):
    listed = list(itertools.product(*choices(name)))
    head = (CONF / f"experiment/{name}.yaml").read_text().split("defaults:")[0]
    assert len(listed) == runs
    assert len([job for job in listed if "seed=3" in job]) * 3 == runs
    command = f"# python -m seglab.train -m experiment={name}"
    assert all(word in head for word in (command, "# Question: ", "# Source: ", "# Cost: ", "# Outcome: "))


def test_full_scale_is_the_protocol_of_the_source(configure):
    fundus = composed(configure, "fundus_ce_focal", "scale=full", "+experiment/fundus_ce_focal=focal")
    assert (fundus.dataset.size, fundus.model.padding, fundus.batch_size) == (572, "valid", 4)
    assert (fundus.trainer.max_epochs, to_container(fundus.tune.lr)) == (1000, [1e-4])
    assert fundus.optimizer._target_.endswith("Adam")
    words = ("scale=full", "dataset=ddsm", "~dataset.scene", "dataset.root=/data")
    scans = composed(configure, "iou_vs_weighted_ce", *words, "+experiment/iou_vs_weighted_ce=weight_20_to_1")
    check(scans)
    assert (scans.dataset.size, scans.model.base, scans.schedule.pos_weight.epochs) == (640, 32, 150)


def test_the_larger_images_begin_with_the_weights_of_the_run_on_small_ones(configure):
    arms = (f"+experiment/grow_images={arm}" for arm in ("begun", "grown", "whole"))
    begun, grown, whole = (composed(configure, "grow_images", arm, "seed=3") for arm in arms)
    assert (begun.dataset.size, grown.dataset.size, whole.dataset.size) == (160, 320, 320)
    first, then, at_once = (cfg.trainer.max_epochs * cfg.dataset.size**2 for cfg in (begun, grown, whole))
    assert first + then == at_once
    assert grown.init_from == "outputs/grow_images/begun_s3"
